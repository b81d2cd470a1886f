"""Layer normalisation over the last axis in fp32, eps 1e-5 (MindSpore's own layer defaults to 1e-7)."""

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer

from pangu.model import cpu

EPSILON = 1e-5


class Normalisation(nn.Cell):
    """x [..., d], gamma and beta [d] -> (gamma·(x - mean)/√(variance + eps) + beta, mean, variance), all fp32."""

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.layer_norm = ops.LayerNorm(begin_norm_axis=-1, begin_params_axis=-1, epsilon=epsilon)

    def construct(self, x: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.layer_norm(x, gamma, beta)


class LayerNorm(nn.Cell):
    """[..., d] of any float dtype -> [..., d] in `dtype`."""

    def __init__(self, size: int, dtype: ms.Type) -> None:
        super().__init__()
        self.gamma = Parameter(initializer("ones", (size,), ms.float32))
        self.beta = Parameter(initializer("zeros", (size,), ms.float32))
        self.dtype = dtype
        self.cast = ops.Cast()
        self.normalisation = (cpu.Normalisation if cpu.is_used() else Normalisation)(EPSILON)

    def construct(self, x: Tensor) -> Tensor:
        y, _, _ = self.normalisation(self.cast(x, ms.float32), self.gamma, self.beta)
        return self.cast(y, self.dtype)
