"""The network and its gradients, written out phase by phase.

Between forward and backward a layer keeps its input, queries, keys, values, the attention's context and sums, the
middle and the argument of the activation; everything else is computed again. Logits exist for some tokens at a time.

h = words[ids] + positions[pos], layers, final norm, query layer: as `pangu.model.decoder` has it.
"""

import ctypes
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pangu import parameters
from pangu.config import ModelConfig
from pangu.quantization.quantized_file import is_stored_turned
from pangu.training.compiled import layer_kernels as kernels
from pangu.training.compiled.attention_kernels import BLOCK, attend, attend_backward, find_extents
from pangu.training.compiled.crew import Crew
from pangu.training.compiled.loss_kernels import negative_log_likelihood
from pangu.training.compiled.matrix_product import AS_IT_IS, TURNED, sgemm_address
from pangu.training.compiled.row_kernels import FAST_GELU, GELU_ERF, GELU_TANH
from pangu.training.compiled.update_kernels import scatter_add

ACTIVATIONS = {"gelu_tanh": GELU_TANH, "gelu_erf": GELU_ERF, "fast_gelu": FAST_GELU}
TOKENS = 256  # of a task, at most
LOGITS = 1 << 24  # that exist at a time, about
COLUMNS = 64  # of a task that adds rows to a table
FINAL_NORM = ("backbone.layernorm.gamma", "backbone.layernorm.beta")
_f32 = np.float32
_PRODUCT = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_char,
    ctypes.c_char,
    *[ctypes.c_int64] * 3,
    ctypes.c_float,
    *[ctypes.c_int64] * 4,
    ctypes.c_float,
    *[ctypes.c_int64] * 2,
)


@dataclass(frozen=True)
class Sites:
    """Numbers of the network's dropouts (`pangu.model.dropout`): of the embedding, and of each layer's probabilities,
    attention and output."""

    embedding: int
    layers: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Rows:
    """A batch as an objective makes it: integers and weights of every token, and the attention bias [B, S, S]."""

    ids: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    positions: np.ndarray
    query_positions: np.ndarray
    bias: np.ndarray

    @classmethod
    def of(cls, batch: tuple[np.ndarray, ...]) -> "Rows":
        """Return them of arrays with the shapes of `objectives.batch.Batch`."""
        *rows, bias = (np.ascontiguousarray(array) for array in batch)
        ids, labels, weights, positions, asked = (array.reshape(-1) for array in rows)
        return cls(ids, labels, weights, positions, asked, bias.reshape(bias.shape[0], *bias.shape[2:]))


@dataclass(frozen=True)
class LowRank:
    """A matrix that is trained as W + scale · B A (LoRA, Hu et al. 2021): the names of A [rank, in], B [out, rank]."""

    first: str
    second: str
    scale: float


class Dropping:
    """Dropout of one pass: what kernels are told."""

    def __init__(self, rate: float, sites: Sites, seed: int) -> None:
        self.sites, self.seed = sites, seed
        self.threshold = round(rate * (1 << 24))
        self.scale = _f32(1 / (1 - rate))

    def start(self, site: int) -> int:
        """Return what is added to the index of an element."""
        return self.seed * 1_000_003 + site * 7_919

    def at(self, site: int) -> tuple[int, np.float32, int]:
        return self.threshold, self.scale, self.start(site)


class Kept:
    """Arrays of one layer between forward and backward, or of all layers in turn where they are computed again."""

    def __init__(self, tokens: int, hidden: int, inner: int, sums: tuple[int, int, int]) -> None:
        self.query, self.key, self.value, self.context, self.middle = (
            np.empty((tokens, hidden), np.float32) for _ in range(5)
        )
        self.inner = np.empty((tokens, inner), np.float32)
        self.first, self.second = np.empty((tokens, 2), np.float32), np.empty((tokens, 2), np.float32)
        self.sums = np.empty(sums, np.float32)


class Room:
    """All arrays of a pass over [batch, size] tokens."""

    def __init__(self, config: ModelConfig, batch: int, size: int, threads: int, recompute: bool) -> None:
        hidden, inner = config.hidden_size, config.ffn_hidden_size
        self.batch, self.size, self.tokens = batch, size, batch * size
        tokens = self.tokens
        rows = min(TOKENS, -(-tokens // threads))
        edges = [*range(0, tokens, rows), tokens]
        self.chunks = list(itertools.pairwise(edges))

        def fresh(*shape: int) -> np.ndarray:
            return np.empty(shape, np.float32)

        layers = config.num_layers
        own = Kept(tokens, hidden, inner, (batch, config.num_heads, size)) if recompute else None
        self.kept = [own or Kept(tokens, hidden, inner, (batch, config.num_heads, size)) for _ in range(layers)]
        # the inputs of the layers and of the final norm, and the result
        self.hidden = [fresh(tokens, hidden) for _ in range(layers + 2)]
        self.end_statistics = fresh(tokens, 2)
        self.normed, self.normed_again, self.active = fresh(tokens, hidden), fresh(tokens, hidden), fresh(tokens, inner)
        self.dhidden = [fresh(tokens, hidden) for _ in range(2)]
        self.dmiddle, self.dcontext, self.dquery, self.dkey, self.dvalue = (fresh(tokens, hidden) for _ in range(5))
        self.dropped = [fresh(tokens, hidden) for _ in range(2 if config.dropout_rate else 0)]
        self.partial = fresh(len(self.chunks), inner + len(kernels.VECTORS) * hidden)
        self.end_partial = fresh(len(self.chunks), 2 * hidden)
        self.losses = fresh(tokens)
        self.scores = fresh(threads, 2 * BLOCK * size)
        self.extents = np.zeros((batch, -(-size // BLOCK), 2), np.int64)
        self.logit_rows = min(tokens, max(TOKENS, LOGITS // config.vocab_size // TOKENS * TOKENS))
        self.logits = fresh(self.logit_rows, config.vocab_size)


class ForwardBackward:
    """Loss and gradients of a network.

    weights: by released name, fp32; they are read where they are, and may be replaced between passes (`take`). threads:
    of the crew. sites: of dropout. trained: names of those that have gradients; None: all. low_rank: by the name of a
    matrix; the passes read a copy of it, with its low-rank product (`merge`).
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, np.ndarray],
        threads: int,
        sites: Sites,
        recompute: bool = False,
        trained: Collection[str] | None = None,
        low_rank: Mapping[str, LowRank] | None = None,
    ) -> None:
        self.config, self.sites, self.recompute = config, sites, recompute
        self.low_rank = low_rank or {}
        self.merged = {name: np.empty_like(weights[name]) for name in self.low_rank}
        self.take(weights)
        self.crew = Crew(threads)
        address = sgemm_address()
        assert address is not None  # `execution_of` has asked
        self.sgemm, self.product_function = address, _PRODUCT(address)
        self.prefixes = parameters.layer_prefixes(config.num_blocks, config.query_layer)
        self.factor = _f32(1 / np.sqrt(config.head_size))
        self.activation = ACTIVATIONS[config.activation]
        self.gradients = {name: np.zeros_like(weights[name]) for name in (weights if trained is None else trained)}
        self.room: Room | None = None
        self.adds = False

    def take(self, weights: Mapping[str, np.ndarray]) -> None:
        """Read these weights from now on."""
        self.stored, self.weights = weights, {**weights, **self.merged}

    def merge(self) -> None:
        """Add the low-rank products to their matrices: after every change, before the next pass."""
        self.crew.run("matrices/merge", self.merge_one, [*self.low_rank.items()])

    def merge_one(self, thread: int, name: str, one: LowRank) -> None:
        whole, first, second = self.merged[name], self.stored[one.first], self.stored[one.second]
        whole[:] = self.stored[name]
        if is_stored_turned(name):
            self.product(thread, first, TURNED, second, TURNED, whole, 1.0, one.scale)
        else:
            self.product(thread, second, AS_IT_IS, first, AS_IT_IS, whole, 1.0, one.scale)

    def room_for(self, rows: Rows) -> Room:
        batch, size, _ = rows.bias.shape
        if self.room is None or (self.room.batch, self.room.size) != (batch, size):
            self.room = None  # so that there are never two
            self.room = Room(self.config, batch, size, self.crew.threads, self.recompute)
        return self.room

    def loss(self, rows: Rows) -> float:
        """Return the weighted sum of the negative log-likelihoods, without dropout."""
        room = self.forward(rows, Dropping(0.0, self.sites, 0))
        return self.head(rows, room, 1.0, differentiates=False)

    def loss_and_gradients(self, rows: Rows, factor: float, seed: int, adds: bool) -> float:
        """Return factor times the loss in training; its gradients are in `gradients`, or are added to them."""
        self.adds = adds
        dropping = Dropping(self.config.dropout_rate, self.sites, seed)
        room = self.forward(rows, dropping)
        loss = self.head(rows, room, factor, differentiates=True)
        self.backward(rows, room, dropping)
        return loss

    # Phases

    def by_chunk(self, name: str, room: Room, kernel: Callable, *arguments: object) -> None:
        """Call kernel(begin, end, ...) for all tokens."""
        self.crew.run(name, lambda thread, begin, end: kernel(begin, end, *arguments), room.chunks)

    def by_numbered_chunk(self, name: str, room: Room, kernel: Callable, *arguments: object) -> None:
        """Call kernel(begin, end, chunk, ...) for all tokens."""
        tasks = [(begin, end, number) for number, (begin, end) in enumerate(room.chunks)]
        self.crew.run(name, lambda thread, begin, end, number: kernel(begin, end, number, *arguments), tasks)

    def by_head(self, name: str, room: Room, kernel: Callable, rows: Rows, kept: Kept, *arguments: object) -> None:
        """Call an attention kernel for every head of every row."""
        heads, pairs = self.config.num_heads, range(room.batch * self.config.num_heads)
        given = (kept.query, kept.key, kept.value, rows.bias, room.extents, self.factor)

        def work(thread: int, pair: int) -> None:
            row, head = divmod(pair, heads)
            own = room.scores[thread]
            kernel(self.sgemm, row, head, heads, *given, own, kept.context, kept.sums, *arguments)

        self.crew.run(name, work, [(pair,) for pair in pairs])

    def product(
        self,
        thread: int,
        a: np.ndarray,
        turn_a: int,
        b: np.ndarray,
        turn_b: int,
        c: np.ndarray,
        keep: float,
        factor: float = 1.0,
    ) -> None:
        """Put factor · a b + keep · c into c, each of a and b as it is or turned; one task of a phase."""
        depth = a.shape[1] if turn_a == AS_IT_IS else a.shape[0]
        self.product_function(
            turn_a,
            turn_b,
            c.shape[0],
            c.shape[1],
            depth,
            factor,
            a.ctypes.data,
            a.strides[0] // 4,
            b.ctypes.data,
            b.strides[0] // 4,
            keep,
            c.ctypes.data,
            c.strides[0] // 4,
        )

    def over_tokens(self, left: np.ndarray, right: np.ndarray, name: str) -> Iterator[tuple]:
        """Yield the tasks that make the gradient leftᵀ right of a matrix, in parts of its columns, about as many as
        threads where the matrix is large."""
        gradient, keep = self.gradients[name], float(self.adds)
        parts = max(1, round(gradient.size * self.crew.threads / (4 * self.config.hidden_size**2)))
        width = max(COLUMNS, -(-gradient.shape[1] // parts))
        for begin in range(0, gradient.shape[1], width):
            part = slice(begin, begin + width)
            yield left, TURNED, right[:, part], AS_IT_IS, gradient[:, part], keep

    def matrix_gradients(self, phase: str, matrices: Sequence[tuple[np.ndarray, np.ndarray, str]]) -> None:
        """Make the gradients leftᵀ right of matrices, given as (left, right, name), or of their low-rank ones; where a
        matrix is stored [in, out] its inputs stand left, else right."""
        tasks = [task for one in matrices if one[2] in self.gradients for task in self.over_tokens(*one)]
        self.crew.run(f"{phase}/gradients", self.product, tasks)
        adapted = [one for one in matrices if one[2] in self.low_rank]
        self.crew.run(f"{phase}/low_rank_gradients", self.low_rank_gradients, adapted)

    def low_rank_gradients(self, thread: int, left: np.ndarray, right: np.ndarray, name: str) -> None:
        """Make the gradients of A and B without that of B A: scale · (dy B)ᵀ x and scale · dyᵀ (x Aᵀ)."""
        one, keep = self.low_rank[name], float(self.adds)
        x, dy = (left, right) if is_stored_turned(name) else (right, left)
        first, second = self.stored[one.first], self.stored[one.second]
        narrow = np.empty((len(x), len(first)), np.float32)
        self.product(thread, x, AS_IT_IS, first, TURNED, narrow, 0.0)
        self.product(thread, dy, TURNED, narrow, AS_IT_IS, self.gradients[one.second], keep, one.scale)
        self.product(thread, dy, AS_IT_IS, second, AS_IT_IS, narrow, 0.0)
        self.product(thread, narrow, TURNED, x, AS_IT_IS, self.gradients[one.first], keep, one.scale)

    # Forward

    def of_layer(self, layer: int, *names: str) -> list[np.ndarray]:
        return [self.weights[f"{self.prefixes[layer]}{name}"] for name in names]

    def asks_by_table(self, layer: int) -> bool:
        """Return whether a layer is the query layer."""
        return self.config.query_layer and layer == self.config.num_layers - 1

    def forward(self, rows: Rows, dropping: Dropping) -> Room:
        """Return the room, whose last `hidden` is what the output matrix takes."""
        room, weights = self.room_for(rows), self.weights
        find_extents(rows.bias, room.extents)
        words, positions = weights[parameters.WORD_TABLE], weights[parameters.POSITION_TABLE]
        self.by_chunk(
            "embedding/embed",
            room,
            kernels.embed,
            rows.ids,
            words,
            rows.positions,
            positions,
            *dropping.at(self.sites.embedding),
            room.hidden[0],
        )
        if self.config.target_in_trunk:
            table = weights[parameters.TARGET_TABLE]
            self.by_chunk("embedding/add_table", room, kernels.add_table, rows.query_positions, table, room.hidden[0])
        for layer in range(self.config.num_layers):
            if layer == self.norm_at:
                self.final_norm(room, layer)
            self.layer_forward(layer, rows, room, dropping)
        if self.norm_at == self.config.num_layers:
            self.final_norm(room, self.norm_at)
        return room

    @property
    def norm_at(self) -> int:
        """Return the layer before which the final norm stands."""
        before = self.config.query_layer and self.config.final_norm == "before_query"
        return self.config.num_layers - int(before)

    def place_of(self, layer: int) -> int:
        """Return which of `Room.hidden` a layer takes: the final norm has one of its own."""
        return layer + int(layer >= self.norm_at)

    def final_norm(self, room: Room, layer: int) -> None:
        gamma, beta = (self.weights[name] for name in FINAL_NORM)
        x, y = room.hidden[layer], room.hidden[layer + 1]
        self.by_chunk("norms/norm", room, kernels.norm, x, gamma, beta, y, room.end_statistics)

    def layer_forward(self, layer: int, rows: Rows, room: Room, dropping: Dropping, with_end: bool = True) -> None:
        kept, x = room.kept[layer], room.hidden[self.place_of(layer)]
        by_table = self.asks_by_table(layer)
        names = ("layernorm1.gamma", "layernorm1.beta")
        made = [f"attention.dense{number}.{part}" for number in (1, 2, 3) for part in ("weight", "bias")]
        self.by_chunk(
            "attention/layer_begin",
            room,
            kernels.layer_begin,
            self.sgemm,
            x,
            *self.of_layer(layer, *names),
            kept.first,
            room.normed,
            *self.of_layer(layer, *made),
            kept.query,
            kept.key,
            kept.value,
            not by_table,
        )
        if by_table:
            self.ask_by_table(layer, rows, room)
        probabilities, attention, output = self.sites.layers[layer]
        self.by_head("attention/attend", room, attend, rows, kept, *dropping.at(probabilities))
        names = ("attention.projection.weight", "attention.projection.bias")
        norms = ("layernorm2.gamma", "layernorm2.beta")
        up, down = (tuple(f"output.{name}.{part}" for part in ("weight", "bias")) for name in ("mapping", "projection"))
        threshold, scale, start = dropping.at(attention)
        self.by_chunk(
            "feed-forward/layer_end",
            room,
            kernels.layer_end,
            self.sgemm,
            x,
            kept.context,
            *self.of_layer(layer, *names),
            kept.middle,
            *self.of_layer(layer, *norms),
            kept.second,
            room.normed,
            *self.of_layer(layer, *up),
            kept.inner,
            room.active,
            *self.of_layer(layer, *down),
            room.hidden[self.place_of(layer) + 1 if with_end else -1],
            self.activation,
            threshold,
            scale,
            start,
            dropping.start(output),
        )

    def asked(self, rows: Rows) -> int:
        """Return the rows of the query table that some token asks with, all before the last one."""
        return int(rows.query_positions.max()) + 1

    def ask_by_table(self, layer: int, rows: Rows, room: Room) -> None:
        """Make the queries: each row of the table is projected once, whoever asks with it."""
        table = self.weights[parameters.QUERY_TABLE][: self.asked(rows)]
        queries = np.empty_like(table)
        weight, bias = self.of_layer(layer, "attention.dense1.weight", "attention.dense1.bias")
        self.crew.run(
            "queries/project",
            lambda thread, begin, end: kernels.project(begin, end, self.sgemm, table, weight, bias, queries),
            [(begin, min(len(table), begin + 64)) for begin in range(0, len(table), 64)],
        )
        self.by_chunk(
            "queries/take_table", room, kernels.take_table, rows.query_positions, queries, room.kept[layer].query
        )

    # The output matrix

    def head(self, rows: Rows, room: Room, factor: float, differentiates: bool) -> float:
        """Return factor times the loss. Where it differentiates, the gradient of what the matrix takes is put into the
        first `dhidden`, and that of the table into `gradients`."""
        words, hidden, dhidden = self.weights[parameters.WORD_TABLE], room.hidden[-1], room.dhidden[0]
        gradient, threads = self.gradients.get(parameters.WORD_TABLE), self.crew.threads
        part = min(2048, -(-len(words) // threads))
        slices = [slice(begin, min(len(words), begin + part)) for begin in range(0, len(words), part)]
        for first in range(0, room.tokens, room.logit_rows):
            tokens = slice(first, min(room.tokens, first + room.logit_rows))
            count = tokens.stop - first
            logits, x, dx = room.logits[:count], hidden[tokens], dhidden[tokens]
            tasks = [(x, AS_IT_IS, words[place], TURNED, logits[:, place], 0.0) for place in slices]
            self.crew.run("loss/logits", self.product, tasks)
            step = min(64, -(-count // threads))
            given = (logits, rows.labels, rows.weights, _f32(factor), room.losses, differentiates)
            self.crew.run(
                "loss/negative_log_likelihood",
                lambda thread, begin, end, first=first, given=given: negative_log_likelihood(begin, end, first, *given),
                [(begin, min(count, begin + step)) for begin in range(0, count, step)],
            )
            if differentiates:
                keep = float(self.adds or first > 0)
                step = -(-count // threads)
                parts = [slice(begin, min(count, begin + step)) for begin in range(0, count, step)]
                tasks = [(logits[place], AS_IT_IS, words, AS_IT_IS, dx[place], 0.0) for place in parts]
                if gradient is not None:
                    tasks += [(logits[:, place], TURNED, x, AS_IT_IS, gradient[place], keep) for place in slices]
                self.crew.run("loss/gradients", self.product, tasks)
        return float(room.losses.sum(dtype=np.float64)) * factor

    # Backward

    def backward(self, rows: Rows, room: Room, dropping: Dropping) -> None:
        """Make all gradients but those of the output matrix, from that of its input in the first `dhidden`."""
        for layer in reversed(range(self.config.num_layers)):
            if layer == self.norm_at - 1:
                self.final_norm_backward(room)
            self.layer_backward(layer, rows, room, dropping)
        if self.norm_at == 0:
            self.final_norm_backward(room)
        slope = room.dhidden[0]
        tables = {parameters.TARGET_TABLE, parameters.WORD_TABLE, parameters.POSITION_TABLE}
        if tables.isdisjoint(self.gradients):
            return
        if self.config.target_in_trunk:
            self.add_to_table(parameters.TARGET_TABLE, rows.query_positions, slope, not self.adds)
        dropped = dropping.at(self.sites.embedding)
        self.by_chunk("embedding/embed_backward", room, kernels.embed_backward, slope, *dropped)
        self.add_to_table(parameters.WORD_TABLE, rows.ids, slope, False)
        self.add_to_table(parameters.POSITION_TABLE, rows.positions, slope, not self.adds)

    def final_norm_backward(self, room: Room) -> None:
        gamma, _ = (self.weights[name] for name in FINAL_NORM)
        self.by_numbered_chunk(
            "norms/norm_backward",
            room,
            kernels.norm_backward,
            room.hidden[self.norm_at],
            gamma,
            room.end_statistics,
            room.dhidden[0],
            room.dhidden[1],
            room.end_partial,
        )
        room.dhidden.reverse()
        self.add_vectors(room.end_partial, FINAL_NORM)

    def add_vectors(self, partial: np.ndarray, names: tuple[str, ...]) -> None:
        """Take the gradients of vectors that stand one after the other in every row of `partial`."""
        if self.gradients.keys().isdisjoint(names):
            return
        total, begin = partial.sum(0), 0
        for name in names:
            end = begin + len(self.weights[name])
            if name in self.gradients:
                gradient, value = self.gradients[name], total[begin:end]
                gradient[:] = gradient + value if self.adds else value
            begin = end

    def add_to_table(self, name: str, places: np.ndarray, slope: np.ndarray, begins: bool) -> None:
        """Add the gradient of each token to the row of a table that it took; begins: the table's is 0 before."""
        table = self.gradients.get(name)
        if table is None:
            return
        if begins:
            table[:] = 0
        edges = range(0, table.shape[1], COLUMNS)
        tasks = [(begin, min(table.shape[1], begin + COLUMNS)) for begin in edges]
        self.crew.run(
            "embedding/scatter_add", lambda thread, begin, end: scatter_add(slope, places, table, begin, end), tasks
        )

    def layer_backward(self, layer: int, rows: Rows, room: Room, dropping: Dropping) -> None:
        """Make the gradients of a layer; that of its result is in the first `dhidden`, that of its input will be."""
        if self.recompute and layer < self.config.num_layers - 1:
            self.layer_forward(layer, rows, room, dropping, with_end=False)
        kept, x = room.kept[layer], room.hidden[self.place_of(layer)]
        dy, dx = room.dhidden
        dropped_dy, dropped_dmiddle = room.dropped if dropping.threshold else (dy, room.dmiddle)
        probabilities, attention, output = self.sites.layers[layer]
        threshold, scale, start = dropping.at(attention)
        by_table = self.asks_by_table(layer)
        norms = ("layernorm2.gamma", "layernorm2.beta")
        (weight, up, down) = self.of_layer(
            layer, "attention.projection.weight", "output.mapping.weight", "output.projection.weight"
        )
        self.by_numbered_chunk(
            "feed-forward/layer_end_backward",
            room,
            kernels.layer_end_backward,
            self.sgemm,
            dy,
            weight,
            kept.middle,
            *self.of_layer(layer, *norms),
            kept.second,
            room.normed,
            up,
            kept.inner,
            room.active,
            down,
            self.activation,
            threshold,
            scale,
            start,
            dropping.start(output),
            dropped_dy,
            room.dmiddle,
            dropped_dmiddle,
            room.dcontext,
            room.partial,
        )
        made = (room.dcontext, room.dquery, room.dkey, room.dvalue)
        self.by_head("attention/attend_backward", room, attend_backward, rows, kept, *dropping.at(probabilities), *made)
        norms = ("layernorm1.gamma", "layernorm1.beta")
        matrices = [f"attention.dense{number}.weight" for number in (1, 2, 3)]
        self.by_numbered_chunk(
            "attention/layer_begin_backward",
            room,
            kernels.layer_begin_backward,
            self.sgemm,
            x,
            *self.of_layer(layer, *norms),
            kept.first,
            room.normed_again,
            *self.of_layer(layer, *matrices),
            room.dquery,
            room.dkey,
            room.dvalue,
            not by_table,
            room.dmiddle,
            room.dcontext,
            dx,
            room.partial,
        )
        prefix = self.prefixes[layer]
        taken = [
            (room.active, dropped_dy, f"{prefix}output.projection.weight"),
            (room.normed, kept.inner, f"{prefix}output.mapping.weight"),
            (kept.context, dropped_dmiddle, f"{prefix}attention.projection.weight"),
        ]
        slopes = [room.dquery, room.dkey, room.dvalue]
        for name, slope in list(zip(matrices, slopes, strict=True))[int(by_table) :]:
            taken.append((slope, room.normed_again, f"{prefix}{name}"))
        self.matrix_gradients("matrices", taken)
        self.add_vectors(room.partial, tuple(f"{prefix}{name}" for name in ("output.mapping.bias", *kernels.VECTORS)))
        if by_table:
            self.ask_by_table_backward(layer, rows, room)
        room.dhidden.reverse()

    def ask_by_table_backward(self, layer: int, rows: Rows, room: Room) -> None:
        """Make the gradients of the query table and of its projection from that of every query."""
        asked, name = self.asked(rows), f"{self.prefixes[layer]}attention.dense1.weight"
        gradient = self.gradients.get(parameters.QUERY_TABLE)
        if gradient is None and name not in self.gradients and name not in self.low_rank:
            return
        slope = np.zeros((asked, self.config.hidden_size), np.float32)
        edges = range(0, slope.shape[1], COLUMNS)
        self.crew.run(
            "queries/scatter_add",
            lambda thread, begin, end: scatter_add(room.dquery, rows.query_positions, slope, begin, end),
            [(begin, min(slope.shape[1], begin + COLUMNS)) for begin in edges],
        )
        self.matrix_gradients("queries", [(slope, self.weights[parameters.QUERY_TABLE][:asked], name)])
        if gradient is not None:
            if not self.adds:
                gradient[:] = 0
            task = (slope, AS_IT_IS, self.weights[name], AS_IT_IS, gradient[:asked], float(self.adds))
            self.crew.run("queries/table_gradient", self.product, [task])
