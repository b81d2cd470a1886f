"""The progress of a training run: a bar on a terminal, elsewhere a line every 10 seconds."""

import time
from types import TracebackType

from pangu.foundation.progress import Progress


class TrainingProgress:
    """Shows step, loss, validation loss, tokens/s, model FLOPs utilisation and the time left."""

    def __init__(
        self, steps: int, first_step: int, flops_per_token: float, peak_flops: float, is_shown: bool = True
    ) -> None:
        self.flops_per_token, self.peak_flops = flops_per_token, peak_flops
        self.progress = Progress(
            "train", steps, unit="steps", done=first_step, status="compiling", announce=True, is_shown=is_shown
        )
        self.heldout = ""
        self.tokens_per_second = self.step_seconds = 0.0
        self.last = 0.0
        self.compiled = False

    def __enter__(self) -> "TrainingProgress":
        self.progress.__enter__()
        self.last = time.perf_counter()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.progress.__exit__(kind, error, trace)

    @property
    def is_shown(self) -> bool:
        """Return whether a bar says how it goes."""
        return self.progress.has_bar

    def step(self, step: int, loss: float, tokens: int) -> None:
        """Count an update that is done; `tokens` went through it."""
        now = time.perf_counter()
        self.step_seconds, self.last = now - self.last, now
        speed = tokens / self.step_seconds
        if self.compiled:  # a mean over about ten steps
            self.tokens_per_second = 0.9 * self.tokens_per_second + 0.1 * speed if self.tokens_per_second else speed
        self.compiled = True
        status = f"loss {loss:.3f}{self.heldout} · {self.tokens_per_second:,.0f} tokens/s · MFU {self.mfu:.0%}"
        self.progress.update(step, status)

    def evaluated(self, loss: float) -> None:
        """Say that an evaluation is done."""
        self.heldout = f" · validation {loss:.3f}"

    def resume_clock(self) -> None:
        """Leave out the time since the last step: it went into something that is not training."""
        self.last = time.perf_counter()

    @property
    def mfu(self) -> float:
        """Return model FLOPs utilisation: matrix-product FLOPs of forward and backward over the measured matmul
        peak."""
        return self.tokens_per_second * self.flops_per_token / self.peak_flops
