"""What every reader offers to the conversion, and finding out which reader a path needs."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from pangu.formats.data_types import TensorInfo, bytes_of
from pangu.formats.mindspore_checkpoint import index_checkpoint
from pangu.formats.regular_file import OpenFiles, file_size, read_bytes
from pangu.formats.safetensors_file import index_safetensors
from pangu.formats.torch_file import index_torch_file
from pangu.foundation.errors import UserError

# (first, last) along each axis of a tensor.
Region = Sequence[tuple[int, int]]
# Bytes that are read at a time where only a part of each row is wanted.
BAND = 4 << 20
LARGEST_INDEX = 64 << 20
# In a directory, what is looked for, the best first.
DIRECTORY_FILES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)


class Source(ABC):
    """Weights in some form, to be used in a `with`. form: a few words for people. tensors: by their names, unread."""

    def __init__(self, path: Path, form: str, tensors: dict[str, TensorInfo], files: list[Path]) -> None:
        self.path, self.form, self.tensors, self.files = path, form, tensors, files
        self.metadata: dict[str, str] = {}
        self.open_files = OpenFiles()

    @abstractmethod
    def fill(self, name: str, first: int, last: int, view: memoryview) -> None:
        """Write the bytes of the tensor's rows [first, last) along its first axis, row-major, into `view`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.open_files.close()

    def read(self, name: str, buffer: np.ndarray | None = None) -> np.ndarray:
        """One tensor in the storage type of its data type.

        buffer: uint8 memory that is large enough for it, used again for the next: one buffer for all tensors takes the
        memory of the largest, where new arrays may take that of two.
        """
        info = self.tensors[name]
        assert info.data_type is not None
        if buffer is None:
            array = np.empty(info.shape, info.data_type.storage)
        else:
            array = buffer[: info.nbytes].view(info.data_type.storage).reshape(info.shape)
        if info.nbytes:
            self.fill(name, 0, info.rows, bytes_of(array))
        return array

    def read_region(self, name: str, region: Region) -> np.ndarray:
        """A part of a tensor that is no scalar; of the file, only the rows that it lies in are read."""
        info = self.tensors[name]
        assert info.data_type is not None
        (first, last), *rest = region
        result = np.empty([stop - start for start, stop in region], info.data_type.storage)
        if all(bounds == (0, length) for bounds, length in zip(rest, info.shape[1:], strict=True)):
            if result.nbytes:
                self.fill(name, first, last, bytes_of(result))
            return result
        at_once = max(1, BAND * info.rows // info.nbytes)
        for start in range(first, last, at_once):
            stop = min(last, start + at_once)
            band = np.empty((stop - start, *info.shape[1:]), result.dtype)
            self.fill(name, start, stop, bytes_of(band))
            result[start - first : stop - first] = band[:, *(slice(*bounds) for bounds in rest)]
        return result


class FileSource(Source):
    """Tensors that lie in one piece each: {name: (file, offset)}."""

    def __init__(
        self, path: Path, form: str, tensors: dict[str, TensorInfo], places: dict[str, tuple[Path, int]]
    ) -> None:
        super().__init__(path, form, tensors, list(dict.fromkeys(file for file, _ in places.values())) or [path])
        self.places = places

    def fill(self, name: str, first: int, last: int, view: memoryview) -> None:
        file, offset = self.places[name]
        row_bytes = self.tensors[name].nbytes // self.tensors[name].rows
        self.open_files.read_into(file, offset + first * row_bytes, view)


class CheckpointSource(Source):
    """One MindSpore `.ckpt`."""

    def __init__(self, path: Path) -> None:
        self.index = index_checkpoint(path)
        tensors = {name: tensor.info for name, tensor in self.index.tensors.items()}
        super().__init__(path, "MindSpore checkpoint", tensors, [path])
        self.metadata = self.index.metadata

    def fill(self, name: str, first: int, last: int, view: memoryview) -> None:
        tensor = self.index.tensors[name]
        tensor.read_into(self.open_files, self.path, first * (tensor.nbytes // tensor.info.rows), view)


def open_source(path: Path, strategy: list[Path] | None = None, embeddings: Path | None = None) -> Source:
    """The reader for a file or a directory. strategy and embeddings belong to released shards.

    Raises UserError that says what is wrong with the input, or that it is none of the known forms.
    """
    if path.is_dir():
        # Imported here because they build on this module.
        from pangu.formats.released import ReleasedShards
        from pangu.formats.shards import holds_shards

        if holds_shards(path):
            return ReleasedShards(path, strategy, embeddings)
        found = next((path / name for name in DIRECTORY_FILES if (path / name).exists()), None)
        if found is None:
            raise UserError(
                f"{path}: holds no whole checkpoint of a run, nor filerted_0.ckpt … nor rank_0/ … nor "
                f"{', '.join(DIRECTORY_FILES)}; "
                "for a single file give its path"
            )
        path = found
    if strategy:
        raise UserError(f"{path}: --strategy goes with a directory of shards")
    if path.name.endswith(".index.json"):
        return open_indexed(path)
    if path.suffix == ".ckpt":
        return CheckpointSource(path)
    if path.suffix in (".safetensors", ".bin", ".pt", ".pth"):
        return open_file(path)
    file_size(path)
    raise UserError(f"{path}: must be a directory or end in .ckpt, .safetensors, .bin, .pt, .pth or .index.json")


def open_file(path: Path) -> FileSource:
    """One safetensors or PyTorch file."""
    if path.suffix == ".safetensors":
        index = index_safetensors(path)
        tensors = {name: info for name, (info, _, _) in index.tensors.items()}
        places = {name: (path, start) for name, (_, start, _) in index.tensors.items()}
        source = FileSource(path, "safetensors", tensors, places)
        source.metadata = index.metadata
        return source
    found = index_torch_file(path)
    tensors = {name: tensor.info for name, tensor in found.items()}
    return FileSource(path, "PyTorch file", tensors, {name: (path, tensor.start) for name, tensor in found.items()})


def open_indexed(path: Path) -> FileSource:
    """Several files with an index: {"weight_map": {name: file}}."""
    size = file_size(path)
    if size > LARGEST_INDEX:
        raise UserError(f"{path}: has {size} bytes, more than any index")
    try:
        weight_map = json.loads(read_bytes(path, 0, size))["weight_map"]
        files = sorted(set(weight_map.values()))
        if any(not file or Path(file).name != file for file in files):
            raise ValueError("a file that is not beside the index")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: is not an index of weights: {type(error).__name__} {error}") from None
    parts: dict[str, FileSource] = {}
    problems: list[str] = []
    for file in files:
        try:
            parts[file] = open_file(path.parent / file)
        except UserError as error:
            problems.append(str(error).removeprefix(f"{path.parent}/"))
    if problems:
        raise UserError(f"{path}: {len(problems)} of {len(files)} files cannot be used: {'; '.join(problems[:8])}")
    absent = [f"{name} in {file}" for name, file in weight_map.items() if name not in parts[file].tensors]
    if absent:
        raise UserError(f"{path}: {len(absent)} tensors are not where the index says: {', '.join(absent[:8])}")
    tensors = {name: parts[file].tensors[name] for name, file in weight_map.items()}
    places = {name: parts[file].places[name] for name, file in weight_map.items()}
    kind = parts[files[0]].form if files else "empty index"
    source = FileSource(path, f"{kind} in {len(files)} parts", tensors, places)
    for file in reversed(files):
        source.metadata |= parts[file].metadata
    return source
