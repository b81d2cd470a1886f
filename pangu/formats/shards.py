"""Shards of all training ranks as one source: each parameter is put together from the parts that ranks hold.

Everything is checked before anything is read: all shards are indexed, every one that is missing, truncated, of another
model or a copy of another is named. Files are only ever read.
"""

import hashlib
import os
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pangu.formats import names
from pangu.formats.data_types import TensorInfo, bytes_of
from pangu.formats.mindspore_checkpoint import CheckpointIndex, StoredTensor, index_checkpoint
from pangu.formats.parameter_layout import ParameterLayout, owners_of_row
from pangu.formats.regular_file import OpenFiles, opened
from pangu.formats.safetensors_file import index_safetensors
from pangu.formats.source import Region, Source
from pangu.formats.strategy_checkpoint import read_strategy
from pangu.foundation.errors import UserError

# The misspelling is the original's; its README and its users have two more.
SHARD_NAME = re.compile(r"(?:filerted|filitered|filtered)_(\d{1,7})\.ckpt")
RANK_FOLDER = re.compile(r"rank_(\d{1,7})")
# Where the original's directory tree has the strategy file, seen from the shards.
STRATEGY_PLACES = ("*strategy*.ckpt", "../strategy_load_ckpt/*strategy*.ckpt", "../*strategy*.ckpt")
MOST_LISTED = 8
MOST_RANGES = 40
SAMPLE = 4096
# Bytes of a part that are read at a time where they do not lie together in the parameter: few enough for the cache.
BAND = 1 << 20


def holds_shards(folder: Path) -> bool:
    """Return whether there is a shard of any rank in a directory."""
    return bool(list_shards(folder))


def list_shards(folder: Path) -> list[tuple[int, Path]]:
    """Return (rank, file) of `filerted_N.ckpt`, or of the one file in each `rank_N/`; a rank may come up twice."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from None
    found = [(int(match[1]), path) for path in entries if (match := SHARD_NAME.fullmatch(path.name))]
    if not found:
        folders = [(int(match[1]), path) for path in entries if (match := RANK_FOLDER.fullmatch(path.name))]
        found = [(rank, path) for rank, folder in folders for path in rank_files(folder)]
    return found


def rank_files(folder: Path) -> list[Path]:
    """Return the checkpoint files of one rank's folder."""
    return sorted(path for suffix in ("ckpt", "safetensors") for path in folder.glob(f"*.{suffix}"))


def ranges(numbers: Iterable[int]) -> str:
    """Return `0, 3-7, 9` for sorted numbers."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs[:MOST_RANGES])
    return shown + (f" and {len(runs) - MOST_RANGES} more runs" if len(runs) > MOST_RANGES else "")


class ShardSet(Source):
    """Shards of all ranks as one source, under the names in the shards.

    A subclass says what tensors the whole has (`gather_infos`).
    """

    def __init__(
        self, folder: Path, strategy: list[Path] | None, layouts: dict[str, ParameterLayout] | None = None
    ) -> None:
        """strategy: MindSpore's files, looked for where there is none; layouts: in their place."""
        self.folder = folder
        self.strategy_files = [] if layouts else strategy or [find_strategy(folder)]
        self.layouts = layouts or read_strategy(self.strategy_files)
        self.num_ranks = max(stage.stop for stage in self.stages())
        self.problems: list[str] = []
        self.scratch = np.empty(0, np.uint8)  # kept, for new memory costs more than reading into it
        self.unlike: set[int] = set()
        self.paths = self.find_ranks()
        self.indices = self.index_shards()
        self.compare_structures()
        self.compare_contents()
        if self.problems:
            raise UserError(f"{folder}: not a whole set of {self.num_ranks} shards: {'; '.join(self.problems)}")
        files = [*self.paths.values(), *self.strategy_files]
        super().__init__(folder, f"{self.num_ranks} shards", self.gather_infos(), files)
        self.metadata = dict(self.indices[min(self.indices)].metadata) if self.indices else {}

    @abstractmethod
    def gather_infos(self) -> dict[str, TensorInfo]:
        """Return {name: whole parameter} of everything in the shards. Raises UserError where strategy and shards
        disagree."""

    def find_ranks(self) -> dict[int, Path]:
        """Return {rank: file}; what is missing, superfluous or there twice becomes a problem."""
        paths: dict[int, Path] = {}
        superfluous, twice = [], []
        for rank, path in list_shards(self.folder):
            if rank >= self.num_ranks:
                superfluous.append(self.called(path))
            elif rank in paths:
                twice.append(f"{self.called(path)} (rank {rank}, as {self.called(paths[rank])})")
            else:
                paths[rank] = path
        missing = [rank for rank in range(self.num_ranks) if rank not in paths]
        if missing:
            pattern = "filerted_N.ckpt"
            if paths:
                pattern = re.sub(r"\d+", "N", self.called(next(iter(paths.values()))), count=1)
            self.problems.append(f"{len(missing)} missing ({pattern}, N = {ranges(missing)})")
        self.report("of no rank of the strategy", superfluous)
        self.report("there twice", twice)
        return paths

    def called(self, path: Path) -> str:
        return str(path.relative_to(self.folder))

    def report(self, what: str, items: list[str]) -> None:
        """Add a problem with the files that have it, the first few by name."""
        if items:
            more = f" and {len(items) - MOST_LISTED} more" if len(items) > MOST_LISTED else ""
            self.problems.append(f"{len(items)} {what}: {', '.join(items[:MOST_LISTED])}{more}")

    def index_shards(self) -> dict[int, CheckpointIndex]:
        """Return {rank: index}. Shards are alike: one that agrees in every byte between its tensors shares its
        index."""
        indices: dict[int, CheckpointIndex] = {}
        known: list[CheckpointIndex] = []
        unreadable = []
        for rank, path in sorted(self.paths.items()):
            try:
                index = next((index for index in known[-4:] if index.fits(path)), None)
                if index is None:
                    index = index_shard(path)
                    known.append(index)
                indices[rank] = index
            except UserError as error:
                unreadable.append(str(error).replace(str(path), self.called(path)))
        self.report("unreadable", unreadable)
        return indices

    def stages(self) -> list[range]:
        """Return the ranks of each pipeline stage."""
        firsts = {layout.first_rank: layout.num_ranks for layout in self.layouts.values()}
        return [range(first, first + count) for first, count in sorted(firsts.items())]

    def compare_structures(self) -> None:
        """Name shards of a stage that hold other parameters, or other shapes, than most of them."""
        odd = []
        for stage in self.stages():
            held = {rank: self.indices[rank] for rank in stage if rank in self.indices}
            kinds = Counter(index.kind for index in held.values())
            usual = kinds.most_common(1)[0][0] if kinds else frozenset()
            for rank, index in held.items():
                if index.kind != usual:
                    self.unlike.add(rank)
                    odd.append(f"{self.called(self.paths[rank])} ({difference(dict(index.kind), dict(usual))})")
        self.report("unlike the others", odd)

    def compare_contents(self) -> None:
        """Name shards that are copies of one another, and those that disagree about what all ranks must share."""
        copies, strangers = [], []
        for stage in self.stages():
            ranks = [rank for rank in stage if rank in self.indices and rank not in self.unlike]
            held = self.indices[ranks[0]].tensors if ranks else {}
            here = {n: lay for n, lay in self.layouts.items() if n in held and lay.first_rank == stage.start}
            split = [name for name in here if here[name].num_parts > 1]
            shared = [name for name in here if here[name].num_parts == 1 and name.endswith("gamma")]
            if split:
                name = max(split, key=lambda name: (here[name].num_parts, held[name].nbytes))
                copies += self.copies(ranks, name, here[name])
            if shared:
                strangers += self.strangers(ranks, shared[0])
        self.report("copies of another rank's shard", copies)
        self.report("of another model or training step", strangers)

    def copies(self, ranks: list[int], name: str, layout: ParameterLayout) -> list[str]:
        """Return shards with the same bytes as one that must hold another part of the parameter."""
        first_with: dict[bytes, int] = {}
        found = []
        for rank in ranks:
            sample = sample_of(self.indices[rank].tensors[name], self.paths[rank])
            other = first_with.setdefault(sample, rank)
            # Fresh weights may be one number over and over: that is no copy.
            if not sample or layout.cell(rank) == layout.cell(other):
                continue
            if same_file(self.paths[rank], self.paths[other]):
                found.append(f"{self.called(self.paths[rank])} (as {self.called(self.paths[other])})")
        return found

    def strangers(self, ranks: list[int], name: str) -> list[str]:
        """Return shards whose value of a shared parameter is not that of most."""
        values = {rank: sample_of(self.indices[rank].tensors[name], self.paths[rank]) for rank in ranks}
        usual = Counter(values.values()).most_common(1)[0][0]
        odd = [rank for rank in ranks if values[rank] != usual]
        return [f"{self.called(self.paths[rank])} (its {name} differs)" for rank in odd]

    def fill(self, name: str, first: int, last: int, view: memoryview) -> None:
        info, layout = self.tensors[name], self.layouts[name]
        assert info.data_type is not None
        if not info.shape:
            rank = layout.first_rank
            self.indices[rank].tensors[name].read_into(self.open_files, self.paths[rank], 0, view)
            return
        array = np.frombuffer(view, info.data_type.storage).reshape(last - first, *info.shape[1:])
        self.gather(name, [(first, last), *((0, length) for length in info.shape[1:])], array)

    def read_region(self, name: str, region: Region) -> np.ndarray:
        """Return a part of a tensor that is no scalar, from those shards alone that hold some of it."""
        info = self.tensors[name]
        assert info.data_type is not None
        result = np.empty([stop - start for start, stop in region], info.data_type.storage)
        self.gather(name, region, result)
        return result

    def gather(self, name: str, region: Region, result: np.ndarray) -> None:
        """Fill `result` with a region of a parameter: from every shard the rows that lie in it."""
        layout = self.layouts[name]
        part_shape = layout.part_shape(self.tensors[name].shape)
        (first, last), height = region[0], part_shape[0]
        for row in range(first // height, -(-last // height)):
            for cell, rank in owners_of_row(layout)[row]:
                # What of the region lies in this part: counted from its beginning, and from the region's.
                inside, target = [], []
                for (start, stop), index, length in zip(region, cell, part_shape, strict=True):
                    begin, end = max(start, index * length), min(stop, (index + 1) * length)
                    inside.append((begin - index * length, end - index * length))
                    target.append(slice(begin - start, end - start))
                if all(begin < end for begin, end in inside):
                    self.read_part(name, rank, inside, result[*target])

    def read_part(self, name: str, rank: int, inside: Region, target: np.ndarray) -> None:
        """Fill `target` with what lies `inside` the part that a rank holds."""
        stored, path = self.indices[rank].tensors[name], self.paths[rank]
        (first, _), *rest = inside
        width = stored.info.shape[1:]
        row_bytes = stored.nbytes // stored.info.rows
        is_whole_rows = all(bounds == (0, length) for bounds, length in zip(rest, width, strict=True))
        if is_whole_rows and target.flags.c_contiguous:
            stored.read_into(self.open_files, path, first * row_bytes, bytes_of(target))
            return
        at_once = max(1, BAND // row_bytes)
        for start in range(0, len(target), at_once):
            rows = target[start : start + at_once]
            size = len(rows) * row_bytes
            if self.scratch.nbytes < size:
                self.scratch = np.empty(size, np.uint8)
            band = self.scratch[:size].view(target.dtype).reshape(len(rows), *width)
            stored.read_into(self.open_files, path, (first + start) * row_bytes, bytes_of(band))
            rows[...] = band[:, *(slice(*bounds) for bounds in rest)]


def index_shard(path: Path) -> CheckpointIndex:
    """Return where each tensor lies in one rank's file."""
    if path.suffix != ".safetensors":
        return index_checkpoint(path)
    index = index_safetensors(path)
    found = index.tensors
    tensors = {name: StoredTensor(info, ((start, size),)) for name, (info, start, size) in found.items()}
    first = min((start for _, start, _ in found.values()), default=0)
    with opened(path) as descriptor:
        size, structure = os.fstat(descriptor).st_size, os.pread(descriptor, first, 0)
        return CheckpointIndex(tensors, size, ((0, first),), structure, index.metadata)


class WholeShards(ShardSet):
    """Shards of anything: parameters that the strategy does not know are whole in every rank that has them."""

    def gather_infos(self) -> dict[str, TensorInfo]:
        tensors: dict[str, TensorInfo] = {}
        wrong = []
        for stage in self.stages():
            for name, stored in self.indices[stage.start].tensors.items():
                layout = self.layouts.get(name)
                if layout is None:
                    layout = ParameterLayout((len(stage),), ((),) * len(stored.info.shape), first_rank=stage.start)
                    self.layouts[name] = layout
                try:
                    tensors.setdefault(name, TensorInfo(stored.info.data_type, layout.full_shape(stored.info.shape)))
                except ValueError as error:
                    wrong.append(f"{name}: {error}")
        without_moments = not any(name.startswith(names.OPTIMIZER_PREFIXES) for name in tensors)
        if without_moments:
            self.layouts = {n: lay for n, lay in self.layouts.items() if not n.startswith(names.OPTIMIZER_PREFIXES)}
        absent = sorted(set(self.layouts) - set(tensors))
        strategy = ", ".join(path.name for path in self.strategy_files) or "the strategy"
        for what, items in ((f"do not have the shape that is due by {strategy}", wrong), ("are in no shard", absent)):
            if items:
                shown = ", ".join(items[:MOST_LISTED])
                raise UserError(f"{self.folder}: {len(items)} parameters {what}: {shown}")
        return tensors


def difference(content: dict[str, TensorInfo], usual: dict[str, TensorInfo]) -> str:
    """Return one thing in which a shard differs from the others."""
    for name in usual:
        if name not in content:
            return f"lacks {name}"
        if content[name] != usual[name]:
            return f"{name} is {list(content[name].shape)} instead of {list(usual[name].shape)}"
    return f"also has {next(name for name in content if name not in usual)}"


def sample_of(tensor: StoredTensor, path: Path) -> bytes:
    """Return the digest of a tensor's first and last few thousand bytes; b"" where they are one number over and
    over."""
    size = min(SAMPLE, tensor.nbytes)
    sample = bytearray(2 * size)
    with OpenFiles() as files:
        tensor.read_into(files, path, 0, memoryview(sample)[:size])
        tensor.read_into(files, path, tensor.nbytes - size, memoryview(sample)[size:])
    if sample == sample[:4] * (len(sample) // 4):
        return b""
    return hashlib.blake2b(sample, digest_size=16).digest()


def same_file(one: Path, other: Path) -> bool:
    """Return whether two files have the same bytes."""
    with opened(one) as first, opened(other) as second:
        offset = 0
        while True:
            block = os.pread(first, 1 << 20, offset)
            if block != os.pread(second, 1 << 20, offset):
                return False
            if not block:
                return True
            offset += len(block)


def find_strategy(folder: Path) -> Path:
    """Return the only strategy file where the original's directory tree would have it."""
    for pattern in STRATEGY_PLACES:
        found = sorted(path for path in folder.glob(pattern) if not SHARD_NAME.fullmatch(path.name))
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(
                f"{folder}: several strategy files ({', '.join(map(str, found[:4]))}): give one by --strategy"
            )
    raise UserError(
        f"{folder}: holds shards, which need the strategy file of their training run: give it by --strategy"
    )
