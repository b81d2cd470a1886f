"""Keep two processes out of one place. The kernel drops the lock with the process, also after a kill -9."""

import contextlib
import fcntl
import os
import platform
from pathlib import Path
from types import TracebackType
from typing import Self

from pangu.foundation.errors import UserError, WriteError


class Lock:
    """The only process that holds this file or directory, until `close` or the end of the process.

    A file is made where there is none, and says who holds it. busy: what to say when another process does; `{holder}`
    in it becomes that process. None: wait until it lets go. Raises UserError and WriteError.
    """

    def __init__(self, path: Path, busy: str | None) -> None:
        is_directory = path.is_dir()
        try:
            flags = os.O_RDONLY if is_directory else os.O_RDWR | os.O_CREAT
            self.descriptor = os.open(path, flags | os.O_CLOEXEC, 0o666)
        except (OSError, ValueError) as error:
            raise WriteError(path, error) from None
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy is not None else 0))
            if not is_directory:
                with contextlib.suppress(OSError):  # a full disk keeps nobody out
                    os.ftruncate(self.descriptor, 0)
                    os.pwrite(self.descriptor, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
        except BlockingIOError:
            holder = "" if is_directory else os.pread(self.descriptor, 200, 0).decode(errors="replace").strip()
            self.close()
            assert busy is not None
            raise UserError(busy.replace("{holder}", holder or "another process")) from None
        except OSError as error:
            self.close()
            raise WriteError(path, error) from None

    def fileno(self) -> int:
        return self.descriptor

    def close(self) -> None:
        """Let others in."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
