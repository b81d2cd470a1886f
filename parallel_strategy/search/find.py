"""The search: price the space, drop what does not fit, replay the best, balance their stages, explain the winner."""

from dataclasses import dataclass, replace

import numpy as np

from parallel_strategy.predict import Prediction
from parallel_strategy.search.balance import balanced_prediction
from parallel_strategy.search.evaluate import Candidates, evaluate
from parallel_strategy.search.operators import Sharding, shard_operators
from parallel_strategy.search.shapes import Space
from parallel_strategy.spec.cluster import ClusterSpec
from parallel_strategy.spec.strategy import Question, StrategySpec

REPLAYED = 24


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A strategy that differs from the winner in one choice, and why it lost."""

    change: str
    seconds: float
    gib: float
    reason: str


@dataclass(slots=True)
class Found:
    """What a search gives. `front`: the Pareto front of (seconds, GiB), in closed form, fastest first."""

    candidates: int
    fitting: int
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
    groups = evaluate(question, space)
    usable = (question.cluster.device.hbm.usable_gb or question.cluster.device.hbm.gb) * (1.0 - margin)
    total = sum(len(group.seconds) for group in groups)
    if not total:
        return Found(0, 0, [], [], [], [])
    seconds = np.concatenate([group.seconds for group in groups])
    gib = np.concatenate([group.gib for group in groups])
    owner = np.concatenate([np.full(len(group.seconds), index) for index, group in enumerate(groups)])
    place = np.concatenate([np.arange(len(group.seconds)) for group in groups])
    fits = gib <= usable
    front = _front(question, groups, seconds, gib, owner, place)
    if not fits.any():
        return Found(total, 0, [], front, [], [])
    ranked = np.flatnonzero(fits)[np.argsort(seconds[fits], kind="stable")]
    predictions = []
    for index in ranked[:REPLAYED]:
        strategy = groups[owner[index]].strategy(int(place[index]), question)
        predictions.append(_predict(question, strategy))
    predictions = [p for p in predictions if p.gib <= usable] or predictions
    predictions.sort(key=lambda p: p.seconds)
    better = balanced_prediction(predictions[0])
    if better is not predictions[0]:
        predictions.insert(0, better)
    winner = predictions[0]
    neighbours = _neighbours(question, groups, winner, usable)
    return Found(
        total,
        int(fits.sum()),
        predictions[:keep],
        front,
        neighbours,
        sensitivity(predictions[:keep]) + _elsewhere_in_the_space(question, groups, predictions[0], usable, space),
        shard_operators(winner.question),
    )


def _predict(question: Question, strategy: StrategySpec) -> Prediction:
    return Prediction(
        Question.model_construct(
            model=question.model, cluster=question.cluster, framework=question.framework, strategy=strategy
        )
    )


def _front(
    question: Question,
    groups: list[Candidates],
    seconds: np.ndarray,
    gib: np.ndarray,
    owner: np.ndarray,
    place: np.ndarray,
) -> list[tuple[float, float, StrategySpec]]:
    """Candidates that none beats in both time and memory."""
    order = np.lexsort((gib, seconds))
    lowest = np.minimum.accumulate(gib[order])
    first = np.concatenate([[True], gib[order][1:] < lowest[:-1] - 1e-9])
    return [
        (float(seconds[i]), float(gib[i]), groups[owner[i]].strategy(int(place[i]), question))
        for i in order[first][:200]
    ]


def _signature(strategy: StrategySpec) -> dict[str, object]:
    mesh = strategy.mesh
    return {
        "tensor parallel": mesh.tp,
        "pipeline stages": mesh.pp,
        "context parallel": mesh.cp,
        "expert parallel": mesh.ep,
        "micro-batch": strategy.batch.micro,
        "order": " ".join(axis for axis in mesh.axes if getattr(mesh, axis) > 1),
        "schedule": strategy.pipeline.schedule,
        "chunks": strategy.pipeline.vpp,
        "sequence parallel": strategy.tensor.sequence_parallel,
        "optimizer sharding": strategy.zero.stage,
        "optimizer on host": strategy.offload.optimizer,
        "recompute": strategy.recompute.mode if strategy.recompute.per_stage is None else "some layers",
    }


def _neighbours(question: Question, groups: list[Candidates], winner: Prediction, usable: float) -> list[Neighbour]:
    """For each choice of the winner: the best candidates with another value of that choice and as much else alike as
    can be."""
    mine = _signature(winner.question.strategy)
    result = []
    fastest: dict[tuple[str, object], tuple[int, float, int]] = {}
    for group_index, group in enumerate(groups):
        features = {name: _coded(values, rows, mine[name]) for name, (values, rows) in _features(group).items()}
        differs = sum((codes != 0).astype(np.int64) for _, codes in features.values())
        # as few other changes as possible, then the fastest
        rank = differs * 1e6 + group.seconds
        for name, (values, codes) in features.items():
            for code in range(1, len(values)):
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
        strategy = group.strategy(code % 10**9, question)
        other = _predict(question, strategy)
        theirs = _signature(strategy)
        also = [f"{key} {theirs[key]}" for key in theirs if theirs[key] != mine[key] and key != name]
        change = f"{name} {value} instead of {mine[name]}" + (f" (with {', '.join(also)})" if also else "")
        result.append(Neighbour(change, other.closed_form_seconds, other.gib, _reason(winner, other, usable)))
    result.sort(key=lambda n: n.seconds)
    return result


def _coded(values: list, rows: np.ndarray, mine: object) -> tuple[list, np.ndarray]:
    """Distinct values, the winner's own first, and the code of every candidate."""
    distinct = [mine, *dict.fromkeys(value for value in values if value != mine)]
    return distinct, np.array([distinct.index(value) for value in values])[rows]


def _features(group: Candidates) -> dict[str, tuple[list, np.ndarray]]:
    """For each choice: its values and, for every candidate, which of them it has."""
    layouts, one = group.layouts, np.zeros(len(group.seconds), dtype=np.int64)
    orders = [" ".join(axis for axis in x.order if axis != "cp" or x.cp > 1) for x in layouts]
    recompute = [mode if share in (0.0, 1.0) else "some layers" for mode, share in group.recompute]
    return {
        "tensor parallel": ([x.tp for x in layouts], group.layout),
        "pipeline stages": ([group.pp], one),
        "context parallel": ([x.cp for x in layouts], group.layout),
        "expert parallel": ([x.ep for x in layouts], group.layout),
        "micro-batch": ([x.micro for x in layouts], group.layout),
        "order": (orders, group.layout),
        "schedule": (list(group.schedules), group.schedule),
        "chunks": ([group.chunks], one),
        "sequence parallel": ([x.sequence_parallel for x in layouts], group.layout),
        "optimizer sharding": ([0, 1, 2, 3], group.zero),
        "optimizer on host": ([False, True], group.offload.astype(np.int64)),
        "recompute": (recompute, group.choice),
    }


def _reason(winner: Prediction, other: Prediction, usable: float) -> str:
    """In words: too large, or which part of the step grew the most."""
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
    if slower <= 0:
        return f"{-slower:.1%} faster in closed form, not in simulation"
    before, after = parts_of(winner), parts_of(other)
    worst = max(after, key=lambda name: after[name] - before[name])
    return f"{slower:.1%} slower: {worst} {before[worst]:.3g} s -> {after[worst]:.3g} s"


def parts_of(prediction: Prediction) -> dict[str, float]:
    """Where the seconds of a step go, on the busiest stage: sums to the step."""
    program, price = prediction.program, prediction.price
    m = prediction.question.strategy.micro_batches
    busy = [
        sum(price.chunks[c.index].forward + price.chunks[c.index].backward for c in program.stage_chunks(s))
        for s in range(program.pp)
    ]
    stage = max(range(program.pp), key=lambda index: busy[index])
    device = tensor = again = host = 0.0
    for chunk in program.stage_chunks(stage):
        for piece in chunk.pieces:
            forward, back, weight = price.piece(piece)
            cost = price.block(piece.block)
            mode = prediction.question.strategy.recompute.mode
            rerun = cost.recompute_full if mode == "full" else cost.recompute_selective
            extra = rerun.times(piece.recomputed if mode != "none" else 0)
            whole = forward + back + weight
            device += whole.device - extra.device
            tensor += whole.tensor - extra.tensor
            again += extra.device + extra.tensor
        times = price.chunks[chunk.index]
        host += times.forward + times.backward
    device, tensor, again = (value * m for value in (device, tensor, again))
    tail = prediction.tails[stage]
    parts = {
        "kernels": device,
        "tensor-parallel traffic": tensor,
        "recomputation": again,
        "host and slowest rank": max(0.0, host * m - device - tensor - again),
        "gradient traffic": tail.gradient_reduce + tail.weight_gather + tail.embedding_reduce,
        "optimizer": tail.optimizer + tail.fixed,
    }
    parts["pipeline idle and sends"] = max(0.0, prediction.closed_form_seconds - sum(parts.values()))
    return parts


def sensitivity(predictions: list[Prediction]) -> list[tuple[str, float]]:
    """Relative change of the best step time among the given strategies when one figure of the cluster moves."""
    if not predictions:
        return []
    base = predictions[0].seconds
    cluster = predictions[0].question.cluster
    device = cluster.device
    changes = [
        ("network cards twice as fast", _network(cluster, 2.0)),
        ("network cards half as fast", _network(cluster, 0.5)),
        ("links inside a server twice as fast", _links(cluster, 2.0)),
        (
            "device memory bandwidth +25 %",
            cluster.model_copy(
                update={
                    "device": device.model_copy(
                        update={"hbm": device.hbm.model_copy(update={"gbps": device.hbm.gbps * 1.25})}
                    )
                }
            ),
        ),
        (
            "matrix products +10 %",
            cluster.model_copy(
                update={
                    "device": device.model_copy(
                        update={"gemm": device.gemm.model_copy(update={"eff_max": min(1.0, device.gemm.eff_max * 1.1)})}
                    )
                }
            ),
        ),
    ]
    result = []
    for name, changed in changes:
        best = min(_elsewhere(p, changed).closed_form_seconds / p.closed_form_seconds * p.seconds for p in predictions)
        result.append((name, best / base - 1.0))
    return result


def _elsewhere_in_the_space(
    question: Question, groups: list[Candidates], winner: Prediction, usable: float, space: Space
) -> list[tuple[str, float]]:
    """Relative change of the best step time with other device memory, and of the time per sequence with other global
    batches. In closed form on both sides; other batches keep the winner's sizes of tensor, pipeline and context."""
    seconds = np.concatenate([group.seconds for group in groups])
    gib = np.concatenate([group.gib for group in groups])
    base = float(seconds[gib <= usable].min())
    result = []
    for factor, words in ((0.5, "half"), (0.75, "three quarters of"), (2.0, "twice")):
        fits = gib <= usable * factor
        result.append((f"{words} the device memory", float(seconds[fits].min()) / base - 1.0 if fits.any() else np.inf))
    mesh = winner.question.strategy.mesh
    for factor, words in ((0.5, "half"), (2.0, "twice")):
        batch = int(space.batch * factor)
        if batch < 1 or batch % mesh.dp:
            continue
        near = replace(space, batch=batch, tp=[mesh.tp], pp=[mesh.pp], cp=[mesh.cp])
        found = evaluate(question, near)
        times = [float(group.seconds[group.gib <= usable].min(initial=np.inf)) for group in found]
        if times and min(times) < np.inf:
            result.append((f"{words} the global batch, per sequence", min(times) / factor / base - 1.0))
    return result


def _elsewhere(prediction: Prediction, cluster: ClusterSpec) -> Prediction:
    """The same strategy on a changed cluster; the program is shared, since no shape depends on the cluster."""
    question = Question.model_construct(**{**prediction.question.__dict__, "cluster": cluster})
    return Prediction(question, program=prediction.program.moved_to(question))


def _network(cluster, factor: float):
    levels = [
        level.model_copy(update={"nic_gbit": level.nic_gbit * factor}) if level.nic_gbit else level
        for level in cluster.topology
    ]
    return cluster.model_copy(update={"topology": levels})


def _links(cluster, factor: float):
    levels = []
    for level in cluster.topology:
        updates: dict[str, object] = {}
        if level.nic_gbit is None:
            if level.gbps_per_link:
                updates["gbps_per_link"] = level.gbps_per_link * factor
            if level.gbps:
                updates["gbps"] = level.gbps * factor
            if level.bus_gbps:
                updates["bus_gbps"] = {n: value * factor for n, value in level.bus_gbps.items()}
        levels.append(level.model_copy(update=updates))
    return cluster.model_copy(update={"topology": levels})
