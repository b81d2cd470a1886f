"""Between files: full precision to a quantised file, one layer in memory, and back for every other program."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pangu.config import ModelConfig
from pangu.formats.conversion import Conversion
from pangu.formats.data_types import BY_NAME, FP32, TensorInfo, bytes_of, cast
from pangu.formats.safetensors_file import file_header
from pangu.formats.source import Source
from pangu.formats.write_output import OutputFile
from pangu.foundation.errors import UserError
from pangu.quantization.layers import LayerQuantizer, stored_tensors
from pangu.quantization.quantized_file import (
    METADATA,
    Quantization,
    full_precision,
    is_stored_turned,
    is_weight,
    read_quantized,
)


def read_canonical(plan: Conversion, name: str) -> np.ndarray:
    """Return one weight by its released name, in fp32 and as a file of full precision holds it."""
    tensor = next(tensor for tensor in plan.tensors if tensor.target == name)
    source_type = plan.source.tensors[tensor.source].data_type
    assert source_type is not None
    array = cast(plan.source.read(tensor.source), source_type, FP32)
    return np.ascontiguousarray(array.T) if tensor.transpose else array


def write_quantized(
    plan: Conversion,
    quantization: Quantization,
    out: Path,
    ids: np.ndarray | None,
    advance: Callable[[int], None],
) -> tuple[int, str]:
    """Write a plan for safetensors as a quantised file. Returns its bytes and SHA-256.

    ids: rows of sample text [rows, tokens], for the methods that look at them.
    """
    planned = stored_tensors(plan.shape, quantization)
    quantizer = LayerQuantizer(plan.shape, quantization, lambda name: read_canonical(plan, name), plan.model, ids)
    with OutputFile(out) as file:
        file.write(file_header(planned, plan.metadata | {METADATA: quantization.dump()}))
        for (name, info), (made, tensor) in zip(planned, quantizer.tensors(), strict=True):
            assert info.data_type is not None
            assert (name, info.shape) == (made, tensor.shape)
            content = np.ascontiguousarray(tensor, info.data_type.storage)
            file.write(bytes_of(content))
            advance(content.nbytes)
        file.commit()
        return file.size, file.hash.hexdigest()


def in_full_precision(source: Source) -> Source:
    """Return the weights that a quantised file stands for; any other source as it is."""
    return DequantizedSource(source.path, source.metadata) if METADATA in source.metadata else source


class DequantizedSource(Source):
    """A quantised file as the weights in full precision that it stands for."""

    def __init__(self, path: Path, metadata: dict[str, str]) -> None:
        found = read_quantized(path)
        if found is None:
            raise UserError(f"{path}: is no quantised file")
        quantization, self.stored = found
        infos = {name: self.info(name) for name in self.stored if is_weight(name)}
        super().__init__(path, f"int{quantization.bits} safetensors", infos, [path])
        self.metadata = {key: value for key, value in metadata.items() if key != METADATA}
        self.newest: tuple[str, np.ndarray] | None = None

    def info(self, name: str) -> TensorInfo:
        """Return type and shape of a weight, whose matrix is not made for it."""
        tensor = self.stored[name]
        if tensor.dtype.itemsize > 1:
            kinds = {"float32": "fp32", "float16": "fp16", "uint16": "bf16"}
            return TensorInfo(BY_NAME[kinds[tensor.dtype.name]], tensor.shape)
        return TensorInfo(FP32, full_shape(name, tensor))

    def fill(self, name: str, first: int, last: int, view: memoryview) -> None:
        if self.newest is None or self.newest[0] != name:
            self.newest = name, full_precision(self.stored, name)
        view[:] = bytes_of(np.ascontiguousarray(self.newest[1][first:last]))


def full_shape(name: str, codes: np.ndarray) -> tuple[int, ...]:
    """Return the shape of a quantised matrix in a file of full precision."""
    *experts, outputs, width = codes.shape
    inputs = width * (2 if codes.dtype == np.uint8 else 1)
    return (*experts, inputs, outputs) if is_stored_turned(name) else (outputs, inputs)


def calibration_ids(rows: np.ndarray, config: ModelConfig, where: str) -> np.ndarray:
    """Sample rows [rows, tokens] of a corpus, cut to the model's context. Raises UserError where they do not fit."""
    if not len(rows):
        raise UserError(f"{where}: holds no rows to calibrate with")
    if rows.max() >= config.vocab_size:
        raise UserError(
            f"{where}: has the id {rows.max()}, the model ids below {config.vocab_size}: take its own corpus"
        )
    return rows[:, : config.seq_length]
