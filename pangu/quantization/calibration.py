"""The inputs that each layer of a network sees on sample rows, layer by layer and in NumPy.

One layer's weights are in memory at a time, and the residual stream of all rows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from pangu import parameters
from pangu.config import ModelConfig

EPSILON = 1e-5  # of the layer norms
# A layer's weights by their names inside the layer, matrices [out, in].
LayerWeights = Mapping[str, np.ndarray]
# The matrices of a layer that read the same inputs, in the order in which they are computed.
INPUTS = {
    "attention_input": ("attention.dense1", "attention.dense2", "attention.dense3"),
    "context": ("attention.projection",),
    "feed_forward_input": ("output.mapping",),
    "inner": ("output.projection",),
}


def gelu_erf(x: np.ndarray) -> np.ndarray:
    from scipy.special import ndtr  # imported late: takes half a second

    return x * ndtr(x)


ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gelu_tanh": lambda x: x / (1 + np.exp(-2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "gelu_erf": gelu_erf,
    "fast_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
}


@dataclass
class InputStatistics:
    """Of one input of a layer: the sum of 2 xᵀx [in, in] and the largest |x| [in]."""

    hessian: np.ndarray
    largest: np.ndarray

    def see(self, rows: np.ndarray) -> None:
        """Count rows [tokens, in]."""
        self.hessian += 2 * (rows.T @ rows)
        np.maximum(self.largest, np.abs(rows).max(axis=0), out=self.largest)


@dataclass
class Calibration:
    """Sample rows on their way through a network: `stream` fp32 [rows, tokens, d] before the next layer."""

    config: ModelConfig
    stream: np.ndarray
    query_rows: np.ndarray | None = None  # [tokens, d], what the query layer asks with
    statistics: dict[str, InputStatistics] = field(default_factory=dict)

    @classmethod
    def begin(cls, config: ModelConfig, ids: np.ndarray, tables: Mapping[str, np.ndarray]) -> "Calibration":
        """Return ids int [rows, tokens]; tables by released name."""
        tokens = ids.shape[1]
        positions = tables[parameters.POSITION_TABLE][:tokens]
        stream = tables[parameters.WORD_TABLE][ids] + positions
        if parameters.TARGET_TABLE in tables:
            stream = stream + tables[parameters.TARGET_TABLE][:tokens]
        queries = tables.get(parameters.QUERY_TABLE)
        return cls(config, stream.astype(np.float32), None if queries is None else queries[:tokens])

    def norm_before_query(self, gamma: np.ndarray, beta: np.ndarray) -> None:
        """Apply the final norm where it stands before the query layer."""
        self.stream = layer_norm(self.stream, gamma, beta)

    def watch(self, weights: LayerWeights, is_query_layer: bool) -> None:
        """Collect the statistics of a layer's inputs with the weights that it has now."""
        self.statistics = {}
        for row in self.stream:
            self.layer(row, weights, is_query_layer, self.count)

    def advance(self, weights: LayerWeights, is_query_layer: bool) -> None:
        """Let the rows pass a layer, whose weights may have been quantised meanwhile."""
        for number, row in enumerate(self.stream):
            self.stream[number] = self.layer(row, weights, is_query_layer, lambda name, rows: None)

    def count(self, name: str, rows: np.ndarray) -> None:
        """Add one row's inputs to the statistics."""
        if name not in self.statistics:
            width = rows.shape[1]
            self.statistics[name] = InputStatistics(np.zeros((width, width), np.float32), np.zeros(width, np.float32))
        self.statistics[name].see(rows)

    def layer(
        self, row: np.ndarray, weights: LayerWeights, is_query_layer: bool, see: Callable[[str, np.ndarray], None]
    ) -> np.ndarray:
        """Return one row [tokens, d] through one layer; `see` is told of what each matrix reads."""

        def linear(name: str, x: np.ndarray) -> np.ndarray:
            return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

        normed = layer_norm(row, weights["layernorm1.gamma"], weights["layernorm1.beta"])
        see("attention_input", normed)
        asked = normed
        if is_query_layer:
            assert self.query_rows is not None
            asked = self.query_rows
            see("query_input", asked)
        query, key, value = (
            self.by_head(linear(f"attention.dense{number}", x)) for number, x in ((1, asked), (2, normed), (3, normed))
        )
        context = causal_attention(query, key, value).transpose(1, 0, 2).reshape(row.shape)
        see("context", context)
        row = row + linear("attention.projection", context)
        normed = layer_norm(row, weights["layernorm2.gamma"], weights["layernorm2.beta"])
        see("feed_forward_input", normed)
        inner = ACTIVATIONS[self.config.activation](linear("output.mapping", normed))
        see("inner", inner)
        return row + linear("output.projection", inner)

    def by_head(self, x: np.ndarray) -> np.ndarray:
        """Return [tokens, d] -> [heads, tokens, d/heads]."""
        return x.reshape(len(x), self.config.num_heads, self.config.head_size).transpose(1, 0, 2)


def layer_norm(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """Return softmax over the last axis."""
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + EPSILON) * gamma + beta


def causal_attention(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Return [heads, tokens, d/heads] each."""
    scores = query @ key.transpose(0, 2, 1) / np.float32(np.sqrt(query.shape[-1]))
    scores[:, ~np.tri(scores.shape[1], dtype=bool)] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return (weights / weights.sum(axis=-1, keepdims=True)) @ value
