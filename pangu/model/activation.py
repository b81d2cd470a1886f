"""The three functions that have been called "gelu" in PanGu-α's code. [any shape] -> the same."""

import math

import mindspore as ms
from mindspore import Tensor, nn, ops


class GeluTanhOnCpu(nn.Cell):
    """x/2 (1 + tanh(√(2/π)(x + 0.044715 x³))), written as x·sigmoid(2·…), which is the same function.

    MindSpore's own GeLU kernel is ten times slower on a CPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = 2 * math.sqrt(2 / math.pi)
        self.cubic = 2 * math.sqrt(2 / math.pi) * 0.044715
        self.sigmoid = ops.Sigmoid()

    def construct(self, x: Tensor) -> Tensor:
        return x * self.sigmoid(x * (self.scale + self.cubic * x * x))


class FastGeluOnCpu(nn.Cell):
    """x·sigmoid(1.702 x)."""

    def __init__(self) -> None:
        super().__init__()
        self.sigmoid = ops.Sigmoid()

    def construct(self, x: Tensor) -> Tensor:
        return x * self.sigmoid(1.702 * x)


class OneKernel(nn.Cell):
    """An activation that the device has a kernel for."""

    def __init__(self, kernel: ops.Primitive) -> None:
        super().__init__()
        self.kernel = kernel

    def construct(self, x: Tensor) -> Tensor:
        return self.kernel(x)


class GeluErf(nn.Cell):
    """x Φ(x): the PyTorch and TensorFlow ports."""

    def __init__(self) -> None:
        super().__init__()
        self.erf = ops.Erf()
        self.scale, self.shift, self.multiply = ops.Mul(), ops.Add(), ops.Mul()

    def construct(self, x: Tensor) -> Tensor:
        return self.multiply(self.scale(x, 0.5), self.shift(self.erf(self.scale(x, 1 / math.sqrt(2))), 1.0))


def on_cpu() -> bool:
    return ms.get_context("device_target") == "CPU"


def gelu_tanh() -> nn.Cell:
    """The released one."""
    return GeluTanhOnCpu() if on_cpu() else OneKernel(ops.GeLU())


def fast_gelu() -> nn.Cell:
    """The original's default from release 1.5 on."""
    return FastGeluOnCpu() if on_cpu() else OneKernel(ops.FastGeLU())


ACTIVATIONS = {"gelu_tanh": gelu_tanh, "gelu_erf": GeluErf, "fast_gelu": fast_gelu}
