"""The kernels that MindSpore's compiled graphs of a training step are made of, each several times in one graph.

Of each result only one element leaves the graph: a result that leaves it whole is written into new memory, which costs
more than the kernel, and is not what happens inside a step.
"""

from collections.abc import Callable
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn, ops


class Several(nn.Cell):
    """`kernel` over `count` sets of `arity` tensors; the first element of each result."""

    def __init__(self, kernel: Any, count: int, arity: int) -> None:
        super().__init__(auto_prefix=False)
        self.kernel, self.count, self.arity = kernel, count, arity
        self.slice, self.reshape = ops.StridedSlice(), ops.Reshape()

    def construct(self, *tensors: ms.Tensor) -> Any:
        results: tuple[ms.Tensor, ...] = ()
        for index in range(self.count):
            if self.arity == 1:
                result = self.kernel(tensors[index])
            elif self.arity == 2:
                result = self.kernel(tensors[2 * index], tensors[2 * index + 1])
            else:
                result = self.kernel(tensors[3 * index], tensors[3 * index + 1], tensors[3 * index + 2])
            ones = (1,) * result.ndim
            results = (*results, self.slice(result, (0,) * result.ndim, ones, ones))
        return results


class Scale(nn.Cell):
    def construct(self, x: ms.Tensor) -> ms.Tensor:
        return x * 0.5


class Normalised(nn.Cell):
    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.layer_norm = ops.LayerNorm(-1, -1)

    def construct(self, x: ms.Tensor, scale: ms.Tensor, shift: ms.Tensor) -> ms.Tensor:
        y, _, _ = self.layer_norm(x, scale, shift)
        return y


class SumOfRows(nn.Cell):
    """Over the last axis, as the gradients of norms and of softmax need it."""

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.sum = ops.ReduceSum(keep_dims=True)

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        return self.sum(x, -1)


class SumOfColumns(nn.Cell):
    """By a product with ones, as `pangu` computes gradients of biases."""

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.product = ops.MatMul()

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        return self.product(ops.ones((1, x.shape[0]), ms.float32), x)


class Broadcasted(nn.Cell):
    """From the first process to all others."""

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.broadcast = ops.Broadcast(0)

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        return self.broadcast((x,))[0]


class SplitHeads(nn.Cell):
    """[B, S, H, d/H] -> [B, H, S, d/H]."""

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.transpose = ops.Transpose()

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        return self.transpose(x, (0, 2, 1, 3))


class Rows(nn.Cell):
    """Rows of a table [V, d] by ids [B, S]."""

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.gather = ops.Gather()

    def construct(self, table: ms.Tensor, ids: ms.Tensor) -> ms.Tensor:
        return self.gather(table, ids, 0)


class AddedRows(nn.Cell):
    """The gradient of `Rows`: gradients [B, S, d] added up by ids into a table of 2,048 rows."""

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.add = ops.UnsortedSegmentSum()

    def construct(self, gradient: ms.Tensor, ids: ms.Tensor) -> ms.Tensor:
        return self.add(gradient, ids, 2048)


class GradientOfLogSoftmax(nn.Cell):
    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        from mindspore.ops.auto_generate.gen_ops_prim import LogSoftmaxGrad

        self.gradient = LogSoftmaxGrad(-1)

    def construct(self, y: ms.Tensor, gradient: ms.Tensor) -> ms.Tensor:
        return self.gradient(y, gradient)


class Small(nn.Cell):
    """Kernels with next to nothing to do, of the kinds and with the inputs that a training step has."""

    def __init__(self, length: int) -> None:
        super().__init__(auto_prefix=False)
        self.length = length
        self.product, self.bias, self.multiply, self.sigmoid = ops.MatMul(), ops.BiasAdd(), ops.Mul(), ops.Sigmoid()
        self.subtract, self.reshape = ops.Sub(), ops.Reshape()

    def construct(self, x: ms.Tensor, weight: ms.Tensor, bias: ms.Tensor) -> ms.Tensor:
        """Return [4, 4], [4, 4], [4] -> [4, 4] through `length` times six kernels."""
        for _ in range(self.length):
            y = self.bias(self.product(x, weight), bias)
            x = self.subtract(self.multiply(self.sigmoid(y), x), weight)
            x = self.reshape(self.multiply(x, y), (4, 4))
        return x


SMALL_KERNELS = 6


def kinds(elements: int, random: Any) -> dict[str, tuple[Any, int, Callable[[], tuple[ms.Tensor, ...]], float]]:
    """Return name -> (kernel, arity, a function that makes one set of inputs, bytes that one call moves).

    Shapes are those of a layer: [8, S, 512] activations, [8, 4, S, 256] scores, [S, 4096] logits.
    """
    rows = elements // 512

    def floats(*shape: int) -> ms.Tensor:
        return ms.Tensor(random.standard_normal(shape, dtype=np.float32))

    def ids() -> ms.Tensor:
        return ms.Tensor(random.integers(0, 2048, (8, rows // 8)).astype(np.int32))

    wide, size = (8, rows // 8, 512), 4.0 * elements
    scores, logits = (8, 4, elements // 8192, 256), (elements // 4096, 4096)
    return {
        "multiply": (ops.Mul(), 2, lambda: (floats(*wide), floats(*wide)), 3 * size),
        "scale": (Scale(), 1, lambda: (floats(*wide),), 2 * size),
        "broadcast": (ops.Mul(), 2, lambda: (floats(*wide), floats(*wide[:2], 1)), 2 * size),
        "row": (ops.Mul(), 2, lambda: (floats(*wide), floats(512)), 2 * size),
        "bias": (ops.BiasAdd(), 2, lambda: (floats(rows, 512), floats(512)), 2 * size),
        "sum": (SumOfRows(), 1, lambda: (floats(*wide),), size),
        "column": (SumOfColumns(), 1, lambda: (floats(rows, 512),), size),
        "sigmoid": (ops.Sigmoid(), 1, lambda: (floats(*wide),), 2 * size),
        "layer_norm": (Normalised(), 3, lambda: (floats(*wide), floats(512), floats(512)), 2 * size),
        "softmax": (ops.Softmax(-1), 1, lambda: (floats(*scores),), 2 * size),
        "log_softmax": (ops.LogSoftmax(-1), 1, lambda: (floats(*logits),), 2 * size),
        "log_softmax_gradient": (GradientOfLogSoftmax(), 2, lambda: (floats(*logits), floats(*logits)), 3 * size),
        "transpose": (SplitHeads(), 1, lambda: (floats(8, rows // 8, 4, 128),), 2 * size),
        "gather": (Rows(), 2, lambda: (floats(2048, 512), ids()), 2 * size),
        "scatter": (AddedRows(), 2, lambda: (floats(*wide), ids()), 2 * size),
    }
