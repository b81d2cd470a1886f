"""The files of a run, each with a checksum, and the lock that keeps two runs out of one directory."""

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

import xxhash

from pangu.foundation.atomic_file import AtomicFile, write_whole
from pangu.foundation.directory import commit_directory, make_directory
from pangu.foundation.errors import UserError, WriteError
from pangu.foundation.lock import Lock

__all__ = ["Output", "RunFile", "checksum", "commit_directory", "link", "locked", "write_whole"]


@dataclass(frozen=True)
class Output:
    """A finished file. `path` is relative to the output directory of the run; `checksum` is xxh3-128 of its bytes."""

    path: str
    bytes: int
    checksum: str
    rows: int = 0
    role: str = "kept"


class RunFile(AtomicFile):
    """A file of a run: written in `tmp` under the root, hashed on the way; `commit` makes it appear."""

    def __init__(self, root: Path, path: str):
        self.root, self.name = root, path
        # no other process has this name, whichever machine it runs on
        temporary = root / "tmp" / f"{platform.node()}-{os.getpid()}-{path.replace('/', '-')}"
        temporary.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        super().__init__(root / path, digest=xxhash.xxh3_128(), temporary=temporary)

    def finish(self, rows: int, role: str) -> Output:
        """Give the file its name."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.commit()
        return Output(self.name, self.size, self.digest.hexdigest(), rows, role)


def checksum(path: Path) -> str:
    """Return xxh3-128 of a file's bytes."""
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def link(source: Path, target: Path) -> None:
    """Give a file that never changes a second name; make a copy where the file system has no hard links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def locked(root: Path) -> Lock:
    """Hold the output directory until the lock is closed."""
    try:
        make_directory(root)
        return Lock(root / "lock", f"{root}: {{holder}} is already running here; wait for it, or give another --out")
    except WriteError as error:
        raise UserError(f"{root}: the output directory cannot be written: {error.strerror}") from error
