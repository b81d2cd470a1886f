"""Uneven stages and per-stage recomputation by mixed-integer programming (HiGHS through scipy).

For 1F1B-like schedules a step is fill + drain + (m - 1) x the slowest stage; both are linear in the layers of each
stage and in how many of them are recomputed, and so is memory. Units: seconds and bytes of one micro-batch.
"""

from dataclasses import dataclass

import numpy as np

from parallel_strategy.cost.memory import GIB, layer_bytes
from parallel_strategy.cost.price import BlockCost
from parallel_strategy.predict import Prediction
from parallel_strategy.schedule.in_flight import moments
from parallel_strategy.spec.strategy import StrategySpec

BALANCED = ("gpipe", "1f1b", "zb_h1")


@dataclass(frozen=True, slots=True)
class Balance:
    """Layers and recomputed layers of each stage, and the strategy that has them."""

    stages: list[int]
    recomputed: list[int]
    strategy: StrategySpec


def balance(prediction: Prediction, mode: str = "full") -> Balance | None:
    """The best stages for a pipelined strategy, or None where there is nothing to choose or no assignment fits.

    `mode`: what is recomputed where memory asks for it.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    question = prediction.question
    strategy, program = question.strategy, prediction.program
    pp, layers = program.pp, program.model.num_layers
    if pp < 2 or strategy.pipeline.schedule not in BALANCED or program.model.experts is not None:
        return None
    price, blocks = prediction.price, program.blocks
    cost = price.block(blocks["layer"])
    again = cost.recompute_full if mode == "full" else cost.recompute_selective
    slowest = float(prediction.rows.slowest[0])
    per_layer = _seconds(cost) * slowest
    per_recompute = again.seconds * slowest
    ends = np.zeros(pp)
    for stage, kind in ((0, "embedding"), (pp - 1, "head")):
        ends[stage] += _seconds(price.block(blocks[kind])) * slowest
    m = strategy.micro_batches
    even = prediction.stage_memory
    # bytes beside activations grow with the layers of a stage
    sizes = strategy.layers_of_stages(layers)
    static = np.array(
        [(s.weights + s.gradients + s.optimizer) * GIB / max(1, n) for s, n in zip(even, sizes, strict=True)]
    )
    fixed = np.array([(s.buffers + s.context) * GIB for s in even])
    bytes_ = layer_bytes(prediction.rows.table, mode)
    flying = (
        moments(strategy.pipeline.schedule, pp, 1, m).kept[:, 0, 0]
        * (1.0 + question.framework.fragmentation)
        * (1.0 - strategy.offload.activation)
    )
    whole, dropped = bytes_.kept * flying, bytes_.dropped * flying
    working = prediction.activations[1][0, prediction.places.index[:, 0]] * (1.0 + question.framework.fragmentation)
    extra = np.zeros(pp)
    extra[0], extra[-1] = bytes_.embedding * flying[0], bytes_.head * flying[-1]
    rerun = bytes_.rerun * (1.0 + question.framework.fragmentation)
    usable = prediction.usable_gib * GIB

    # variables: layers[pp], recomputed[pp], the slowest stage
    count = 2 * pp + 1
    objective = np.concatenate([np.full(pp, per_layer), np.full(pp, per_recompute), [float(m - 1)]])
    rows: list[np.ndarray] = []
    low: list[float] = []
    high: list[float] = []
    total = np.zeros(count)
    total[:pp] = 1
    rows.append(total)
    low.append(layers)
    high.append(layers)
    for stage in range(pp):
        slow = np.zeros(count)
        slow[stage], slow[pp + stage], slow[-1] = per_layer, per_recompute, -1.0
        rows.append(slow)
        low.append(-np.inf)
        high.append(-ends[stage])
        subset = np.zeros(count)
        subset[stage], subset[pp + stage] = -1.0, 1.0
        rows.append(subset)
        low.append(-np.inf)
        high.append(0.0)
        room = np.zeros(count)
        room[stage], room[pp + stage] = (static[stage] + whole[stage]) / GIB, -dropped[stage] / GIB
        rows.append(room)
        low.append(-np.inf)
        high.append((usable - fixed[stage] - extra[stage] - max(working[stage], rerun)) / GIB)
    result = milp(
        objective,
        constraints=LinearConstraint(np.array(rows), np.array(low), np.array(high)),
        integrality=np.array([1] * (2 * pp) + [0]),
        bounds=Bounds(np.array([1.0] * pp + [0.0] * pp + [0.0]), np.array([float(layers)] * (2 * pp) + [np.inf])),
        options={"time_limit": 1.0, "mip_rel_gap": 2e-3},
    )
    if result.x is None:
        return None
    stages = [round(value) for value in result.x[:pp]]
    recomputed = [round(value) for value in result.x[pp : 2 * pp]]
    recompute = strategy.recompute.model_copy(
        update={"mode": mode if any(recomputed) else "none", "per_stage": recomputed if any(recomputed) else None}
    )
    pipeline = strategy.pipeline.model_copy(update={"stages": stages})
    return Balance(stages, recomputed, strategy.model_copy(update={"pipeline": pipeline, "recompute": recompute}))


def _seconds(cost: BlockCost) -> float:
    return cost.forward.seconds + (cost.backward_input + cost.backward_weight).seconds


def balanced_prediction(prediction: Prediction, usable: float) -> Prediction:
    """The better of a prediction and its balanced versions that fit into `usable` GiB."""
    best = prediction
    for mode in ("selective", "full"):
        found = balance(prediction, mode)
        if found is None:
            continue
        other = Prediction(prediction.question.with_strategy(found.strategy), network=prediction.price.network)
        if other.gib <= usable and (best.gib > usable or other.seconds < best.seconds):
            best = other
    return best
