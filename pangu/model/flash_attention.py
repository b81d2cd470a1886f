"""Ascend's fused attention behind the interface of the composed one."""

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.ops.auto_generate.gen_ops_prim import FlashAttentionScore


class FlashAttention(nn.Cell):
    """softmax(Q Kᵀ + attention_bias) V without ever holding the scores.

    Queries [B, H, Q, d/H], keys and values [B, H, K, d/H] -> [B, H, Q, d/H].

    Queries and keys come scaled, as for the composed attention, so the kernel scales by 1. The attention bias
    [B, 1, Q, K] is turned into the kernel's mask, in which true means hidden. A row that sees nothing is undefined
    here, while the composed attention makes it uniform; training has no such row, because every token sees itself.
    """

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.kernel = FlashAttentionScore(num_heads, scale_value=1.0, input_layout="BNSD")
        self.is_hidden = ops.Less()
        self.cast = ops.Cast()

    def construct(self, query: Tensor, key: Tensor, value: Tensor, attention_bias: Tensor) -> Tensor:
        # The kernel wants its mask as bytes.
        hidden = self.cast(self.is_hidden(attention_bias, 0.0), ms.uint8)
        _, _, _, heads = self.kernel(query, key, value, None, None, None, hidden)
        return heads
