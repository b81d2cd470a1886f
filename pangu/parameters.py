"""The names and shapes of the network's weights; every format, engine and check asks here.

The names are those of the released 2.6B and 13B checkpoints. `pangu.model` makes its parameters by the names of its
attributes; a test holds them to this table. Other spellings of the same weights stand in `pangu.formats.names`.

A shape is a word with a letter an axis: d hidden size, f inner size of the feed-forward, V vocabulary, S positions;
E experts, g inner size of the shared experts together, T rows of the table of experts.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pangu.foundation.errors import UserError

if TYPE_CHECKING:
    import numpy as np

WORD_TABLE = "backbone.word_embedding.embedding_table"
POSITION_TABLE = "backbone.position_embedding.embedding_table"
QUERY_TABLE = "backbone.top_query_embedding.embedding_table"
TARGET_TABLE = "backbone.target_embedding.embedding_table"  # where `target_in_trunk`: no released model has it
EXPERT_TABLE = "backbone.expert_table"  # token -> expert, where that is fixed: whole numbers, never trained
FINAL_NORM = "backbone.layernorm."
BLOCK, QUERY_LAYER = "backbone.blocks.{}.", "backbone.top_query_layer."
NORM = {"gamma": "d", "beta": "d"}

# Matrices as they are stored: queries, keys and values [out, in], the other three [in, out].
LAYER: dict[str, str] = {
    "layernorm1.gamma": "d",
    "layernorm1.beta": "d",
    "attention.dense1.weight": "dd",
    "attention.dense1.bias": "d",
    "attention.dense2.weight": "dd",
    "attention.dense2.bias": "d",
    "attention.dense3.weight": "dd",
    "attention.dense3.bias": "d",
    "attention.projection.weight": "dd",
    "attention.projection.bias": "d",
    "layernorm2.gamma": "d",
    "layernorm2.beta": "d",
    "output.mapping.weight": "df",
    "output.mapping.bias": "f",
    "output.projection.weight": "fd",
    "output.projection.bias": "d",
}
# The linear layers of a layer, and whether their matrices are stored [out, in].
LINEAR_LAYERS = {
    "attention.dense1": True,
    "attention.dense2": True,
    "attention.dense3": True,
    "attention.projection": False,
    "output.mapping": False,
    "output.projection": False,
}

FEED_FORWARD = "output."  # how the names of a layer's feed-forward part begin
ROUTER = "output.router.weight"
# What a layer with experts has in the place of its feed-forward part. An expert's matrices are as a dense layer's.
# Biases have an axis for rows, so that they are added as they are: a reshaped one would be laid out otherwise.
EXPERTS: dict[str, str] = {
    "output.experts.mapping.weight": "Edf",
    "output.experts.mapping.bias": "E1f",
    "output.experts.projection.weight": "Efd",
    "output.experts.projection.bias": "E1d",
}
SHARED: dict[str, str] = {
    "output.shared.mapping.weight": "dg",
    "output.shared.mapping.bias": "g",
    "output.shared.projection.weight": "gd",
    "output.shared.projection.bias": "d",
}


# What is told of the experts of a layer, in this order; then each expert's share of the choices.
ROUTING_FIGURES = ("balance_loss", "z_loss", "router_entropy", "dropped_share")


@dataclass(frozen=True)
class ExpertShape:
    """Which layers have experts, and what their shapes depend on. table_rows 0: no table of experts."""

    count: int
    layers: tuple[int, ...]
    shared: int = 0
    has_router: bool = True
    table_rows: int = 0

    def parts(self) -> dict[str, str]:
        """Return the names and words of the feed-forward part of a layer with experts."""
        router = {ROUTER: "dE"} if self.has_router else {}
        return router | EXPERTS | (SHARED if self.shared else {})


class Sizes(Protocol):
    """What the shapes depend on: a `ModelConfig` has it, and so have weights themselves (`formats.model_shape`)."""

    @property
    def num_blocks(self) -> int:
        """Return layers that are not the query layer."""

    @property
    def hidden_size(self) -> int: ...

    @property
    def ffn_hidden_size(self) -> int: ...

    @property
    def seq_length(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def query_layer(self) -> bool: ...

    @property
    def target_in_trunk(self) -> bool: ...

    @property
    def expert_shape(self) -> ExpertShape | None: ...


def layer_prefixes(num_blocks: int, query_layer: bool) -> list[str]:
    """Return how the names of each layer's weights begin, the query layer last."""
    blocks = [BLOCK.format(number) for number in range(num_blocks)]
    return [*blocks, QUERY_LAYER] if query_layer else blocks


def canonical_order(
    num_blocks: int, query_layer: bool, target_in_trunk: bool = False, experts: ExpertShape | None = None
) -> list[str]:
    """Return the name of every weight: tables, blocks, query layer, final norm."""
    return list(letters(num_blocks, query_layer, target_in_trunk, experts))


def layer_parts(experts: ExpertShape | None, layer: int) -> dict[str, str]:
    """Return {name below the layer: shape as a word} of one layer's weights. The query layer has no experts."""
    if experts is None or layer not in experts.layers:
        return LAYER
    return {part: word for part, word in LAYER.items() if not part.startswith(FEED_FORWARD)} | experts.parts()


def letters(
    num_blocks: int, query_layer: bool, target_in_trunk: bool, experts: ExpertShape | None = None
) -> dict[str, str]:
    """Return {name: shape as a word} of every weight, in canonical order."""
    tables = {WORD_TABLE: "Vd", POSITION_TABLE: "Sd"} | ({QUERY_TABLE: "Sd"} if query_layer else {})
    tables |= {TARGET_TABLE: "Sd"} if target_in_trunk else {}
    tables |= {EXPERT_TABLE: "TV"} if experts is not None and experts.table_rows else {}
    prefixes = enumerate(layer_prefixes(num_blocks, query_layer))
    layers = {prefix + part: word for i, prefix in prefixes for part, word in layer_parts(experts, i).items()}
    return tables | layers | {FINAL_NORM + part: word for part, word in NORM.items()}


def lengths(sizes: Sizes) -> dict[str, int]:
    """Return the letters of shapes as numbers."""
    known = {"1": 1, "d": sizes.hidden_size, "f": sizes.ffn_hidden_size, "V": sizes.vocab_size, "S": sizes.seq_length}
    experts = sizes.expert_shape
    if experts is not None:
        known |= {"E": experts.count, "g": experts.shared * sizes.ffn_hidden_size, "T": experts.table_rows}
    return known


def shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Return {name: shape} of every weight, in canonical order."""
    numbers = lengths(sizes)
    words = letters(sizes.num_blocks, sizes.query_layer, sizes.target_in_trunk, sizes.expert_shape)
    return {name: tuple(numbers[letter] for letter in word) for name, word in words.items()}


def count(sizes: Sizes) -> int:
    """Return the number of all weights' elements. The table of experts is none of them: it is not learnt."""
    numbers, experts = lengths(sizes), sizes.expert_shape

    def elements(words: Mapping[str, str]) -> int:
        return sum(math.prod(numbers[letter] for letter in word) for word in words.values())

    singles = letters(0, sizes.query_layer, sizes.target_in_trunk)
    tables = {name: word for name, word in singles.items() if not name.startswith(QUERY_LAYER)}
    layers, with_experts = sizes.num_blocks + int(sizes.query_layer), 0
    if experts is not None:
        with_experts = len(experts.layers) * elements(layer_parts(experts, experts.layers[0]))
        layers -= len(experts.layers)
    return elements(tables) + layers * elements(LAYER) + with_experts


def check_shapes(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> None:
    """Raise UserError that names a weight which is missing, left over, or of another shape than the model's."""
    missing, foreign = expected.keys() - found.keys(), found.keys() - expected.keys()
    if missing:
        raise UserError(f"the weights lack {min(missing)!r} ({len(missing)} missing): do they fit the model.yaml?")
    if foreign:
        raise UserError(f"the model has no {min(foreign)!r} ({len(foreign)} such): do the weights fit the model.yaml?")
    for name, shape in expected.items():
        if tuple(found[name]) != shape:
            raise UserError(f"{name}: the weights have shape {list(found[name])}, the model {list(shape)}")


def check_weights(sizes: Sizes, weights: "Mapping[str, np.ndarray]") -> None:
    """Raise UserError where the weights are not those of a model of these sizes."""
    check_shapes(shapes(sizes), {name: weight.shape for name, weight in weights.items()})
