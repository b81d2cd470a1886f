"""The network laid out for generation: a few tokens a call, earlier keys and values kept in caches.

What differs from `pangu.model`, which defines the network, and why:

* Token p of a row stands at position p and keeps its keys and values in slot p of that row's cache. Rows of different
  lengths need no alignment: padding to the right writes slots that nobody sees before their own token overwrites them.
* Every weight is stored [in, out] in the compute dtype, queries, keys and values as one matrix, the scores' scale
  folded into it, the output matrix as a transposed copy of the word table. With one row, MindSpore's CPU product with
  a transposed weight takes up to twice the time.
* The last layer computes queries and feed-forward for the one position whose logits are wanted; the other positions
  only leave their keys and values.
* The query layer's queries depend on the position alone, so their projection is a table made once. A token asks with
  the row of its own position, like the full forward.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from pangu.config import ModelConfig
from pangu.device import check_dtype
from pangu.formats.model_shape import ModelShape, check_shapes
from pangu.foundation.errors import UserError
from pangu.generation.decoding_batch import SLOTS, DecodingBatch, Network, RowTokens
from pangu.model.activation import ACTIVATIONS
from pangu.model.attention import MASKED_SCORE
from pangu.model.decoder import DTYPES
from pangu.model.layer_norm import LayerNorm

Weights = Mapping[str, np.ndarray]

# Tokens of each prompt a call: long enough for fast matrix products, short enough that a short prompt wastes little.
CHUNK = 64
assert SLOTS % CHUNK == 0  # so that padding of the last chunk has slots too


def constant(values: np.ndarray, dtype: ms.Type) -> Parameter:
    """A weight that is never trained, in `dtype`."""
    return Parameter(Tensor(np.ascontiguousarray(values)).astype(dtype), requires_grad=False)


class FixedLinear(nn.Cell):
    """x W + b: [N, in] -> [N, out]."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray, dtype: ms.Type) -> None:
        super().__init__()
        self.weight, self.bias = constant(weight, dtype), constant(bias, dtype)
        self.matmul, self.add = ops.MatMul(), ops.Add()

    def construct(self, x: Tensor) -> Tensor:
        return self.add(self.matmul(x, self.weight), self.bias)


def score_scale(config: ModelConfig) -> float:
    """Half of 1/√(d/H) for the queries and half for the keys, as in the network: fp16 scores do not overflow."""
    return 1 / math.sqrt(math.sqrt(config.head_size))


def scaled_projection(weights: Weights, name: str, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Matrix [in, out] and bias of one of the projections that are stored [out, in], times a factor."""
    return weights[f"{name}.weight"].T * np.float32(factor), weights[f"{name}.bias"] * np.float32(factor)


def fixed_layer_norm(weights: Weights, prefix: str, dtype: ms.Type) -> LayerNorm:
    """`{prefix}gamma` and `{prefix}beta`."""
    gamma, beta = weights[f"{prefix}gamma"], weights[f"{prefix}beta"]
    norm = LayerNorm(len(gamma), dtype)
    norm.gamma.set_data(Tensor(gamma, ms.float32))
    norm.beta.set_data(Tensor(beta, ms.float32))
    return norm


class CachedLayer(nn.Cell):
    """One layer. Rows are tokens: [N, d] with N = batch × tokens, the tokens of one sequence together.

    queries_apart: the layer's queries come from elsewhere (the query layer), so its first matrix makes keys and values
    only.
    """

    def __init__(self, config: ModelConfig, weights: Weights, prefix: str, queries_apart: bool) -> None:
        super().__init__()
        dtype = DTYPES[config.compute_dtype]
        self.heads, self.head_size, self.hidden = config.num_heads, config.head_size, config.hidden_size
        self.dtype = dtype
        self.softmax_dtype = ms.float16 if config.softmax_dtype == "fp16" else ms.float32
        scale = score_scale(config)
        sources = [
            scaled_projection(weights, f"{prefix}attention.{name}", factor)
            for name, factor in (("dense1", scale), ("dense2", scale), ("dense3", 1.0))
        ][1 if queries_apart else 0 :]
        matrices, biases = zip(*sources, strict=True)
        self.project_in = FixedLinear(np.concatenate(matrices, axis=1), np.concatenate(biases), dtype)

        def stored(name: str) -> FixedLinear:
            return FixedLinear(weights[f"{prefix}{name}.weight"], weights[f"{prefix}{name}.bias"], dtype)

        self.project_out = stored("attention.projection")
        self.mapping, self.projection = stored("output.mapping"), stored("output.projection")
        self.activation = ACTIVATIONS[config.activation]()
        self.layernorm1 = fixed_layer_norm(weights, f"{prefix}layernorm1.", dtype)
        self.layernorm2 = fixed_layer_norm(weights, f"{prefix}layernorm2.", dtype)
        self.split = ops.Split(1, len(sources))
        self.scores, self.context = ops.BatchMatMul(transpose_b=True), ops.BatchMatMul()
        self.softmax, self.transpose, self.cast = ops.Softmax(axis=-1), ops.Transpose(), ops.Cast()
        self.clear, self.add = ops.ScatterNdMul(), ops.ScatterNdAdd()

    def by_head(self, x: Tensor, tokens: int) -> Tensor:
        """[B·T, d] -> [B·H, T, d/H]."""
        if tokens > 1:
            x = self.transpose(x.reshape((-1, tokens, self.heads, self.head_size)), (0, 2, 1, 3))
        return x.reshape((-1, tokens, self.head_size))

    def by_token(self, x: Tensor, tokens: int) -> Tensor:
        """[B·H, T, d/H] -> [B·T, d]."""
        if tokens > 1:
            x = self.transpose(x.reshape((-1, self.heads, tokens, self.head_size)), (0, 2, 1, 3))
        return x.reshape((-1, self.hidden))

    def remember(self, cache: Parameter, x: Tensor, slots: Tensor, tokens: int) -> Tensor:
        """Writes [B·T, d] into the cache [B·H, C, d/H] in place, and returns it."""
        new = self.by_head(x, tokens)
        # MindSpore's ScatterNdUpdate copies the whole cache on a CPU; these two work in place. x·0 + new is new.
        return self.add(self.clear(cache, slots, ops.zeros_like(new)), slots, new)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, penalty: Tensor, tokens: int) -> Tensor:
        """Queries [B·T, d], the caches, penalty [B, 1, T, C] -> [B·T, d], the output projection included."""
        scores = self.scores(self.by_head(query, tokens), key)
        seen = self.cast(scores, self.softmax_dtype).reshape((-1, self.heads, tokens, key.shape[1])) + penalty
        probabilities = self.cast(self.softmax(seen), self.dtype).reshape(scores.shape)
        return self.project_out(self.by_token(self.context(probabilities, value), tokens))

    def feed_forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.projection(self.activation(self.mapping(self.layernorm2(hidden))))


class CachedLayers(nn.Cell):
    """All weights of a network, shared by the decoders of every batch and cache size. Released parameter names."""

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        super().__init__()
        check_shapes(ModelShape.of(config).shapes(), {name: weight.shape for name, weight in weights.items()})
        dtype = DTYPES[config.compute_dtype]
        words = weights["backbone.word_embedding.embedding_table"]
        self.words = constant(words, ms.float32)
        self.positions = constant(weights["backbone.position_embedding.embedding_table"], ms.float32)
        self.head = constant(words.T, dtype)
        self.final_norm = fixed_layer_norm(weights, "backbone.layernorm.", dtype)
        if config.query_layer:
            matrix, bias = scaled_projection(weights, "backbone.top_query_layer.attention.dense1", score_scale(config))
            rows = weights["backbone.top_query_embedding.embedding_table"]
            self.queries = constant(rows @ matrix + bias, dtype)
        prefixes = ModelShape.of(config).layer_prefixes()
        apart = [config.query_layer and prefix == prefixes[-1] for prefix in prefixes]
        self.layers = nn.CellList([CachedLayer(config, weights, *layer) for layer in zip(prefixes, apart, strict=True)])


class CachedDecoder(nn.Cell):
    """A graph for `batch` rows with caches of `slots` tokens a row.

    construct(ids int32 [B, T], start int32 [B], last int32 [B]) -> logits fp32 [B, V]: row b's tokens stand at
    positions start[b] .. start[b] + T - 1; their keys and values are kept; the logits are those of token last[b] of the
    call (there is only one to choose from where T is 1). Tokens beyond a row's end may hold any id.
    """

    def __init__(self, config: ModelConfig, weights: CachedLayers, batch: int, slots: int) -> None:
        super().__init__(auto_prefix=False)
        self.weights = weights
        self.layers, self.final_norm = weights.layers, weights.final_norm
        self.query_layer, self.norm_after_query = config.query_layer, config.final_norm == "after_query"
        self.last_position, self.hidden, self.dtype = config.seq_length - 1, config.hidden_size, weights.head.dtype
        shape = (batch * config.num_heads, slots, config.head_size)
        self.keys = self.caches("keys", config.num_layers, shape)
        self.values = self.caches("values", config.num_layers, shape)
        self.heads = config.num_heads
        self.all_slots = Tensor(np.arange(slots, dtype=np.int32))
        self.softmax_dtype = self.layers[0].softmax_dtype
        self.gather, self.matmul, self.cast, self.minimum = ops.Gather(), ops.MatMul(), ops.Cast(), ops.Minimum()

    def caches(self, name: str, count: int, shape: tuple[int, int, int]) -> ParameterTuple:
        return ParameterTuple(
            [Parameter(ops.zeros(shape, self.dtype), name=f"{name}.{i}", requires_grad=False) for i in range(count)]
        )

    def construct(self, ids: Tensor, start: Tensor, last: Tensor) -> Tensor:
        batch, tokens = ids.shape
        positions = start.reshape((batch, 1)) + Tensor(np.arange(tokens, dtype=np.int32))
        slots = self.slots(positions)
        rows = self.minimum(positions, self.last_position)  # of padding, which may stand beyond the context
        embedded = self.gather(self.weights.words, ids, 0) + self.gather(self.weights.positions, rows, 0)
        hidden = self.cast(embedded, self.dtype).reshape((-1, self.hidden))
        penalty = self.penalty(positions)
        count = len(self.layers)
        for i in range(count - 1):
            layer = self.layers[i]
            query, key, value = layer.split(layer.project_in(layer.layernorm1(hidden)))
            key = layer.remember(self.keys[i], key, slots, tokens)
            value = layer.remember(self.values[i], value, slots, tokens)
            hidden = layer.feed_forward(hidden + layer.attend(query, key, value, penalty, tokens))

        if self.query_layer and not self.norm_after_query:
            hidden = self.final_norm(hidden)
        layer = self.layers[count - 1]
        projected = layer.split(layer.project_in(layer.layernorm1(hidden)))
        key = layer.remember(self.keys[count - 1], projected[-2], slots, tokens)
        value = layer.remember(self.values[count - 1], projected[-1], slots, tokens)
        query, wanted = projected[0], positions
        if tokens > 1:
            chosen = Tensor(np.arange(batch, dtype=np.int32) * tokens) + last
            hidden, query = self.gather(hidden, chosen, 0), self.gather(query, chosen, 0)
            wanted = (start + last).reshape((batch, 1))
            penalty = self.penalty(wanted)
        if self.query_layer:
            query = self.gather(self.weights.queries, wanted.reshape((-1,)), 0)
        hidden = layer.feed_forward(hidden + layer.attend(query, key, value, penalty, 1))
        if self.norm_after_query or not self.query_layer:
            hidden = self.final_norm(hidden)
        return self.cast(self.matmul(hidden, self.weights.head), ms.float32)

    def slots(self, positions: Tensor) -> Tensor:
        """positions [B, T] -> where their keys and values go: (row·H + head, position), [B·H, T, 2]."""
        batch, tokens = positions.shape
        shape = (batch, self.heads, tokens)
        rows = Tensor(np.broadcast_to(np.arange(batch * self.heads, dtype=np.int32).reshape(batch, -1, 1), shape))
        columns = ops.broadcast_to(positions.reshape((batch, 1, tokens)), shape)
        return ops.stack((rows, columns), -1).reshape((-1, tokens, 2))

    def penalty(self, positions: Tensor) -> Tensor:
        """positions [B, T] -> [B, 1, T, C]: 0 for the slots up to a token's own, -10000 beyond."""
        beyond = self.cast(self.all_slots > positions.reshape((*positions.shape, 1)), self.softmax_dtype)
        return (beyond * MASKED_SCORE).reshape((positions.shape[0], 1, positions.shape[1], -1))


class CachedNetwork(Network):
    """Weights (released names) for compiled graphs, after `use_device`.

    Graphs have fixed shapes, so a batch compiles two: one that takes CHUNK tokens of every prompt a call, whatever the
    prompts' lengths, and one that takes a token.
    """

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        check_dtype(config)
        self.config, self.layers = config, CachedLayers(config, weights)

    def open(self, rows: int, slots: int) -> "CachedBatch":
        decoder = CachedDecoder(self.config, self.layers, rows, slots)
        return CachedBatch(decoder, rows, min(slots, self.config.seq_length))


class CachedBatch(DecodingBatch):
    """Rows of one decoder and how many tokens each has in its cache. Rows beyond the sequences in use are idle."""

    admits_any_time = False

    def __init__(self, decoder: CachedDecoder, rows: int, positions: int) -> None:
        """positions: that a row may reach, at most the decoder's slots and the context."""
        self.decoder, self.rows, self.positions = decoder, rows, positions
        self.lengths = np.zeros(rows, np.int32)

    def release(self, row: int) -> None:
        self.lengths[row] = 0

    def read(self, parts: Sequence[RowTokens]) -> list[np.ndarray]:
        """All parts are prompts of empty rows, or each is one token."""
        if any(part != RowTokens(part.row, part.ids) for part in parts):
            raise UserError("positions, adapters and more than one token's logits are for the compiled engine")
        if any(len(part.ids) > 1 or not self.lengths[part.row] for part in parts):
            prompts: list[Sequence[int]] = [[0]] * (1 + max(part.row for part in parts))
            for part in parts:
                prompts[part.row] = part.ids
            logits = self.prefill(prompts)
        else:
            newest = np.zeros(self.rows, np.int32)
            for part in parts:
                newest[part.row] = part.ids[0]
            logits = self.step(newest)
        return [logits[part.row : part.row + 1] for part in parts]

    def call(
        self, phase: Literal["prefill", "increment"], ids: np.ndarray, start: np.ndarray, last: np.ndarray
    ) -> np.ndarray:
        """Each of the two shapes has a phase of its own.

        MindSpore runs a Cell that it has compiled under one of these two names without asking again whether it must be
        compiled: that would take longer than the smaller networks themselves.
        """
        self.decoder.phase = phase
        return self.decoder(Tensor(ids), Tensor(start), Tensor(last)).asnumpy()

    def prefill(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        """Forget all, read up to `rows` sequences of 1..positions ids -> logits [sequences, V] at their ends."""
        self.lengths[:] = 1
        self.lengths[: len(sequences)] = [len(sequence) for sequence in sequences]
        longest = int(self.lengths.max())
        ids = np.zeros((self.rows, -(-longest // CHUNK) * CHUNK), np.int32)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = sequence
        logits = []
        for start in range(0, longest, CHUNK):
            last = np.clip(self.lengths - 1 - start, 0, CHUNK - 1)
            starts = np.full(self.rows, start, np.int32)
            chunk = np.ascontiguousarray(ids[:, start : start + CHUNK])
            logits.append(self.call("prefill", chunk, starts, last))
        return np.stack([logits[(len(sequence) - 1) // CHUNK][row] for row, sequence in enumerate(sequences)])

    def step(self, ids: np.ndarray) -> np.ndarray:
        """The next token of every row, int32 [rows] -> logits [rows, V]."""
        # A sequence that has ended goes on here unheeded, at the last position when it reaches it.
        starts = np.minimum(self.lengths, self.positions - 1)
        logits = self.call("increment", ids.reshape(-1, 1), starts, np.zeros_like(starts))
        self.lengths = starts + 1
        return logits
