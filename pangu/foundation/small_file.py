"""Small files that others may have written: read as far as a small file goes, and from a plain file alone.

A link to an endless device fills no memory, and a named pipe is not waited for.
"""

import errno
import os
import stat
from pathlib import Path

MOST_BYTES = 64 << 20


class NotPlainError(OSError):
    """What was to be read is a folder, a device or a pipe."""


def open_plain(path: Path) -> int:
    """Return the descriptor of a plain file; a link to one counts. Raises OSError, NotPlainError for anything else."""
    # Without O_NONBLOCK the opening of a named pipe would wait for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotPlainError(errno.EINVAL, "it is no plain file", str(path))
    return descriptor


def read_small(path: Path) -> bytes:
    """Return what a small file holds. Raises OSError, also for what is no plain file or is too large."""
    with open(open_plain(path), "rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise OSError(errno.EFBIG, f"it is larger than {MOST_BYTES >> 20} MiB", str(path))
    return content
