"""A checkpoint as a rank reads it: of each tensor the part that it holds, and nothing before it is asked for.

A parameter here is an array that is still on the disk: indexing it reads what is indexed. A rank of a run that goes on
under its own strategy opens one file, its own shard; where anything else is wanted, those that hold it.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import numpy as np

from pangu.checkpoint.open import (
    LAYOUTS,
    MOMENTS,
    OPTIMIZER,
    SHARD,
    STATE,
    WEIGHTS,
    Checkpoint,
    newest_checkpoint,
    none_whole,
    open_checkpoint,
    rank_folder,
    step_directory,
)
from pangu.distributed.process_group import World
from pangu.formats.open_source import open_source
from pangu.formats.parameter_layout import ParameterLayout, region
from pangu.formats.safetensors_file import index_safetensors
from pangu.formats.shards import WholeShards, rank_files
from pangu.formats.source import FileSource, Region, Source
from pangu.formats.strategy_checkpoint import read_stages


class StoredArray:
    """A tensor on the disk. Indexing by slices (without steps) reads that part; as an array it is read whole."""

    def __init__(self, stored: "StoredCheckpoint", name: str, shape: tuple[int, ...]) -> None:
        self.stored, self.name, self.shape = stored, name, shape

    def __getitem__(self, index: slice | tuple[slice, ...]) -> np.ndarray:
        given = index if isinstance(index, tuple) else (index,)
        given += (slice(None),) * (len(self.shape) - len(given))
        bounds = [part.indices(length) for part, length in zip(given, self.shape, strict=True)]
        assert all(step == 1 for _, _, step in bounds)
        return self.stored.read(self.name, [(start, max(start, stop)) for start, stop, _ in bounds])

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        array = self.stored.read(self.name, [(0, length) for length in self.shape])
        return array if dtype is None else array.astype(dtype, copy=False)


class StoredTensors(Mapping[str, np.ndarray]):
    """Weights, or moments, by name; for those who only ask for shapes, slices and np.asarray they are as in memory."""

    def __init__(self, stored: "StoredCheckpoint", names: list[str]) -> None:
        self.stored, self.names = stored, dict.fromkeys(names)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.names:
            raise KeyError(name)
        return cast(np.ndarray, StoredArray(self.stored, name, self.stored.shapes[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class StoredCheckpoint:
    """A training checkpoint that has been found whole, to be used in a `with`, by one rank."""

    def __init__(self, saved: Checkpoint, rank: int = 0) -> None:
        self.directory, self.rank, self.is_sharded = saved.directory, rank, saved.is_sharded
        self.sources: list[Source] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for source in self.sources:
            source.open_files.close()

    def keep(self, source: Source) -> Source:
        self.sources.append(source)
        return source

    @cached_property
    def all(self) -> Source:
        """Return every tensor, from whatever files it lies in."""
        if self.is_sharded:
            return self.keep(WholeShards(self.directory, [self.directory / LAYOUTS]))
        parts = [open_source(self.directory / name) for name in (WEIGHTS, OPTIMIZER)]
        tensors = {name: info for part in parts for name, info in part.tensors.items()}
        places = {name: place for part in parts if isinstance(part, FileSource) for name, place in part.places.items()}
        return self.keep(FileSource(self.directory, "training checkpoint", tensors, places))

    @cached_property
    def layouts(self) -> dict[str, ParameterLayout]:
        """Return what the rank of this number holds in its shard; {} where there is none."""
        if not self.is_sharded:
            return {}
        stages = read_stages([self.directory / LAYOUTS])
        for first, held in stages.items():
            ranks = max((layout.num_ranks for layout in held.values()), default=0)
            if first <= self.rank < first + ranks:
                return dict(held)
        return {}

    @cached_property
    def own(self) -> Source | None:
        """Return this rank's shard."""
        folder = self.directory / rank_folder(self.rank)
        if not self.layouts or not folder.is_dir() or rank_files(folder) != [folder / SHARD]:
            return None
        return self.keep(open_source(folder / SHARD))

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every whole tensor. Of a sharded checkpoint as the first rank of each stage tells: no
        other is opened."""
        if not self.is_sharded:
            return {name: info.shape for name, info in self.all.tensors.items()}
        found: dict[str, tuple[int, ...]] = {}
        for first, held in read_stages([self.directory / LAYOUTS]).items():
            index = index_safetensors(self.directory / rank_folder(first) / SHARD)
            for name, (info, _, _) in index.tensors.items():
                found[name] = held[name].full_shape(info.shape) if name in held else info.shape
        return found

    @property
    def weights(self) -> StoredTensors:
        return StoredTensors(self, [name for name in self.shapes if not name.startswith(MOMENTS)])

    @property
    def moments(self) -> StoredTensors:
        return StoredTensors(self, [name for name in self.shapes if name.startswith(MOMENTS)])

    def read(self, name: str, wanted: Region) -> np.ndarray:
        """Return a part of a tensor, from this rank's own shard where that is what it holds."""
        if not wanted:
            return self.all.read(name)
        layout = self.layouts.get(name)
        if layout is not None and self.own is not None and name in self.own.tensors:
            held = region(layout.cell(self.rank), layout.part_shape(self.shapes[name]))
            if [(part.start, part.stop) for part in held] == list(wanted):
                return self.own.read(name)
        return self.all.read_region(name, wanted)


def stored_checkpoint(path: Path, world: World) -> StoredCheckpoint:
    """Return the checkpoint that is named, or of a run its newest whole one; the first rank checks it for all.

    Raises UserError where there is none.
    """
    if (path / STATE).is_file():
        saved: Checkpoint | None = open_checkpoint(path, verify=world.is_first)
        world.wait()
    else:
        saved = on_all_ranks(newest_checkpoint(path) if world.is_first else None, path, world)
    if saved is None:
        raise none_whole(path)
    return StoredCheckpoint(saved, world.rank)


def on_all_ranks(saved: Checkpoint | None, run: Path, world: World) -> Checkpoint | None:
    """Return what the first rank gives, a checkpoint of the run or None, on every rank."""
    after = world.from_first(saved.state.step + 1 if saved else 0)
    if world.is_first or not after:
        return saved
    return open_checkpoint(step_directory(run, after - 1), verify=False)
