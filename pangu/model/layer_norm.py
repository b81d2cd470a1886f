"""Layer normalisation over the last axis in fp32, eps 1e-5 (MindSpore's own layer defaults to 1e-7)."""

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer

EPSILON = 1e-5


class Normalisation(nn.Cell):
    """x [..., d], gamma and beta [d] -> (gamma·(x - mean)/√(variance + eps) + beta, mean, variance), all fp32."""

    def __init__(self) -> None:
        super().__init__()
        self.layer_norm = ops.LayerNorm(begin_norm_axis=-1, begin_params_axis=-1, epsilon=EPSILON)

    def construct(self, x: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.layer_norm(x, gamma, beta)


class NormalisationOnCpu(Normalisation):
    """With its gradient written out (Ba et al. 2016): the kernel LayerNormGrad takes four times as long."""

    def __init__(self) -> None:
        super().__init__()
        self.sum = ops.ReduceSum(keep_dims=True)  # ReduceMean takes three times as long
        self.rsqrt = ops.Rsqrt()
        self.product = ops.MatMul()

    def bprop(
        self, x: Tensor, gamma: Tensor, beta: Tensor, out: tuple[Tensor, ...], dout: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        _, mean, variance = out
        dy, _, _ = dout
        scale = self.rsqrt(variance + EPSILON)
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


class LayerNorm(nn.Cell):
    """[..., d] of any float dtype -> [..., d] in `dtype`."""

    def __init__(self, size: int, dtype: ms.Type) -> None:
        super().__init__()
        self.gamma = Parameter(initializer("ones", (size,), ms.float32))
        self.beta = Parameter(initializer("zeros", (size,), ms.float32))
        self.dtype = dtype
        self.cast = ops.Cast()
        on_cpu = ms.get_context("device_target") == "CPU"
        self.normalisation = NormalisationOnCpu() if on_cpu else Normalisation()

    def construct(self, x: Tensor) -> Tensor:
        y, _, _ = self.normalisation(self.cast(x, ms.float32), self.gamma, self.beta)
        return self.cast(y, self.dtype)
