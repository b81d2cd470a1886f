"""The released form: one `.ckpt` a training rank, the strategy file that says what each holds, embeddings as `.npy`."""

import os
from pathlib import Path

from numpy.lib import format as npy

from pangu import parameters
from pangu.formats import names
from pangu.formats.data_types import DATA_TYPES, TensorInfo
from pangu.formats.regular_file import file_size, opened
from pangu.formats.shards import MOST_LISTED, ShardSet
from pangu.foundation.errors import UserError

EMBEDDINGS = {
    "word_embedding.npy": parameters.WORD_TABLE,
    "position_embedding.npy": parameters.POSITION_TABLE,
    "top_query_embedding.npy": parameters.QUERY_TABLE,
}


class ReleasedShards(ShardSet):
    """Shards of PanGu-α with the embeddings that they do not hold."""

    def __init__(self, folder: Path, strategy: list[Path] | None, embeddings: Path | None) -> None:
        super().__init__(folder, strategy)
        self.tables = self.find_tables(embeddings or folder, self.tensors)
        self.tensors |= {name: info for name, (_, info, _) in self.tables.items()}
        self.form = f"{self.num_ranks} shards and {len(self.tables)} .npy"
        self.files += [path for path, _, _ in self.tables.values()]

    def gather_infos(self) -> dict[str, TensorInfo]:
        """Return {name: whole parameter} of everything in the shards. Raises UserError where strategy and shards
        disagree."""
        tensors: dict[str, TensorInfo] = {}
        unknown, wrong = [], []
        for index in {id(index): index for index in self.indices.values()}.values():
            for name, stored in index.tensors.items():
                layout = self.layouts.get(name)
                if layout is None:
                    if stored.info.data_type and names.recognise(name)[0]:
                        unknown.append(name)
                    continue
                try:
                    tensors[name] = TensorInfo(stored.info.data_type, layout.full_shape(stored.info.shape))
                except ValueError as error:
                    wrong.append(f"{name}: {error}")
        strategy = ", ".join(path.name for path in self.strategy_files)
        for what, items in (("are not in", unknown), ("do not have the shape that is due by", wrong)):
            if items:
                shown = ", ".join(sorted(set(items))[:MOST_LISTED])
                raise UserError(f"{self.folder}: {len(set(items))} parameters of the shards {what} {strategy}: {shown}")
        expected = names.sort_names(self.layouts).weights
        absent = [n for n, ours in expected.items() if n not in tensors and ours not in EMBEDDINGS.values()]
        if absent:
            shown = ", ".join(sorted(absent)[:MOST_LISTED])
            raise UserError(f"{self.folder}: {len(absent)} parameters of {strategy} are in no shard: {shown}")
        return tensors

    def find_tables(self, folder: Path, present: dict[str, TensorInfo]) -> dict[str, tuple[Path, TensorInfo, int]]:
        """Return {name: (file, what it is, offset)} of the embeddings that the shards do not hold."""
        held = set(names.sort_names(present).weights.values())
        wanted = {file: name for file, name in EMBEDDINGS.items() if name not in held}
        known = held | set(names.sort_names(self.layouts).weights.values())
        if not any(name == parameters.QUERY_TABLE or name.startswith(parameters.QUERY_LAYER) for name in known):
            wanted.pop("top_query_embedding.npy", None)
        missing = [file for file in wanted if not (folder / file).exists()]
        if missing:
            raise UserError(f"{folder}: {', '.join(missing)} missing; the released shards do not hold the embeddings")
        return {name: (folder / file, *npy_place(folder / file)) for file, name in wanted.items()}

    def fill(self, name: str, first: int, last: int, view: memoryview) -> None:
        if name in self.tables:
            path, info, offset = self.tables[name]
            self.open_files.read_into(path, offset + first * (info.nbytes // info.rows), view)
        else:
            super().fill(name, first, last, view)


def npy_place(path: Path) -> tuple[TensorInfo, int]:
    """Return what a `.npy` holds and where its numbers begin."""
    size = file_size(path)
    try:
        with opened(path) as descriptor, os.fdopen(os.dup(descriptor), "rb") as stream:
            version = npy.read_magic(stream)
            read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
            shape, fortran_order, dtype = read_header(stream)
            offset = stream.tell()
    except (ValueError, KeyError, OSError, EOFError) as error:
        raise UserError(f"{path}: is not a NumPy array: {error}") from None
    data_type = next((known for known in DATA_TYPES if known.storage.kind == "f" and known.storage == dtype), None)
    if data_type is None or fortran_order or len(shape) != 2:
        raise UserError(f"{path}: must be a row-major matrix of float16, float32 or float64, is {dtype} {list(shape)}")
    info = TensorInfo(data_type, tuple(shape))
    if size - offset != info.nbytes:
        raise UserError(f"{path}: truncated or damaged: {size - offset} bytes of numbers instead of {info.nbytes}")
    return info, offset
