"""Files that appear whole or not at all.

A file is written under a hidden name beside its own, synced, and renamed; then the folder is synced. Whatever happens
before leaves nothing: an error removes the hidden file. What a kill leaves is called `.NAME.*.tmp` or `.NAME.partial`.
Every failure of the disk is one WriteError that names the file.
"""

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from pangu.foundation.errors import UserError, WriteError

BUFFER = 1 << 20  # bytes that are gathered before they are written
_OPEN = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class AtomicFile:
    """A file being written, append only; `commit` gives it its name, leaving without it removes it.

    digest: a hash that is told of every byte. temporary: where it lies until then. is_exclusive: the hidden file is
    always `.NAME.partial`, which the next attempt overwrites, and two at once are refused.
    """

    closed = False

    def __init__(
        self, path: Path, *, digest: Any = None, temporary: Path | None = None, is_exclusive: bool = False
    ) -> None:
        self.path, self.digest, self.size = path, digest, 0
        self.temporary = temporary or hidden_name(path, "partial" if is_exclusive else None)
        self._buffer = bytearray()
        self._descriptor = -1
        try:
            check_place(path)
            self._descriptor = os.open(self.temporary, _OPEN if is_exclusive else _OPEN | os.O_EXCL, 0o666)
            if is_exclusive:
                self._take()
        except (OSError, ValueError) as error:
            raise WriteError(path, error) from None

    def _take(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Had another process finished in between, this would be its output under a new name.
            if not os.path.samestat(os.fstat(self._descriptor), os.lstat(self.temporary)):
                raise BlockingIOError
        except OSError:
            self._close()
            raise UserError(f"{self.path}: is being written by another process") from None
        os.ftruncate(self._descriptor, 0)

    def write(self, content: Any) -> int:
        """Append bytes."""
        view = memoryview(content).cast("B")
        if self.digest is not None:
            self.digest.update(view)
        self.size += len(view)
        if len(self._buffer) + len(view) <= BUFFER:
            self._buffer += view
        else:
            self.flush()
            self._write(view)
        return len(view)

    def flush(self) -> None:
        """Hand what is gathered to the system."""
        content, self._buffer = self._buffer, bytearray()
        self._write(memoryview(content))

    def _write(self, view: memoryview) -> None:
        try:
            while len(view):
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            raise WriteError(self.path, error) from None

    def commit(self, is_synced: bool = True) -> None:
        """Give the file its name. is_synced: it then survives a loss of power."""
        self.flush()
        try:
            if is_synced:
                os.fsync(self._descriptor)
            os.replace(self.temporary, self.path)
            self._close()
            if is_synced:
                sync_directory(self.path.parent)
        except OSError as error:
            raise WriteError(self.path, error) from None

    def abandon(self) -> None:
        """Remove what has been written."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.unlink(self.temporary)
            self._close()

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abandon()

    # What writers of other libraries ask of a file.
    def tell(self) -> int:
        return self.size

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        """Do nothing: the file stays open until `commit` or `abandon`."""


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to write to that gets its name when the block ends well. When it does not, nothing is left.

    Raises WriteError; an OSError of the block that names another file passes as it is.
    """
    temporary = hidden_name(path)
    try:
        check_place(path)
        with open(os.open(temporary, _OPEN | os.O_EXCL, 0o666), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        _remove(temporary)
        is_ours = error.filename in (None, str(temporary), temporary, str(path))
        if isinstance(error, WriteError) or not is_ours:
            raise
        raise WriteError(path, error) from error
    except BaseException:
        _remove(temporary)
        raise


def write_whole(path: Path, content: bytes | str, is_synced: bool = True) -> None:
    """Give a file this content, all at once; text is UTF-8. Raises WriteError."""
    with AtomicFile(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)
        file.commit(is_synced)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory, or the bytes of a file, last through a loss of power."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_place(path: Path) -> None:
    """Raise UserError for a place whose content a rename would destroy: a folder, a device."""
    try:
        kind = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except ValueError as error:  # a null character
        raise WriteError(path, error) from None
    if not stat.S_ISREG(kind):
        what = "it is a directory" if stat.S_ISDIR(kind) else "it is no plain file"
        raise UserError(f"{path}: cannot be written: {what}")


def check_not_read(path: Path, *inputs: str | os.PathLike) -> None:
    """Raise UserError where an output would take the place of what it is made of."""
    for one in inputs:
        with contextlib.suppress(OSError, ValueError):
            if os.path.samefile(path, one):
                raise UserError(f"{path}: is what is read; give another --out")


def hidden_name(path: Path, suffix: str | None = None) -> Path:
    """Return the name beside `path` that its content has while it is written; one of its own without a suffix."""
    # Names may have 255 bytes, of which a Chinese character takes three.
    short = path.name if len(path.name.encode(errors="replace")) < 220 else path.name[:60]
    return path.with_name(f".{short}.{suffix or f'{os.getpid()}-{secrets.token_hex(4)}.tmp'}")


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError, ValueError):
        os.unlink(path)
