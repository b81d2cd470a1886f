"""The search: price the space, drop what does not fit, replay the best, balance their stages, try on them what is not
in the space, explain the winner."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from parallel_strategy.cost.memory import usable_gib
from parallel_strategy.cost.price import network_of
from parallel_strategy.predict import Prediction
from parallel_strategy.search.balance import balanced_prediction
from parallel_strategy.search.candidates import program_of
from parallel_strategy.search.executable import is_executed, sayable
from parallel_strategy.search.layer_sharding import Sharding, shard_operators
from parallel_strategy.search.neighbours import Neighbour, neighbours, refined_neighbours
from parallel_strategy.search.pricing import evaluate
from parallel_strategy.search.refine import Known, refine, with_offload
from parallel_strategy.search.sensitivity import MEMORY, elsewhere_in_the_space, sensitivity
from parallel_strategy.search.shapes import Space
from parallel_strategy.spec.strategy import Setup, StrategySpec

REPLAYED = 24
REFINED = 2  # strategies whose refinements are tried
FARTHER = 16  # times as many again, where the framework can be told none of the first
ALIKE = 4  # times as many are looked at, because several may be one program
SAMPLED = 64  # every so many candidates make a first Pareto front
MOVED = 12  # strategies of the front whose activations are moved to the host


@dataclass(slots=True)
class Found:
    """What a search gives. `front`: the Pareto front of (seconds, GiB), in closed form, fastest first; `nearest`: where
    nothing fits, the strategy that lacks least."""

    candidates: int  # priced in closed form
    fitting: int
    refinements: int  # simulated beside them
    best: list[Prediction]
    front: list[tuple[float, float, StrategySpec]]
    neighbours: list[Neighbour] = field(default_factory=list)
    sensitivity: list[tuple[str, float]] = field(default_factory=list)
    sharding: Sharding | None = None  # of the operators of one layer of the winner
    nearest: Prediction | None = None


def search(
    setup: Setup,
    space: Space,
    *,
    keep: int = 10,
    margin: float = 0.0,
    tell: Callable[[str], None] = lambda what: None,
) -> Found:
    """Search a space for a setup's model, cluster, framework and global batch. All of `best` fit.

    `margin`: share of usable memory to leave free. Candidates that the closed form ranks first are replayed by
    simulation. `tell` is called with each part of the work before it begins.
    """
    if space.keeps is not None:
        setup = sayable(setup)
    tell("pricing every strategy")
    usable = usable_gib(setup.cluster) * (1.0 - margin)
    groups = evaluate(setup, space, [usable * factor for factor in MEMORY])
    total = sum(len(group.seconds) for group in groups)
    if not total:
        return Found(0, 0, 0, [], [])
    seconds = np.concatenate([group.seconds for group in groups])
    gib = np.concatenate([group.gib for group in groups])
    starts = np.cumsum([0, *(len(group.seconds) for group in groups)])
    known = Known(setup, network_of(setup, space.devices))

    def strategy_of(index: int) -> StrategySpec:
        owner = int(np.searchsorted(starts, index, side="right")) - 1
        return groups[owner].strategy(index - int(starts[owner]), setup)

    def predict(index: int) -> Prediction:
        return known.predict(strategy_of(index))

    fits = gib <= usable
    front = [(float(seconds[i]), float(gib[i]), strategy_of(int(i))) for i in _front(seconds, gib)[:200]]
    if any(space.activation):
        front = with_offload(setup, front, MOVED, [share for share in space.activation if share], known.network)
    tell(f"replaying the first of {total:,} strategies")
    rows = np.flatnonzero(fits & np.concatenate([group.needed for group in groups]))
    strategies: list[StrategySpec] = []
    for count in (ALIKE * REPLAYED, FARTHER * ALIKE * REPLAYED):
        first = [strategy_of(int(index)) for index in _smallest(seconds, rows, count)]
        told = [strategy for strategy in first if is_executed(setup.with_strategy(strategy), space)]
        strategies = _different(told, setup)[:REPLAYED]
        if strategies or len(rows) <= count:
            break
    strategies = strategies or _different(first, setup)[:REPLAYED]
    if space.admits(setup.strategy) and is_executed(setup, space):
        strategies.append(setup.strategy)  # no search is worse than the file it begins with
    predictions = [known.predict(strategy) for strategy in strategies]
    predictions = [prediction for prediction in predictions if prediction.fits(usable)]
    refinements = 0
    if not predictions:
        smallest = [predict(int(index)) for index in _smallest(gib, np.arange(total), REFINED)]
        predictions, refinements = _squeezed(smallest, usable, space, known)
        if not predictions[0].fits(usable):
            return Found(total, int(fits.sum()), refinements, [], front, nearest=predictions[0])
    tell("trying changes of the first")
    predictions.sort(key=lambda p: p.seconds)
    better = balanced_prediction(predictions[0], usable, space)
    if better is not predictions[0]:
        predictions.insert(0, better)
    for prediction in predictions[:REFINED]:
        refined, tried = refine(prediction, usable, space, known)
        refinements += tried
        if refined is not prediction:
            predictions.append(refined)
    predictions.sort(key=lambda p: p.seconds)
    different = _different([prediction.setup.strategy for prediction in predictions], setup)
    predictions = [known.predict(strategy) for strategy in different]
    winner = predictions[0]
    tell("asking why its neighbours lose")
    return Found(
        total,
        int(fits.sum()),
        refinements,
        predictions[:keep],
        front,
        neighbours(setup, groups, winner, usable) + refined_neighbours(winner, usable, space, known),
        sensitivity(predictions[:keep]) + elsewhere_in_the_space(setup, groups, winner, usable, space),
        shard_operators(winner.setup),
    )


def _different(strategies: list[StrategySpec], setup: Setup) -> list[StrategySpec]:
    """Return those that run different programs, the first of each."""
    found: dict[str, StrategySpec] = {}
    for strategy in strategies:
        found.setdefault(program_of(strategy, setup.model.num_layers), strategy)
    return list(found.values())


def _smallest(values: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """Return the rows with the smallest values, smallest first."""
    if len(rows) > count:
        rows = rows[np.argpartition(values[rows], count - 1)[:count]]
    return rows[np.argsort(values[rows], kind="stable")]


def _squeezed(smallest: list[Prediction], usable: float, space: Space, known: Known) -> tuple[list[Prediction], int]:
    """Return (what fits of these strategies with other stages or small changes, or else the one that lacks least; how
    many changes were tried)."""
    tried, found = 0, list(smallest)
    for prediction in smallest:
        found.append(balanced_prediction(prediction, usable, space))
        refined, steps = refine(found[-1], usable, space, known)
        found.append(refined)
        tried += steps
    fitting = [prediction for prediction in found if prediction.fits(usable)]
    return fitting or [min(found, key=lambda prediction: prediction.gib)], tried


def _front(seconds: np.ndarray, gib: np.ndarray) -> np.ndarray:
    """Return the indices of candidates that none beats in both time and memory, fastest first."""
    some = _unbeaten(np.arange(0, len(seconds), SAMPLED), seconds, gib)
    # the front of a sample beats nearly all others
    beaten = np.searchsorted(seconds[some], seconds, side="left")
    lowest = np.concatenate([[np.inf], gib[some]])[beaten]
    return _unbeaten(np.flatnonzero(gib <= lowest), seconds, gib)


def _unbeaten(rows: np.ndarray, seconds: np.ndarray, gib: np.ndarray) -> np.ndarray:
    """Return those of the rows that none of them beats, fastest first."""
    order = rows[np.lexsort((gib[rows], seconds[rows]))]
    lowest = np.minimum.accumulate(gib[order])
    return order[np.concatenate([[True], gib[order][1:] < lowest[:-1] - 1e-9])]
