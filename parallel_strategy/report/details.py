"""Where the seconds and bytes of a prediction come from: operators, collectives by level, memory over the course of a
step."""

from dataclasses import dataclass

import numpy as np

from parallel_strategy.cost.kernel import kernel_seconds
from parallel_strategy.cost.memory import GIB
from parallel_strategy.graph.operator import Collective
from parallel_strategy.graph.tasks import Tasks
from parallel_strategy.graph.weight_collectives import step_collectives
from parallel_strategy.predict import Prediction


@dataclass(frozen=True, slots=True)
class OperatorTime:
    """One kernel of a block: per micro-batch and block, and over the whole step on the stage that has the most of
    them."""

    block: str
    name: str
    milliseconds: float
    step_seconds: float
    tflops: float  # achieved
    gbps: float  # achieved
    intensity: float  # FLOPs per byte
    bound: str  # compute, memory, launch


@dataclass(frozen=True, slots=True)
class LinkTraffic:
    """Collectives of one kind on one axis: of the busiest rank, over a step."""

    axis: str
    op: str
    level: str
    group: int
    count: int
    gib: float
    seconds: float
    algorithm: str


def operators(prediction: Prediction) -> list[OperatorTime]:
    """Return all kernels of all blocks, the most expensive first."""
    price, program = prediction.price, prediction.program
    device, m = price.cluster.device, prediction.setup.strategy.micro_batches
    most: dict[str, int] = {}
    for stage in range(program.pp):
        here: dict[str, int] = {}
        for chunk in program.stage_chunks(stage):
            for piece in chunk.pieces:
                here[piece.block.kind] = here.get(piece.block.kind, 0) + piece.count
        for kind, count in here.items():
            most[kind] = max(most.get(kind, 0), count)
    result = []
    for kind, block in program.blocks.items():
        seconds = kernel_seconds(block.table(), device, price.framework, price.dtype)
        for kernel, time in zip(block.kernels, seconds, strict=True):
            time = float(time)
            memory = kernel.bytes / (device.hbm.gbps * 1e9 * device.hbm.eff)
            floor = (device.gemm.launch_us if kernel.flops else device.vector.launch_us) * 1e-6 * kernel.launches
            bound = (
                "launch" if floor > 0.5 * time else "memory" if not kernel.flops or memory > 0.7 * time else "compute"
            )
            result.append(
                OperatorTime(
                    kind,
                    kernel.name,
                    time * 1e3,
                    time * m * most[kind],
                    kernel.flops / time / 1e12 if time else 0.0,
                    kernel.bytes / time / 1e9 if time else 0.0,
                    kernel.flops / kernel.bytes if kernel.bytes else 0.0,
                    bound,
                )
            )
    return sorted(result, key=lambda operator: -operator.step_seconds)


def traffic(prediction: Prediction) -> list[LinkTraffic]:
    """Return what the links carry, by axis and kind, on the rank of the stage that sends the most."""
    program, price, strategy = prediction.program, prediction.price, prediction.setup.strategy
    network, m, tasks = price.network, strategy.micro_batches, Tasks(program)
    best: list[LinkTraffic] = []
    for stage in range(program.pp):
        rows: dict[tuple[str, str], list[float]] = {}

        def add(op: str, axis: str, size: float, count: int, rows=rows) -> None:
            members, stride = program.group(axis)
            if members > 1 and size > 0:
                row = rows.setdefault((axis, op), [0, 0.0, 0.0, size])
                row[0] += count
                row[1] += size * count
                row[2] += network.seconds(op, size, members, stride) * count

        for chunk in program.stage_chunks(stage):
            for kind in "FBW" if tasks.split else "FB":
                for step in tasks.steps(kind, chunk.index):
                    if isinstance(step.work, Collective) and step.work.op != "receive":
                        add(step.work.op, step.work.axis, step.work.bytes, m)
        for _, node in step_collectives(program, stage):
            add(node.op, node.axis, node.bytes, 1)
        found = [
            LinkTraffic(
                axis,
                op,
                network.outermost_level(*program.group(axis)),
                program.group(axis)[0],
                int(count),
                total / GIB,
                seconds,
                network.choice(op, size, *program.group(axis)),
            )
            for (axis, op), (count, total, seconds, size) in rows.items()
        ]
        if sum(t.seconds for t in found) > sum(t.seconds for t in best):
            best = found
    return sorted(best, key=lambda t: -t.seconds)


def memory_over_time(prediction: Prediction, stage: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (seconds, GiB): what a rank of the stage holds, with the peaks inside each backward."""
    replayed = prediction.replay(keep=True)
    summary = prediction.stage_memory[stage]
    static = summary.weights + summary.gradients + summary.optimizer + summary.buffers + summary.context
    lost = 1.0 + prediction.setup.framework.fragmentation
    events = [event for event in replayed.events if event.stage == stage]
    times, levels = [0.0], [static]
    for event, (_, after, peak) in zip(events, prediction.memory_walk(stage), strict=True):
        times += [event.start, (event.start + event.end) / 2, event.end]
        levels += [levels[-1], static + peak * lost / GIB, static + after * lost / GIB]
    return np.array(times), np.array(levels)
