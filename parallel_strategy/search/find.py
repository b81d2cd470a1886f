"""The search: price the space, drop what does not fit, replay the best, balance their stages, try on them what is not
in the space, explain the winner."""

from dataclasses import dataclass

import numpy as np

from parallel_strategy.cost.collective import Network
from parallel_strategy.cost.memory import usable_gib
from parallel_strategy.predict import Prediction
from parallel_strategy.search.balance import balanced_prediction
from parallel_strategy.search.evaluate import evaluate
from parallel_strategy.search.layer_sharding import Sharding, shard_operators
from parallel_strategy.search.neighbours import Neighbour, neighbours, refined_neighbours
from parallel_strategy.search.refine import refine, with_offload
from parallel_strategy.search.sensitivity import MEMORY, elsewhere_in_the_space, sensitivity
from parallel_strategy.search.shapes import Space
from parallel_strategy.spec.strategy import Question, StrategySpec

REPLAYED = 24
REFINED = 2  # strategies whose refinements are tried
MOVED = 12  # strategies of the front whose activations are moved to the host


@dataclass(slots=True)
class Found:
    """What a search gives. `front`: the Pareto front of (seconds, GiB), in closed form, fastest first."""

    candidates: int  # priced in closed form
    fitting: int
    refinements: int  # simulated beside them
    best: list[Prediction]
    front: list[tuple[float, float, StrategySpec]]
    neighbours: list[Neighbour]
    sensitivity: list[tuple[str, float]]
    sharding: Sharding | None = None  # of the operators of one layer of the winner


def search(question: Question, space: Space, *, keep: int = 10, margin: float = 0.0) -> Found:
    """Search a space for a question's model, cluster, framework and global batch.

    `margin`: share of usable memory to leave free. Candidates that the closed form ranks first are replayed by
    simulation.
    """
    usable = usable_gib(question.cluster) * (1.0 - margin)
    groups = evaluate(question, space, [usable * factor for factor in MEMORY])
    total = sum(len(group.seconds) for group in groups)
    if not total:
        return Found(0, 0, 0, [], [], [], [])
    seconds = np.concatenate([group.seconds for group in groups])
    gib = np.concatenate([group.gib for group in groups])
    starts = np.cumsum([0, *(len(group.seconds) for group in groups)])
    network = Network(question.cluster)

    def strategy_of(index: int) -> StrategySpec:
        owner = int(np.searchsorted(starts, index, side="right")) - 1
        return groups[owner].strategy(index - int(starts[owner]), question)

    fits = gib <= usable
    front = [(float(seconds[i]), float(gib[i]), strategy_of(int(i))) for i in _front(seconds, gib)[:200]]
    if any(space.activation):
        front = with_offload(question, front, MOVED, [share for share in space.activation if share], network)
    if not fits.any():
        return Found(total, 0, 0, [], front, [], [])
    rows = np.flatnonzero(fits & np.concatenate([group.needed for group in groups]))
    count = min(REPLAYED, len(rows))
    first = rows[np.argpartition(seconds[rows], count - 1)[:count]]
    first = first[np.argsort(seconds[first], kind="stable")]
    predictions = [
        Prediction(question.with_strategy(strategy_of(int(index))), network=network) for index in first.tolist()
    ]
    predictions = [p for p in predictions if p.gib <= usable] or predictions
    predictions.sort(key=lambda p: p.seconds)
    better = balanced_prediction(predictions[0], usable)
    if better is not predictions[0]:
        predictions.insert(0, better)
    refinements = 0
    for prediction in predictions[:REFINED]:
        refined, tried = refine(prediction, usable, space)
        refinements += tried
        if refined is not prediction:
            predictions.append(refined)
    predictions.sort(key=lambda p: p.seconds)
    winner = predictions[0]
    return Found(
        total,
        int(fits.sum()),
        refinements,
        predictions[:keep],
        front,
        neighbours(question, groups, winner, usable) + refined_neighbours(winner, usable, space),
        sensitivity(predictions[:keep]) + elsewhere_in_the_space(question, groups, winner, usable, space),
        shard_operators(winner.question),
    )


def _front(seconds: np.ndarray, gib: np.ndarray) -> np.ndarray:
    """Indices of candidates that none beats in both time and memory, fastest first."""
    order = np.argsort(seconds)
    lowest = np.minimum.accumulate(gib[order])
    kept = order[np.concatenate([[True], gib[order][1:] < lowest[:-1] - 1e-9])]
    order = kept[np.lexsort((gib[kept], seconds[kept]))]  # equally fast ones came in any order
    lowest = np.minimum.accumulate(gib[order])
    return order[np.concatenate([[True], gib[order][1:] < lowest[:-1] - 1e-9])]
