"""A Chrome / Perfetto trace of the simulated step: a process per pipeline stage, a thread per stream."""

import json

from parallel_strategy.predict import Prediction

NAMES = {"F": "forward", "B": "backward", "W": "weight gradient"}


def chrome_trace(prediction: Prediction) -> str:
    """JSON for chrome://tracing or ui.perfetto.dev; times in microseconds."""
    program, price = prediction.program, prediction.price
    replayed = prediction.replay(keep=True)
    events: list[dict] = []
    mesh = prediction.question.strategy.mesh
    stride = mesh.stride("pp")
    for stage in range(program.pp):
        name = f"stage {stage} (rank {stage * stride} and its {mesh.devices // mesh.pp - 1} like it)"
        events.append({"ph": "M", "pid": stage, "name": "process_name", "args": {"name": name}})
        for thread, stream in enumerate(("compute", "sends", "step end")):
            events.append({"ph": "M", "pid": stage, "tid": thread, "name": "thread_name", "args": {"name": stream}})
    last = len(program.chunks) - 1
    idle = [0.0] * program.pp
    for event in replayed.events:
        kind, chunk, micro_batch = event.task
        if event.start > idle[event.stage] + 1e-9:
            events.append(_event("idle", event.stage, 0, idle[event.stage], event.start - idle[event.stage], {}))
        idle[event.stage] = event.end
        arguments = {"micro_batch": micro_batch, "chunk": chunk, "layers": program.chunks[chunk].layers}
        events.append(
            _event(f"{NAMES[kind]} {micro_batch}", event.stage, 0, event.start, event.end - event.start, arguments)
        )
        sends = (kind == "F" and chunk < last) or (kind == "B" and chunk > 0)
        if sends and price.boundary:
            events.append(
                _event(
                    f"send after {NAMES[kind]} {micro_batch}",
                    event.stage,
                    1,
                    event.end,
                    price.boundary,
                    {"bytes": program.boundary_bytes},
                )
            )
    for stage, tail in enumerate(prediction.tails):
        time = replayed.finish[stage]
        for name, seconds in (
            ("reduce gradients", tail.gradient_reduce),
            ("reduce tied embedding", tail.embedding_reduce),
            ("optimizer", tail.optimizer),
            ("gather weights", tail.weight_gather),
            ("host", tail.fixed),
        ):
            if seconds:
                events.append(_event(name, stage, 2, time, seconds, {}))
                time += seconds
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"})


def _event(name: str, stage: int, thread: int, start: float, seconds: float, arguments: dict) -> dict:
    colour = {"i": "grey", "f": "good", "b": "rail_animation", "w": "rail_response", "s": "terrible"}.get(
        name[0], "yellow"
    )
    return {
        "ph": "X",
        "pid": stage,
        "tid": thread,
        "name": name,
        "ts": start * 1e6,
        "dur": seconds * 1e6,
        "cname": colour,
        "args": arguments,
    }
