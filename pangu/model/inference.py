"""Decoding: the parts of the network with caches of earlier keys and values, a few tokens a call.

It is the network of `decoder`, made of the same `Linear`, `LayerNorm` and `FeedForward` from the same configuration.
What only decoding does:

* A row is read in steps. Step t keeps its keys and values in slot t of the row's cache; the position of its token, and
  the position that its query asks for, are given with it. Rows of different lengths need no alignment: padding to the
  right writes slots that nobody sees before their own token overwrites them.
* Every matrix is stored [in, out] in the compute dtype, queries, keys and values as one, the scores' scale folded into
  it, the output matrix as a transposed copy of the word table. With one row, MindSpore's CPU product with a transposed
  weight takes up to twice the time.
* The last layer computes queries and feed-forward for the one step whose logits are wanted; the others only leave their
  keys and values.
* The query layer's queries depend on the position alone, so their projection is a table made once.
"""

from collections.abc import Mapping

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from pangu import parameters
from pangu.config import ModelConfig
from pangu.foundation.errors import UserError
from pangu.model.attention import MASKED_SCORE, score_scale
from pangu.model.attention_pattern import arguments_of, seen_places
from pangu.model.decoder import DTYPES
from pangu.model.experts import ExpertFeedForward, new_expert_feed_forward
from pangu.model.feed_forward import FeedForward
from pangu.model.layer_norm import LayerNorm
from pangu.model.linear import Linear, constant

# By released name, fp32; a mapping may also make them when they are asked for, e.g. out of quantised ones.
Weights = Mapping[str, np.ndarray]


def fixed_linear(weights: Weights, name: str, dtype: ms.Type) -> Linear:
    """Return a layer whose matrix is stored [in, out]."""
    return Linear.fixed(weights[f"{name}.weight"], weights[f"{name}.bias"], dtype)


def scaled_projection(weights: Weights, name: str, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Return matrix [in, out] and bias of one of the projections that are stored [out, in], times a factor."""
    return weights[f"{name}.weight"].T * np.float32(factor), weights[f"{name}.bias"] * np.float32(factor)


def fixed_layer_norm(weights: Weights, prefix: str, dtype: ms.Type) -> LayerNorm:
    """Return the norm of `{prefix}gamma` and `{prefix}beta`."""
    gamma, beta = weights[f"{prefix}gamma"], weights[f"{prefix}beta"]
    norm = LayerNorm(len(gamma), dtype)
    norm.gamma.set_data(Tensor(gamma, ms.float32))
    norm.beta.set_data(Tensor(beta, ms.float32))
    return norm


def fixed_experts(config: ModelConfig, weights: Weights, prefix: str, dtype: ms.Type) -> ExpertFeedForward:
    """Return the feed-forward part of a layer with experts; nobody is dropped, for it is not in training."""
    layer = new_expert_feed_forward(config, dtype)
    for name, parameter in layer.parameters_dict().items():
        parameter.set_data(
            Tensor(np.ascontiguousarray(weights[f"{prefix}{parameters.FEED_FORWARD}{name}"], np.float32))
        )
        parameter.requires_grad = False
    return layer


class CachedAttention(nn.Cell):
    """Attention over a cache. Rows are tokens: [N, d] with N = batch × tokens, the tokens of one sequence together.

    queries_apart: the queries come from elsewhere (the query layer), so the first matrix makes keys and values only.
    """

    def __init__(self, config: ModelConfig, weights: Weights, prefix: str, queries_apart: bool) -> None:
        super().__init__()
        self.heads, self.head_size, self.hidden = config.num_heads, config.head_size, config.hidden_size
        self.dtype = dtype = DTYPES[config.compute_dtype]
        self.softmax_dtype = ms.float16 if config.softmax_dtype == "fp16" else ms.float32
        scale = score_scale(config)
        sources = [
            scaled_projection(weights, f"{prefix}{name}", factor)
            for name, factor in (("dense1", scale), ("dense2", scale), ("dense3", 1.0))
        ][1 if queries_apart else 0 :]
        matrices, biases = zip(*sources, strict=True)
        self.project_in = Linear.fixed(np.concatenate(matrices, axis=1), np.concatenate(biases), dtype)
        self.projection = fixed_linear(weights, f"{prefix}projection", dtype)
        self.split = ops.Split(1, len(sources))
        self.scores, self.context = ops.BatchMatMul(transpose_b=True), ops.BatchMatMul()
        self.softmax, self.transpose, self.cast = ops.Softmax(axis=-1), ops.Transpose(), ops.Cast()
        self.clear, self.add = ops.ScatterNdMul(), ops.ScatterNdAdd()

    def by_head(self, x: Tensor, tokens: int) -> Tensor:
        """Return [B·T, d] -> [B·H, T, d/H]."""
        if tokens > 1:
            x = self.transpose(x.reshape((-1, tokens, self.heads, self.head_size)), (0, 2, 1, 3))
        return x.reshape((-1, tokens, self.head_size))

    def by_token(self, x: Tensor, tokens: int) -> Tensor:
        """Return [B·H, T, d/H] -> [B·T, d]."""
        if tokens > 1:
            x = self.transpose(x.reshape((-1, self.heads, tokens, self.head_size)), (0, 2, 1, 3))
        return x.reshape((-1, self.hidden))

    def keep(self, cache: Parameter, x: Tensor, slots: Tensor, tokens: int) -> Tensor:
        """Write [B·T, d] into the cache [B·H, C, d/H] in place, and return it."""
        new = self.by_head(x, tokens)
        # MindSpore's ScatterNdUpdate copies the whole cache on a CPU; these two work in place. x·0 + new is new.
        return self.add(self.clear(cache, slots, ops.zeros_like(new)), slots, new)

    def construct(self, query: Tensor, key: Tensor, value: Tensor, attention_bias: Tensor, tokens: int) -> Tensor:
        """Queries [B·T, d], the caches, bias [B, 1, T, C] -> [B·T, d]."""
        scores = self.scores(self.by_head(query, tokens), key)
        seen = self.cast(scores, self.softmax_dtype).reshape((-1, self.heads, tokens, key.shape[1])) + attention_bias
        probabilities = self.cast(self.softmax(seen), self.dtype).reshape(scores.shape)
        return self.projection(self.by_token(self.context(probabilities, value), tokens))


class CachedLayer(nn.Cell):
    """A `Block`, or the query layer, over a cache."""

    def __init__(self, config: ModelConfig, weights: Weights, prefix: str, queries_apart: bool) -> None:
        super().__init__()
        dtype = DTYPES[config.compute_dtype]
        self.layernorm1 = fixed_layer_norm(weights, f"{prefix}layernorm1.", dtype)
        self.layernorm2 = fixed_layer_norm(weights, f"{prefix}layernorm2.", dtype)
        self.attention = CachedAttention(config, weights, f"{prefix}attention.", queries_apart)
        self.has_experts = f"{prefix}{next(iter(parameters.EXPERTS))}" in weights
        if self.has_experts:
            self.output = fixed_experts(config, weights, prefix, dtype)
            return
        mapping = fixed_linear(weights, f"{prefix}output.mapping", dtype)
        self.output = FeedForward(
            mapping, fixed_linear(weights, f"{prefix}output.projection", dtype), config.activation
        )

    def feed_forward(self, hidden: Tensor, choice: Tensor) -> Tensor:
        """Return the second half of the layer. choice: int32 [N], the expert of each token where that is fixed."""
        if self.has_experts:
            y, _, _ = self.output(self.layernorm2(hidden).reshape((1, *hidden.shape)), choice.reshape((1, -1)))
            return hidden + y.reshape(hidden.shape)
        return hidden + self.output(self.layernorm2(hidden))


class DecodingWeights(nn.Cell):
    """All weights of a network, shared by the decoders of every batch and cache size."""

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        super().__init__()
        parameters.check_weights(config, weights)
        dtype = DTYPES[config.compute_dtype]
        words = weights[parameters.WORD_TABLE]
        self.words = constant(words, ms.float32)
        self.positions = constant(weights[parameters.POSITION_TABLE], ms.float32)
        self.head = constant(words.T, dtype)
        self.final_norm = fixed_layer_norm(weights, parameters.FINAL_NORM, dtype)
        if config.query_layer:
            name = f"{parameters.QUERY_LAYER}attention.dense1"
            matrix, bias = scaled_projection(weights, name, score_scale(config))
            self.queries = constant(weights[parameters.QUERY_TABLE] @ matrix + bias, dtype)
        if config.experts and config.experts.by_domain:
            raise UserError("experts by domain: MindSpore's engine mixes none; say a domain (generate --domain NAME)")
        if config.experts and config.experts.table_rows:
            self.experts = constant(weights[parameters.EXPERT_TABLE].reshape(-1), ms.int32)
        if config.target_in_trunk:
            self.targets = constant(weights[parameters.TARGET_TABLE], dtype)
        prefixes = parameters.layer_prefixes(config.num_blocks, config.query_layer)
        self.layers = nn.CellList(
            [CachedLayer(config, weights, prefix, prefix == parameters.QUERY_LAYER) for prefix in prefixes]
        )


class CachedDecoder(nn.Cell):
    """A graph for `batch` rows with caches of `slots` steps a row.

    construct(ids [B, T], start [B], last [B], positions [B, T], query_positions [B, T]), all int32 -> logits fp32
    [B, V]: row b reads steps start[b] .. start[b] + T - 1, whose keys and values are kept. Each step sees the steps up
    to itself. The logits are those of step number last[b] of the call. Tokens beyond a row's end may hold any id.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: DecodingWeights,
        batch: int,
        slots: int,
        prefix: np.ndarray | None = None,
    ) -> None:
        """prefix: unscaled keys and values in front of every row's own, fp32 [layers, 2, n, d]."""
        super().__init__(auto_prefix=False)
        self.first = 0 if prefix is None else prefix.shape[2]  # the slot of step 0
        slots = slots + self.first
        self.weights = weights
        self.layers, self.final_norm = weights.layers, weights.final_norm
        self.target_in_trunk = config.target_in_trunk
        self.has_table = bool(config.experts and config.experts.table_rows)
        self.pattern, self.span, self.summary = arguments_of(config.attention)
        self.query_layer, self.norm_after_query = config.query_layer, config.final_norm == "after_query"
        self.hidden, self.dtype = config.hidden_size, weights.head.dtype
        shape = (batch * config.num_heads, slots, config.head_size)
        self.keys = self.caches("keys", config.num_layers, shape)
        self.values = self.caches("values", config.num_layers, shape)
        if prefix is not None:
            self.begin_with(config, prefix, batch)
        self.heads = config.num_heads
        self.all_slots = Tensor(np.arange(slots, dtype=np.int32))
        self.softmax_dtype = self.layers[0].attention.softmax_dtype
        self.gather, self.matmul, self.cast = ops.Gather(), ops.MatMul(), ops.Cast()

    def caches(self, name: str, count: int, shape: tuple[int, int, int]) -> ParameterTuple:
        return ParameterTuple(
            [Parameter(ops.zeros(shape, self.dtype), name=f"{name}.{i}", requires_grad=False) for i in range(count)]
        )

    def begin_with(self, config: ModelConfig, prefix: np.ndarray, batch: int) -> None:
        """Put keys and values into the first slots of every row, where they stay."""
        split = (config.num_layers, 2, self.first, config.num_heads, config.head_size)
        heads = prefix.reshape(split).transpose(1, 0, 3, 2, 4)  # [2, layers, H, n, d/H]
        for caches, part, factor in ((self.keys, heads[0], score_scale(config)), (self.values, heads[1], 1.0)):
            for cache, values in zip(caches, part, strict=True):
                filled = np.zeros(cache.shape, np.float32)
                filled[:, : self.first] = np.tile(values * factor, (batch, 1, 1))
                cache.set_data(Tensor(filled).astype(self.dtype))

    def construct(self, ids: Tensor, start: Tensor, last: Tensor, positions: Tensor, query_positions: Tensor) -> Tensor:
        batch, tokens = ids.shape
        if self.first:
            start = start + self.first
        steps = start.reshape((batch, 1)) + Tensor(np.arange(tokens, dtype=np.int32))
        slots = self.slots(steps)
        embedded = self.gather(self.weights.words, ids, 0) + self.gather(self.weights.positions, positions, 0)
        hidden = self.cast(embedded, self.dtype).reshape((-1, self.hidden))
        if self.target_in_trunk:
            hidden = hidden + self.gather(self.weights.targets, query_positions.reshape((-1,)), 0)
        choice = ids.reshape((-1,))
        if self.has_table:
            choice = self.gather(self.weights.experts, choice, 0)
        attention_bias = self.attention_bias(steps)
        count = len(self.layers)
        for i in range(count - 1):
            layer = self.layers[i]
            query, key, value = layer.attention.split(layer.attention.project_in(layer.layernorm1(hidden)))
            key = layer.attention.keep(self.keys[i], key, slots, tokens)
            value = layer.attention.keep(self.values[i], value, slots, tokens)
            hidden = layer.feed_forward(hidden + layer.attention(query, key, value, attention_bias, tokens), choice)

        if self.query_layer and not self.norm_after_query:
            hidden = self.final_norm(hidden)
        layer = self.layers[count - 1]
        projected = layer.attention.split(layer.attention.project_in(layer.layernorm1(hidden)))
        key = layer.attention.keep(self.keys[count - 1], projected[-2], slots, tokens)
        value = layer.attention.keep(self.values[count - 1], projected[-1], slots, tokens)
        query, asked = projected[0], query_positions.reshape((-1,))
        if tokens > 1:
            chosen = Tensor(np.arange(batch, dtype=np.int32) * tokens) + last
            hidden, query = self.gather(hidden, chosen, 0), self.gather(query, chosen, 0)
            asked, choice = self.gather(asked, chosen, 0), self.gather(choice, chosen, 0)
            attention_bias = self.attention_bias((start + last).reshape((batch, 1)))
        if self.query_layer:
            query = self.gather(self.weights.queries, asked, 0)
        hidden = layer.feed_forward(hidden + layer.attention(query, key, value, attention_bias, 1), choice)
        if self.norm_after_query or not self.query_layer:
            hidden = self.final_norm(hidden)
        return self.cast(self.matmul(hidden, self.weights.head), ms.float32)

    def slots(self, steps: Tensor) -> Tensor:
        """Return steps [B, T] -> where their keys and values go: (row·H + head, step), [B·H, T, 2]."""
        batch, tokens = steps.shape
        shape = (batch, self.heads, tokens)
        rows = Tensor(np.broadcast_to(np.arange(batch * self.heads, dtype=np.int32).reshape(batch, -1, 1), shape))
        columns = ops.broadcast_to(steps.reshape((batch, 1, tokens)), shape)
        return ops.stack((rows, columns), -1).reshape((-1, tokens, 2))

    def attention_bias(self, steps: Tensor) -> Tensor:
        """Return steps [B, T] -> [B, 1, T, C]: 0 for the slots up to a step's own that its pattern sees, else
        -10000."""
        asking = steps.reshape((*steps.shape, 1))
        hidden = self.all_slots > asking
        if self.pattern != "full":
            seen = seen_places(asking, self.all_slots, self.pattern, self.span, self.summary)
            hidden = hidden.logical_or(seen.logical_not())
        return (self.cast(hidden, self.softmax_dtype) * MASKED_SCORE).reshape((steps.shape[0], 1, steps.shape[1], -1))
