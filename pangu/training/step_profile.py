"""Where the time of a step goes: a few updates of a run under MindSpore's profiler, as `RUN/profile.json` and a line.

Compiled steps count calls and seconds themselves.

The first update of a start compiles and is left out. The profiler only looks on: a run with it ends with the same bits.
On a CPU its record of kernels is read here. Of other devices `RUN/profile/` keeps what MindSpore writes, for its own
tools (MindStudio Insight).
"""

import re
import shutil
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pangu.foundation.atomic_file import write_whole
from pangu.foundation.best_effort import reason_of, warn
from pangu.foundation.json_text import dumps

SUMMARY, FOLDER = "profile.json", "profile"
TIMES = "FRAMEWORK/cpu_op_execute_timestamp_*.txt"
# Parts of the network by the cells in a kernel's path, the first that matches.
PARTS = (
    ("optimizer", r"optimizer-"),
    ("query layer", r"query_layer-|top_query"),
    ("attention", r"attention-"),
    ("feed-forward", r"output-|experts-"),
    ("norms", r"layernorm\d?-|norm-"),
    ("embedding", r"embedding-|_table-"),
    ("loss", r"loss|logits"),
)
# What `pangu.training.compiled` calls its kernels of the backward pass; the update's are the optimizer's.
BACKWARD = re.compile(r".+_backward|gradients|scatter_add")
NAME = re.compile(r"(?P<path>.*/)?(?P<kind>[A-Za-z0-9_]+?)-op\d+$")


@dataclass(frozen=True)
class Kernel:
    """One kernel of the step, with its milliseconds over all profiled updates.

    pass_name: forward, backward or update; "" where the record does not tell. A layer that is computed anew is forward.
    """

    path: str
    kind: str
    part: str
    calls: int
    milliseconds: float
    pass_name: str = ""


def read_times(folder: Path) -> list[Kernel]:
    """Return the kernels that a CPU ran, by MindSpore's record of them; [] where there is none."""
    kernels = []
    for file in sorted(folder.rglob(TIMES)):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            path, _, rest = line.partition(";")
            times = [float(run.split(",")[1]) for run in rest.partition(";")[2].split() if run.count(",") >= 1]
            if times:
                kernels.append(kernel_of(path, len(times), sum(times)))
    return kernels


def kernel_of(path: str, calls: int, milliseconds: float) -> Kernel:
    """Return what a kernel's path says: its operator and its part of the network.

    Not the pass: MindSpore gives products of the backward pass the path of those of the forward pass.
    """
    found = NAME.fullmatch(path)
    kind = found["kind"] if found else path.rpartition("/")[2]
    part = next((name for name, pattern in PARTS if re.search(pattern, path)), "other")
    return Kernel(path, kind, part, calls, milliseconds)


def counted_kernel(path: str, calls: int, seconds: float) -> Kernel:
    """Return a kernel of a step that counts itself: the path is part and kind."""
    part, _, kind = path.partition("/")
    pass_name = "update" if part == "optimizer" else "backward" if BACKWARD.fullmatch(kind) else "forward"
    return Kernel(path, kind, part, calls, 1e3 * seconds, pass_name)


def shares(kernels: Iterable[Kernel], key: str) -> dict[str, float]:
    """Return {value of a field: milliseconds}, the largest first."""
    sums: dict[str, float] = defaultdict(float)
    for kernel in kernels:
        sums[str(getattr(kernel, key))] += kernel.milliseconds
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


class StepProfile:
    """Profiles `steps` updates of a start, from its second on."""

    def __init__(self, run: Path, steps: int, device: str, times: dict[str, list[float]] | None = None) -> None:
        """times: calls and seconds of "part/kernel" so far, of a step that counts them itself."""
        self.run, self.steps, self.device, self.times = run, steps, device, times
        self.seen = 0
        self.seconds: list[float] = []
        self.profiler: Any = None

    @contextmanager
    def around(self) -> Iterator[None]:
        """Profile what is done inside, where it is one of the updates to look at."""
        self.seen += 1
        if not 1 < self.seen <= 1 + self.steps:
            yield
            return
        if self.profiler is None:
            self.start()
        begin = time.perf_counter()
        yield
        self.seconds.append(time.perf_counter() - begin)
        if self.seen == 1 + self.steps:
            self.finish()

    def start(self) -> None:
        if self.times is not None:
            self.profiler = self.times
            self.times.clear()
            return
        import mindspore as ms
        from mindspore.profiler import ProfilerActivity

        folder = self.run / FOLDER
        shutil.rmtree(folder, ignore_errors=True)
        activities = [ProfilerActivity.CPU]
        if self.device != "CPU":
            activities.append(ProfilerActivity.NPU if self.device == "Ascend" else ProfilerActivity.GPU)
        is_read_here = self.device == "CPU"
        self.profiler = ms.Profiler(
            output_path=str(folder), start_profile=False, activities=activities, data_process=not is_read_here
        )
        self.profiler.start()

    def kernels(self) -> list[Kernel]:
        """Return the kernels since `start`."""
        if self.times is not None:
            return [counted_kernel(path, int(calls), seconds) for path, (calls, seconds) in self.times.items()]
        self.profiler.stop()
        return read_times(self.run / FOLDER)

    def finish(self) -> None:
        """Write what was seen; it is only told, so that it never ends a run."""
        try:
            kernels = self.kernels()
            summary = summary_of(kernels, self.seconds)
            write_whole(self.run / SUMMARY, dumps(summary, indent=1) + "\n")
        except Exception as error:  # whatever the profiler cannot do on this device
            warn(f"warning: {self.run / SUMMARY}: not written: {reason_of(error)}")
            return
        warn(line_of(summary, self.run / (SUMMARY if kernels else FOLDER)))
        if kernels:
            shutil.rmtree(self.run / FOLDER, ignore_errors=True)


def summary_of(kernels: list[Kernel], seconds: list[float]) -> dict[str, Any]:
    """Return what `profile.json` holds: milliseconds an update by pass, part and operator, and every kernel."""
    steps = len(seconds)
    keys = ("pass_name", "part", "kind")
    tables = {key: {n: ms / steps for n, ms in shares(kernels, key).items() if n} for key in keys}
    total = sum(kernel.milliseconds for kernel in kernels) / steps
    return {
        "updates": steps,
        "milliseconds": 1e3 * sum(seconds) / steps,
        "in_kernels": total,
        "by_pass": tables["pass_name"],  # empty where the record does not tell
        "by_part": tables["part"],
        "by_operator": tables["kind"],
        "kernels": [asdict(kernel) for kernel in sorted(kernels, key=lambda kernel: -kernel.milliseconds)],
    }


def line_of(summary: Mapping[str, Any], place: Path) -> str:
    """Return the line that says it."""
    total = summary["in_kernels"]
    if not total:
        return f"profile of {summary['updates']} updates: {place}"
    tables = [list(summary[key].items())[:most] for key, most in (("by_pass", 3), ("by_part", 5), ("by_operator", 3))]
    shown = "; ".join(", ".join(f"{name} {ms / total:.0%}" for name, ms in table) for table in tables if table)
    return f"profile: {summary['milliseconds']:,.1f} ms an update, kernels {total:,.1f} ms: {shown}: {place}"
