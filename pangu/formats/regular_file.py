"""Reading parts of files that may be anything: only regular files are opened, a short read is an error with a name."""

import os
import resource
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from pangu.foundation.errors import UserError
from pangu.foundation.small_file import NotPlainError, open_plain

MOST_OPEN = 4096


def open_regular(path: Path) -> int:
    """Return the descriptor of a regular file (a link to one counts). Raises UserError for anything else."""
    try:
        return open_plain(path)
    except NotPlainError:
        raise UserError(f"{path}: must be a regular file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be opened: {error.strerror}") from None


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Yield `open_regular` for the length of a block."""
    descriptor = open_regular(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def file_size(path: Path) -> int:
    """Return bytes of a regular file."""
    with opened(path) as descriptor:
        return os.fstat(descriptor).st_size


def read_bytes(path: Path, offset: int, size: int) -> bytes:
    """Return exactly `size` bytes from `offset` on; the caller has checked `size` against the file's."""
    content = bytearray(size)
    with OpenFiles() as files:
        files.read_into(path, offset, memoryview(content))
    return bytes(content)


class OpenFiles:
    """Files that are read again and again, kept open as far as the process's limit of open files allows.

    A parameter of the released form lies in up to 512 files, and the next one in the same 512.
    """

    def __init__(self) -> None:
        self.descriptors: OrderedDict[Path, int] = OrderedDict()
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.most = MOST_OPEN if limit == resource.RLIM_INFINITY else min(MOST_OPEN, max(1, limit * 3 // 4))

    def descriptor(self, path: Path) -> int:
        known = self.descriptors.get(path)
        if known is not None:
            return known
        # The oldest goes: files are used in the same order for each parameter, so none is better to keep.
        if len(self.descriptors) >= self.most:
            os.close(self.descriptors.popitem(last=False)[1])
        self.descriptors[path] = open_regular(path)
        return self.descriptors[path]

    def read_into(self, path: Path, offset: int, view: memoryview) -> None:
        """Fill `view` with the bytes from `offset` on."""
        descriptor = self.descriptor(path)
        while len(view):
            try:
                count = os.preadv(descriptor, [view], offset)
            except OSError as error:
                raise UserError(f"{path}: cannot be read: {error.strerror}") from None
            if not count:
                raise UserError(f"{path}: ends at byte {offset}, {len(view)} bytes too early")
            view, offset = view[count:], offset + count

    def close(self) -> None:
        while self.descriptors:
            os.close(self.descriptors.popitem()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
