"""The three functions that have been called "gelu" in PanGu-α's code. [any shape] -> the same."""

import math

from mindspore import Tensor, nn, ops

from pangu.model import cpu


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


def gelu_tanh() -> nn.Cell:
    """Return the released one."""
    return cpu.GeluTanh() if cpu.is_used() else OneKernel(ops.GeLU())


def fast_gelu() -> nn.Cell:
    """Return the original's default from release 1.5 on."""
    return cpu.FastGelu() if cpu.is_used() else OneKernel(ops.FastGeLU())


ACTIVATIONS = {"gelu_tanh": gelu_tanh, "gelu_erf": GeluErf, "fast_gelu": fast_gelu}
