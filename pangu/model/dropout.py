"""Dropout whose random bits are a function of a seed that the caller gives, so that a resumed run repeats them exactly.

MindSpore's own dropout keeps a generator inside the kernel, whose state no checkpoint can hold.
"""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops


class Dropout(nn.Cell):
    """Zeroes an element with probability `rate` and scales the others by 1/(1-rate), in training mode only.

    The bits of element i are a 32-bit integer hash (two multiply-xorshift rounds, after Mueller's `hash32`) of its
    index, the seed and the `site`, a number that the network gives to each of its dropouts.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.site = 0
        # An element is kept when the low 24 bits of its hash reach this.
        self.threshold = round(rate * (1 << 24))
        self.xor, self.shift, self.low = ops.BitwiseXor(), ops.RightShift(), ops.BitwiseAnd()

    def hash(self, x: Tensor) -> Tensor:
        for multiplier in (0x45D9F3B, 0x119DE1F3):
            x = self.xor(x, self.shift(x, Tensor(16, ms.int32))) * multiplier
        return self.xor(x, self.shift(x, Tensor(16, ms.int32)))

    def construct(self, x: Tensor, seed: Tensor) -> Tensor:
        if self.rate == 0 or not self.training:
            return x
        index = Tensor(np.arange(x.size, dtype=np.int32)).reshape(x.shape)
        bits = self.low(self.hash(index + (seed * 1000003 + self.site * 7919)), Tensor((1 << 24) - 1, ms.int32))
        return x * ops.cast(bits >= self.threshold, x.dtype) * (1 / (1 - self.rate))
