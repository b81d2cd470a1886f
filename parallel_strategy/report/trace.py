"""A Chrome / Perfetto trace of the simulated step: a process per pipeline stage, a thread per stream."""

import json

from parallel_strategy.predict import Prediction
from parallel_strategy.report.streams import bars

COLOURS = {
    "F": "good",
    "B": "rail_animation",
    "W": "rail_response",
    "idle": "grey",
    "link": "terrible",
    "copy": "olive",
}


def chrome_trace(prediction: Prediction) -> str:
    """Return JSON for chrome://tracing or ui.perfetto.dev; times in microseconds."""
    program, mesh = prediction.program, prediction.setup.strategy.mesh
    stride = mesh.stride("pp")
    streams = ["compute", *(level.level for level in prediction.setup.cluster.topology), "copy"]
    found = list(bars(prediction))
    used = {(bar.stage, bar.stream) for bar in found}
    events: list[dict] = []
    for stage in range(program.pp):
        name = f"stage {stage} (rank {stage * stride} and its {mesh.devices // mesh.pp - 1} like it)"
        events.append({"ph": "M", "pid": stage, "name": "process_name", "args": {"name": name}})
        for thread, stream in enumerate(streams):
            if (stage, stream) in used:
                events.append({"ph": "M", "pid": stage, "tid": thread, "name": "thread_name", "args": {"name": stream}})
    for bar in found:
        events.append(
            {
                "ph": "X",
                "pid": bar.stage,
                "tid": streams.index(bar.stream),
                "name": bar.name,
                "ts": bar.start * 1e6,
                "dur": bar.seconds * 1e6,
                "cname": COLOURS.get(bar.kind, "yellow"),
                "args": {"detail": bar.detail} if bar.detail else {},
            }
        )
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"})
