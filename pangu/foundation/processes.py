"""Start processes, watch them, and leave none behind.

A process starts in a session of its own: a Ctrl-C in the terminal goes to the caller alone, which decides, and
everything that the process starts in turn can be ended with it.
"""

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

END_SECONDS = 10.0  # between asking a group to end and ending it


class Child:
    """A process and its descendants. Leaving the block ends what still runs."""

    def __init__(
        self,
        command: Sequence[str | os.PathLike],
        *,
        log: Path | IO[bytes] | int | None = None,
        output: Path | IO[bytes] | int | None = None,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """log: where standard error goes; output: standard output (None: with standard error). None for both: both are
        read by `communicate`. environment: in addition to this process's."""
        with contextlib.ExitStack() as stack:
            errors: Any = subprocess.PIPE if log is None else _opened(log, stack)
            self.process = subprocess.Popen(
                [os.fspath(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=errors if output is None else _opened(output, stack),
                stderr=subprocess.STDOUT if output is None else errors,
                env=os.environ | dict(environment or {}),
                cwd=folder,
                start_new_session=True,
                pass_fds=pass_fds,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.returncode

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self.process.poll()

    def wait(self, seconds: float | None = None) -> int:
        """Wait for the end; raises subprocess.TimeoutExpired."""
        return self.process.wait(seconds)

    def ask(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal to the process and its descendants."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def end(self, seconds: float = END_SECONDS) -> None:
        """Leave nothing running: ask first, unless `seconds` is 0, then kill the process and its descendants."""
        if seconds and self.process.poll() is None:
            self.ask()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
        self.ask(signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


def free_port() -> int:
    """Return a port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def last_error(log: Path) -> str | None:
    """Return the mistake of the user that a log names, without the word `error:`."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), None)


def _opened(place: Path | IO[bytes] | int, stack: contextlib.ExitStack) -> Any:
    return stack.enter_context(place.open("wb")) if isinstance(place, Path) else place
