"""PanGu-α, whole: embeddings, blocks, the final norm, the query layer, and logits by the word table.

h = words[ids] + positions[pos]           + targets[asked] where `target_in_trunk`
h = block_i(h)                       for every layer but the query layer
h = final_norm(h)                    `final_norm: before_query`
h = query_layer(h, queries[asked])   `asked` is pos, unless an objective asks for other positions
h = final_norm(h)                    `final_norm: after_query`
logits = h · wordsᵀ                  tied, no bias
"""

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from pangu.config import ModelConfig
from pangu.model import initializers
from pangu.model.block import Block, ExpertBlock
from pangu.model.dropout import Dropout
from pangu.model.embedding import Embedding
from pangu.model.layer_norm import LayerNorm
from pangu.model.query_layer import QueryLayer

DTYPES = {"fp32": ms.float32, "fp16": ms.float16, "bf16": ms.bfloat16}


def first_table(config: ModelConfig) -> Tensor:
    """Return a table of experts for who has no better one: ids in turn, each domain in its own group of experts."""
    assert config.experts
    rows, group = config.experts.table_rows, config.experts.count // config.experts.table_rows
    table = np.arange(config.vocab_size) % group + group * np.arange(rows).reshape(-1, 1)
    return Tensor(table.astype(np.float32))


class Decoder(nn.Cell):
    """Everything below the logits -> hidden [B, S, d].

    ids, positions, query_positions: int32 [B, S]; row r of the query table asks for the token at position r + 1.
    attention_bias: [B, 1, S, S], added to the scores.
    dropout_seed: int32 scalar, used in training mode where the configuration has dropout.
    domains: int32 [B, S], where experts are chosen by domain.

    penalty_weights: fp32 [B], where experts' penalties are only to reach the gradient (`AttachedPenalty`).

    With experts and without these weights -> (hidden, their layers' penalties together [B], what is told of each layer
    [layers, B, 4 + E]).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dtype = DTYPES[config.compute_dtype]
        hidden = config.hidden_size
        position_table = initializers.position_table(config)
        self.word_embedding = Embedding(config.vocab_size, hidden, initializers.word_table(config))
        self.position_embedding = Embedding(config.seq_length, hidden, position_table)
        self.embedding_add = ops.Add()
        self.embedding_dropout = Dropout(config.dropout_rate)
        shape = config.expert_shape
        with_experts = shape.layers if shape else ()
        kinds = [ExpertBlock if i in with_experts else Block for i in range(config.num_blocks)]
        self.blocks = nn.CellList([kind(config, dtype) for kind in kinds])
        self.has_experts, self.by_domain, self.table_rows = bool(with_experts), False, 0
        if config.experts:
            self.by_domain, self.table_rows = config.experts.by_domain, config.experts.table_rows
            self.penalty_add = ops.Add()
        if self.table_rows:
            # fp32 as every weight: whole numbers up to 2²⁴ are exact
            self.expert_table = Parameter(first_table(config), requires_grad=False)
            self.expert_gather = ops.Gather()
        self.layernorm = LayerNorm(hidden, dtype)
        self.query_layer, self.final_norm, self.dtype = config.query_layer, config.final_norm, dtype
        if config.query_layer:
            self.top_query_embedding = Embedding(config.seq_length, hidden, position_table)
            self.top_query_layer = QueryLayer(config, dtype)
        self.target_in_trunk = config.target_in_trunk
        if config.target_in_trunk:
            # Zero at first: a network that goes on with it begins as it was.
            self.target_embedding = Embedding(config.seq_length, hidden, "zeros")
            self.target_add = ops.Add()
        self.cast, self.reshape = ops.Cast(), ops.Reshape()

    def embed(self, ids: Tensor, positions: Tensor, dropout_seed: Tensor) -> Tensor:
        """Return [B, S] -> [B, S, d] in the compute dtype."""
        hidden = self.embedding_add(self.word_embedding(ids), self.position_embedding(positions))
        return self.cast(self.embedding_dropout(hidden, dropout_seed), self.dtype)

    def fixed_choice(self, ids: Tensor, domains: Tensor | None) -> Tensor:
        """Return the expert of each token, int32 [B, S]; anything where a router decides."""
        if self.table_rows == 0:
            return domains if self.by_domain else ids
        place = ids
        if self.table_rows > 1:
            place = domains * self.expert_table.shape[1] + ids
        return self.cast(self.expert_gather(self.reshape(self.expert_table, (-1,)), place, 0), ms.int32)

    def construct(
        self,
        ids: Tensor,
        positions: Tensor,
        query_positions: Tensor,
        attention_bias: Tensor,
        dropout_seed: Tensor,
        domains: Tensor | None = None,
        penalty_weights: Tensor | None = None,
    ) -> Tensor:
        hidden = self.embed(ids, positions, dropout_seed)
        if self.target_in_trunk:
            hidden = self.target_add(hidden, self.cast(self.target_embedding(query_positions), self.dtype))
        choice = self.fixed_choice(ids, domains) if self.has_experts else None
        penalties = None
        told: tuple[Tensor, ...] = ()
        for block in self.blocks:
            if not block.has_experts:
                hidden = block(hidden, attention_bias, dropout_seed)
            elif penalty_weights is not None:
                hidden = block(hidden, attention_bias, dropout_seed, choice, penalty_weights)
            else:
                hidden, penalty, one = block(hidden, attention_bias, dropout_seed, choice)
                penalties = penalty if penalties is None else self.penalty_add(penalties, penalty)
                told = (*told, one)
        hidden = self.end(hidden, query_positions, attention_bias, dropout_seed)
        if self.has_experts and penalty_weights is None:
            return hidden, penalties, ops.stack(told)
        return hidden

    def end(self, hidden: Tensor, query_positions: Tensor, attention_bias: Tensor, dropout_seed: Tensor) -> Tensor:
        """Return what the query layer and the final norm make of the blocks' result."""
        if self.final_norm == "before_query":
            hidden = self.layernorm(hidden)
        if self.query_layer:
            query = self.cast(self.top_query_embedding(query_positions), self.dtype)
            hidden = self.top_query_layer(hidden, query, attention_bias, dropout_seed)
        if self.final_norm == "after_query":
            hidden = self.layernorm(hidden)
        return hidden


class PanguAlpha(nn.Cell):
    """The network with its head: what `Decoder` takes -> logits fp32 [B, S, V]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.dtype = DTYPES[config.compute_dtype]
        self.backbone = Decoder(config)
        self.output_table = self.backbone.word_embedding.embedding_table
        self.head = ops.MatMul(transpose_b=True)
        self.cast = ops.Cast()
        self.reshape = ops.Reshape()
        dropouts = (cell for _, cell in self.cells_and_names() if isinstance(cell, Dropout))
        for site, dropout in enumerate(dropouts):
            dropout.site = site

    def logits(self, hidden: Tensor) -> Tensor:
        """Return hidden [..., d] -> logits fp32 [..., V]."""
        table = self.cast(self.output_table, self.dtype)
        rows = self.head(self.reshape(hidden, (-1, hidden.shape[-1])), table)
        return self.reshape(self.cast(rows, ms.float32), (*hidden.shape[:-1], -1))

    def with_routing(
        self,
        ids: Tensor,
        positions: Tensor,
        query_positions: Tensor,
        attention_bias: Tensor,
        dropout_seed: Tensor,
        domains: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logits of a network with experts, and what `Decoder` returns of these."""
        hidden, penalty, told = self.backbone(ids, positions, query_positions, attention_bias, dropout_seed, domains)
        return self.logits(hidden), penalty, told

    def construct(
        self,
        ids: Tensor,
        positions: Tensor,
        query_positions: Tensor,
        attention_bias: Tensor,
        dropout_seed: Tensor,
        domains: Tensor | None = None,
        penalty_weights: Tensor | None = None,
    ) -> Tensor:
        result = self.backbone(ids, positions, query_positions, attention_bias, dropout_seed, domains, penalty_weights)
        return self.logits(result[0] if self.backbone.has_experts and penalty_weights is None else result)
