"""y = x W + b over the last axis: the one layer that holds matrices.

Whoever stores matrices otherwise, quantised or with an adapter, stands in the place of a `Linear`; nobody else notices.
"""

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Initializer, initializer

from pangu.model import cpu


class Affine(nn.Cell):
    """Rows [N, in], weight and bias [out] -> [N, out]; the weight is [out, in] where `transposed`, else [in, out]."""

    def __init__(self, transposed: bool) -> None:
        super().__init__()
        self.matmul = ops.MatMul(transpose_b=transposed)
        self.bias_add = ops.BiasAdd()

    def construct(self, rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return self.bias_add(self.matmul(rows, weight), bias)


class Linear(nn.Cell):
    """Weight [out, in] where `transposed` (the query, key and value layers), else [in, out]; bias [out]; both fp32.

    Computes in `dtype`, to which input and parameters are cast: [..., in] -> [..., out].
    """

    def __init__(self, inputs: int, outputs: int, transposed: bool, start: Initializer | str, dtype: ms.Type) -> None:
        super().__init__()
        shape = (outputs, inputs) if transposed else (inputs, outputs)
        self.weight = Parameter(initializer(start, shape, ms.float32))
        self.bias = Parameter(initializer("zeros", (outputs,), ms.float32))
        self.inputs, self.outputs, self.dtype = inputs, outputs, dtype
        self.affine = (cpu.Affine if cpu.is_used() else Affine)(transposed)
        self.cast = ops.Cast()
        self.reshape = ops.Reshape()

    @classmethod
    def fixed(cls, weight: np.ndarray, bias: np.ndarray, dtype: ms.Type) -> "Linear":
        """Return a layer that is not trained, with weight [in, out] and bias stored in `dtype`."""
        inputs, outputs = weight.shape
        linear = cls(inputs, outputs, False, "zeros", dtype)
        linear.weight, linear.bias = constant(weight, dtype), constant(bias, dtype)
        return linear

    def construct(self, x: Tensor) -> Tensor:
        rows = self.reshape(self.cast(x, self.dtype), (-1, self.inputs))
        y = self.affine(rows, self.cast(self.weight, self.dtype), self.cast(self.bias, self.dtype))
        return self.reshape(y, (*x.shape[:-1], self.outputs))


def constant(values: np.ndarray, dtype: ms.Type) -> Parameter:
    """Return a weight that is never trained, in `dtype`."""
    return Parameter(Tensor(np.ascontiguousarray(values)).astype(dtype), requires_grad=False)
