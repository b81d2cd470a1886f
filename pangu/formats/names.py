"""Other spellings of the weights than the canonical names of `pangu.parameters`:

    master          backbone.embedding.{word,position}_embedding.embedding_table
    first pipeline  backbone.pangu_alpha_embedding.…, the query layer as backbone.blocks.{L-1}
    PyTorch port    [transformer.]wte, wpe, wqe, h.{i}.…, ln_f; the query layer as h.{L-1}; lm_head is a copy of wte;
                    its Linear weights are [out, in], so three matrices a layer are the transposes of ours
    wrapped Cells   network.… before any of MindSpore's

L counts the query layer.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from pangu import parameters
from pangu.formats.source import Source
from pangu.foundation.errors import UserError
from pangu.parameters import (
    BLOCK,
    FINAL_NORM,
    POSITION_TABLE,
    QUERY_LAYER,
    QUERY_TABLE,
    WORD_TABLE,
    ExpertShape,
)

TORCH_TIED_HEAD = "lm_head.weight"
TORCH_PREFIX = "transformer."

# The PyTorch port's names of the parts of a layer. Its Linear matrices are all [out, in].
TORCH_LINEAR_LAYERS = {
    "attention.dense1": "attn.q_proj",
    "attention.dense2": "attn.k_proj",
    "attention.dense3": "attn.v_proj",
    "attention.projection": "attn.c_proj",
    "output.mapping": "mlp.c_fc",
    "output.projection": "mlp.c_proj",
    "layernorm1": "ln_1",
    "layernorm2": "ln_2",
}
TORCH_LEAVES = {"gamma": "weight", "beta": "bias"}


def torch_part(ours: str) -> str:
    """Return the PyTorch port's name of a part of a layer."""
    cell, _, leaf = ours.rpartition(".")
    return f"{TORCH_LINEAR_LAYERS[cell]}.{TORCH_LEAVES.get(leaf, leaf)}"


# What there is once: (our name, the PyTorch port's, other spellings of ours)
SINGLE_PARTS = (
    (
        WORD_TABLE,
        "wte.weight",
        (
            "backbone.embedding.word_embedding.embedding_table",
            "backbone.pangu_alpha_embedding.word_embedding.embedding_table",
            "embedding_table",
        ),
    ),
    (
        POSITION_TABLE,
        "wpe.weight",
        (
            "backbone.embedding.position_embedding.embedding_table",
            "backbone.pangu_alpha_embedding.position_embedding.embedding_table",
        ),
    ),
    (QUERY_TABLE, "wqe.weight", ()),
    (FINAL_NORM + "gamma", "ln_f.weight", ()),
    (FINAL_NORM + "beta", "ln_f.bias", ()),
)
# What later versions of the original call the two tables that they moved.
MASTER_NAMES = {WORD_TABLE: SINGLE_PARTS[0][2][0], POSITION_TABLE: SINGLE_PARTS[1][2][0]}

OPTIMIZER_PREFIXES = ("adam_m.", "adam_v.")
# Constants that the port stores with each attention layer: the causal mask and what it puts there.
TORCH_BUFFER = re.compile(r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias")
# A name that begins so belongs to a model, and must be in the table.
MODEL_PREFIXES = ("backbone.", "transformer.", "h.", "wte.", "wpe.", "wqe.", "ln_f.")

_TORCH_LAYER_PARTS = {torch_part(ours): ours for ours in parameters.LAYER}
_TRANSPOSED = {f"{name}.weight" for name, is_transposed in parameters.LINEAR_LAYERS.items() if not is_transposed}
_SINGLE_PARTS = {spelling: ours for ours, _, others in SINGLE_PARTS for spelling in (ours, *others)}
for _name in (parameters.TARGET_TABLE, parameters.EXPERT_TABLE):
    _SINGLE_PARTS[_name] = _name  # the port has no such tables
_BLOCK_PARTS = {*parameters.LAYER, *ExpertShape(2, (0,), shared=1).parts()}
_TORCH_SINGLE_PARTS = {torch: ours for ours, torch, _ in SINGLE_PARTS}
_BLOCK = re.compile(r"backbone\.blocks\.(\d{1,6})\.(.+)")
_TORCH_BLOCK = re.compile(r"h\.(\d{1,6})\.(.+)")


@dataclass
class SortedNames:
    """The names of one checkpoint, told apart. Every name is in exactly one of the collections."""

    weights: dict[str, str] = field(default_factory=dict)
    """name in the file -> canonical name"""
    optimizer: dict[str, str] = field(default_factory=dict)
    """name in the file -> canonical name behind its prefix, `adam_m.backbone…`"""
    tied_head: list[str] = field(default_factory=list)
    """the PyTorch port's copy of the word table"""
    left_out: list[str] = field(default_factory=list)
    """counters of a training run, constant masks"""
    foreign: list[str] = field(default_factory=list)
    """parameters of a model that is not this one"""
    is_torch: bool = False
    """the PyTorch port's names, with transposed matrices"""
    query_layer_among_blocks: bool = False
    """the query layer had the name of a block; in MindSpore's names only the first pipeline network did that"""


def sorted_names_of(source: Source) -> SortedNames:
    """Return `sort_names` of some weights. Raises UserError that names their file."""
    try:
        return sort_names(source.tensors)
    except UserError as error:
        raise UserError(f"{source.path}: {error}") from None


def sort_names(names: Iterable[str]) -> SortedNames:
    """Tell the names of a checkpoint apart; it needs all of them at once, to know which block is the query layer.

    Raises UserError where two names mean the same weight, or the names of two frameworks are mixed.
    """
    result = SortedNames()
    kinds: dict[str, str] = {}
    for name in names:
        prefix = next((prefix for prefix in OPTIMIZER_PREFIXES if name.startswith(prefix)), "")
        canonical, kind = recognise(name[len(prefix) :])
        if canonical:
            (result.optimizer if prefix else result.weights)[name] = prefix + canonical
            kinds.setdefault(kind, name)
        elif TORCH_BUFFER.fullmatch(name):
            result.left_out.append(name)
        elif name == TORCH_TIED_HEAD:
            result.tied_head.append(name)
        elif strip_wrapper(name[len(prefix) :]).startswith(MODEL_PREFIXES):
            result.foreign.append(name)
        else:
            result.left_out.append(name)
    if len(kinds) > 1:
        raise UserError(f"{' and '.join(map(repr, kinds.values()))} are names of two frameworks in one checkpoint")
    result.is_torch = "torch" in kinds
    name_query_layer(result)
    for mapping in (result.weights, result.optimizer):
        seen: dict[str, str] = {}
        for name, canonical in mapping.items():
            if seen.setdefault(canonical, name) != name:
                raise UserError(f"{seen[canonical]!r} and {name!r} are both {canonical!r}")
    return result


def strip_wrapper(name: str) -> str:
    """Return it without the `network.` that wrapping Cells put before a name."""
    while name.startswith("network."):
        name = name.removeprefix("network.")
    return name


def recognise(name: str) -> tuple[str, str]:
    """Return (canonical name, "mindspore" or "torch"), or ("", "") for a name that is not in the table.

    Every numbered layer is still a block.
    """
    ours = strip_wrapper(name)
    if ours in _SINGLE_PARTS:
        return _SINGLE_PARTS[ours], "mindspore"
    block = _BLOCK.fullmatch(ours)
    if block and block[2] in _BLOCK_PARTS:
        return BLOCK.format(int(block[1])) + block[2], "mindspore"
    if ours.startswith(QUERY_LAYER) and ours.removeprefix(QUERY_LAYER) in parameters.LAYER:
        return ours, "mindspore"
    torch = name.removeprefix(TORCH_PREFIX)
    if torch in _TORCH_SINGLE_PARTS:
        return _TORCH_SINGLE_PARTS[torch], "torch"
    block = _TORCH_BLOCK.fullmatch(torch)
    if block and block[2] in _TORCH_LAYER_PARTS:
        return BLOCK.format(int(block[1])) + _TORCH_LAYER_PARTS[block[2]], "torch"
    return "", ""


def name_query_layer(result: SortedNames) -> None:
    """Rename the last block: it is the query layer where there is a query table but no query layer."""
    canonical = set(result.weights.values())
    blocks = {block_number(name) for name in canonical} - {None}
    if QUERY_TABLE not in canonical or any(name.startswith(QUERY_LAYER) for name in canonical) or not blocks:
        return
    last = BLOCK.format(max(number for number in blocks if number is not None))
    result.query_layer_among_blocks = True
    for mapping in (result.weights, result.optimizer):
        for name, ours in mapping.items():
            mapping[name] = ours.replace(last, QUERY_LAYER, 1)


def block_number(canonical: str) -> int | None:
    """Return the number of the block that a canonical name belongs to."""
    match = _BLOCK.fullmatch(canonical)
    return int(match[1]) if match else None


def canonical_names(names: Iterable[str]) -> dict[str, str]:
    """Return {name in a checkpoint: canonical name} of its weights; optimizer states and counters are left out.

    For MindSpore's spellings. Raises UserError for the PyTorch port's, whose matrices need transposing, and for names
    of another model.
    """
    result = sort_names(names)
    if result.is_torch:
        raise UserError(
            "these are the PyTorch port's weights: convert them (python -m pangu convert … --to safetensors)"
        )
    if result.foreign:
        raise UserError(f"{result.foreign[0]!r} is no parameter of PanGu-α ({len(result.foreign)} such)")
    return result.weights


def is_transposed(canonical: str) -> bool:
    """Return whether the PyTorch port holds the transpose of this weight."""
    match = _BLOCK.fullmatch(canonical)
    part = match[2] if match else canonical.removeprefix(QUERY_LAYER)
    return part in _TRANSPOSED


def torch_names(num_blocks: int, query_layer: bool) -> dict[str, str]:
    """Return {canonical name: the PyTorch port's} of a model, in canonical order."""
    result: dict[str, str] = {}
    singles = {ours: torch for torch, ours in _TORCH_SINGLE_PARTS.items()}
    for ours in parameters.canonical_order(num_blocks, query_layer):
        number = num_blocks if ours.startswith(QUERY_LAYER) else block_number(ours)
        part = ours.removeprefix(QUERY_LAYER if number == num_blocks else BLOCK.format(number))
        result[ours] = TORCH_PREFIX + (singles[ours] if number is None else f"h.{number}.{torch_part(part)}")
    return result
