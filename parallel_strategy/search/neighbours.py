"""Why not: for each choice of the winner the best candidate that chose otherwise, and what it lost by."""

from dataclasses import dataclass

import numpy as np

from pangu.foundation.errors import UserError
from parallel_strategy.predict import Prediction
from parallel_strategy.schedule.closed_form import CLOSED
from parallel_strategy.search.candidates import Candidates
from parallel_strategy.search.parts import parts_of
from parallel_strategy.search.refine import HOST_SHARE, Known, alternatives, yes_or_no
from parallel_strategy.search.shapes import Space
from parallel_strategy.spec.strategy import Setup, StrategySpec


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A strategy that differs from the winner in one choice, and why it lost."""

    choice: str
    change: str
    seconds: float
    gib: float
    reason: str


def _signature(strategy: StrategySpec) -> dict[str, object]:
    mesh = strategy.mesh
    return {
        "tensor parallel": mesh.tp,
        "pipeline stages": mesh.pp,
        "context parallel": mesh.cp,
        "expert parallel": mesh.ep,
        "expert tensor": mesh.expert_tensor if mesh.is_folded else "as tp",
        "micro-batch": strategy.batch.micro,
        "order": " ".join(axis for axis in mesh.axes if getattr(mesh, axis) > 1),
        "schedule": strategy.pipeline.schedule,
        "chunks": strategy.pipeline.vpp,
        "sequence parallel": yes_or_no(strategy.tensor.sequence_parallel),
        "halves of a micro-batch": strategy.tensor.interleave,
        "optimizer sharding": strategy.zero.stage,
        "optimizer on host": yes_or_no(strategy.offload.optimizer),
        HOST_SHARE: strategy.offload.activation,
        "recompute": strategy.recompute.mode if strategy.recompute.per_stage is None else "some layers",
    }


def neighbours(setup: Setup, groups: list[Candidates], winner: Prediction, usable: float) -> list[Neighbour]:
    """Return for each choice of the winner the best candidates with another value of that choice and as much else alike
    as can be."""
    mine = _signature(winner.setup.strategy)
    result = []
    fastest: dict[tuple[str, object], tuple[int, float, int]] = {}
    for group_index, group in enumerate(groups):
        features = {name: _coded(values, rows, mine[name]) for name, (values, rows) in _features(group).items()}
        differs = np.zeros(len(group.seconds), dtype=np.int16)
        for _, codes in features.values():
            differs += codes != 0
        # as few other changes as possible, then the fastest
        rank = differs * 1e6 + group.seconds
        for name, (values, codes) in features.items():
            if name == HOST_SHARE:  # priced only where it may win; the refinements tell of it
                continue
            for code in range(1, len(values)):
                if name == "order" and set(values[code].split()) != set(str(mine[name]).split()):
                    continue  # other axes: their sizes tell of it
                rows = np.flatnonzero(codes == code)
                if not len(rows):
                    continue
                best = int(rows[np.argmin(rank[rows])])
                key, mark = (
                    (name, values[code]),
                    (int(differs[best]), float(group.seconds[best]), group_index * 10**9 + best),
                )
                if key not in fastest or mark < fastest[key]:
                    fastest[key] = mark
    for (name, value), (_, _, code) in fastest.items():
        group = groups[code // 10**9]
        strategy = _refined_like(group.strategy(code % 10**9, setup), winner.setup, name)
        other = Prediction(setup.with_strategy(strategy), network=winner.price.network)
        theirs = _signature(strategy)
        also = [f"{key} {theirs[key]}" for key in theirs if theirs[key] != mine[key] and key != name]
        change = f"{name} {value} instead of {mine[name]}" + (f" (with {', '.join(also)})" if also else "")
        simulated = strategy.pipeline.schedule not in CLOSED
        seconds = other.seconds if simulated else other.closed_form_seconds
        why = reason(winner, other, usable, simulated=simulated)
        result.append(Neighbour(name, change, seconds, other.gib, why))
    result.sort(key=lambda n: n.seconds)
    return result


def _refined_like(strategy: StrategySpec, winner: Setup, choice: str) -> StrategySpec:
    """Return it with the winner's values of what is not in the priced space, so that one choice is compared at a
    time."""
    best, copies = winner.strategy, strategy.mesh.dp * strategy.mesh.cp
    zero: dict[str, object] = {"bucket_mb": best.zero.bucket_mb}
    size = best.zero.weight_shard_size
    if strategy.zero.stage and size > 0 and copies % size == 0:
        zero["weight_shard_size"] = size
    updates: dict[str, object] = {
        "zero": strategy.zero.model_copy(update=zero),
        "tensor": strategy.tensor.model_copy(update={"vocab": best.tensor.vocab}),
        "recompute": strategy.recompute.model_copy(
            update={"mp_comm": best.recompute.mp_comm, "slice_activation": best.recompute.slice_activation}
        ),
    }
    like = strategy.model_copy(update=updates)
    schedule = best.pipeline.schedule
    if schedule in CLOSED or choice in ("schedule", "chunks") or like.pipeline.vpp > 1 or best.pipeline.vpp > 1:
        return like
    same = like.model_copy(update={"pipeline": like.pipeline.model_copy(update={"schedule": schedule})})
    try:
        same.check_model(winner.model)
    except UserError:
        return like
    return same


def _coded(values: list, rows: np.ndarray, mine: object) -> tuple[list, np.ndarray]:
    """Return distinct values, the winner's own first, and the code of every candidate."""
    distinct = [mine, *dict.fromkeys(value for value in values if value != mine)]
    return distinct, np.array([distinct.index(value) for value in values], dtype=np.int16)[rows]


def _features(group: Candidates) -> dict[str, tuple[list, np.ndarray]]:
    """Return for each choice its values and, for every candidate, which of them it has."""
    layouts, one = group.layouts, np.zeros(len(group.seconds), dtype=np.int64)
    orders = [" ".join(axis for axis in x.order if axis != "cp" or x.cp > 1) for x in layouts]
    recompute = [mode if part in (0.0, 1.0) else "some layers" for mode, part in group.recompute]
    shares, share = np.unique(group.activation, return_inverse=True)
    return {
        "tensor parallel": ([x.tp for x in layouts], group.layout),
        "pipeline stages": ([group.pp], one),
        "context parallel": ([x.cp for x in layouts], group.layout),
        "expert parallel": ([x.ep for x in layouts], group.layout),
        "expert tensor": ([x.etp or "as tp" for x in layouts], group.layout),
        "micro-batch": ([x.micro for x in layouts], group.layout),
        "order": (orders, group.layout),
        "schedule": (list(group.schedules), group.schedule),
        "chunks": ([group.chunks], one),
        "sequence parallel": ([yes_or_no(x.sequence_parallel) for x in layouts], group.layout),
        "halves of a micro-batch": ([1, 2], group.interleave - 1),
        "optimizer sharding": ([0, 1, 2, 3], group.zero),
        "optimizer on host": (["no", "yes"], group.offload.astype(np.int64)),
        HOST_SHARE: (shares.tolist(), share),
        "recompute": (recompute, group.choice),
    }


def refined_neighbours(winner: Prediction, usable: float, space: Space, known: Known) -> list[Neighbour]:
    """Return the same for the choices that are not in the priced space, by simulation: one step from the winner
    each."""
    result = []
    priced = _signature(winner.setup.strategy)
    for step in alternatives(winner.setup, space):
        other = known.predict(step.strategy)
        change = f"{step.choice} {step.value} instead of {step.instead_of}"
        if step.choice not in priced or step.choice in ("schedule", HOST_SHARE):
            result.append(
                Neighbour(step.choice, change, other.seconds, other.gib, reason(winner, other, usable, simulated=True))
            )
    result.sort(key=lambda neighbour: neighbour.seconds)
    return result


def reason(winner: Prediction, other: Prediction, usable: float, *, simulated: bool = False) -> str:
    """Say in words: too large, or which part of the step grew the most."""
    dram = other.setup.cluster.host.dram_gb
    if other.host_gib > dram:
        return f"does not fit: {other.host_gib:.0f} GiB in a server's own memory of {dram:g}"
    if other.gib > usable:
        fullest = max(other.stage_memory, key=lambda memory: memory.total)
        parts = {
            "weights": fullest.weights,
            "gradients": fullest.gradients,
            "optimizer states": fullest.optimizer,
            "activations": fullest.activations + fullest.recompute,
        }
        largest = max(parts, key=lambda name: parts[name])
        return f"does not fit: {other.gib:.1f} GiB of {usable:.1f}, {parts[largest]:.1f} of them {largest}"
    slower = other.closed_form_seconds / winner.closed_form_seconds - 1.0
    if simulated:
        slower = other.seconds / winner.seconds - 1.0
    if abs(slower) < 5e-4:
        return "as fast"
    if slower < 0:
        return f"{-slower:.1%} faster in closed form, {other.seconds / winner.seconds - 1.0:+.1%} in simulation"
    before, after = parts_of(winner), parts_of(other)
    worst = max(after, key=lambda name: after[name] - before[name])
    return f"{slower:.1%} slower: {worst} {before[worst]:.3g} s -> {after[worst]:.3g} s"
