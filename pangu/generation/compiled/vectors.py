"""Vectors of 16 fp32 numbers inside numba functions, so that the order of every addition is written down.

A loop that a compiler vectorises as it likes gives other bits on another machine, or for another number of rows. These
functions become single LLVM instructions on `<16 x float>`: a register with AVX-512, two with AVX, four with NEON or
SSE. Results are the same bits on all of them.

An address is an int64, the place of a number in memory; whoever calls keeps the array alive.
"""

import platform
from collections.abc import Sequence

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model
from numpy.typing import DTypeLike

from pangu.foundation.compiled_sources import keep_while_unchanged

LANES = 16
LINE = 64  # bytes of a cache line

_FLOAT, _INT = ir.FloatType(), ir.IntType(32)
_VECTOR, _INTEGERS = ir.VectorType(_FLOAT, LANES), ir.VectorType(_INT, LANES)


class VectorType(types.Type):
    """What numba calls 16 fp32 numbers in a register."""

    def __init__(self) -> None:
        super().__init__(name="Float32x16")


vector = VectorType()


@register_model(VectorType)
class VectorModel(models.PrimitiveModel):
    """How numba keeps one: as LLVM's vector."""

    def __init__(self, manager, kind) -> None:  # type: ignore[no-untyped-def]
        super().__init__(manager, kind, _VECTOR)


def _pointer(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type) -> ir.Value:
    return builder.inttoptr(address, kind.as_pointer())


def _spread(builder: ir.IRBuilder, number: ir.Value, kind: ir.Type) -> ir.Value:
    """Return a vector with the number in every lane."""
    single = builder.insert_element(ir.Constant(kind, ir.Undefined), number, ir.Constant(_INT, 0))
    return builder.shuffle_vector(single, ir.Constant(kind, ir.Undefined), ir.Constant(_INTEGERS, [0] * LANES))


def _constant(number: float) -> ir.Constant:
    return ir.Constant(_VECTOR, [float(number)] * LANES)


def _call(builder: ir.IRBuilder, name: str, *values: ir.Value) -> ir.Value:
    """Call one of LLVM's own functions of vectors."""
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * len(values))
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)


def _fma(builder: ir.IRBuilder, left: ir.Value, right: ir.Value, addend: ir.Value) -> ir.Value:
    return _call(builder, "llvm.fma.v16f32", left, right, addend)


def _loader(bits: int, widen):  # type: ignore[no-untyped-def]
    """Return a function (address) -> vector that loads 16 numbers of so many bits and widens them."""

    def load(typing_context, address):  # type: ignore[no-untyped-def]
        stored = ir.VectorType(ir.IntType(bits), LANES)

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            raw = builder.load(_pointer(builder, arguments[0], stored), align=1)
            return widen(builder, raw)

        return vector(types.int64), generate

    return intrinsic(load)


def _widen_bfloat16(builder: ir.IRBuilder, raw: ir.Value) -> ir.Value:
    shifted = builder.shl(builder.zext(raw, _INTEGERS), ir.Constant(_INTEGERS, [16] * LANES))
    return builder.bitcast(shifted, _VECTOR)


def _widen_one_bfloat16(builder: ir.IRBuilder, raw: ir.Value) -> ir.Value:
    return builder.bitcast(builder.shl(builder.zext(raw, _INT), ir.Constant(_INT, 16)), _FLOAT)


load_fp32 = _loader(32, lambda builder, raw: builder.bitcast(raw, _VECTOR))
load_fp16 = _loader(
    16, lambda builder, raw: builder.fpext(builder.bitcast(raw, ir.VectorType(ir.HalfType(), LANES)), _VECTOR)
)
load_bf16 = _loader(16, _widen_bfloat16)
load_int8 = _loader(8, lambda builder, raw: builder.sitofp(builder.sext(raw, _INTEGERS), _VECTOR))


def _nibbles(shift: int):  # type: ignore[no-untyped-def]
    """Return a function (address) -> vector of the lower (0) or upper (4) halves of 16 bytes, less 8."""

    def widen(builder: ir.IRBuilder, raw: ir.Value) -> ir.Value:
        kind = raw.type
        moved = builder.lshr(raw, ir.Constant(kind, [shift] * LANES))
        low = builder.and_(moved, ir.Constant(kind, [15] * LANES))
        signed = builder.sub(builder.zext(low, _INTEGERS), ir.Constant(_INTEGERS, [8] * LANES))
        return builder.sitofp(signed, _VECTOR)

    return _loader(8, widen)


load_low_nibbles, load_high_nibbles = _nibbles(0), _nibbles(4)


def _reader(kind: ir.Type, result: types.Type, widen):  # type: ignore[no-untyped-def]
    """Return a function (address) -> number that loads one."""

    def read(typing_context, address):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            return widen(builder, builder.load(_pointer(builder, arguments[0], kind), align=1))

        return result(types.int64), generate

    return intrinsic(read)


float_at = _reader(_FLOAT, types.float32, lambda builder, raw: raw)
half_at = _reader(ir.HalfType(), types.float32, lambda builder, raw: builder.fpext(raw, _FLOAT))
bfloat_at = _reader(ir.IntType(16), types.float32, _widen_one_bfloat16)
byte_at = _reader(ir.IntType(8), types.int64, lambda builder, raw: builder.sext(raw, ir.IntType(64)))
integer_at = _reader(ir.IntType(64), types.int64, lambda builder, raw: raw)


@intrinsic
def prefetch(typing_context, address):  # type: ignore[no-untyped-def]
    """Ask for the cache line at an address, which need not exist, to come into the second cache."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        place = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [place, _INT, _INT, _INT])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        # for reading, not into the first cache (where x is), data and no program
        builder.call(function, [builder.inttoptr(arguments[0], place), _INT(0), _INT(2), _INT(1)])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def put_float(typing_context, address, number):  # type: ignore[no-untyped-def]
    """Store one fp32 number."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        builder.store(arguments[1], _pointer(builder, arguments[0], _FLOAT), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.float32), generate


@intrinsic
def put_integer(typing_context, address, number):  # type: ignore[no-untyped-def]
    """Store one int64 number."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        builder.store(arguments[1], _pointer(builder, arguments[0], ir.IntType(64)), align=8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def store(typing_context, address, values):  # type: ignore[no-untyped-def]
    """Store 16 numbers."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        builder.store(arguments[1], _pointer(builder, arguments[0], _VECTOR), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, vector), generate


def _quarter(number: int):  # type: ignore[no-untyped-def]
    """Return a function (address, vector) that stores lanes 4·number .. 4·number + 3."""

    def put(typing_context, address, values):  # type: ignore[no-untyped-def]
        four = ir.VectorType(_FLOAT, 4)

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            lanes = ir.Constant(ir.VectorType(_INT, 4), [4 * number + lane for lane in range(4)])
            part = builder.shuffle_vector(arguments[1], ir.Constant(_VECTOR, ir.Undefined), lanes)
            builder.store(part, _pointer(builder, arguments[0], four), align=4)
            return context.get_dummy_value()

        return types.void(types.int64, vector), generate

    return intrinsic(put)


store_quarter_0, store_quarter_1, store_quarter_2, store_quarter_3 = map(_quarter, range(4))


@intrinsic
def spread(typing_context, number):  # type: ignore[no-untyped-def]
    """Return the number in every lane."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return _spread(builder, arguments[0], _VECTOR)

    return vector(types.float32), generate


@intrinsic
def first_lane(typing_context, values):  # type: ignore[no-untyped-def]
    """Return the number in lane 0."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.extract_element(arguments[0], ir.Constant(_INT, 0))

    return types.float32(vector), generate


def _operation(name: str):  # type: ignore[no-untyped-def]
    """Return a function (vector, vector) -> vector of one LLVM instruction."""

    def operate(typing_context, left, right):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            return getattr(builder, name)(*arguments)

        return vector(vector, vector), generate

    return intrinsic(operate)


add, subtract, multiply, divide = map(_operation, ("fadd", "fsub", "fmul", "fdiv"))


@intrinsic
def larger(typing_context, left, right):  # type: ignore[no-untyped-def]
    """Return the larger of two in each lane; `right` where one is not a number."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        left_value, right_value = arguments
        return builder.select(builder.fcmp_ordered(">", left_value, right_value), left_value, right_value)

    return vector(vector, vector), generate


@intrinsic
def fma(typing_context, left, right, addend):  # type: ignore[no-untyped-def]
    """Return left · right + addend, rounded once."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return _fma(builder, *arguments)

    return vector(vector, vector, vector), generate


def _fold(width: int):  # type: ignore[no-untyped-def]
    """Return a function (vector, vector) -> vector that adds the halves of each run of 2·width lanes: the left's sums
    are in the first half of each run, the right's in the second.

    Four of them, of widths 8, 4, 2, 1, make the sums of 16 vectors, lane by lane. Each sum is the same tree of
    additions, whatever the other vectors are. Lanes stay where they are, so that one of both shuffles only chooses:
    processors that multiply with two units shuffle with one of them.
    """
    is_left = [lane & width == 0 for lane in range(LANES)]
    here = [lane if left else LANES + lane for lane, left in enumerate(is_left)]
    there = [lane + width if left else LANES + lane - width for lane, left in enumerate(is_left)]

    def fold(typing_context, left, right):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            first = builder.shuffle_vector(*arguments, ir.Constant(_INTEGERS, here))
            second = builder.shuffle_vector(*arguments, ir.Constant(_INTEGERS, there))
            return builder.fadd(first, second)

        return vector(vector, vector), generate

    return intrinsic(fold)


fold_8, fold_4, fold_2, fold_1 = map(_fold, (8, 4, 2, 1))


@intrinsic
def every_fourth(typing_context, values):  # type: ignore[no-untyped-def]
    """Return lanes 0, 4, 8, 12, four times over."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        order = ir.Constant(_INTEGERS, [4 * lane % LANES for lane in range(LANES)])
        return builder.shuffle_vector(arguments[0], arguments[0], order)

    return vector(vector), generate


@intrinsic
def largest_lane(typing_context, values):  # type: ignore[no-untyped-def]
    """Return the largest of the 16."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        (value,) = arguments
        for width in (8, 4, 2, 1):
            order = ir.Constant(_INTEGERS, [(lane + width) % LANES for lane in range(LANES)])
            other = builder.shuffle_vector(value, value, order)
            value = builder.select(builder.fcmp_ordered(">", value, other), value, other)
        return builder.extract_element(value, ir.Constant(_INT, 0))

    return types.float32(vector), generate


@intrinsic
def keep_first(typing_context, values, count, other):  # type: ignore[no-untyped-def]
    """Return the first `count` lanes, and `other` in those behind them."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        values_, count_, other_ = arguments
        limit = _spread(builder, builder.trunc(count_, _INT), _INTEGERS)
        inside = builder.icmp_signed("<", ir.Constant(_INTEGERS, list(range(LANES))), limit)
        return builder.select(inside, values_, _spread(builder, other_, _VECTOR))

    return vector(vector, types.int64, types.float32), generate


@intrinsic
def exponential(typing_context, values):  # type: ignore[no-untyped-def]
    """Return e^x in each lane; a NaN stays one. 0 below -87, and it does not go beyond e^88."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        from numpy import float32

        (x,) = arguments
        for sign, limit in ((">", 88.0), ("<", -87.3)):
            edge = _constant(limit)
            x = builder.select(builder.fcmp_ordered(sign, x, edge), edge, x)
        scaled = _fma(builder, x, _constant(float32(1.4426950408889634)), _constant(0.5))
        whole = _call(builder, "llvm.floor.v16f32", scaled)
        # x - whole·log 2 in two parts, so that nothing is lost (Cody and Waite); then Cephes' polynomial of e^r.
        rest = _fma(builder, whole, _constant(float32(-0.693359375)), x)
        rest = _fma(builder, whole, _constant(float32(2.12194440e-4)), rest)
        result = _constant(float32(1.9875691500e-4))
        for factor in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
            result = _fma(builder, result, rest, _constant(float32(factor)))
        square = builder.fmul(rest, rest)
        result = _fma(builder, result, square, builder.fadd(rest, _constant(1.0)))
        integers = builder.fptosi(whole, _INTEGERS)
        power = builder.shl(
            builder.add(integers, ir.Constant(_INTEGERS, [127] * LANES)), ir.Constant(_INTEGERS, [23] * LANES)
        )
        return builder.fmul(result, builder.bitcast(power, _VECTOR))

    return vector(vector), generate


@intrinsic
def claim(typing_context, address, expected, replacement):  # type: ignore[no-untyped-def]
    """Put `replacement` where `expected` is, in one indivisible step. Returns whether it was there."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        pointer = _pointer(builder, arguments[0], ir.IntType(64))
        result = builder.cmpxchg(pointer, arguments[1], arguments[2], "acq_rel", "acquire")
        return builder.extract_value(result, 1)

    return types.boolean(types.int64, types.int64, types.int64), generate


@intrinsic
def count_up(typing_context, address):  # type: ignore[no-untyped-def]
    """Add one to an int64 that other threads count too."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        pointer = _pointer(builder, arguments[0], ir.IntType(64))
        return builder.atomic_rmw("add", pointer, ir.Constant(ir.IntType(64), 1), "acq_rel")

    return types.int64(types.int64), generate


@intrinsic
def read_shared(typing_context, address):  # type: ignore[no-untyped-def]
    """Return an int64 that another thread may write."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.load_atomic(_pointer(builder, arguments[0], ir.IntType(64)), "acquire", 8)

    return types.int64(types.int64), generate


@intrinsic
def write_shared(typing_context, address, number):  # type: ignore[no-untyped-def]
    """Write an int64 that another thread reads, after all that was written before."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        builder.store_atomic(arguments[1], _pointer(builder, arguments[0], ir.IntType(64)), "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def wait_a_moment(typing_context):  # type: ignore[no-untyped-def]
    """Tell the processor that this loop only waits."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        if platform.machine() in ("x86_64", "AMD64"):
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def let_others_run(typing_context):  # type: ignore[no-untyped-def]
    """Offer the core to another thread (POSIX `sched_yield`)."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_INT, []), "sched_yield")
        builder.call(function, [])
        return context.get_dummy_value()

    return types.void(), generate


def aligned_zeros(shape: Sequence[int], dtype: DTypeLike = np.float32) -> np.ndarray:
    """Return zeros that begin at a cache line. NumPy's begin 16 bytes behind one where they are large, and a vector
    that lies in two lines is loaded twice."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    room = np.zeros(size + LINE, np.uint8)
    start = -room.ctypes.data % LINE
    return room[start : start + size].view(dtype).reshape(shape)


def compiled(function):  # type: ignore[no-untyped-def]
    """Decorate a function that only compiled functions call."""
    return numba.njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)


def entry(function):  # type: ignore[no-untyped-def]
    """Decorate a function that Python calls. It is compiled at the first call; the machine code is kept on disk."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        dispatcher = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba can write nowhere: every process compiles
        return numba.njit(**options)(function)
    return keep_while_unchanged(dispatcher, function)


def can_keep_code(dispatcher) -> bool:  # type: ignore[no-untyped-def]
    """Return whether machine code of an `entry` can lie on disk: numba has found a folder that it may write to."""
    return getattr(getattr(dispatcher, "_cache", None), "_cache_file", None) is not None


def has_code_on_disk(dispatcher) -> bool:  # type: ignore[no-untyped-def]
    """Return whether an earlier process has left machine code of an `entry` on disk: of its sources as they are now,
    for this processor."""
    if not can_keep_code(dispatcher):
        return False
    processor = dispatcher.targetctx.codegen().magic_tuple()
    return any(key[1] == processor for key in dispatcher._cache._cache_file._load_index())
