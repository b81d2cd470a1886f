"""PanGu-α's last layer: what to predict is asked by a table of queries instead of by the hidden state."""

from mindspore import Tensor

from pangu.model.block import Block


class QueryLayer(Block):
    """A block whose attention takes its queries from `query` [B, S, d]: the query table's row at each token's position.

    Keys and values come from LN1 of the hidden state. The query is neither normed nor added: the residual is the
    hidden state (paper, section 2.2; the original code).
    """

    def construct(  # type: ignore[override]  # it needs one input more
        self, hidden: Tensor, query: Tensor, attention_bias: Tensor, dropout_seed: Tensor
    ) -> Tensor:
        attended = self.attention(query, self.layernorm1(hidden), attention_bias, dropout_seed)
        hidden = self.attention_add(hidden, self.attention_dropout(attended, dropout_seed))
        return self.feed_forward(hidden, dropout_seed)
