"""Writes that must never cost what is computed: warnings, and files that only tell how something goes.

A full disk, a quota or a folder that vanished is said once. What could not be written is kept, and written as soon as
that works again.
"""

import contextlib
import errno
import os
import sys
from pathlib import Path
from typing import TextIO

from pangu.foundation.translation import translated

# What the system says where there is no room: full disk, quota, limit of a file, a file system or a terminal that went.
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


def warn(line: str) -> None:
    """Print one line to standard error, if that can be written."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: it has been closed
        print(translated(line), file=sys.stderr, flush=True)


def say(line: str) -> None:
    """Print one line to standard output, if that can be written."""
    with contextlib.suppress(OSError, ValueError):
        print(translated(line), flush=True)


def print_translated(text: str, *, to: TextIO | None = None, end: str = "\n", flush: bool = False) -> None:
    """Print what a person reads, as `print` does. Raises OSError."""
    print(translated(text), file=to, end=end, flush=flush)


def discard_standard_output() -> None:
    """Send what is still in the buffer of standard output nowhere, so that the exit of Python does not fail by it."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def reason_of(error: Exception) -> str:
    """Return in one line what went wrong: of an error of the system its words, without the number and the path."""
    return getattr(error, "strerror", None) or " ".join(str(error).split())


def first_line_of(error: Exception) -> str:
    """Return the first line of what an exception says, or its name where it says nothing."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


class BestEffortFile:
    """A file that grows, one whole piece after the other; no failure to write it is raised.

    The first `size` bytes of what is there are kept. A file that vanishes is made again with what it held.
    """

    def __init__(self, path: Path, size: int = 0) -> None:
        self.path, self.size = path, size
        self.descriptor: int | None = None
        self.pending: list[bytes] = []
        self.is_failing = False

    def append(self, content: bytes) -> None:
        """Add a piece now, or together with a later one."""
        self.pending.append(content)
        self.flush()

    def flush(self) -> None:
        """Write what is pending. The first failure in a row is one warning."""
        try:
            self.write_pending()
        except OSError as error:
            if not self.is_failing:
                warn(f"warning: {self.path}: cannot be written: {reason_of(error)}; the work goes on without it")
            self.is_failing = True
            return
        if self.is_failing:
            warn(f"{self.path}: is written again; nothing is missing in it")
        self.is_failing = False

    def write_pending(self) -> None:
        """Write everything or nothing of what is pending. Raises OSError."""
        descriptor = self.open()
        content = memoryview(b"".join(self.pending))
        written = 0
        try:
            while written < len(content):
                written += os.pwrite(descriptor, content[written:], self.size + written)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, self.size)
            raise
        self.size += written
        self.pending.clear()

    def open(self) -> int:
        """Return the open file, which is made where it is missing. Raises OSError."""
        if self.descriptor is not None:
            if self.is_in_place(self.descriptor):
                return self.descriptor
            self.pending.insert(0, os.pread(self.descriptor, self.size, 0))
            self.close()
            self.size = 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        os.ftruncate(descriptor, self.size)
        self.descriptor = descriptor
        return descriptor

    def is_in_place(self, descriptor: int) -> bool:
        """Return whether the open file still has its name."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except OSError:
            return False

    def close(self) -> None:
        """Close the file; a later piece opens it again."""
        if self.descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self.descriptor)
            self.descriptor = None
