"""The two-matrix feed-forward layer: [..., d] -> [..., d]."""

import mindspore as ms
from mindspore import Tensor, nn

from pangu.config import ModelConfig
from pangu.model import initializers
from pangu.model.activation import ACTIVATIONS
from pangu.model.linear import Linear


class FeedForward(nn.Cell):
    def __init__(self, mapping: nn.Cell, projection: nn.Cell, activation: str) -> None:
        super().__init__()
        self.mapping, self.projection = mapping, projection
        self.activation = ACTIVATIONS[activation]()

    def construct(self, x: Tensor) -> Tensor:
        return self.projection(self.activation(self.mapping(x)))


def new_feed_forward(config: ModelConfig, dtype: ms.Type) -> FeedForward:
    """Return one to be trained."""
    hidden, ffn = config.hidden_size, config.ffn_hidden_size
    mapping = Linear(hidden, ffn, transposed=False, start=initializers.ffn_up(config), dtype=dtype)
    projection = Linear(ffn, hidden, transposed=False, start=initializers.into_residual(config), dtype=dtype)
    return FeedForward(mapping, projection, config.activation)
