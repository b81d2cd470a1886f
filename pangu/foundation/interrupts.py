"""Signals that ask a process to end: Ctrl-C, SIGTERM, and SIGHUP, which comes when a terminal closes."""

import signal
from collections.abc import Callable
from types import FrameType
from typing import Self

Handler = Callable[[int, FrameType | None], object]


def stop_signals() -> list[signal.Signals]:
    """Return the signals to listen to. SIGHUP is none of them where `nohup` has it ignored."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([] if ignored else [signal.SIGHUP])]


class Interrupts:
    """While entered, the first SIGINT or SIGTERM only sets `asked`; a second one ends the process as usual.

    A SIGHUP only asks, however often it comes: a shell and the system both send one when a terminal closes.
    """

    def __init__(self) -> None:
        self.asked = False

    def ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if number != signal.SIGHUP:
            self.restore((signal.SIGINT, signal.SIGTERM))

    def restore(self, numbers: tuple[signal.Signals, ...]) -> None:
        for number in numbers:
            if number in self.before:
                signal.signal(number, self.before[number])

    def __enter__(self) -> Self:
        self.before = {number: signal.signal(number, self.ask) for number in stop_signals()}
        return self

    def __exit__(self, *_: object) -> None:
        self.restore(tuple(self.before))


class Handlers:
    """While entered, one function is called for every signal that asks to end."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler

    def __enter__(self) -> Self:
        self.before = {number: signal.signal(number, self.handler) for number in stop_signals()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
