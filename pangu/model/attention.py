"""Multi-head attention whose queries and keys may come from different places, which is what the query layer needs."""

import math

import mindspore as ms
from mindspore import Tensor, nn, ops

from pangu.config import ModelConfig
from pangu.model import initializers
from pangu.model.dropout import Dropout
from pangu.model.flash_attention import FlashAttention
from pangu.model.linear import Linear

# What the original adds to the score of a pair that must not see each other. Not -inf: a row that sees nothing
# becomes uniform over everything, as in the original.
MASKED_SCORE = -10000.0


def score_scale(config: ModelConfig) -> float:
    """Return √(1/√(d/H)), by which queries and keys are scaled before their product: fp16 scores do not overflow."""
    return 1 / math.sqrt(math.sqrt(config.head_size))


class Attention(nn.Cell):
    """softmax(Q Kᵀ / √(d/H) + (1 - visible)·(-10000)) V, then the output projection.

    `dense1`, `dense2`, `dense3` make queries, keys and values.
    """

    def __init__(self, config: ModelConfig, dtype: ms.Type) -> None:
        super().__init__()
        hidden = config.hidden_size
        start = initializers.query_key_value(config)
        self.dense1 = Linear(hidden, hidden, transposed=True, start=start, dtype=dtype)
        self.dense2 = Linear(hidden, hidden, transposed=True, start=start, dtype=dtype)
        self.dense3 = Linear(hidden, hidden, transposed=True, start=start, dtype=dtype)
        self.projection = Linear(
            hidden, hidden, transposed=False, start=initializers.into_residual(config), dtype=dtype
        )
        self.num_heads, self.head_size = config.num_heads, config.head_size
        self.softmax_dtype = ms.float16 if config.softmax_dtype == "fp16" else ms.float32
        self.dtype = dtype
        self.scale = score_scale(config)
        self.scale_queries, self.scale_keys = ops.Mul(), ops.Mul()
        self.split_transpose, self.merge_transpose = ops.Transpose(), ops.Transpose()
        self.scores = ops.BatchMatMul(transpose_b=True)
        self.context = ops.BatchMatMul()
        self.add_penalty = ops.Add()
        self.softmax = ops.Softmax(axis=-1)
        self.probability_dropout = Dropout(config.dropout_rate)
        self.cast = ops.Cast()
        # Ascend's fused kernel takes half precision, and its own dropout is not the reproducible one.
        self.fused = ms.get_context("device_target") == "Ascend" and dtype != ms.float32
        self.flash_attention = FlashAttention(config.num_heads)
        self.reshape = ops.Reshape()

    def split_heads(self, x: Tensor) -> Tensor:
        """Return [B, S, d] -> [B, H, S, d/H]."""
        return self.split_transpose(self.reshape(x, (*x.shape[:2], self.num_heads, self.head_size)), (0, 2, 1, 3))

    def queries(self, x: Tensor) -> Tensor:
        """Return [B, S, d] -> scaled queries [B, H, S, d/H]."""
        return self.split_heads(self.scale_queries(self.dense1(x), self.scale))

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return [B, S, d] -> scaled keys and values, both [B, H, S, d/H]."""
        return self.split_heads(self.scale_keys(self.dense2(x), self.scale)), self.split_heads(self.dense3(x))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, attention_bias: Tensor, dropout_seed: Tensor) -> Tensor:
        """Return queries [B, H, Q, d/H], keys and values [B, H, K, d/H], attention_bias [B, 1, Q, K] -> [B, Q, d]."""
        if self.fused and not (self.training and self.probability_dropout.rate):
            heads = self.flash_attention(query, key, value, attention_bias)
        else:
            scores = self.add_penalty(
                self.cast(self.scores(query, key), self.softmax_dtype), self.cast(attention_bias, self.softmax_dtype)
            )
            probabilities = self.probability_dropout(self.softmax(scores), dropout_seed)
            heads = self.context(self.cast(probabilities, self.dtype), value)
        merged = self.merge_transpose(heads, (0, 2, 1, 3))
        return self.reshape(merged, (*merged.shape[:2], self.num_heads * self.head_size))

    def construct(self, query_input: Tensor, key_input: Tensor, attention_bias: Tensor, dropout_seed: Tensor) -> Tensor:
        """Queries from `query_input` [B, S, d], keys and values from `key_input` [B, S, d] -> [B, S, d]."""
        key, value = self.keys_values(key_input)
        return self.projection(self.attend(self.queries(query_input), key, value, attention_bias, dropout_seed))
