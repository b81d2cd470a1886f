"""y = x W + b over the last axis, with the weight stored as the released checkpoints store it."""

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Initializer, initializer


class Linear(nn.Cell):
    """Weight [out, in] where `transposed` (the query, key and value layers), else [in, out]; bias [out]; both fp32.

    Computes in `dtype`, to which input and parameters are cast: [..., in] -> [..., out].
    """

    def __init__(self, inputs: int, outputs: int, transposed: bool, start: Initializer, dtype: ms.Type) -> None:
        super().__init__()
        shape = (outputs, inputs) if transposed else (inputs, outputs)
        self.weight = Parameter(initializer(start, shape, ms.float32))
        self.bias = Parameter(initializer("zeros", (outputs,), ms.float32))
        self.inputs, self.outputs, self.dtype = inputs, outputs, dtype
        self.matmul = ops.MatMul(transpose_b=transposed)
        self.add = ops.Add()
        self.cast = ops.Cast()
        self.reshape = ops.Reshape()

    def construct(self, x: Tensor) -> Tensor:
        rows = self.reshape(self.cast(x, self.dtype), (-1, self.inputs))
        y = self.matmul(rows, self.cast(self.weight, self.dtype))
        y = self.add(y, self.cast(self.bias, self.dtype))
        return self.reshape(y, (*x.shape[:-1], self.outputs))
