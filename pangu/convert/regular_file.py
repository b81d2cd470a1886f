"""Reading parts of files that may be anything: only regular files are opened, and a short read is an error with a name.

Files are opened for each read and not kept open: 512 shards must fit under any limit of open files.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pangu.errors import UserError


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """The descriptor of a regular file (a link to one counts). Raises UserError for anything else."""
    try:
        # Without O_NONBLOCK the opening of a named pipe would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UserError(f"{path}: cannot be opened: {error.strerror}") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UserError(f"{path}: must be a regular file")
        yield descriptor
    finally:
        os.close(descriptor)


def file_size(path: Path) -> int:
    """Bytes of a regular file."""
    with opened(path) as descriptor:
        return os.fstat(descriptor).st_size


def read_into(path: Path, offset: int, view: memoryview) -> None:
    """Fill `view` with the bytes from `offset` on."""
    with opened(path) as descriptor:
        filled = 0
        while filled < len(view):
            try:
                count = os.preadv(descriptor, [view[filled:]], offset + filled)
            except OSError as error:
                raise UserError(f"{path}: cannot be read: {error.strerror}") from None
            if not count:
                raise UserError(f"{path}: ends at byte {offset + filled}, {len(view) - filled} bytes too early")
            filled += count


def read_bytes(path: Path, offset: int, size: int) -> bytes:
    """Exactly `size` bytes from `offset` on; the caller has checked `size` against the file's."""
    content = bytearray(size)
    read_into(path, offset, memoryview(content))
    return bytes(content)
