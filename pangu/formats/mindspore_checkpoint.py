"""MindSpore's `.ckpt`: where each tensor lies in one, and how one is written.

The file is protobuf, Checkpoint {1 value {1 tag, 2 tensor {1 dims, 2 tensor_type, 3 tensor_content}}}; a tensor above
512 MiB is several values in a row with the same tag and the same dims. At the end there may be `crc_num` and ten bytes.
Only the few bytes between the tensors are read to index a file.
"""

import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pangu.formats.data_types import BY_MINDSPORE, TensorInfo
from pangu.formats.model_metadata import KEY, TOKENIZER_KEY
from pangu.formats.regular_file import OpenFiles, opened
from pangu.foundation.errors import UserError
from pangu.foundation.protobuf import (
    BYTES,
    Reader,
    WireError,
    encode_length,
    encode_message,
    encode_number,
    encode_numbers,
    fields,
    integers,
    text,
    window_reader,
)

LARGEST_VALUE = 512 << 20
LARGEST_STRING = 1 << 20
CRC_MARK, CRC_SIZE = b"crc_num", 17


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a `.ckpt`. chunks: (offset in the file, bytes) of its content, in order."""

    info: TensorInfo
    chunks: tuple[tuple[int, int], ...]

    @property
    def nbytes(self) -> int:
        return sum(size for _, size in self.chunks)

    def read_into(self, files: OpenFiles, path: Path, start: int, view: memoryview) -> None:
        """Fill `view` with the content's bytes from `start` on."""
        for offset, size in self.chunks:
            if start < size and len(view):
                count = min(size - start, len(view))
                files.read_into(path, offset + start, view[:count])
                view = view[count:]
            start = max(0, start - size)


@dataclass(frozen=True)
class CheckpointIndex:
    """What is in one `.ckpt`. structure: the bytes between the tensors' contents; they and the size make the index."""

    tensors: dict[str, StoredTensor]
    size: int
    gaps: tuple[tuple[int, int], ...]
    structure: bytes
    metadata: dict[str, str] = field(default_factory=dict)

    @cached_property
    def kind(self) -> frozenset[tuple[str, TensorInfo]]:
        """Return what the tensors are, wherever they lie."""
        return frozenset((name, tensor.info) for name, tensor in self.tensors.items())

    def fits(self, path: Path) -> bool:
        """Return whether another file has the same tensors at the same places: its index is this one, without
        parsing it."""
        with opened(path) as descriptor:
            if os.fstat(descriptor).st_size != self.size:
                return False
            return read_gaps(descriptor, self.gaps) == self.structure


def read_gaps(descriptor: int, gaps: tuple[tuple[int, int], ...]) -> bytes:
    read = window_reader(descriptor, window=4096)
    return b"".join(read(start, stop - start) for start, stop in gaps)


def index_checkpoint(path: Path) -> CheckpointIndex:
    """Find every tensor of a `.ckpt`. Raises UserError for a file that is truncated, damaged or something else."""
    with opened(path) as descriptor:
        size = os.fstat(descriptor).st_size
        try:
            if not size:
                raise WireError("it is empty")
            end = without_crc(descriptor, size)
            tensors = read_values(window_reader(descriptor), end)
        except WireError as error:
            raise UserError(f"{path}: truncated, damaged, encrypted or no MindSpore checkpoint: {error}") from None
        strings = {key: tensors.pop(key) for key in (KEY, TOKENIZER_KEY) if key in tensors}
        metadata = {key: read_string(path, descriptor, stored) for key, stored in strings.items()}
        contents = sorted(chunk for tensor in tensors.values() for chunk in tensor.chunks)
        gaps, position = [], 0
        for offset, length in contents:
            gaps.append((position, offset))
            position = offset + length
        gaps.append((position, size))
        return CheckpointIndex(tensors, size, tuple(gaps), read_gaps(descriptor, tuple(gaps)), metadata)


def read_string(path: Path, descriptor: int, stored: StoredTensor) -> str:
    """Return a string among the values, as MindSpore's `append_dict` stores one: UTF-32. Raises UserError."""
    if stored.nbytes > LARGEST_STRING:
        raise UserError(f"{path}: its description has {stored.nbytes} bytes, more than any model's")
    content = b"".join(os.pread(descriptor, size, offset) for offset, size in stored.chunks)
    try:
        return content.decode("utf-32-le")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: its description is no string: {error}") from None


def metadata_values(metadata: Mapping[str, str]) -> bytes:
    """Return the network and the tokenizer of a file as strings among its values."""
    return b"".join(string_value(key, metadata[key]) for key in (KEY, TOKENIZER_KEY) if key in metadata)


def string_value(name: str, content: str) -> bytes:
    """Return a string as `mindspore.save_checkpoint` writes one that its `append_dict` holds."""
    tensor = encode_number(1, 0) + encode_message(2, "str") + encode_message(3, content.encode("utf-32-le"))
    return encode_message(1, encode_message(1, name) + encode_message(2, tensor))


def without_crc(descriptor: int, size: int) -> int:
    """Return where the message ends. Where there is a checksum behind it, it is checked."""
    if size < CRC_SIZE or os.pread(descriptor, len(CRC_MARK), size - CRC_SIZE) != CRC_MARK:
        return size
    end, computed, offset = size - CRC_SIZE, 0, 0
    while offset < end:
        block = os.pread(descriptor, min(8 << 20, end - offset), offset)
        if not block:
            raise WireError("it was cut while it was read")
        computed, offset = zlib.crc32(block, computed), offset + len(block)
    stored = int.from_bytes(os.pread(descriptor, CRC_SIZE - len(CRC_MARK), end + len(CRC_MARK)), "big")
    if stored != computed:
        raise WireError("its checksum is wrong")
    return end


def read_values(read: Reader, end: int) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    previous = ""
    for number, wire_type, start, stop in fields(read, 0, end):
        if number != 1 or wire_type != BYTES:
            raise WireError(f"field {number} at byte {start} is not a checkpoint's")
        tag, tensor = read_value(read, start, stop)
        if tag in tensors:
            known = tensors[tag]
            if tag != previous:
                raise WireError(f"{tag!r} is there twice")
            if known.info != tensor.info:
                raise WireError(f"the pieces of {tag!r} have different shapes or types")
            tensor = StoredTensor(tensor.info, known.chunks + tensor.chunks)
        tensors[tag] = tensor
        previous = tag
    for tag, tensor in tensors.items():
        if tensor.info.data_type and tensor.nbytes != tensor.info.nbytes:
            raise WireError(
                f"{tag!r} of shape {list(tensor.info.shape)} and type {tensor.info.data_type.mindspore} "
                f"has {tensor.nbytes} bytes instead of {tensor.info.nbytes}"
            )
    return tensors


def read_value(read: Reader, start: int, end: int) -> tuple[str, StoredTensor]:
    """Return one value: its tag, and its tensor. A hash table (maptensor) or a string is a tensor of no type that
    we use."""
    tag, dims, type_name, content = None, [], "", (end, 0)
    for number, wire_type, value, stop in fields(read, start, end):
        if number == 1:
            tag = text(read, wire_type, value, stop)
        elif number == 2 and wire_type == BYTES:
            for inner, inner_type, inner_value, inner_stop in fields(read, value, stop):
                if inner == 1:
                    dims += integers(read, inner_type, inner_value, inner_stop)
                elif inner == 2:
                    type_name = text(read, inner_type, inner_value, inner_stop)
                elif inner == 3 and inner_type == BYTES:
                    content = (inner_value, inner_stop - inner_value)
    if not tag:
        raise WireError(f"a tensor without a name at byte {start}")
    if any(length < 0 for length in dims):
        raise WireError(f"{tag!r} has the shape {dims}")
    # MindSpore writes the shape of a scalar as [0].
    shape = () if dims == [0] else tuple(dims)
    return tag, StoredTensor(TensorInfo(BY_MINDSPORE.get(type_name), shape), (content,))


def value_headers(name: str, info: TensorInfo) -> Iterator[tuple[bytes, int]]:
    """Yield what stands before each piece of a tensor in a `.ckpt`: (bytes to write, bytes of content that follow
    them)."""
    assert info.data_type is not None
    before = encode_numbers(info.shape) + encode_message(2, info.data_type.mindspore)
    for start in range(0, max(1, info.nbytes), LARGEST_VALUE):
        size = min(LARGEST_VALUE, info.nbytes - start)
        tensor = before + encode_length(3, size)
        value = encode_message(1, name) + encode_length(2, len(tensor) + size) + tensor
        yield encode_length(1, len(value) + size) + value, size
