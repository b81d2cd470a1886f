"""The names and shapes of the network's weights; every format, engine and check asks here.

The names are those of the released 2.6B and 13B checkpoints. `pangu.model` makes its parameters by the names of its
attributes; a test holds them to this table. Other spellings of the same weights stand in `pangu.formats.names`.

A shape is a word with a letter an axis: d hidden size, f inner size of the feed-forward, V vocabulary, S positions.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from pangu.foundation.errors import UserError

if TYPE_CHECKING:
    import numpy as np

WORD_TABLE = "backbone.word_embedding.embedding_table"
POSITION_TABLE = "backbone.position_embedding.embedding_table"
QUERY_TABLE = "backbone.top_query_embedding.embedding_table"
TARGET_TABLE = "backbone.target_embedding.embedding_table"  # where `target_in_trunk`: no released model has it
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


def layer_prefixes(num_blocks: int, query_layer: bool) -> list[str]:
    """Return how the names of each layer's weights begin, the query layer last."""
    blocks = [BLOCK.format(number) for number in range(num_blocks)]
    return [*blocks, QUERY_LAYER] if query_layer else blocks


def canonical_order(num_blocks: int, query_layer: bool, target_in_trunk: bool = False) -> list[str]:
    """Return the name of every weight: tables, blocks, query layer, final norm."""
    return list(letters(num_blocks, query_layer, target_in_trunk))


def letters(num_blocks: int, query_layer: bool, target_in_trunk: bool) -> dict[str, str]:
    """Return {name: shape as a word} of every weight, in canonical order."""
    tables = {WORD_TABLE: "Vd", POSITION_TABLE: "Sd"} | ({QUERY_TABLE: "Sd"} if query_layer else {})
    tables |= {TARGET_TABLE: "Sd"} if target_in_trunk else {}
    prefixes = layer_prefixes(num_blocks, query_layer)
    layers = {prefix + part: word for prefix in prefixes for part, word in LAYER.items()}
    return tables | layers | {FINAL_NORM + part: word for part, word in NORM.items()}


def shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Return {name: shape} of every weight, in canonical order."""
    lengths = {"d": sizes.hidden_size, "f": sizes.ffn_hidden_size, "V": sizes.vocab_size, "S": sizes.seq_length}
    words = letters(sizes.num_blocks, sizes.query_layer, sizes.target_in_trunk)
    return {name: tuple(lengths[letter] for letter in word) for name, word in words.items()}


def count(sizes: Sizes) -> int:
    """Return the number of all weights' elements."""
    lengths = {"d": sizes.hidden_size, "f": sizes.ffn_hidden_size, "V": sizes.vocab_size, "S": sizes.seq_length}

    def elements(words: Mapping[str, str]) -> int:
        return sum(math.prod(lengths[letter] for letter in word) for word in words.values())

    singles = letters(0, sizes.query_layer, sizes.target_in_trunk)
    tables = {name: word for name, word in singles.items() if not name.startswith(QUERY_LAYER)}
    return elements(tables) + (sizes.num_blocks + int(sizes.query_layer)) * elements(LAYER)


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
