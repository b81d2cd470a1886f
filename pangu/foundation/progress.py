"""How far a piece of work is: a bar on a terminal; elsewhere a line every 10 seconds, so that no log is silent.

All of it goes to standard error, and none of it costs the work: what cannot be written is left out. There is no
thread, so the caller may fork; lines come when the caller tells of progress.
"""

import math
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from pangu.foundation.best_effort import warn
from pangu.foundation.translation import translated

LINE_SECONDS = 10.0
# Before this much time, or this share of the work, a guess at the time left would only jump about.
STEADY_SECONDS = 1.0
STEADY_SHARE = 0.01


def is_terminal() -> bool:
    """Return whether a person looks at standard error."""
    return sys.stderr is not None and sys.stderr.isatty()


def duration(seconds: float) -> str:
    """Return `3:07` or `1:02:03`."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def amount(number: float, unit: str) -> str:
    """Return `1,200 prompts` or `3.4 MB`."""
    if unit != "bytes":
        words = f"{number:,.0f}" if number >= 100 or number == int(number) else f"{number:.3g}"
        return f"{words} {unit}".rstrip()
    for name in ("B", "kB", "MB", "GB"):
        if number < 1000 or name == "GB":
            return f"{number:.0f} {name}" if name == "B" else f"{number:.1f} {name}"
        number /= 1000
    raise AssertionError


class Estimate:
    """Rate and time left of something that began at `done` units and is to reach `total`."""

    def __init__(self, total: float | None, done: float = 0.0, now: Callable[[], float] = time.monotonic) -> None:
        self.total, self.first, self.done, self.now = total, done, done, now
        self.started = now()

    @property
    def rate(self) -> float:
        """Return units a second since the beginning."""
        return (self.done - self.first) / max(self.now() - self.started, 1e-3)

    @property
    def seconds_left(self) -> float | None:
        """Return None where it would be a guess."""
        if self.total is None or self.done >= self.total or self.done <= self.first:
            return None
        is_steady = self.now() - self.started > STEADY_SECONDS
        is_steady &= self.done - self.first > STEADY_SHARE * (self.total - self.first)
        return (self.total - self.done) / self.rate if is_steady else None

    def words(self, unit: str) -> str:
        """Return `120 of 1,000 steps (12 %), 3.4 steps/s, 4:20 left`."""
        if self.total is None:
            told = amount(self.done, unit)
        else:
            share = 100 * self.done / self.total if self.total else 100
            told = f"{amount(self.done, '' if unit != 'bytes' else unit)} of {amount(self.total, unit)} ({share:.0f} %)"
        if self.done > self.first:
            told += f", {amount(self.rate, unit)}/s"
        left = self.seconds_left
        return told if left is None or math.isinf(left) else f"{told}, {duration(left)} left"


class Progress:
    """Work of `total` units (None: nobody knows). `status` is what to say besides: `compiling`, a loss.

    announce: say the first line at once, for work whose first part is long. is_shown: False on all processes but one.
    """

    def __init__(
        self,
        title: str,
        total: float | None = None,
        *,
        unit: str = "",
        done: float = 0.0,
        status: str = "",
        announce: bool = False,
        is_shown: bool = True,
    ) -> None:
        self.title, self.unit, self.status = title, unit, status
        self.estimate = Estimate(total, done)
        self.has_bar = is_shown and is_terminal()
        self.has_lines = is_shown and not self.has_bar
        self.announce = announce
        self.bar: Any = None
        self.told = time.monotonic()

    def update(self, done: float | None = None, status: str | None = None, total: float | None = None) -> None:
        """Tell how much is done in all."""
        if done is not None:
            self.estimate.done = done
        if total is not None:
            self.estimate.total = total
        if status is not None:
            self.status = status
        if self.bar is not None:
            self.bar.update(0, completed=self.estimate.done, status=translated(self.status), total=self.estimate.total)
        elif self.has_lines and time.monotonic() - self.told > LINE_SECONDS:
            self.say()

    def advance(self, count: float = 1, status: str | None = None) -> None:
        """Tell how much has been done since the last time."""
        self.update(self.estimate.done + count, status)

    def say(self) -> None:
        """Print a line now."""
        self.told = time.monotonic()
        parts = [self.estimate.words(self.unit) if self.estimate.done or self.estimate.total else "", self.status]
        warn(f"{self.title}: {'; '.join(part for part in parts if part)}")

    def __enter__(self) -> Self:
        if self.has_bar:
            self.bar = _bar(self.unit)
            done, status = self.estimate.done, translated(self.status)
            self.bar.add_task(translated(self.title), total=self.estimate.total, completed=done, status=status)
            self.bar.start()
        elif self.has_lines and self.announce:
            self.say()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()


def _bar(unit: str) -> Any:
    # Imported here: without a terminal nobody needs it, and it takes longer than all else of a short command.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import (
        Progress as RichProgress,
    )

    counted: tuple[Any, ...] = (MofNCompleteColumn(),)
    if unit == "bytes":
        counted = (DownloadColumn(), TransferSpeedColumn())
    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        *counted,
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
