"""One pre-norm layer of the decoder."""

import mindspore as ms
from mindspore import Tensor, nn, ops

from pangu.config import ModelConfig
from pangu.model.attention import Attention
from pangu.model.dropout import Dropout
from pangu.model.experts import AttachedPenalty, new_expert_feed_forward
from pangu.model.feed_forward import new_feed_forward
from pangu.model.layer_norm import LayerNorm


class Block(nn.Cell):
    """h + Attention(LN1(h)), then + FeedForward(LN2(·)): [B, S, d] -> [B, S, d]."""

    has_experts = False

    def __init__(self, config: ModelConfig, dtype: ms.Type) -> None:
        super().__init__()
        self.layernorm1 = LayerNorm(config.hidden_size, dtype)
        self.layernorm2 = LayerNorm(config.hidden_size, dtype)
        self.attention = Attention(config, dtype)
        self.output = self.new_output(config, dtype)
        self.attention_dropout = Dropout(config.dropout_rate)
        self.output_dropout = Dropout(config.dropout_rate)
        self.attention_add, self.output_add = ops.Add(), ops.Add()

    def new_output(self, config: ModelConfig, dtype: ms.Type) -> nn.Cell:
        return new_feed_forward(config, dtype)

    def feed_forward(self, hidden: Tensor, dropout_seed: Tensor) -> Tensor:
        """Return the second half of the layer."""
        return self.output_add(hidden, self.output_dropout(self.output(self.layernorm2(hidden)), dropout_seed))

    def construct(self, hidden: Tensor, attention_bias: Tensor, dropout_seed: Tensor) -> Tensor:
        normed = self.layernorm1(hidden)
        attended = self.attention(normed, normed, attention_bias, dropout_seed)
        hidden = self.attention_add(hidden, self.attention_dropout(attended, dropout_seed))
        return self.feed_forward(hidden, dropout_seed)


class ExpertBlock(Block):
    """A block whose second half has experts; it also returns their penalty [B] and what is told of them [B, 4 + E].

    choice: int32 [B, S], the expert of each token where the routing is fixed.
    penalty_weights: fp32 [B], where the penalty is only to reach the gradient; then the block returns hidden alone.
    """

    has_experts = True

    def __init__(self, config: ModelConfig, dtype: ms.Type) -> None:
        super().__init__(config, dtype)
        self.attached = AttachedPenalty()

    def new_output(self, config: ModelConfig, dtype: ms.Type) -> nn.Cell:
        return new_expert_feed_forward(config, dtype)

    def construct(  # type: ignore[override]  # it needs one input more and has three results
        self,
        hidden: Tensor,
        attention_bias: Tensor,
        dropout_seed: Tensor,
        choice: Tensor,
        penalty_weights: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        normed = self.layernorm1(hidden)
        attended = self.attention(normed, normed, attention_bias, dropout_seed)
        hidden = self.attention_add(hidden, self.attention_dropout(attended, dropout_seed))
        y, penalty, told = self.output(self.layernorm2(hidden), choice)
        hidden = self.output_add(hidden, self.output_dropout(y, dropout_seed))
        if penalty_weights is not None:
            return self.attached(hidden, penalty, penalty_weights)
        return hidden, penalty, told
