"""The file format of quantised weights: safetensors, and in its header what was done to them.

Matrices of the layers and the output matrix (`OUTPUT_MATRIX`, a copy of the word table) are stored [out, in] as NAME
with their scales as NAME_scale: I8 and F32 [out], or U8 [out, in/2] and F16 [out, in/32]. Everything else is as in a
file of full precision. The header's `pangu_quantization` says the same in JSON; a file is read only where both agree.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from pangu import parameters
from pangu.formats.mapped_file import map_safetensors
from pangu.foundation.errors import UserError
from pangu.quantization.rounding import GROUP, Quantized, dequantize

METADATA = "pangu_quantization"
SCALE = "_scale"
OUTPUT_MATRIX = "backbone.output.weight"
Scheme = Literal["int8", "int4-g32"]
Method = Literal["rtn", "gptq", "smooth"]
# The matrices of a layer that are quantised; whether a file of full precision holds them [in, out].
LAYER_MATRICES = {f"{name}.weight": not out_in for name, out_in in parameters.LINEAR_LAYERS.items()}
# Of layers with experts; an expert's matrices lie behind each other, [E, out, in] and their scales [E, out].
EXPERT_MATRICES = {name: True for name in (*parameters.EXPERTS, *parameters.SHARED) if name.endswith(".weight")}
LAYER_MATRICES |= EXPERT_MATRICES


@dataclass(frozen=True)
class Quantization:
    """What was done to the weights of a file. group 0: one scale a row. excluded: beginnings and ends of names."""

    bits: int
    group: int
    method: Method
    output_bits: int = 8
    symmetric: bool = True
    excluded: tuple[str, ...] = ("embedding_table", "gamma", "beta", "bias")

    @classmethod
    def of(cls, scheme: Scheme, method: Method) -> "Quantization":
        return cls(8, 0, method) if scheme == "int8" else cls(4, GROUP, method)

    @classmethod
    def parse(cls, text: str, where: str) -> "Quantization":
        """Read what `dump` wrote. Raises UserError."""
        try:
            fields = json.loads(text)
            found = cls(**fields | {"excluded": tuple(fields["excluded"])})
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{where}: field {METADATA!r} of the header is damaged: {error}") from None
        if found not in (cls.of("int8", found.method), cls.of("int4-g32", found.method)):
            raise UserError(f"{where}: field {METADATA!r} = {text}: this version reads int8 and int4 in groups of 32")
        return found

    def dump(self) -> str:
        """Return JSON for the header."""
        return json.dumps(asdict(self))


def is_quantized_matrix(name: str) -> bool:
    """Return whether a weight of this released name is quantised."""
    return name == OUTPUT_MATRIX or any(name.endswith(f".{part}") for part in LAYER_MATRICES)


def is_stored_turned(name: str) -> bool:
    """Return whether a file of full precision holds this matrix [in, out]."""
    return any(turned and name.endswith(f".{part}") for part, turned in LAYER_MATRICES.items())


def read_quantized(path: Path) -> tuple[Quantization, dict[str, np.ndarray]] | None:
    """Return what was done, and the tensors, mapped; None for a file that does not say it is quantised."""
    tensors, metadata = map_safetensors(path)
    if METADATA not in metadata:
        return None
    found = Quantization.parse(metadata[METADATA], str(path))
    for name, tensor in tensors.items():
        if name.endswith(SCALE):
            continue
        if is_quantized_matrix(name):
            check_matrix(found, name, tensor, tensors.get(f"{name}{SCALE}"), path)
        elif tensor.dtype.itemsize == 1:
            raise UserError(f"{path}: {name!r} is stored as {tensor.dtype}, but its header excludes it")
    return found, tensors


def check_matrix(
    quantization: Quantization, name: str, codes: np.ndarray, scales: np.ndarray | None, path: Path
) -> None:
    """Raise UserError where a matrix is not what the header says."""
    bits = quantization.output_bits if name == OUTPUT_MATRIX else quantization.bits
    expected = np.int8 if bits == 8 else np.uint8
    stacked = any(name.endswith(f".{part}") and part in parameters.EXPERTS for part in EXPERT_MATRICES)
    shape = codes.shape[:-1] if bits == 8 else (*codes.shape[:-1], codes.shape[-1] * 2 // GROUP)
    if codes.dtype != expected or scales is None or scales.shape != shape or codes.ndim != 2 + stacked:
        raise UserError(f"{path}: {name!r} is not stored as its header says: int{bits} with scales {list(shape)}")
    if not np.isfinite(scales).all():
        raise UserError(f"{path}: the scales of {name!r} are not finite: the file is damaged")


def dequantized(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return full precision by released name, each matrix as a file of full precision holds it."""
    return {name: full_precision(tensors, name) for name in tensors if is_weight(name)}


def is_weight(name: str) -> bool:
    """Return whether a tensor of a quantised file is a weight of the model, and no scale and no copy."""
    return not name.endswith(SCALE) and name != OUTPUT_MATRIX


def full_precision(tensors: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """Return one weight of a quantised file in full precision."""
    tensor = tensors[name]
    if not is_quantized_matrix(name):
        return tensor
    scales = tensors[f"{name}{SCALE}"]
    # Experts are as one matrix with all their rows.
    flat = Quantized(tensor.reshape(-1, tensor.shape[-1]), scales.reshape(-1, *scales.shape[tensor.ndim - 1 :]))
    matrix = dequantize(flat).reshape(*tensor.shape[:-1], -1)
    return np.ascontiguousarray(matrix.swapaxes(-1, -2)) if is_stored_turned(name) else matrix
