"""`pytorch_model.bin` without PyTorch: the index of a file that torch.save wrote, found without running what it says.

The file is an uncompressed zip: `NAME/data.pkl` describes the tensors, `NAME/data/KEY` are their bytes. A pickle is a
program for Python's unpickler, which may call anything. It is not given to that unpickler: `torch_pickle.py` reads it.
"""

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

from pangu.formats.data_types import TensorInfo
from pangu.formats.regular_file import opened, read_bytes
from pangu.formats.torch_pickle import PickleError, View, read_views
from pangu.foundation.errors import UserError

LARGEST_PICKLE = 64 << 20
LOCAL_HEADER_SIZE = 30


@dataclass(frozen=True)
class TorchTensor:
    """A tensor of the file: dense and row-major, `start` bytes into it."""

    info: TensorInfo
    start: int


def index_torch_file(path: Path) -> dict[str, TorchTensor]:
    """Find every tensor of a file that torch.save wrote. Raises UserError for a damaged, foreign or unsafe one."""
    with opened(path) as descriptor, os.fdopen(os.dup(descriptor), "rb") as stream:
        size = os.fstat(descriptor).st_size
        if stream.read(4) != b"PK\x03\x04":
            raise UserError(
                f"{path}: is not a zip as torch.save writes it since PyTorch 1.6 (an older or a truncated file?); "
                "load it with PyTorch and save it again, or as safetensors"
            )
        try:
            with zipfile.ZipFile(stream) as archive:
                entries = {entry.filename: entry for entry in archive.infolist()}
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
            raise UserError(f"{path}: truncated or damaged: {error}") from None
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise UserError(f"{path}: has {len(pickles)} entries NAME/data.pkl where torch.save writes one")
    folder = pickles[0].removesuffix("data.pkl")
    byteorder = entries.get(folder + "byteorder")
    if byteorder and read_bytes(path, *locate(path, size, byteorder))[:6] != b"little":
        raise UserError(f"{path}: its numbers are not little-endian")
    start, length = locate(path, size, entries[pickles[0]])
    if length > LARGEST_PICKLE:
        raise UserError(f"{path}: its data.pkl has {length} bytes, more than any model's")
    try:
        views = read_views(read_bytes(path, start, length))
    except PickleError as error:
        raise UserError(f"{path}: its data.pkl is refused: {error}") from None
    places = {name: locate(path, size, entry) for name, entry in entries.items() if name.startswith(folder + "data/")}
    return {name: place_tensor(path, name, view, places, folder) for name, view in views.items()}


def locate(path: Path, file_size: int, entry: zipfile.ZipInfo) -> tuple[int, int]:
    """Return (offset, bytes) of an entry's content, which must be stored as it is and lie inside the file."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.compress_size != entry.file_size:
        raise UserError(f"{path}: {entry.filename} is compressed or encrypted, which torch.save never does")
    if entry.header_offset + LOCAL_HEADER_SIZE > file_size:
        raise UserError(f"{path}: truncated: {entry.filename} lies beyond its end")
    header = read_bytes(path, entry.header_offset, LOCAL_HEADER_SIZE)
    start = entry.header_offset + LOCAL_HEADER_SIZE
    start += int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    if header[:4] != b"PK\x03\x04" or start + entry.file_size > file_size:
        raise UserError(f"{path}: truncated or damaged: {entry.filename} does not fit")
    return start, entry.file_size


def place_tensor(path: Path, name: str, view: View, places: dict[str, tuple[int, int]], folder: str) -> TorchTensor:
    """Return where a tensor's bytes lie. Raises UserError where they are not there or not in one row-major piece."""
    info = TensorInfo(view.storage.data_type, view.shape)
    assert info.data_type is not None
    place = places.get(f"{folder}data/{view.storage.key}")
    if place is None:
        raise UserError(f"{path}: {name!r} has no data in the file")
    expected = 1
    for length, stride in zip(reversed(view.shape), reversed(view.stride), strict=False):
        if length > 1 and stride != expected:
            raise UserError(f"{path}: {name!r} is a transposed or strided view; save its .contiguous()")
        expected *= length
    start = view.offset * info.data_type.itemsize
    if len(view.shape) != len(view.stride) or start + info.nbytes > place[1]:
        raise UserError(f"{path}: {name!r} of shape {list(view.shape)} does not fit into its {place[1]} bytes of data")
    return TorchTensor(info, place[0] + start)
