"""Uneven stages and per-stage recomputation, solved exactly.

For 1F1B-like schedules a step is fill + drain + (m - 1) x the slowest stage. How many layers a stage must compute again
follows from how many it has, so only those are to choose. Our own lines in place of a mixed-integer solver: they need
no clock to stop them, so the answer is the same on a busy machine, and half a second less to start.
"""

from dataclasses import dataclass

import numpy as np

from parallel_strategy.cost.memory import GIB, layer_bytes
from parallel_strategy.cost.price import BlockCost
from parallel_strategy.predict import Prediction
from parallel_strategy.schedule.in_flight import moments
from parallel_strategy.search.executable import is_executed
from parallel_strategy.search.shapes import Space
from parallel_strategy.spec.strategy import StrategySpec

BALANCED = ("gpipe", "1f1b", "zb_h1")


@dataclass(frozen=True, slots=True)
class Balance:
    """Layers and recomputed layers of each stage, and the strategy that has them."""

    stages: list[int]
    recomputed: list[int]
    strategy: StrategySpec


def balance(prediction: Prediction, mode: str = "full") -> Balance | None:
    """Return the best stages for a pipelined strategy, or None where there is nothing to choose or no assignment fits.

    `mode`: what is recomputed where memory asks for it.
    """
    strategy, program = prediction.setup.strategy, prediction.program
    if program.pp < 2 or strategy.pipeline.schedule not in BALANCED or program.model.experts is not None:
        return None
    costs = _costs(prediction, mode)
    stages = _best_stages(costs, program.model.num_layers, strategy.micro_batches)
    if stages is None:
        return None
    recomputed = [int(costs.again[stage, layers]) for stage, layers in enumerate(stages)]
    recompute = strategy.recompute.model_copy(
        update={"mode": mode if any(recomputed) else "none", "per_stage": recomputed if any(recomputed) else None}
    )
    pipeline = strategy.pipeline.model_copy(update={"stages": stages})
    return Balance(stages, recomputed, strategy.model_copy(update={"pipeline": pipeline, "recompute": recompute}))


@dataclass(frozen=True, slots=True)
class _Costs:
    """Of a stage by how many layers it has, [stage, 0 .. layers]: how many of them memory makes it compute again, and
    seconds of one micro-batch, infinite where it does not fit. `per_recompute`: seconds of one layer again."""

    again: np.ndarray
    seconds: np.ndarray
    per_recompute: float


def _costs(prediction: Prediction, mode: str) -> _Costs:
    program, price = prediction.program, prediction.price
    pp, layers = program.pp, program.model.num_layers
    cost, slowest = price.block(program.blocks["layer"]), float(prediction.rows.slowest[0])
    per_recompute = (cost.recompute_full if mode == "full" else cost.recompute_selective).seconds * slowest
    count = np.arange(layers + 1)
    again = _recomputed(prediction, mode)
    seconds = count * _seconds(cost) * slowest + again * per_recompute
    for stage, kind in ((0, "embedding"), (pp - 1, "head")):
        seconds[stage] += _seconds(price.block(program.blocks[kind])) * slowest
    return _Costs(again, np.where(again <= count, seconds, np.inf), per_recompute)


def _recomputed(prediction: Prediction, mode: str) -> np.ndarray:
    """Return [stage, 0 .. layers] how many layers must be computed again for the rest to fit."""
    strategy, program = prediction.setup.strategy, prediction.program
    pp, layers = program.pp, program.model.num_layers
    lost = 1.0 + prediction.setup.framework.fragmentation
    even = prediction.stage_memory
    # bytes beside activations grow with the layers of a stage
    sizes = strategy.layers_of_stages(layers)
    static = np.array(
        [(s.weights + s.gradients + s.optimizer) * GIB / max(1, n) for s, n in zip(even, sizes, strict=True)]
    )
    fixed = np.array([(s.buffers + s.context) * GIB for s in even])
    bytes_ = layer_bytes(prediction.rows.table, mode)
    schedule, m = strategy.pipeline.schedule, strategy.micro_batches
    flying = moments(schedule, pp, 1, m).kept[:, 0, 0] * lost * (1.0 - strategy.offload.activation)
    fixed[0] += bytes_.embedding * flying[0]
    fixed[-1] += bytes_.head * flying[-1]
    working = prediction.activations[1][0, prediction.places.index[:, 0]] * lost
    fixed += np.maximum(working, bytes_.rerun * lost)
    held = np.arange(layers + 1) * (static + bytes_.kept * flying)[:, None] + fixed[:, None]
    excess = held - prediction.usable_gib * GIB
    with np.errstate(divide="ignore"):
        dropped = (bytes_.dropped * flying)[:, None]
        return np.where(excess > 0, np.ceil(excess / np.where(dropped > 0, dropped, np.nan)), 0.0).clip(0, None)


def _best_stages(costs: _Costs, layers: int, micro_batches: int) -> list[int] | None:
    """Return the layers of each stage with the least seconds of a step: m - 1 times the slowest stage, and every stage
    once.

    For each pace of the slowest stage the cheapest layers are taken, those that cost the least recomputation.
    """
    pp = len(costs.again)
    # a layer more costs at least what the one before it did
    more = np.maximum.accumulate(np.diff(costs.again[:, 1:], axis=1), axis=1)
    paces = np.unique(costs.seconds[:, 1:][np.isfinite(costs.seconds[:, 1:])])
    paces = paces[paces >= costs.seconds[:, 1].max()]
    best, chosen = np.inf, None
    for pace in paces:
        if (micro_batches - 1) * pace >= best:
            break
        open_ = np.flatnonzero((costs.seconds[:, 2:] <= pace).ravel())
        if len(open_) < layers - pp:
            continue
        # of layers that cost alike, those of the stage that has least to do
        order = np.lexsort((costs.seconds[:, 2:].ravel()[open_], more.ravel()[open_]))
        taken = open_[order[: layers - pp]]
        stages = 1 + np.bincount(taken // more.shape[1], minlength=pp)
        again = costs.again[np.arange(pp), stages].sum()
        seconds = (micro_batches - 1) * pace + costs.per_recompute * again
        if seconds < best:
            best, chosen = seconds, stages
    return None if chosen is None else [int(count) for count in chosen]


def _seconds(cost: BlockCost) -> float:
    return cost.forward.seconds + (cost.backward_input + cost.backward_weight).seconds


def balanced_prediction(prediction: Prediction, usable: float, space: Space) -> Prediction:
    """Return the better of a prediction and its balanced versions that fit into `usable` GiB and that the space has."""
    best = prediction
    for mode in ("selective", "full"):
        found = balance(prediction, mode)
        if found is None:
            continue
        setup = prediction.setup.with_strategy(found.strategy)
        if not is_executed(setup, space):
            continue
        other = Prediction(setup, network=prediction.price.network)
        if other.fits(usable) and (not best.fits(usable) or other.seconds < best.seconds):
            best = other
    return best
