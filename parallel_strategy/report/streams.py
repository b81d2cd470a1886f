"""What every stream of every stage does over a simulated step: compute, links by level of topology, copies to the host.

The simulation moves whole tasks; what a task sends inside is drawn on its link's stream, ending where the task ends,
whether it is hidden behind the task's kernels or not.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from parallel_strategy.graph.operator import Collective
from parallel_strategy.graph.program import Chunk
from parallel_strategy.predict import Prediction

NAMES = {"F": "forward", "B": "backward", "W": "weight gradient"}


@dataclass(frozen=True, slots=True)
class Bar:
    """Seconds from `start` on one stream of a stage. `kind`: F, B, W, idle, link, copy or tail."""

    stage: int
    stream: str
    start: float
    seconds: float
    kind: str
    name: str
    detail: str = ""


def bars(prediction: Prediction) -> Iterator[Bar]:
    """Yield all bars of a step, stage by stage in time."""
    program, network, boundary = prediction.program, prediction.price.network, float(prediction.rows.boundary[0])
    replayed = prediction.replay(keep=True)
    last, split = len(program.chunks) - 1, any(event.task.kind == "W" for event in replayed.events)
    sends = network.outermost_level(*program.group("pp")) if program.pp > 1 else ""
    inside = {
        (kind, chunk.index): link_seconds(prediction, chunk, kind, split) for kind in "FBW" for chunk in program.chunks
    }
    offload = prediction.setup.strategy.offload.activation
    idle = [0.0] * program.pp
    for event in replayed.events:
        kind, chunk, micro_batch = event.task
        if event.start > idle[event.stage] + 1e-9:
            yield Bar(event.stage, "compute", idle[event.stage], event.start - idle[event.stage], "idle", "idle")
        idle[event.stage] = event.end
        seconds = event.end - event.start
        title = f"{NAMES[kind]} {micro_batch}"
        yield Bar(event.stage, "compute", event.start, seconds, kind, title, f"chunk {chunk}")
        for level, (count, busy) in inside[kind, chunk].items():
            busy = min(busy, seconds)
            yield Bar(event.stage, level, event.end - busy, busy, "link", f"{count} collectives of {title}")
        if boundary and ((kind == "F" and chunk < last) or (kind == "B" and chunk > 0)):
            detail = f"{program.boundary_bytes / 2**20:.3g} MiB"
            yield Bar(event.stage, sends, event.end, boundary, "link", f"send after {title}", detail)
        if offload and kind != "W":
            copied = min(seconds, float(prediction.copied[0, prediction.place_of_chunk[chunk]]))
            yield Bar(event.stage, "copy", event.start, copied, "copy", f"activations of {title}")
    weights = network.outermost_level(*program.group("weights"))
    # the norm of all gradients joins the stages: each waits for the last one's gradients before it updates
    joined = prediction.gradients_done(replayed.finish)
    for stage, tail in enumerate(prediction.tails):
        waited = joined - replayed.finish[stage]
        if waited > 1e-9:
            yield Bar(stage, "compute", replayed.finish[stage], waited, "idle", "waits for the gradients of all stages")
        for time, work in (
            (
                replayed.finish[stage],
                (
                    ("reduce gradients", weights, tail.gradient_reduce),
                    ("sum the tied embedding", sends or weights, tail.embedding_reduce),
                ),
            ),
            (
                joined,
                (
                    ("optimizer", "compute", tail.optimizer),
                    ("gather weights", weights, tail.weight_gather),
                    ("host", "compute", tail.fixed),
                ),
            ),
        ):
            for name, stream, seconds in work:
                if seconds:
                    yield Bar(stage, stream, time, seconds, "tail", name)
                    time += seconds


def link_seconds(prediction: Prediction, chunk: Chunk, kind: str, split: bool) -> dict[str, tuple[int, float]]:
    """Return level of topology -> (collectives, seconds) inside one task of a chunk."""
    program, price = prediction.program, prediction.price
    strategy = prediction.setup.strategy
    found: dict[str, tuple[int, float]] = {}
    if kind == "W":
        return found
    full = strategy.recompute.mode == "full" and strategy.recompute.mp_comm

    def add(work: Collective, count: int) -> None:
        members, _ = program.group(work.axis)
        if count and members > 1 and work.bytes:
            level = price.network.outermost_level(*program.group(work.axis))
            many, seconds = found.get(level, (0, 0.0))
            found[level] = many + count, seconds + count * price.collective(work.op, work.axis, work.bytes)

    for piece in chunk.pieces:
        for work in piece.block.collectives:
            forward = work.phase == 0
            if kind == "F" and forward:
                add(work, piece.count)
            elif kind == "B":
                add(work, piece.recomputed if forward and full else 0 if forward else piece.count)
    return found
