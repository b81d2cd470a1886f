"""safetensors files: a checked index of one, and the header of one that is about to be written.

Eight bytes of length, a JSON header {name: {dtype, shape, data_offsets}}, then the tensors end to end, little-endian.
The library reads and writes whole files of tensors; here one tensor at a time is in memory, bf16 among them.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from pangu.formats.data_types import BY_SAFETENSORS, DATA_TYPES, TensorInfo, bytes_of
from pangu.formats.regular_file import opened
from pangu.foundation.errors import UserError

LARGEST_HEADER = 100 << 20
# What NumPy can tell apart: bfloat16 has no type there.
BY_STORAGE = {known.storage: known for known in DATA_TYPES if known.name != "bf16"}


@dataclass(frozen=True)
class SafetensorsIndex:
    """tensors: {name: (what it is, offset in the file, bytes)}."""

    tensors: dict[str, tuple[TensorInfo, int, int]]
    metadata: dict[str, str]


def index_safetensors(path: Path) -> SafetensorsIndex:
    """Find every tensor of a file. Raises UserError for one that is truncated, damaged or something else."""
    with opened(path) as descriptor:
        size = os.fstat(descriptor).st_size
        length = int.from_bytes(os.pread(descriptor, 8, 0), "little") if size >= 8 else 0
        if not 2 <= length <= min(LARGEST_HEADER, size - 8):
            raise UserError(f"{path}: is not a safetensors file, or one cut off in its header")
        header = os.pread(descriptor, length, 8)
    try:
        document = json.loads(header, object_pairs_hook=without_duplicates)
        metadata = document.pop("__metadata__", {})
        entries = {name: read_entry(entry) for name, entry in document.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: its safetensors header is damaged: {error}") from None
    position = 0
    for name, (info, start, end) in sorted(entries.items(), key=lambda item: item[1][1:]):
        if start != position or end < start or (info.data_type and end - start != info.nbytes):
            raise UserError(f"{path}: {name!r} has a wrong place or size in the header (bytes {start} to {end})")
        position = end
    if position != size - 8 - length:
        raise UserError(f"{path}: has {size} bytes where its header promises {8 + length + position}: truncated?")
    base = 8 + length
    tensors = {name: (info, base + start, end - start) for name, (info, start, end) in entries.items()}
    return SafetensorsIndex(tensors, {str(key): str(value) for key, value in dict(metadata or {}).items()})


def without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name is there twice")
    return result


def read_entry(entry: dict) -> tuple[TensorInfo, int, int]:
    shape, (start, end) = entry["shape"], entry["data_offsets"]
    if any(type(number) is not int or number < 0 for number in [*shape, start, end]):
        raise ValueError("a length or an offset is not a whole number")
    return TensorInfo(BY_SAFETENSORS.get(entry["dtype"]), tuple(shape)), start, end


def file_header(tensors: Iterable[tuple[str, TensorInfo]], metadata: dict[str, str]) -> bytes:
    """Return the bytes that go before the tensors, which then follow in this order without gaps."""
    header: dict[str, object] = {"__metadata__": metadata}
    position = 0
    for name, info in tensors:
        assert info.data_type is not None
        offsets = [position, position + info.nbytes]
        header[name] = {"dtype": info.data_type.safetensors, "shape": list(info.shape), "data_offsets": offsets}
        position = offsets[1]
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded


def save_file(tensors: Mapping[str, np.ndarray], path: Path, metadata: dict[str, str]) -> None:
    """Write arrays by name into a file of that path."""
    with path.open("wb") as file:
        write_tensors(file, tensors, metadata)


def write_tensors(file: IO[bytes], tensors: Mapping[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write arrays by name. The same content is the same bytes: the library writes its metadata in any order."""
    ordered = [(name, np.ascontiguousarray(tensors[name])) for name in sorted(tensors)]
    infos = [(name, TensorInfo(BY_STORAGE[array.dtype], array.shape)) for name, array in ordered]
    file.write(file_header(infos, metadata))
    for _, array in ordered:
        file.write(bytes_of(array) if array.size else b"")
