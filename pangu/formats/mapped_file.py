"""The tensors of a safetensors file where they lie: mapped into memory, read by the system when they are used.

So weights may be larger than memory, and processes on one machine share them.
"""

import mmap
from pathlib import Path

import numpy as np

from pangu.formats.regular_file import opened
from pangu.formats.safetensors_file import index_safetensors
from pangu.foundation.errors import UserError


def map_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(arrays that cannot be written to, by their names; the file's metadata). bf16 is uint16, as stored.

    Raises UserError for a file that is damaged, or holds a type that no weight of ours has.
    """
    index = index_safetensors(path)
    with opened(path) as descriptor:
        content = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
    arrays = {}
    for name, (info, start, _) in index.tensors.items():
        if info.data_type is None:
            raise UserError(f"{path}: {name!r} is stored in a type that no weights of PanGu-α have")
        flat = np.frombuffer(content, info.data_type.storage, info.size, start)
        arrays[name] = flat.reshape(info.shape)
    return arrays, index.metadata
