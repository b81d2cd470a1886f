"""The tensors of files where they lie: mapped into memory, read by the system when they are used.

So weights may be larger than memory, and processes on one machine share them.
"""

import mmap
from pathlib import Path

import numpy as np

from pangu.formats.open_source import open_file
from pangu.formats.regular_file import opened
from pangu.formats.source import FileSource
from pangu.foundation.errors import UserError


def map_tensors(source: FileSource) -> dict[str, np.ndarray]:
    """Return arrays that cannot be written to, by the names in the file. bf16 is uint16, as stored.

    Raises UserError for a type that no weights of ours have.
    """
    contents: dict[Path, mmap.mmap] = {}
    arrays = {}
    for name, info in source.tensors.items():
        if info.data_type is None:
            raise UserError(f"{source.path}: {name!r} is stored in a type that no weights of PanGu-α have")
        path, start = source.places[name]
        if path not in contents:
            with opened(path) as descriptor:
                contents[path] = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
        arrays[name] = np.frombuffer(contents[path], info.data_type.storage, info.size, start).reshape(info.shape)
    return arrays


def map_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the arrays of one safetensors file and its metadata."""
    source = open_file(path)
    return map_tensors(source), source.metadata
