"""The network on one device: loss, gradients and updates, written straight down. What every strategy must reproduce.

Weights are named by (layer, name) like those of the program, but whole and unfused: (3, "attention.query.weight"). The
query layer and its table have the number of the last layer; embeddings have 0, and the head the number after the last.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from parallel_strategy.spec.model import ModelSpec
from parallel_strategy.virtual import arithmetic as op
from parallel_strategy.virtual.adam import Adam
from parallel_strategy.virtual.batch import Tokens, predictions, tokens_of

Name = tuple[int, str]
Weights = dict[Name, np.ndarray]


def shapes(model: ModelSpec) -> dict[Name, tuple[int, ...]]:
    """Return every weight. Matrices are [in, out], tables [rows, hidden]."""
    hidden, last = model.hidden_size, model.num_layers
    result: dict[Name, tuple[int, ...]] = {(0, "embedding.word.weight"): (model.vocab_size, hidden)}
    if model.position == "learned":
        result[0, "embedding.position.weight"] = (model.seq_length, hidden)
    key_width = model.key_value_heads * model.head_width
    widths = {"query": model.num_heads * model.head_width, "key": key_width, "value": key_width}

    def norm(layer: int, name: str) -> None:
        result[layer, f"{name}.weight"] = (hidden,)
        if model.norm == "layer_norm":
            result[layer, f"{name}.bias"] = (hidden,)

    for layer in range(last):
        if model.query_layer and layer == last - 1:
            result[layer, "query_embedding.weight"] = (model.seq_length, hidden)
            if model.final_norm == "before_query":
                norm(layer, "final.norm")
        norm(layer, "attention.norm")
        for name, width in widths.items():
            result[layer, f"attention.{name}.weight"] = (hidden, width)
            if model.bias:
                result[layer, f"attention.{name}.bias"] = (width,)
        result[layer, "attention.output.weight"] = (widths["query"], hidden)
        if model.bias:
            result[layer, "attention.output.bias"] = (hidden,)
        expert = model.is_expert_layer(layer)
        lead: tuple[int, ...] = ()
        prefix, inner = "feed_forward", model.ffn_hidden_size
        if expert and model.experts is not None:
            prefix, lead, inner = "experts", (model.experts.count,), model.experts.ffn_hidden_size
            result[layer, "experts.router.weight"] = (hidden, model.experts.count)
        norm(layer, f"{prefix}.norm")
        for name in ("gate", "up") if model.gated_ffn else ("up",):
            result[layer, f"{prefix}.{name}.weight"] = (*lead, hidden, inner)
            if model.bias:
                result[layer, f"{prefix}.{name}.bias"] = (*lead, inner)
        result[layer, f"{prefix}.down.weight"] = (*lead, inner, hidden)
        if model.bias:
            result[layer, f"{prefix}.down.bias"] = (*lead, hidden)
    if not (model.query_layer and model.final_norm == "before_query"):
        norm(last, "head.norm")
    if not model.tied_embedding:
        result[last, "head.logits.weight"] = (model.vocab_size, hidden)
    return result


def draw_weights(model: ModelSpec, dtype: type, seed: int) -> Weights:
    """Return random weights, norms and biases too, so that no gradient vanishes by symmetry."""
    random = np.random.default_rng(seed)
    weights: Weights = {}
    for name, shape in shapes(model).items():
        if len(shape) == 1 or name[1].endswith(".bias"):
            start = 1.0 if name[1].endswith("norm.weight") else 0.0
            weights[name] = (start + 0.1 * random.standard_normal(shape)).astype(dtype)
        else:
            scale = 0.3 if "embedding" in name[1] else 1.0 / math.sqrt(shape[-2])
            weights[name] = (scale * random.standard_normal(shape)).astype(dtype)
    return weights


@dataclass(slots=True)
class SerialStep:
    """One step's outcome."""

    loss: float
    norm: float
    gradients: Weights


@dataclass(slots=True)
class Serial:
    """A model with its weights and moments, in the weights' type."""

    model: ModelSpec
    weights: Weights
    adam: Adam = field(default_factory=Adam)
    first: Weights = field(init=False)
    second: Weights = field(init=False)
    seen: int = 0  # rows of the steps before

    def __post_init__(self) -> None:
        self.weights = {name: weight.copy() for name, weight in self.weights.items()}
        self.first = {name: np.zeros_like(weight) for name, weight in self.weights.items()}
        self.second = {name: np.zeros_like(weight) for name, weight in self.weights.items()}

    def step(self, rows: np.ndarray) -> SerialStep:
        """Make one update on rows [B, S + 1], all in one batch."""
        dtype = next(iter(self.weights.values())).dtype.type
        tokens = tokens_of(rows, dtype, self.seen)
        self.seen += len(rows)
        loss, gradients = loss_and_gradients(self.model, self.weights, tokens, predictions(rows))
        norm = math.sqrt(sum(float((g * g).sum()) for g in gradients.values()))
        factor = self.adam.clip_factor(norm)
        for name, weight in self.weights.items():
            self.adam.update(name[1], weight, gradients[name] * factor, self.first[name], self.second[name])
        return SerialStep(loss, norm, gradients)


def loss_and_gradients(model: ModelSpec, weights: Weights, tokens: Tokens, divisor: float) -> tuple[float, Weights]:
    """Return the mean negative log-likelihood of the counted predictions, and its gradient by every weight."""
    return _Pass(model, weights, tokens).run(divisor)


def logits_of(model: ModelSpec, weights: Weights, tokens: Tokens) -> np.ndarray:
    """Return [B, S, V]."""
    return _Pass(model, weights, tokens).forward()


class _Pass:
    """A forward that leaves behind a list of what undoes it."""

    def __init__(self, model: ModelSpec, weights: Weights, tokens: Tokens) -> None:
        self.model, self.weights, self.tokens = model, weights, tokens
        self.gradients: Weights = {name: np.zeros_like(weight) for name, weight in weights.items()}

    def run(self, divisor: float) -> tuple[float, Weights]:
        logits, tokens = self.forward(), self.tokens
        shifted = logits - logits.max(axis=-1, keepdims=True)
        total = np.exp(shifted).sum(axis=-1)
        target = np.take_along_axis(shifted, tokens.labels[..., None], axis=-1)[..., 0]
        loss = float(((np.log(total) - target) * tokens.counted).sum()) / divisor
        gradient = np.exp(shifted) / total[..., None]
        hits = np.take_along_axis(gradient, tokens.labels[..., None], axis=-1) - 1
        np.put_along_axis(gradient, tokens.labels[..., None], hits, axis=-1)
        self.backward(gradient * (tokens.counted / tokens.counted.dtype.type(divisor))[..., None])
        return loss, self.gradients

    def forward(self) -> np.ndarray:
        model, weights, tokens = self.model, self.weights, self.tokens
        self.entries: list[np.ndarray] = []
        hidden = weights[0, "embedding.word.weight"][tokens.ids]
        if model.position == "learned":
            hidden = hidden + weights[0, "embedding.position.weight"][tokens.positions]
        hidden = hidden * self.dropped(0)
        self.layers = []
        for layer in range(model.num_layers):
            run = _Layer(self, layer)
            hidden = run.forward(hidden)
            self.layers.append(run)
        self.last = hidden
        if (model.num_layers, "head.norm.weight") in weights:
            hidden = self.norm(model.num_layers, "head.norm", hidden)
        self.head_input = hidden
        return hidden @ weights[self.table].T

    def backward(self, gradient: np.ndarray) -> None:
        model, tokens = self.model, self.tokens
        self.gradients[self.table] += op.weight_gradient(gradient, self.head_input)
        back = gradient @ self.weights[self.table]
        if (model.num_layers, "head.norm.weight") in self.weights:
            back = self.norm_gradient(model.num_layers, "head.norm", self.last, back)
        for run in reversed(self.layers):
            back = run.backward(back)
        back = back * self.dropped(0)
        self.gradients[0, "embedding.word.weight"] += op.scatter_rows(model.vocab_size, tokens.ids, back)
        if model.position == "learned":
            rows = op.scatter_rows(model.seq_length, tokens.positions, back)
            self.gradients[0, "embedding.position.weight"] += rows

    @property
    def table(self) -> Name:
        return (
            (0, "embedding.word.weight") if self.model.tied_embedding else (self.model.num_layers, "head.logits.weight")
        )

    def dropped(self, site: int) -> np.ndarray | float:
        """Return what dropout multiplies with: site 0 after the embeddings, 3 n + 2 and 3 n + 3 in layer n before it
        adds."""
        tokens, rate = self.tokens, self.model.dropout_rate
        if not rate:
            return 1.0
        channels = np.arange(self.model.hidden_size)
        return op.dropout(rate, site, tokens.numbers, tokens.places, channels, dtype=tokens.counted.dtype.type)

    def dropped_probabilities(self, site: int) -> np.ndarray | float:
        """Drop out site 3 n + 1 in layer n, on probabilities [B, H, T, S]."""
        tokens, rate = self.tokens, self.model.dropout_rate
        if not rate:
            return 1.0
        places = np.arange(self.model.num_heads), tokens.places, np.arange(tokens.penalty.shape[-1])
        return op.dropout(rate, site, tokens.numbers, *places, dtype=tokens.counted.dtype.type)

    def norm(self, layer: int, name: str, x: np.ndarray) -> np.ndarray:
        return op.normalise(x, self.weights[layer, f"{name}.weight"], self.weights.get((layer, f"{name}.bias")))

    def norm_gradient(self, layer: int, name: str, x: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        centre = (layer, f"{name}.bias") in self.weights
        back, weight, bias = op.normalise_gradient(gradient, x, self.weights[layer, f"{name}.weight"], centre=centre)
        self.gradients[layer, f"{name}.weight"] += weight
        if centre:
            self.gradients[layer, f"{name}.bias"] += bias
        return back

    def linear(self, layer: int, name: str, x: np.ndarray) -> np.ndarray:
        y = x @ self.weights[layer, f"{name}.weight"]
        bias = self.weights.get((layer, f"{name}.bias"))
        return y if bias is None else y + bias

    def linear_gradient(self, layer: int, name: str, x: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        self.gradients[layer, f"{name}.weight"] += op.weight_gradient(x, gradient)
        if (layer, f"{name}.bias") in self.weights:
            self.gradients[layer, f"{name}.bias"] += op.over_rows(gradient)
        return gradient @ self.weights[layer, f"{name}.weight"].T


class _Layer:
    """One transformer layer of a pass."""

    def __init__(self, whole: _Pass, number: int) -> None:
        self.whole, self.number = whole, number
        self.model, self.tokens = whole.model, whole.tokens
        self.is_query = self.model.query_layer and number == self.model.num_layers - 1
        self.final_norm = self.is_query and self.model.final_norm == "before_query"
        self.prefix = "experts" if self.model.is_expert_layer(number) else "feed_forward"

    def forward(self, entry: np.ndarray) -> np.ndarray:
        whole, n, model, tokens = self.whole, self.number, self.model, self.tokens
        self.entry = entry
        hidden = whole.norm(n, "final.norm", entry) if self.final_norm else entry
        self.first = hidden
        self.normed = whole.norm(n, "attention.norm", hidden)
        self.asked = whole.weights[n, "query_embedding.weight"][tokens.positions] if self.is_query else self.normed
        query = whole.linear(n, "attention.query", self.asked)
        key = whole.linear(n, "attention.key", self.normed)
        self.value = whole.linear(n, "attention.value", self.normed)
        width = model.head_width
        if model.position == "rotary":
            query, key = op.rotate(query, tokens.positions, width), op.rotate(key, tokens.positions, width)
        self.query, self.key = query, key
        self.probabilities = op.softmax(op.scores(query, key, width, tokens.penalty))
        self.dropped = self.probabilities * whole.dropped_probabilities(3 * n + 1)
        self.attended = op.context(self.dropped, self.value, width)
        hidden = hidden + whole.linear(n, "attention.output", self.attended) * whole.dropped(3 * n + 2)
        self.second = hidden
        self.normed2 = whole.norm(n, f"{self.prefix}.norm", hidden)
        if self.prefix == "experts":
            return hidden + self._experts(self.normed2) * whole.dropped(3 * n + 3)
        self.up = self._up(self.normed2, slice(None))
        self.inner = op.inner_width(model, self.up)
        return hidden + whole.linear(n, "feed_forward.down", self.inner) * whole.dropped(3 * n + 3)

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        whole, n, model, tokens = self.whole, self.number, self.model, self.tokens
        out = gradient * whole.dropped(3 * n + 3)
        if self.prefix == "experts":
            back = self._experts_gradient(out)
        else:
            inner = whole.linear_gradient(n, "feed_forward.down", self.inner, out)
            back = self._up_gradient(self.normed2, op.inner_width_gradient(model, self.up, inner), slice(None))
        gradient = gradient + whole.norm_gradient(n, f"{self.prefix}.norm", self.second, back)
        context = whole.linear_gradient(n, "attention.output", self.attended, gradient * whole.dropped(3 * n + 2))
        width, groups = model.head_width, model.key_value_heads
        value = op.context_to_value(context, self.dropped, width, groups)
        spread = op.context_to_probabilities(context, self.value, width) * whole.dropped_probabilities(3 * n + 1)
        score = op.softmax_gradient(spread, self.probabilities)
        query = op.scores_to_query(score, self.key, width)
        key = op.scores_to_key(score, self.query, width, groups)
        if model.position == "rotary":
            query = op.rotate(query, tokens.positions, width, back=True)
            key = op.rotate(key, tokens.positions, width, back=True)
        asked = whole.linear_gradient(n, "attention.query", self.asked, query)
        normed = whole.linear_gradient(n, "attention.key", self.normed, key)
        normed = normed + whole.linear_gradient(n, "attention.value", self.normed, value)
        if self.is_query:
            rows = op.scatter_rows(model.seq_length, tokens.positions, asked)
            whole.gradients[n, "query_embedding.weight"] += rows
        else:
            normed = normed + asked
        gradient = gradient + whole.norm_gradient(n, "attention.norm", self.first, normed)
        return whole.norm_gradient(n, "final.norm", self.entry, gradient) if self.final_norm else gradient

    def _up(self, x: np.ndarray, expert: slice | int) -> np.ndarray:
        parts = []
        for name in ("gate", "up") if self.model.gated_ffn else ("up",):
            part = x @ self.whole.weights[self.number, f"{self.prefix}.{name}.weight"][expert]
            bias = self.whole.weights.get((self.number, f"{self.prefix}.{name}.bias"))
            parts.append(part if bias is None else part + bias[expert])
        return np.concatenate(parts, axis=-1)

    def _up_gradient(self, x: np.ndarray, gradient: np.ndarray, expert: slice | int) -> np.ndarray:
        names = ("gate", "up") if self.model.gated_ffn else ("up",)
        back = np.zeros_like(x)
        for name, part in zip(names, np.split(gradient, len(names), axis=-1), strict=True):
            key = (self.number, f"{self.prefix}.{name}.weight")
            self.whole.gradients[key][expert] += op.weight_gradient(x, part)
            if (self.number, f"{self.prefix}.{name}.bias") in self.whole.weights:
                self.whole.gradients[self.number, f"{self.prefix}.{name}.bias"][expert] += op.over_rows(part)
            back += part @ self.whole.weights[key][expert].T
        return back

    def _experts(self, x: np.ndarray) -> np.ndarray:
        """Send each token to its top experts; none is dropped."""
        experts, n = self.model.experts, self.number
        assert experts is not None
        flat = x.reshape(-1, x.shape[-1])
        self.flat = flat
        self.chosen, self.shares = op.route(flat @ self.whole.weights[n, "experts.router.weight"], experts.top_k)
        out = np.zeros_like(flat)
        self.parts = []
        for expert in range(experts.count):
            token, slot = np.nonzero(self.chosen == expert)
            up = self._up(flat[token], expert)
            inner = op.inner_width(self.model, up)
            down = inner @ self.whole.weights[n, "experts.down.weight"][expert]
            if (n, "experts.down.bias") in self.whole.weights:
                down = down + self.whole.weights[n, "experts.down.bias"][expert]
            out[token] += self.shares[token, slot, None] * down
            self.parts.append((token, slot, up, inner, down))
        return out.reshape(x.shape)

    def _experts_gradient(self, gradient: np.ndarray) -> np.ndarray:
        experts, n, whole = self.model.experts, self.number, self.whole
        assert experts is not None
        flat = gradient.reshape(-1, gradient.shape[-1])
        back, shares = np.zeros_like(flat), np.zeros_like(self.shares)
        for expert, (token, slot, up, inner, down) in enumerate(self.parts):
            shares[token, slot] = (flat[token] * down).sum(axis=-1)
            out = self.shares[token, slot, None] * flat[token]
            whole.gradients[n, "experts.down.weight"][expert] += op.weight_gradient(inner, out)
            if (n, "experts.down.bias") in whole.weights:
                whole.gradients[n, "experts.down.bias"][expert] += op.over_rows(out)
            middle = out @ whole.weights[n, "experts.down.weight"][expert].T
            slope = op.inner_width_gradient(self.model, up, middle)
            back[token] += self._up_gradient(self.flat[token], slope, expert)
        logits = op.route_gradient(shares, self.chosen, self.shares, experts.count)
        whole.gradients[n, "experts.router.weight"] += op.weight_gradient(self.flat, logits)
        back += logits @ whole.weights[n, "experts.router.weight"].T
        return back.reshape(gradient.shape)
