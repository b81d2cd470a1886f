"""A model as one file that cannot be mistaken: safetensors, with what the model is and a fingerprint in its header.

The fingerprint is the SHA-256 of everything else in the file, so a damaged model is refused, and a recipe's outputs can
name the model that judged them. Equal models have equal bytes.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pangu.foundation.atomic_file import write_whole
from pangu.foundation.errors import UserError, WriteError

FORMAT_VERSION = 1
_KEY = "pangu_quality"  # one key: safetensors writes several in no certain order


@dataclass(frozen=True)
class ModelContent:
    """What a file holds: the kind of model, its settings and figures (JSON), its arrays."""

    kind: str
    about: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def fingerprint(self) -> str:
        """Return SHA-256 (hex) of kind, settings and arrays."""
        digest = hashlib.sha256(json.dumps([FORMAT_VERSION, self.kind, self.about], sort_keys=True).encode())
        for name, array in sorted(self.arrays.items()):
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def save(path: Path, content: ModelContent) -> str:
    """Write the file, whole or not at all; returns the fingerprint."""
    from safetensors.numpy import save as to_bytes

    fingerprint = content.fingerprint
    header = {"version": FORMAT_VERSION, "kind": content.kind, "about": content.about, "fingerprint": fingerprint}
    data = to_bytes(content.arrays, {_KEY: json.dumps(header, sort_keys=True, ensure_ascii=False)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(path, error) from error
    write_whole(path, data)
    return fingerprint


def load(path: Path, kind: str | None = None) -> ModelContent:
    """Read and check a file. UserError where it is no model, damaged, of another version, or not of this `kind`."""
    from safetensors import SafetensorError, safe_open

    made = "`python -m data_pipeline quality train` makes one"
    try:
        with safe_open(path, "numpy") as file:
            header = json.loads((file.metadata() or {}).get(_KEY, "null"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; {made}") from error
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{path}: is no quality model, or cut off ({' '.join(str(error).split())}); {made}") from error
    if not isinstance(header, dict) or "version" not in header:
        raise UserError(f"{path}: a safetensors file, but no quality model; {made}")
    if header["version"] != FORMAT_VERSION:
        raise UserError(
            f"{path}: a quality model of version {header['version']}; this program reads version {FORMAT_VERSION}:"
            " train it again"
        )
    content = ModelContent(str(header.get("kind")), dict(header.get("about") or {}), arrays)
    if content.fingerprint != header.get("fingerprint"):
        raise UserError(f"{path}: damaged: its content does not have the fingerprint that it names; train it again")
    if kind is not None and content.kind != kind:
        raise UserError(f"{path}: is a {content.kind} model; a {kind} model would be right here")
    return content
