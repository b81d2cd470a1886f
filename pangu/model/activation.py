"""The three functions that have been called "gelu" in PanGu-α's code. [any shape] -> the same."""

import math

from mindspore import Tensor, nn, ops


class GeluTanh(nn.Cell):
    """x/2 (1 + tanh(√(2/π)(x + 0.044715 x³))), written as x·sigmoid(2·…), which is the same function: the released one.

    MindSpore's own GeLU kernel is ten times slower on a CPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = 2 * math.sqrt(2 / math.pi)
        self.cubic = 2 * math.sqrt(2 / math.pi) * 0.044715
        self.sigmoid = ops.Sigmoid()

    def construct(self, x: Tensor) -> Tensor:
        return x * self.sigmoid(x * (self.scale + self.cubic * x * x))


class GeluErf(nn.Cell):
    """x Φ(x): the PyTorch and TensorFlow ports."""

    def __init__(self) -> None:
        super().__init__()
        self.erf = ops.Erf()

    def construct(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1 + self.erf(x * (1 / math.sqrt(2))))


class FastGelu(nn.Cell):
    """x·sigmoid(1.702 x): the original's default from release 1.5 on."""

    def __init__(self) -> None:
        super().__init__()
        self.sigmoid = ops.Sigmoid()

    def construct(self, x: Tensor) -> Tensor:
        return x * self.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, type[nn.Cell]] = {"gelu_tanh": GeluTanh, "gelu_erf": GeluErf, "fast_gelu": FastGelu}
