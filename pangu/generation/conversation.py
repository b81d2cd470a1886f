"""A conversation in a terminal: lines are typed, texts come back, until the end of input.

Ctrl-C ends the text that is being written and not the session. A line that is not UTF-8 costs itself alone.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from pangu.foundation.best_effort import say, warn
from pangu.foundation.errors import UserError

MARK = "> "
MOST_HISTORY = 1000
FORGET = "/new"

# What prints the text that goes on from a prompt, until it is done or the second argument says that it shall end.
Answer = Callable[[str, Callable[[], bool]], str]


class CtrlC:
    """Ctrl-C as a flag while a text is written, for an exception may be lost in a library; elsewhere as usual."""

    def __init__(self) -> None:
        self.is_replying = self.is_asked = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        if not self.is_replying:
            raise KeyboardInterrupt
        self.is_asked = True

    def asked(self) -> bool:
        return self.is_asked


def history_file() -> Path:
    """Return where lines are remembered, by the XDG base directories."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(state) / "pangu" / "history"


@contextlib.contextmanager
def line_editing() -> Iterator[None]:
    """Let the arrow keys and BackSpace work as in a shell, and lines of earlier sessions come back."""
    try:
        import readline
    except ImportError:
        yield
        return
    path = history_file()
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(MOST_HISTORY)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(path)


def piped_lines() -> Iterator[str]:
    """Yield the lines of standard input that is no terminal."""
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            yield line.decode("utf-8").removeprefix("\ufeff" if number == 1 else "").rstrip("\r\n")
        except UnicodeDecodeError as error:
            warn(f"error: standard input: line {number}: byte 0x{line[error.start]:02x} is not UTF-8; it is left out")


def typed_lines() -> Iterator[str]:
    """Yield what somebody types. Ctrl-C gives up a line."""
    sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    with line_editing():
        while True:
            try:
                line = input(MARK)
            except KeyboardInterrupt:
                say("")
                continue
            except EOFError:
                say("")
                return
            try:
                line.encode()
            except UnicodeEncodeError:
                warn("error: this line is not UTF-8; type it again")
                continue
            yield line


def converse(answer: Answer, is_conversation: bool) -> None:
    """Answer line after line. is_conversation: each text goes on from all before; a line `/new` begins another."""
    is_terminal = sys.stdin.isatty()
    ctrl_c = CtrlC()
    if is_terminal:
        signal.signal(signal.SIGINT, ctrl_c.handle)
    before = ""
    for line in typed_lines() if is_terminal else piped_lines():
        if not line.strip():
            continue
        if is_conversation and line.strip() == FORGET:
            before = ""
            continue
        prompt = before + line
        ctrl_c.is_replying, ctrl_c.is_asked = True, False
        try:
            text = answer(prompt, ctrl_c.asked)
        except UserError as error:
            warn(f"error: {error}")
            continue
        finally:
            ctrl_c.is_replying = False
        if is_conversation:
            before = f"{prompt}{text}\n"
