"""Files that change under a run: cut, rotated, replaced or written anew since it was planned, or while they are read.

A file that only grows is sound: what has come meanwhile is read now or by the next run. Of any other change a line in
the rejects tells, and the next run reads the file again, because its size or time is another one."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from data_pipeline.stages.read.compressed_bytes import BLOCK
from data_pipeline.stages.read.source_files import HEAD_BYTES, FileRange, head_digest

_BY_LINE = ("jsonl", "csv", "txt")


@dataclass(frozen=True)
class Watch:
    """A file as it was when its reading began."""

    part: FileRange
    status: os.stat_result
    head: str

    @classmethod
    def begin(cls, part: FileRange) -> Self | None:
        """Look at a file; None for what does not change: remote files, members of archives."""
        if part.size is None or not isinstance(part.path, Path):
            return None
        status = part.path.stat()
        # a smaller file is read at once
        return cls(part, status, _head_of(part) if part.head or status.st_size > BLOCK else "")

    def change_since_plan(self) -> str | None:
        """Return the reason if the file was cut, or if a piece of it would be one of another file."""
        assert self.part.size is not None
        size = self.status.st_size
        if size < self.part.size and (self.part.head or self.part.format in _BY_LINE):
            return f"changed_file:{self.part.size} bytes when the run was planned, {size} when it was read; run again"
        if self.part.head and self.head != self.part.head:
            return "changed_file:another one has its name since the run was planned; run again"
        return None

    def change_while_read(self) -> str | None:
        """Return the reason if the file was written anew. One with another number has its name; it was not read."""
        assert isinstance(self.part.path, Path)
        try:
            now = self.part.path.stat()
            if now.st_ino != self.status.st_ino or now.st_mtime_ns == self.status.st_mtime_ns:
                return None
            is_same_size = now.st_size == self.status.st_size
            if is_same_size or (self.head and _head_of(self.part) != self.head):
                return "changed_file:written anew while it was read; run again"
        except OSError:  # it has gone, and was read to its end
            pass
        return None


def has_changed(part: FileRange) -> bool:
    """Return whether a file has another size than when the run was planned, so that its last line may be half of
    one."""
    if part.size is None or not isinstance(part.path, Path):
        return False
    try:
        return part.path.stat().st_size != part.size
    except OSError:
        return True


def _head_of(part: FileRange) -> str:
    """Return the digest of what was the beginning of a file when the run was planned."""
    with open(part.path, "rb") as file:  # type: ignore[arg-type]
        return head_digest(file.read(min(HEAD_BYTES, part.size or HEAD_BYTES)))
