"""y = x W + b over the last axis, with the weight stored as the released checkpoints store it."""

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Initializer, initializer


class Affine(nn.Cell):
    """Rows [N, in], weight and bias [out] -> [N, out]; the weight is [out, in] where `transposed`, else [in, out]."""

    def __init__(self, transposed: bool) -> None:
        super().__init__()
        self.matmul = ops.MatMul(transpose_b=transposed)
        self.bias_add = ops.BiasAdd()

    def construct(self, rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return self.bias_add(self.matmul(rows, weight), bias)


class AffineOnCpu(Affine):
    """With its gradient written out: the bias's is a product with ones, MindSpore's own sums in one thread.

    A training step takes a tenth less. Elsewhere the framework's gradient stays, which it knows how to distribute.
    """

    def __init__(self, transposed: bool) -> None:
        super().__init__(transposed)
        self.transposed = transposed
        self.by_weight = ops.MatMul(transpose_b=not transposed)
        self.over_rows = ops.MatMul(transpose_a=True)
        self.product = ops.MatMul()

    def bprop(self, rows: Tensor, weight: Tensor, bias: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        dweight = self.over_rows(dout, rows) if self.transposed else self.over_rows(rows, dout)
        dbias = self.product(ops.ones((1, dout.shape[0]), dout.dtype), dout).reshape((-1,))
        return self.by_weight(dout, weight), dweight, dbias


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
        on_cpu = ms.get_context("device_target") == "CPU"
        self.affine = AffineOnCpu(transposed) if on_cpu else Affine(transposed)
        self.cast = ops.Cast()
        self.reshape = ops.Reshape()

    def construct(self, x: Tensor) -> Tensor:
        rows = self.reshape(self.cast(x, self.dtype), (-1, self.inputs))
        y = self.affine(rows, self.cast(self.weight, self.dtype), self.cast(self.bias, self.dtype))
        return self.reshape(y, (*x.shape[:-1], self.outputs))
