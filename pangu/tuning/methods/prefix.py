"""Learned keys and values in front of every layer's own (Li and Liang 2021, arXiv 2101.00190; P-tuning v2, 2110.07602).

They begin as the keys and values of words of the records, which the base already attends to.
"""

from pathlib import Path

import numpy as np
from mindspore import Tensor, nn, ops

from pangu import parameters
from pangu.config import ModelConfig
from pangu.model import PanguAlpha
from pangu.model.attention import Attention
from pangu.training.objectives.batch import Batch
from pangu.tuning.methods.insertion import freeze, stand_in, weight
from pangu.tuning.methods.method import Method
from pangu.tuning.soft_prompt import write_prefix
from pangu.tuning.tuning_settings import Settings


class PrefixAttention(nn.Cell):
    """Stands in the place of an `Attention`: every token sees n keys and values more. keys, values: fp32 [n, d]."""

    def __init__(self, base: Attention, keys: np.ndarray, values: np.ndarray) -> None:
        super().__init__(auto_prefix=False)
        self.base, self.count = base, len(keys)
        self.keys, self.values = weight(keys), weight(values)
        self.added = (("prefix_keys", self.keys), ("prefix_values", self.values))
        self.cast = ops.Cast()

    def heads(self, rows: Tensor, batch: int) -> Tensor:
        """Return rows [n, d] as [B, H, n, d/H] in the compute dtype."""
        one = self.base.split_heads(self.cast(rows, self.base.dtype).reshape((1, self.count, -1)))
        return ops.tile(one, (batch, 1, 1, 1))

    def construct(self, query_input: Tensor, key_input: Tensor, attention_bias: Tensor, dropout_seed: Tensor) -> Tensor:
        key, value = self.base.keys_values(key_input)
        batch, length = key_input.shape[:2]
        key = ops.concat((self.heads(self.keys * self.base.scale, batch), key), 2)
        value = ops.concat((self.heads(self.values, batch), value), 2)
        seen = ops.zeros((batch, 1, length, self.count), attention_bias.dtype)
        bias = ops.concat((seen, attention_bias), -1)
        query = self.base.queries(query_input)
        return self.base.projection(self.base.attend(query, key, value, bias, dropout_seed))


class Shifted(nn.Cell):
    """A batch whose tokens stand, and ask, `offset` positions later."""

    def __init__(self, objective: nn.Cell, offset: int) -> None:
        super().__init__(auto_prefix=False)
        self.objective, self.offset = objective, offset

    def construct(self, prepared: Tensor) -> Batch:
        ids, labels, weights, positions, query_positions, attention_bias = self.objective(prepared)
        return ids, labels, weights, positions + self.offset, query_positions + self.offset, attention_bias


class Prefix(Method):
    """The method. start: keys and values, fp32 [layers, 2, n, d]."""

    def insert(self, network: PanguAlpha, config: ModelConfig, settings: Settings) -> None:
        assert self.start is not None
        self.attentions: list[PrefixAttention] = []
        prefixes = parameters.layer_prefixes(config.num_blocks, config.query_layer)
        for prefix, (keys, values) in zip(prefixes, self.start, strict=True):

            def in_front(base: Attention, keys: np.ndarray = keys, values: np.ndarray = values) -> PrefixAttention:
                return PrefixAttention(base, keys, values)

            self.attentions.append(stand_in(network, f"{prefix}attention", in_front))
        freeze(network, lambda name: ".prefix_" in name)

    def batch(self, objective: nn.Cell) -> nn.Cell:
        return Shifted(objective, self.settings.position_offset) if self.settings.position_offset else objective

    def write(self, folder: Path, base: str) -> None:
        pairs = [(one.keys.asnumpy(), one.values.asnumpy()) for one in self.attentions]
        write_prefix(folder, self.config, np.array(pairs), base)
