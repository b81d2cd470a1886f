"""Operators as a CPU is fast with them: the same functions as their namesakes, chosen where the network is built.

MindSpore's kernels for a CPU are slow in some places and run in one thread in others. Gradients are written out where
the framework's own are the slow part; elsewhere they stay the framework's, which it knows how to distribute.
"""

import math

import mindspore as ms
from mindspore import Tensor, nn, ops


def is_used() -> bool:
    """Return whether the network computes on a CPU."""
    return ms.get_context("device_target") == "CPU"


class GeluTanh(nn.Cell):
    """x/2 (1 + tanh(√(2/π)(x + 0.044715 x³))), written as x·sigmoid(2·…), which is the same function.

    MindSpore's own GeLU kernel is ten times slower.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = 2 * math.sqrt(2 / math.pi)
        self.cubic = 2 * math.sqrt(2 / math.pi) * 0.044715
        self.sigmoid = ops.Sigmoid()

    def construct(self, x: Tensor) -> Tensor:
        return x * self.sigmoid(x * (self.scale + self.cubic * x * x))


class FastGelu(nn.Cell):
    """x·sigmoid(1.702 x)."""

    def __init__(self) -> None:
        super().__init__()
        self.sigmoid = ops.Sigmoid()

    def construct(self, x: Tensor) -> Tensor:
        return x * self.sigmoid(1.702 * x)


class Normalisation(nn.Cell):
    """`layer_norm.Normalisation` with its gradient (Ba et al. 2016): LayerNormGrad takes four times as long."""

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.layer_norm = ops.LayerNorm(begin_norm_axis=-1, begin_params_axis=-1, epsilon=epsilon)
        self.sum = ops.ReduceSum(keep_dims=True)  # ReduceMean takes three times as long
        self.rsqrt = ops.Rsqrt()
        self.product = ops.MatMul()

    def construct(self, x: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.layer_norm(x, gamma, beta)

    def bprop(
        self, x: Tensor, gamma: Tensor, beta: Tensor, out: tuple[Tensor, ...], dout: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        _, mean, variance = out
        dy, _, _ = dout
        scale = self.rsqrt(variance + self.epsilon)
        normed = (x - mean) * scale
        weighted = dy * gamma
        size = x.shape[-1]
        mean_slope = self.sum(weighted, -1) * (1 / size)
        mean_product = self.sum(weighted * normed, -1) * (1 / size)
        dx = (weighted - mean_slope - normed * mean_product) * scale
        rows = (-1, size)
        ones = ops.ones((1, x.size // size), ms.float32)
        dgamma = self.product(ones, (dy * normed).reshape(rows)).reshape((-1,))
        return dx, dgamma, self.product(ones, dy.reshape(rows)).reshape((-1,))


class Affine(nn.Cell):
    """`linear.Affine` with its gradient: the bias's is a product with ones, MindSpore's own sums in one thread.

    A training step takes a tenth less.
    """

    def __init__(self, transposed: bool) -> None:
        super().__init__()
        self.transposed = transposed
        self.matmul = ops.MatMul(transpose_b=transposed)
        self.bias_add = ops.BiasAdd()
        self.by_weight = ops.MatMul(transpose_b=not transposed)
        self.over_rows = ops.MatMul(transpose_a=True)
        self.product = ops.MatMul()

    def construct(self, rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return self.bias_add(self.matmul(rows, weight), bias)

    def bprop(self, rows: Tensor, weight: Tensor, bias: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        dweight = self.over_rows(dout, rows) if self.transposed else self.over_rows(rows, dout)
        dbias = self.product(ops.ones((1, dout.shape[0]), dout.dtype), dout).reshape((-1,))
        return self.by_weight(dout, weight), dweight, dbias


class ExpertsAffine(nn.Cell):
    """`experts.ExpertsAffine` with its gradient, as `Affine`."""

    def __init__(self) -> None:
        super().__init__()
        self.matmul, self.product = ops.BatchMatMul(), ops.BatchMatMul()
        self.by_weight, self.over_rows = ops.BatchMatMul(transpose_b=True), ops.BatchMatMul(transpose_a=True)

    def construct(self, rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return self.matmul(rows, weight) + bias

    def bprop(self, rows: Tensor, weight: Tensor, bias: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        dbias = self.product(ops.ones((dout.shape[0], 1, dout.shape[1]), dout.dtype), dout)
        return self.by_weight(dout, weight), self.over_rows(rows, dout), dbias


class NegativeLogLikelihood(nn.Cell):
    """logits fp32 [N, V], labels int32 [N] -> -log softmax(logits)[labels], fp32 [N]; in one kernel and a lookup."""

    def __init__(self) -> None:
        super().__init__()
        self.log_softmax = ops.LogSoftmax(axis=-1)

    def construct(self, logits: Tensor, labels: Tensor) -> Tensor:
        return -ops.gather_d(self.log_softmax(logits), 1, labels.reshape((-1, 1))).reshape((-1,))
