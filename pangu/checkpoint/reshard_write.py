"""Carries out a change of layout: bands of rows are read once, cut, and written to all files that have a part of them.

One thread reads, others cut, write and hash, each its own files, so that every file is written from its beginning
to its end. A band fits into a processor's cache: what is read is still there when it is cut and written. Few bands are
under way at a time, which is all the memory that is needed, however large a parameter is.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pangu.formats.data_types import TensorInfo, bytes_of
from pangu.formats.mindspore_checkpoint import value_headers
from pangu.formats.parameter_layout import ParameterLayout, region
from pangu.formats.source import Source
from pangu.foundation.errors import UserError

# Bytes of a band, and how many may be under way.
BAND = 2 << 20
BANDS = 4
# Bytes of a file after which the disk is told to begin with them, while others are still to come.
WRITE_BACK = 32 << 20
WRITERS = min(8, len(os.sched_getaffinity(0)))


class ShardFile:
    """A file that is written from its beginning to its end, and hashed; open only while it is written, for there may be
    thousands."""

    def __init__(self, path: Path, hashed: bool) -> None:
        self.path = path
        self.hash = hashlib.sha256() if hashed else None
        self.headers: deque[tuple[bytes, int]] = deque()
        self.left = 0  # bytes of the tensor that come before the next header
        self.unsynced = 0

    def begin(self, headers: Sequence[tuple[bytes, int]]) -> None:
        """Begin the next tensor: what stands before each piece of it, and the bytes of the piece."""
        self.headers.extend(headers)

    def append(self, content: memoryview) -> None:
        """Write bytes of the tensor in hand."""
        pieces: list[bytes | memoryview] = []
        while self.headers or len(content):
            if not self.left and self.headers:
                header, self.left = self.headers.popleft()
                pieces.append(header)
            elif not len(content):
                break
            else:
                size = min(self.left, len(content)) if self.left else len(content)
                pieces.append(content[:size])
                content, self.left = content[size:], max(0, self.left - size)
        self.write(pieces)

    def write(self, pieces: Sequence[bytes | memoryview]) -> None:
        try:
            with self.path.open("ab", buffering=0) as file:
                for piece in pieces:
                    view = memoryview(piece)
                    while len(view):
                        view = view[file.write(view) :]
                    if self.hash:
                        self.hash.update(piece)
                    self.unsynced += len(piece)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written: {error.strerror}") from None

    def sync(self) -> None:
        """Wait until all that was written is on the disk."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written: {error.strerror}") from None
        finally:
            os.close(descriptor)


@dataclass
class Part:
    """A part of a parameter, and the files that it goes to. headers: what stands before its pieces in each."""

    cell: tuple[int, ...]
    shape: tuple[int, ...]
    headers: list[tuple[bytes, int]]
    files: list[ShardFile] = field(default_factory=list)

    @property
    def rows(self) -> range:
        """Return the rows of the parameter."""
        return range(self.cell[0] * self.shape[0], (self.cell[0] + 1) * self.shape[0]) if self.shape else range(1)

    def cut(self, band: np.ndarray, first: int) -> np.ndarray:
        """Return what of a band, whose first row is `first`, belongs to this part."""
        if not self.shape:
            return band
        rows = slice(max(self.rows.start - first, 0), self.rows.stop - first)
        return band[rows, *region(self.cell, self.shape)[1:]]


def parts_of(
    name: str,
    info: TensorInfo,
    wanted: Sequence[tuple[ShardFile, ParameterLayout, tuple[int, ...]]],
    is_ckpt: bool,
) -> list[Part]:
    """Return the different parts of a parameter that are asked for."""
    parts: dict[tuple[tuple[int, ...], tuple[int, ...]], Part] = {}
    for file, layout, cell in wanted:
        shape = layout.part_shape(info.shape)
        if (cell, shape) not in parts:
            headers = list(value_headers(name, TensorInfo(info.data_type, shape))) if is_ckpt else []
            parts[cell, shape] = Part(cell, shape, headers)
        parts[cell, shape].files.append(file)
    return list(parts.values())


def bands_of(info: TensorInfo) -> Iterator[tuple[int, int]]:
    """Yield rows [first, last) of each band; one that is empty where the tensor is."""
    at_once = max(1, BAND // max(1, info.nbytes // max(1, info.rows)))
    for first in range(0, max(1, info.rows), at_once):
        yield first, min(info.rows, first + at_once)


@dataclass
class Slot:
    """Memory for one band, used again and again: new memory costs more than a copy. futures: what is done with it."""

    memory: np.ndarray
    futures: list[Future] = field(default_factory=list)
    written: int = 0


class Writer:
    """A thread that writes its own files; what a file is given is written in that order."""

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1)
        self.scratch = np.empty(0, np.uint8)

    def append(self, files: Sequence[ShardFile], headers: Sequence[tuple[bytes, int]], cut: np.ndarray) -> None:
        """Append the same to several files."""
        content = self.contiguous(cut)
        for file in files:
            file.begin(headers)
            file.append(content)

    def contiguous(self, cut: np.ndarray) -> memoryview:
        """Return the bytes, row-major."""
        if cut.flags.c_contiguous:
            return bytes_of(cut)
        if self.scratch.nbytes < cut.nbytes:
            self.scratch = np.empty(cut.nbytes, np.uint8)
        place = self.scratch[: cut.nbytes]
        place.view(cut.dtype).reshape(cut.shape)[...] = cut
        return place.data


class Writers:
    """All writers, and one more thread that has the disk begin with what they have written."""

    def __init__(self, files: Sequence[ShardFile]) -> None:
        self.all = [Writer() for _ in range(min(WRITERS, len(files)))]
        self.of_file = {id(file): self.all[index % len(self.all)] for index, file in enumerate(files)}
        self.syncing = ThreadPoolExecutor(1)
        self.synced: deque[Future] = deque()

    def submit(self, files: Sequence[ShardFile], headers: Sequence[tuple[bytes, int]], cut: np.ndarray) -> list[Future]:
        """Append the same to several files; what is returned is done when they have it."""
        by_writer: dict[int, tuple[Writer, list[ShardFile]]] = {}
        for file in files:
            writer = self.of_file[id(file)]
            by_writer.setdefault(id(writer), (writer, []))[1].append(file)
            if file.unsynced > WRITE_BACK:
                file.unsynced = 0
                self.synced.append(self.syncing.submit(file.sync))
        return [writer.thread.submit(writer.append, some, headers, cut) for writer, some in by_writer.values()]

    def sync(self, files: Sequence[ShardFile]) -> None:
        """Wait until everything is on the disk."""
        for future in self.synced:
            future.result()
        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(ShardFile.sync, files))

    def __enter__(self) -> "Writers":
        return self

    def __exit__(self, *_: object) -> None:
        for thread in (*(writer.thread for writer in self.all), self.syncing):
            thread.shutdown(cancel_futures=True)


def write_parameters(
    source: Source,
    wanted: Mapping[str, Sequence[tuple[ShardFile, ParameterLayout, tuple[int, ...]]]],
    is_ckpt: bool,
    advance: Callable[[int], None],
) -> None:
    """Append every parameter, in this order, to the files that want a part of it; then sync them.

    wanted: {parameter: (file, layout, cell of the file's part)}. advance: called with bytes that have been written.
    """
    files = list({id(file): file for entries in wanted.values() for file, _, _ in entries}.values())
    largest = max((source.tensors[name].nbytes // max(1, source.tensors[name].rows) for name in wanted), default=0)
    # A row that is larger than a band is alone in memory.
    free = [Slot(np.empty(max(BAND, largest), np.uint8)) for _ in range(BANDS if largest <= BAND else 1)]
    under_way: deque[Slot] = deque()

    def finish() -> None:
        slot = under_way.popleft()
        for future in slot.futures:
            future.result()
        free.append(slot)
        advance(slot.written)

    with Writers(files) as writers:
        for name, entries in wanted.items():
            info = source.tensors[name]
            parts = parts_of(name, info, entries, is_ckpt)
            for first, last in bands_of(info):
                if not free:
                    finish()
                slot = free.pop()
                slot.futures, slot.written = [], 0
                band = read_band(source, name, first, last, slot.memory)
                for part in parts:
                    if (part.rows.start < last and first < part.rows.stop) or not info.rows:
                        cut = part.cut(band, first)
                        headers = part.headers if first <= part.rows.start else []
                        slot.futures += writers.submit(part.files, headers, cut)
                        slot.written += cut.nbytes * len(part.files)
                under_way.append(slot)
        while under_way:
            finish()
        writers.sync(files)


def read_band(source: Source, name: str, first: int, last: int, memory: np.ndarray) -> np.ndarray:
    """Return rows [first, last) of a parameter, in `memory`."""
    info = source.tensors[name]
    assert info.data_type is not None
    size = (last - first) * (info.nbytes // max(1, info.rows))
    if size:
        source.fill(name, first, last, memory[:size].data)
    shape = (last - first, *info.shape[1:]) if info.shape else ()
    return memory[:size].view(info.data_type.storage).reshape(shape)
