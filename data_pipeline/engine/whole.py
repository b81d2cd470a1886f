"""Files that appear whole or not at all, and the lock that keeps two runs out of one directory."""

import contextlib
import fcntl
import os
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import xxhash

from pangu.foundation.errors import UserError


@dataclass(frozen=True)
class Output:
    """A finished file. `path` is relative to the output directory of the run; `checksum` is xxh3-128 of its bytes."""

    path: str
    bytes: int
    checksum: str
    rows: int = 0
    role: str = "kept"


class WholeFile:
    """A file being written under a temporary name, hashed on the way; `commit` makes it appear.

    It is a writable binary file object, append only (which is all that the Parquet writer needs).
    """

    def __init__(self, root: Path, path: str):
        self.root, self.path = root, path
        # no other process has this name, whichever machine it runs on
        self.temporary = root / "tmp" / f"{platform.node()}-{os.getpid()}-{path.replace('/', '-')}"
        self.temporary.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(self.temporary, "wb", buffering=1 << 20)  # noqa: SIM115 (closed by commit or abandon)
        self.hash = xxhash.xxh3_128()
        self.position = 0

    closed = False

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        return self.position

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        self.file.write(data)
        self.position += len(data)
        return len(data)

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        """Called by the Parquet writer; the file itself stays open until `commit` or `abandon`."""

    def commit(self, rows: int, role: str) -> Output:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        final = self.root / self.path
        final.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self.temporary, final)
        sync_directory(final.parent)
        return Output(self.path, self.position, self.hash.hexdigest(), rows, role)

    def abandon(self) -> None:
        with contextlib.suppress(OSError):
            self.file.close()
        self.temporary.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Make a rename in `directory` survive a loss of power."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checksum(path: Path) -> str:
    """xxh3-128 of a file's bytes."""
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_whole(path: Path, text: str) -> None:
    """Write a small text file, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error
    sync_directory(path.parent)


def commit_directory(temporary: Path, final: Path) -> None:
    """Sync every file of `temporary` and let it take the place of `final`."""
    for path in sorted(temporary.rglob("*")):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    final.parent.mkdir(parents=True, exist_ok=True)
    old = temporary.with_name(temporary.name + ".old")
    if final.exists():
        os.rename(final, old)
    os.rename(temporary, final)
    sync_directory(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def link(source: Path, target: Path) -> None:
    """A second name for a file that never changes; a copy where the file system has no hard links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


@contextlib.contextmanager
def locked(root: Path) -> Iterator[IO[str]]:
    """Hold the output directory. The kernel drops the lock with the process, also after a kill -9."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", str(root)):
        raise UserError(f"{root}: the output directory is a path, not a URL; mount it, or copy the result there")
    try:
        root.mkdir(parents=True, exist_ok=True)
        file = open(root / "lock", "a+")  # noqa: SIM115 (held for the whole run)
    except OSError as error:
        raise UserError(f"{root}: the output directory cannot be written: {error.strerror}") from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(f"{root}: {holder} is already running here; wait for it, or give another --out") from error
        file.truncate(0)
        file.write(f"process {os.getpid()}\n")
        file.flush()
        yield file
    finally:
        file.close()
