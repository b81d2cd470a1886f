"""Dropout whose random bits are a function of a seed that the caller gives, so that a resumed run repeats them exactly.

MindSpore's own dropout keeps a generator inside the kernel, whose state no checkpoint can hold.
"""

import math

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops


# Made outside of the graph: the arrays on the way to a constant are values of the graph too otherwise, which
# MindSpore's compiler compares byte for byte wherever it looks for a function that it has inferred.
@ops.constexpr
def _row_starts(shape: tuple[int, ...], part: int) -> Tensor:
    """Return where the rows of part number `part` begin in the whole batch, int32 [..., 1]; they wrap around."""
    width = shape[-1]
    rows = math.prod(shape[:-1])
    first = (np.arange(rows, dtype=np.int64) + part * rows) * width
    return Tensor(first.astype(np.int32).reshape((*shape[:-1], 1)))


@ops.constexpr
def _places(shape: tuple[int, ...]) -> Tensor:
    """Return the places within a row, int32 [1, ..., width]."""
    return Tensor(np.arange(shape[-1], dtype=np.int32).reshape((*[1] * (len(shape) - 1), shape[-1])))


class Dropout(nn.Cell):
    """Zeroes an element with probability `rate` and scales the others by 1/(1-rate), in training mode only.

    The bits of element i are a 32-bit integer hash (two multiply-xorshift rounds, after Mueller's `hash32`) of its
    index, the seed and the `site`, a number that the network gives to each of its dropouts.

    `part`: this process holds part number `part` of a batch that is split along its first axis into parts of one size;
    an element then has the index that it has in the whole batch.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.site = 0
        self.part = 0
        # An element is kept when the low 24 bits of its hash reach this.
        self.threshold = round(rate * (1 << 24))
        self.xor, self.shift, self.low = ops.BitwiseXor(), ops.RightShift(), ops.BitwiseAnd()
        self.multiply, self.reaches, self.cast = ops.Mul(), ops.GreaterEqual(), ops.Cast()
        self.add_row, self.add_seed = ops.Add(), ops.Add()
        self.spread_seed, self.add_site = ops.Mul(), ops.Add()
        self.mask, self.scale = ops.Mul(), ops.Mul()

    def hash(self, x: Tensor) -> Tensor:
        for multiplier in (0x45D9F3B, 0x119DE1F3):
            x = self.multiply(self.xor(x, self.shift(x, Tensor(16, ms.int32))), Tensor(multiplier, ms.int32))
        return self.xor(x, self.shift(x, Tensor(16, ms.int32)))

    def construct(self, x: Tensor, seed: Tensor) -> Tensor:
        if self.rate == 0 or not self.training:
            return x
        # The index of an element is the sum of two, so that no constant is as large as x: where its row begins, and
        # within the row. Beyond 2³¹ both wrap around, as their sum would.
        index = self.add_row(_row_starts(x.shape, self.part), _places(x.shape))
        # Tensors, not numbers: eager mode would take these for 64-bit ones.
        start = self.add_site(self.spread_seed(seed, Tensor(1000003, ms.int32)), Tensor(self.site * 7919, ms.int32))
        bits = self.low(self.hash(self.add_seed(index, start)), Tensor((1 << 24) - 1, ms.int32))
        kept = self.cast(self.reaches(bits, Tensor(self.threshold, ms.int32)), x.dtype)
        return self.scale(self.mask(x, kept), 1 / (1 - self.rate))
