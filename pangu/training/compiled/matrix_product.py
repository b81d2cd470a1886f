"""fp32 matrix products in one thread: `dnnl_sgemm` of the oneDNN library that MindSpore brings.

It is as fast as MKL on Intel and AMD. NumPy's OpenBLAS does not know new processors and is five times slower there.
"""

import ctypes
import functools
import importlib.util
from pathlib import Path

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from pangu.generation.compiled.vectors import compiled

AS_IT_IS, TURNED = ord("N"), ord("T")
_BYTE, _INT, _LONG, _FLOAT = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()


@functools.cache
def sgemm_address() -> int | None:
    """Return the place of `dnnl_sgemm` in memory; None where this MindSpore has none."""
    package = importlib.util.find_spec("mindspore")
    if package is None or package.origin is None:
        return None
    for library in sorted((Path(package.origin).parent / "lib").glob("libdnnl.so*")):
        try:
            function = ctypes.CDLL(str(library)).dnnl_sgemm
        except (OSError, AttributeError):
            continue
        return ctypes.cast(function, ctypes.c_void_p).value
    return None


@intrinsic
def _sgemm(
    typing_context, function, turn_a, turn_b, rows, columns, depth, factor, a, a_step, b, b_step, keep, c, c_step
):
    """Call oneDNN's function: c[rows, columns] = factor · a b + keep · c, row-major."""
    kinds = [_BYTE, _BYTE, _LONG, _LONG, _LONG, _FLOAT, _LONG, _LONG, _LONG, _LONG, _FLOAT, _LONG, _LONG]

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        address, first, second, *rest = arguments
        pointer = builder.inttoptr(address, ir.FunctionType(_INT, kinds).as_pointer())
        builder.call(pointer, [builder.trunc(first, _BYTE), builder.trunc(second, _BYTE), *rest])
        return context.get_dummy_value()

    whole, real = types.int64, types.float32
    signature = types.void(*([whole] * 6), real, whole, whole, whole, whole, real, whole, whole)
    return signature, generate


@compiled
def multiply(sgemm, a, turn_a, b, turn_b, c, factor, keep):
    """Put factor · a b + keep · c into c; fp32 matrices whose rows are contiguous. Each of a and b as it is or turned.

    sgemm: `sgemm_address`. turn_a, turn_b: AS_IT_IS or TURNED.
    """
    depth = a.shape[1] if turn_a == AS_IT_IS else a.shape[0]
    _sgemm(
        sgemm, turn_a, turn_b, c.shape[0], c.shape[1], depth, factor,
        a.ctypes.data, a.strides[0] // 4, b.ctypes.data, b.strides[0] // 4, keep, c.ctypes.data, c.strides[0] // 4,
    )  # fmt: skip
