"""The two-matrix feed-forward layer: [B, S, d] -> [B, S, d]."""

import mindspore as ms
from mindspore import Tensor, nn

from pangu.config import ModelConfig
from pangu.model import initializers
from pangu.model.activation import ACTIVATIONS
from pangu.model.linear import Linear


class FeedForward(nn.Cell):
    def __init__(self, config: ModelConfig, dtype: ms.Type) -> None:
        super().__init__()
        hidden, ffn = config.hidden_size, config.ffn_hidden_size
        self.mapping = Linear(hidden, ffn, transposed=False, start=initializers.ffn_up(config), dtype=dtype)
        self.projection = Linear(ffn, hidden, transposed=False, start=initializers.into_residual(config), dtype=dtype)
        self.activation = ACTIVATIONS[config.activation]()

    def construct(self, x: Tensor) -> Tensor:
        return self.projection(self.activation(self.mapping(x)))
