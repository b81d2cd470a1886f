"""Small files that others may have written: read as far as a small file goes, and from a plain file alone.

A link to an endless device fills no memory, and a named pipe is not waited for.
"""

import errno
import os
import stat
from pathlib import Path

MOST_BYTES = 64 << 20


def read_small(path: Path) -> bytes:
    """Return what a small file holds. Raises OSError, also for what is no plain file or is too large."""
    # Without O_NONBLOCK the opening of a named pipe would wait for ever.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no plain file", str(path))
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise OSError(errno.EFBIG, f"it is larger than {MOST_BYTES >> 20} MiB", str(path))
    return content
