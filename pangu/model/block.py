"""One pre-norm layer of the decoder."""

import mindspore as ms
from mindspore import Tensor, nn, ops

from pangu.config import ModelConfig
from pangu.model.attention import Attention
from pangu.model.dropout import Dropout
from pangu.model.feed_forward import new_feed_forward
from pangu.model.layer_norm import LayerNorm


class Block(nn.Cell):
    """h + Attention(LN1(h)), then + FeedForward(LN2(·)): [B, S, d] -> [B, S, d]."""

    def __init__(self, config: ModelConfig, dtype: ms.Type) -> None:
        super().__init__()
        self.layernorm1 = LayerNorm(config.hidden_size, dtype)
        self.layernorm2 = LayerNorm(config.hidden_size, dtype)
        self.attention = Attention(config, dtype)
        self.output = new_feed_forward(config, dtype)
        self.attention_dropout = Dropout(config.dropout_rate)
        self.output_dropout = Dropout(config.dropout_rate)
        self.attention_add, self.output_add = ops.Add(), ops.Add()

    def feed_forward(self, hidden: Tensor, dropout_seed: Tensor) -> Tensor:
        """Return the second half of the layer."""
        return self.output_add(hidden, self.output_dropout(self.output(self.layernorm2(hidden)), dropout_seed))

    def construct(self, hidden: Tensor, attention_bias: Tensor, dropout_seed: Tensor) -> Tensor:
        normed = self.layernorm1(hidden)
        attended = self.attention(normed, normed, attention_bias, dropout_seed)
        hidden = self.attention_add(hidden, self.attention_dropout(attended, dropout_seed))
        return self.feed_forward(hidden, dropout_seed)
