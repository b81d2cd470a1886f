"""Element types: what safetensors, MindSpore and PyTorch call them, and exact conversion between the floating ones."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class DataType:
    """One element type. storage: the numpy type that holds its bytes; NumPy has no bfloat16, so that one is uint16."""

    name: str
    safetensors: str
    mindspore: str
    torch_storage: str
    storage: np.dtype
    is_float: bool = False

    @property
    def itemsize(self) -> int:
        return self.storage.itemsize


FP32 = DataType("fp32", "F32", "Float32", "FloatStorage", np.dtype("<f4"), is_float=True)
FP16 = DataType("fp16", "F16", "Float16", "HalfStorage", np.dtype("<f2"), is_float=True)
BF16 = DataType("bf16", "BF16", "BFloat16", "BFloat16Storage", np.dtype("<u2"), is_float=True)
FP64 = DataType("fp64", "F64", "Float64", "DoubleStorage", np.dtype("<f8"), is_float=True)

DATA_TYPES = (
    FP32,
    FP16,
    BF16,
    FP64,
    DataType("int8", "I8", "Int8", "CharStorage", np.dtype("<i1")),
    DataType("int16", "I16", "Int16", "ShortStorage", np.dtype("<i2")),
    DataType("int32", "I32", "Int32", "IntStorage", np.dtype("<i4")),
    DataType("int64", "I64", "Int64", "LongStorage", np.dtype("<i8")),
    DataType("uint8", "U8", "UInt8", "ByteStorage", np.dtype("<u1")),
    DataType("bool", "BOOL", "Bool", "BoolStorage", np.dtype("?")),
)
BY_NAME = {data_type.name: data_type for data_type in DATA_TYPES}
BY_SAFETENSORS = {data_type.safetensors: data_type for data_type in DATA_TYPES}
BY_MINDSPORE = {data_type.mindspore: data_type for data_type in DATA_TYPES}
BY_TORCH_STORAGE = {data_type.torch_storage: data_type for data_type in DATA_TYPES}


@dataclass(frozen=True)
class TensorInfo:
    """What is known of a tensor before it is read. `data_type` is None for a type that no weight of ours can have."""

    data_type: DataType | None
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Return elements."""
        count = 1
        for length in self.shape:
            count *= length
        return count

    @property
    def rows(self) -> int:
        """Return length of the first axis; a scalar is one row."""
        return self.shape[0] if self.shape else 1

    @property
    def nbytes(self) -> int:
        return self.size * (self.data_type.itemsize if self.data_type else 0)


def bytes_of(array: np.ndarray) -> memoryview:
    """Return the memory of a row-major array as bytes; writing to it changes the array."""
    return array.reshape(-1).view(np.uint8).data


def cast(array: np.ndarray, source: DataType, target: DataType) -> np.ndarray:
    """Convert between floating types, rounding to nearest even.

    Raises OverflowError where a finite value would become infinite.
    """
    if source == target:
        return array
    values = (array.astype(np.uint32) << 16).view(np.float32) if source == BF16 else array
    with np.errstate(over="ignore", invalid="ignore"):
        if target == BF16:
            single = values.astype(np.float32, copy=False)
            result = to_bfloat16(single)
            infinite = (result & 0x7FFF) == 0x7F80
        else:
            result = values.astype(target.storage, copy=False)
            infinite = np.isinf(result)
    overflowed = infinite & np.isfinite(values)
    if overflowed.any():
        raise OverflowError(f"{float(np.abs(values[overflowed]).max()):g} is beyond {target.name}")
    return result


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Return float32 -> the upper 16 bits (uint16), rounded to nearest even; a NaN stays a NaN."""
    bits = values.view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16).astype(np.uint16)
    quiet_nan = (bits >> 16).astype(np.uint16) | np.uint16(0x40)
    return np.where(np.isnan(values), quiet_nan, rounded)
