"""What every reader offers to the conversion."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from pangu.formats.data_types import TensorInfo, bytes_of
from pangu.formats.mindspore_checkpoint import index_checkpoint
from pangu.formats.regular_file import OpenFiles

# (first, last) along each axis of a tensor.
Region = Sequence[tuple[int, int]]
# Bytes that are read at a time where only a part of each row is wanted.
BAND = 4 << 20


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
        """Return one tensor in the storage type of its data type.

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
        """Return a part of a tensor that is no scalar; of the file, only the rows that it lies in are read."""
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
