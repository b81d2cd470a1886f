"""The progress bar of a training run: on a terminal only."""

import contextlib
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class TrainingProgress:
    """Shows step, loss, held-out loss, tokens/s, model FLOPs utilisation and the time left."""

    def __init__(self, steps: int, first_step: int, flops_per_token: float, peak_flops: float) -> None:
        self.flops_per_token, self.peak_flops = flops_per_token, peak_flops
        self.bar = Progress(
            TextColumn("train"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not Console(stderr=True).is_terminal,
            transient=False,
        )
        self.task = self.bar.add_task("train", total=steps, completed=first_step, status="compiling")
        self.heldout = ""
        self.tokens_per_second = 0.0
        self.last = 0.0
        self.compiled = False

    def __enter__(self) -> "TrainingProgress":
        with contextlib.suppress(OSError):  # the terminal has gone
            self.bar.start()
        self.last = time.perf_counter()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self.bar.stop()

    @property
    def is_shown(self) -> bool:
        return not self.bar.disable

    def step(self, step: int, loss: float, tokens: int) -> None:
        """One update is done; `tokens` went through it."""
        now = time.perf_counter()
        speed, self.last = tokens / (now - self.last), now
        if self.compiled:  # a mean over about ten steps
            self.tokens_per_second = 0.9 * self.tokens_per_second + 0.1 * speed if self.tokens_per_second else speed
        self.compiled = True
        status = f"loss {loss:.3f}{self.heldout} · {self.tokens_per_second:,.0f} tokens/s · MFU {self.mfu:.0%}"
        with contextlib.suppress(OSError):
            self.bar.update(self.task, completed=step, status=status)

    def evaluated(self, loss: float) -> None:
        """An evaluation is done."""
        self.heldout = f" · held out {loss:.3f}"

    def resume_clock(self) -> None:
        """The time since the last step went into something that is not training: do not count it."""
        self.last = time.perf_counter()

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation: matrix-product FLOPs of forward and backward over the measured matmul peak."""
        return self.tokens_per_second * self.flops_per_token / self.peak_flops
