"""How every operator of PanGu-alpha is split: a table by name, in the letters of the axes.

A name is the path of the operator in the serial network, `backbone.blocks.3.attention.dense1.affine.matmul`; a split
has one word an operand and one letter a dimension of it: D the data-parallel degree, M the model-parallel one, V that
of the vocabulary (M or 1), S that of the sequence between matrix products (M or 1), R that of rows there (D·S), `1`
whole. `-` is a scalar. What stands behind `->` is the layout asked for the result, where that is not the natural one.

The layer is Megatron's (Shoeybi et al. 2019): heads and the inner feed-forward width are split, queries, keys, values
and `mapping` by columns, both `projection`s by rows.
"""

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from parallel_strategy.spec.strategy import Override

LAYER = r"backbone\.(?:blocks\.\d+|top_query_layer)\."
# The dropouts of the residual stream and of the attention's probabilities, with the splits of what they drop.
RESIDUAL_DROPOUT = r"(?:" + LAYER + r"(?:attention|output)_dropout|backbone\.embedding_dropout)\."
PROBABILITY_DROPOUT = LAYER + r"attention\.probability_dropout\."
DROPOUT = {
    "xor|mask": "{x} {x}",
    "shift|low|multiply|reaches|add_seed|scale": "{x} -",
    "add_row": "{row} {within}",
    "spread_seed|add_site": "- -",
}

TABLE: dict[str, str] = {
    # the residual stream
    LAYER + r"layernorm[12]\.normalisation\.layer_norm": "DS1 1 1",
    r"backbone\.layernorm\.normalisation\.layer_norm": "DS1 1 1",
    LAYER + r"(?:attention|output)_add": "DS1 DS1",
    # attention
    LAYER + r"attention\.dense[123]\.affine\.matmul": "D1 M1",
    LAYER + r"attention\.dense[123]\.affine\.bias_add": "DM M",
    LAYER + r"attention\.scale_(?:queries|keys)": "D1M -",
    LAYER + r"attention\.split_transpose": "D1M1",
    LAYER + r"attention\.(?:scores|context)": "DM11 DM11",
    LAYER + r"attention\.add_penalty": "DM11 D111",
    LAYER + r"attention\.softmax": "DM11",
    LAYER + r"attention\.merge_transpose": "DM11",
    LAYER + r"attention\.flash_attention\.is_hidden": "D111 -",
    LAYER + r"attention\.flash_attention\.kernel": "DM11 DM11 DM11 D111",
    LAYER + r"attention\.projection\.affine\.matmul": "DM M1 -> R1",
    LAYER + r"attention\.projection\.affine\.bias_add": "R1 1",
    # feed-forward
    LAYER + r"output\.mapping\.affine\.matmul": "D1 1M",
    LAYER + r"output\.mapping\.affine\.bias_add": "DM M",
    LAYER + r"output\.activation\.(?:kernel|erf)": "D1M",
    LAYER + r"output\.activation\.(?:scale|shift)": "D1M -",
    LAYER + r"output\.activation\.multiply": "D1M D1M",
    LAYER + r"output\.projection\.affine\.matmul": "DM M1 -> R1",
    LAYER + r"output\.projection\.affine\.bias_add": "R1 1",
    # tables
    r"backbone\.word_embedding\.gather": "V1 D1",
    r"backbone\.(?:position|top_query)_embedding\.gather": "11 D1",
    r"backbone\.embedding_add": "D11 D11",
    r"head": "D1 V1",
    # who sees whom
    r"objective\.attention_mask\.(?:ends|real|from_zero)": "D1 -",
    r"objective\.attention_mask\.cumsum": "D1",
    r"objective\.attention_mask\.before": "D1 D1",
    r"objective\.attention_mask\.repeat_positions": "D1 11",
    r"objective\.attention_mask\.same_document": "D11 D11",
    r"objective\.attention_mask\.(?:causal|repeat_causal)": "D11 111",
    r"objective\.attention_mask\.(?:see|seen)_real": "D11 D11",
    r"objective\.attention_mask\.count": "D11",
    r"objective\.attention_mask\.hidden": "- D11",
    r"objective\.attention_mask\.penalise": "D11 -",
    # the loss
    r"objective\.(?:inputs|labels)": "D1",
    r"objective\.is_counted": "D1 -",
    r"nll\.(?:maximum|exp|sum|target)": "DV",
    r"nll\.shift": "DV D1",
    r"nll\.log": "D",
    r"nll\.one_hot": "DV - -",
    r"nll\.pick": "DV DV",
    r"nll\.subtract|count": "D D",
    r"sum": "D",
    r"scale": "- -",
}
TABLE |= {
    RESIDUAL_DROPOUT + f"(?:{name})": split.format(x="DS1", row="DS1", within="111") for name, split in DROPOUT.items()
}
TABLE |= {
    PROBABILITY_DROPOUT + f"(?:{name})": split.format(x="DM11", row="DM11", within="1111")
    for name, split in DROPOUT.items()
}

Split = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class OperatorSplit:
    """MindSpore's in_strategy, and its out_strategy where one has to be named."""

    inputs: Split
    outputs: Split | None = None


def split_of(name: str, degrees: Mapping[str, int]) -> OperatorSplit | None:
    """The split of an operator by its path; None where the table says nothing. `degrees`: letter -> number."""
    for pattern, words in TABLE.items():
        if re.fullmatch(pattern, name):
            inputs, _, outputs = words.partition(" -> ")
            asked = numbers(outputs, degrees) if outputs and degrees["S"] > 1 else None
            return OperatorSplit(numbers(inputs, degrees), asked)
    return None


def overridden(name: str, overrides: Iterable[Override]) -> OperatorSplit | None:
    """What the strategy file says of the operator itself: the last entry that matches."""
    found = None
    for override in overrides:
        if fnmatch.fnmatch(name, override.operator):
            found = OperatorSplit(tuple(tuple(word) for word in override.strategy))
    return found


def numbers(words: str, degrees: Mapping[str, int]) -> Split:
    return tuple(() if word == "-" else tuple(degrees[letter] for letter in word) for word in words.split())
