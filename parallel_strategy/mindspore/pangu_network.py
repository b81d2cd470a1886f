"""The network of PanGu-alpha as MindSpore sees it: the one table of its names, shapes, operator splits and stages.

Everybody who names a cell, a parameter or an operator of the network asks here: the price of an override, layouts,
strategy files, `apply`, the reader of compiled graphs. The module imports nothing but the model's specification, so
every folder may import it.

An operator is a row: its path below its layer (or in the whole network), MindSpore's kind, and its operands. An operand
lists its dimensions. A dimension is a word for its size and a letter for its split:

    rows:T hidden | width:M hidden        MatMul of [rows, hidden], split over data parallelism, and a weight

    D data parallel, C context parallel, T = D·C rows, M tensor parallel, V tensor parallel where the vocabulary is
    split, S context parallel and tensor parallel where the sequence is split between products, R = D·S rows there. No
    letter: whole. `!`: must stay whole. `-` is a scalar. Behind `->` stands the layout asked for the result, where
    that is not the natural one.

Context parallelism splits the sequence everywhere but in the keys and values that attention reads, which are gathered.

The layer is Megatron's (Shoeybi et al. 2019): heads and the feed-forward width are split, queries, keys, values and
`mapping` by columns, both `projection`s by rows.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from math import ceil

from parallel_strategy.spec.model import ModelSpec

BACKBONE = "backbone."
BLOCKS, QUERY_LAYER = "backbone.blocks.", "backbone.top_query_layer"
WORD_TABLE = "backbone.word_embedding.embedding_table"
WORD_LOOKUP, HEAD = "backbone.word_embedding.gather", "head"  # the two operators that read the word table
TABLE_COPY = "output_table"  # the last stage's own copy of the word table
WEIGHTS = (BACKBONE, TABLE_COPY)  # how the names of weights begin
RECOMPUTED = ("scores", "add_penalty", "softmax", "context")  # of attention, by selective recomputation
# These take no split of their own: they follow what they stand between.
FOLLOWERS = ("Cast", "Reshape")
IN_BLOCK = r"blocks-CellList/(\d+)-"  # a block in the scopes of a compiled graph


@dataclass(frozen=True, slots=True)
class Dimension:
    """A dimension of an operand: the word for its size, the letter of its split, whether it must stay whole."""

    size: str
    letter: str = "1"
    stays_whole: bool = False


Operand = tuple[Dimension, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """An operator. `weights`: operand -> its parameter. `takes`: the operators whose results it reads;
    of `one/other` the last that is executed. Paths are below the layer, or whole for what is in no layer."""

    path: str
    kind: str
    operands: tuple[Operand, ...]
    outputs: tuple[Operand, ...] = ()
    weights: tuple[tuple[int, str], ...] = ()
    takes: tuple[str, ...] = ()


def _operands(text: str) -> tuple[Operand, ...]:
    def dimension(word: str) -> Dimension:
        size, _, letter = word.partition(":")
        return Dimension(size.removesuffix("!"), letter or "1", word.endswith("!"))

    return tuple(
        () if part.strip() == "-" else tuple(dimension(word) for word in part.split()) for part in text.split("|")
    )


def _row(path: str, kind: str, text: str, takes: str = "", weights: tuple[tuple[int, str], ...] = ()) -> Row:
    inputs, _, outputs = text.partition("->")
    return Row(path, kind, _operands(inputs), _operands(outputs) if outputs else (), weights, tuple(takes.split()))


def _norm(path: str, takes: str) -> list[Row]:
    weights = ((1, f"{path}.gamma"), (2, f"{path}.beta"))
    text = "batch:D seq:S hidden! | hidden! | hidden!"
    return [_row(f"{path}.normalisation.layer_norm", "LayerNorm", text, takes, weights)]


def _linear(path: str, product: str, bias: str, takes: str) -> list[Row]:
    matmul = f"{path}.affine.matmul"
    return [
        _row(matmul, "MatMul", product, takes, ((1, f"{path}.weight"),)),
        _row(f"{path}.affine.bias_add", "BiasAdd", bias, matmul, ((1, f"{path}.bias"),)),
    ]


def _dropout(path: str, source: str, x: str, row: str, within: str) -> list[Row]:
    """Return the dropout of `source`, a tensor `x`: its mask is a hash of numbers of rows and of places within a
    row."""
    steps = (
        ("add_row", "Add", f"{row} | {within}", ""),
        ("add_seed", "Add", f"{x} | -", "add_row"),
        ("shift", "RightShift", f"{x} | -", "add_seed"),
        ("xor", "BitwiseXor", f"{x} | {x}", "add_seed shift"),
        ("multiply", "Mul", f"{x} | -", "xor"),
        ("low", "BitwiseAnd", f"{x} | -", "xor"),
        ("reaches", "GreaterEqual", f"{x} | -", "low"),
        ("mask", "Mul", f"{x} | {x}", f"{source} reaches"),
        ("scale", "Mul", f"{x} | -", "mask"),
        ("spread_seed", "Mul", "- | -", ""),
        ("add_site", "Add", "- | -", ""),
    )
    names = {name for name, *_ in steps}
    return [
        _row(f"{path}.{name}", kind, text, " ".join(f"{path}.{one}" if one in names else one for one in takes.split()))
        for name, kind, text, takes in steps
    ]


STREAM, STREAM_ROW = "batch:D seq:S hidden", "batch:D seq:S one"  # the residual stream
HEADS, SCORES, MASK = "batch:D heads:M seq:C size", "batch:D heads:M seq:C keys", "batch:D one seq:C keys"
KEYS, SCORES_ROW = "batch:D heads:M keys size", "batch:D heads:M seq:C one"
INNER = "batch:D seq:C up:M"
SPLIT, MAPPED = "attention.split_transpose", "output.mapping.affine.bias_add"
ATTENDED, FED = "attention.projection.affine.bias_add", "output.projection.affine.bias_add"
NORM1, NORM2 = "layernorm1.normalisation.layer_norm", "layernorm2.normalisation.layer_norm"

LAYER_ROWS: tuple[Row, ...] = (
    *_norm("layernorm1", "output_add"),
    *_norm("layernorm2", "attention_add"),
    *_linear("attention.dense1", "rows:T hidden | width:M hidden", "rows:T width:M | width:M", NORM1),
    *_linear("attention.dense2", "rows:T hidden | key_width:M hidden", "rows:T key_width:M | key_width:M",
             NORM1),
    *_linear("attention.dense3", "rows:T hidden | key_width:M hidden", "rows:T key_width:M | key_width:M",
             NORM1),
    *_linear("attention.projection", "rows:T width:M | width:M hidden -> rows:R hidden", "rows:R hidden | hidden",
             "attention.merge_transpose"),
    _row("attention.scale_queries", "Mul", "batch:D seq:C width:M | -", "attention.dense1.affine.bias_add"),
    _row("attention.scale_keys", "Mul", "batch:D seq:C key_width:M | -", "attention.dense2.affine.bias_add"),
    _row(SPLIT, "Transpose", "batch:D seq:C heads:M size",
         "attention.scale_queries attention.scale_keys attention.dense3.affine.bias_add"),
    _row("attention.scores", "BatchMatMul", f"{HEADS} | {KEYS}", f"{SPLIT} {SPLIT}"),
    _row("attention.add_penalty", "Add", f"{SCORES} | {MASK}", "attention.scores"),
    _row("attention.softmax", "Softmax", "batch:D heads:M seq:C keys!", "attention.add_penalty"),
    *_dropout("attention.probability_dropout", "attention.softmax", SCORES, SCORES_ROW, "one one one keys"),
    _row("attention.context", "BatchMatMul", f"{SCORES} | {KEYS}",
         f"attention.softmax/attention.probability_dropout.scale {SPLIT}"),
    _row("attention.flash_attention.is_hidden", "Less", f"{MASK} | -"),
    _row("attention.flash_attention.kernel", "FlashAttentionScore", f"{HEADS} | {KEYS} | {KEYS} | {MASK}",
         f"{SPLIT} {SPLIT} {SPLIT}"),
    _row("attention.merge_transpose", "Transpose", HEADS, "attention.context/attention.flash_attention.kernel"),
    *_dropout("attention_dropout", ATTENDED, STREAM, STREAM_ROW, "one one hidden"),
    _row("attention_add", "Add", f"{STREAM} | {STREAM}", f"output_add {ATTENDED}/attention_dropout.scale"),
    *_linear("output.mapping", "rows:T hidden | hidden up:M", "rows:T up:M | up:M", NORM2),
    _row("output.activation.kernel", "GeLU", INNER, MAPPED),
    _row("output.activation.erf", "Erf", INNER, MAPPED),
    _row("output.activation.scale", "Mul", f"{INNER} | -", MAPPED),
    _row("output.activation.shift", "Add", f"{INNER} | -", "output.activation.erf"),
    _row("output.activation.multiply", "Mul", f"{INNER} | {INNER}",
         "output.activation.scale output.activation.shift"),
    *_linear("output.projection", "rows:T ffn:M | ffn:M hidden -> rows:R hidden", "rows:R hidden | hidden",
             "output.activation.kernel/output.activation.multiply"),
    *_dropout("output_dropout", FED, STREAM, STREAM_ROW, "one one hidden"),
    _row("output_add", "Add", f"{STREAM} | {STREAM}", f"attention_add {FED}/output_dropout.scale"),
)  # fmt: skip

X, CHOICES, ROW = "batch:D seq hidden", "batch:D seq experts", "batch:D seq one"  # tokens, their experts, a number each
SHARES, MASKS = "batch:D experts", "batch:D seq experts places"
PLACES, BY_EXPERT = "batch:Q experts:P places hidden", "experts:P batch:Q places hidden"
UP = "experts:P expert_rows:Q up:M"


def _experts_linear(path: str, product: str, bias: str, takes: str) -> list[Row]:
    matmul = f"output.experts.{path}.affine.matmul"
    weight, bias_name = f"output.experts.{path}.weight", f"output.experts.{path}.bias"
    return [
        _row(matmul, "BatchMatMul", product, takes, ((1, weight),)),
        _row(f"output.experts.{path}.affine.bias_add", "Add", bias, matmul, ((1, bias_name),)),
    ]


# What a layer with experts has in the place of `output.mapping`, `output.activation` and `output.projection`: a router,
# the dispatch of tokens by masks and the experts' own matrices. P: expert parallel, Q: data parallel over that.
EXPERT_LETTERS = "QP"  # in the order of the devices, outermost first
ROUTER, MASKED = "output.router", "output.masked"
EXPERT_ROWS: tuple[Row, ...] = (
    _row(f"{ROUTER}.matmul", "MatMul", "rows:D hidden | hidden experts", NORM2, ((1, f"{ROUTER}.weight"),)),
    *(_row(f"{ROUTER}.{name}", kind, text) for name, kind, text in (
        ("largest", "ArgMaxWithValue", CHOICES),
        ("double", "Mul", f"{CHOICES} | -"),
        ("hide", "Sub", f"{CHOICES} | {CHOICES}"),
        ("add_gates", "Add", "batch:D seq | batch:D seq"),
        ("share_gate", "Div", "batch:D seq | batch:D seq"),
        ("one_hot", "OneHot", f"{CHOICES} | - | -"),
        ("pick", "Mul", f"{CHOICES} | {CHOICES}"),
        ("gate", "ReduceSum", CHOICES),
        ("maximum", "ReduceMax", CHOICES),
        ("shift", "Sub", f"{CHOICES} | {ROW}"),
        ("exp", "Exp", CHOICES),
        ("sum", "ReduceSum", CHOICES),
        ("divide", "Div", f"{CHOICES} | {ROW}"),
        ("log", "Log", ROW),
        ("log_sum", "Add", f"{ROW} | {ROW}"),
        ("square", "Square", ROW),
        ("z", "ReduceMean", ROW),
        ("share", "ReduceMean", CHOICES),
        ("mean", "ReduceMean", CHOICES),
        ("agree", "Mul", f"{SHARES} | {SHARES}"),
        ("balance", "ReduceSum", SHARES),
        ("scale_balance", "Mul", "batch:D | -"),
        ("weigh_balance", "Mul", "batch:D | -"),
        ("weigh_z", "Mul", "batch:D | -"),
        ("add_losses", "Add", "batch:D | batch:D"),
    )),
    *(_row(f"{MASKED}.{name}", kind, text) for name, kind, text in (
        ("cumsum", "CumSum", CHOICES),
        ("total", "ReduceSum", CHOICES),
        ("add_total", "Add", "batch:D one experts | batch:D one experts"),
        ("add_before", "Add", f"{CHOICES} | batch:D one experts"),
        ("mine", "Mul", f"{CHOICES} | {CHOICES}"),
        ("place", "ReduceSum", CHOICES),
        ("one_hot", "OneHot", "batch:D seq places | - | -"),
        ("outer", "Mul", "batch:D seq experts one | batch:D seq one places"),
        ("gated", "Mul", f"{MASKS} | batch:D seq one one"),
        ("add_mask", "Add", f"{MASKS} | {MASKS}"),
        ("add_gated", "Add", f"{MASKS} | {MASKS}"),
    )),
    _row(f"{MASKED}.dispatch", "BatchMatMul", f"batch:D seq slots | {X}", NORM2),
    _row(f"{MASKED}.to_experts", "Transpose", PLACES, f"{MASKED}.dispatch"),
    *_experts_linear("mapping", "experts:P expert_rows:Q hidden | experts:P hidden up:M",
                     f"{UP} | experts:P one up:M", f"{MASKED}.to_experts"),
    *(_row(f"output.experts.activation.{name}", kind, text, takes) for name, kind, text, takes in (
        ("kernel", "GeLU", UP, "output.experts.mapping.affine.bias_add"),
        ("erf", "Erf", UP, "output.experts.mapping.affine.bias_add"),
        ("scale", "Mul", f"{UP} | -", "output.experts.mapping.affine.bias_add"),
        ("shift", "Add", f"{UP} | -", "output.experts.activation.erf"),
        ("multiply", "Mul", f"{UP} | {UP}", "output.experts.activation.scale output.experts.activation.shift"),
    )),
    *_experts_linear("projection", "experts:P expert_rows:Q ffn:M | experts:P ffn:M hidden",
                     "experts:P expert_rows:Q hidden | experts:P one hidden",
                     "output.experts.activation.kernel/output.experts.activation.multiply"),
    _row(f"{MASKED}.from_experts", "Transpose", BY_EXPERT, "output.experts.projection.affine.bias_add"),
    _row(f"{MASKED}.combine", "BatchMatMul", "batch:D seq slots | batch:D slots hidden", f"{MASKED}.from_experts"),
)  # fmt: skip

# What fine-tuning puts beside a linear layer (LoRA), and behind one that writes into the residual (adapter).
TOKENS, RESIDUAL_TOKENS = "batch:D seq:C", "batch:D seq:S"


def _low_rank(path: str, tokens: str, inputs: str, outputs: str) -> list[Row]:
    """Return two thin matrices beside a linear layer; inputs, outputs: the dimensions of its matrix."""
    summed = f"{tokens} {outputs}"
    return [
        _row(f"{path}.narrow", "MatMul", f"rows:T {inputs} | rank {inputs}", "", ((1, f"{path}.lora_A"),)),
        _row(f"{path}.widen", "MatMul", f"rows:T rank | {outputs} rank", f"{path}.narrow", ((1, f"{path}.lora_B"),)),
        _row(f"{path}.scale_added", "Mul", f"rows:T {outputs} | -", f"{path}.widen"),
        _row(f"{path}.add", "Add", f"{summed} | {summed}", f"{path}.affine.bias_add {path}.scale_added"),
    ]


def _bottleneck(path: str) -> list[Row]:
    """Return a narrow pair of layers behind a linear layer."""
    down, narrow, up = (f"{path}.{name}" for name in ("into", "activation.kernel", "out_of"))
    return [
        _row(f"{down}.matmul", "MatMul", "rows:R hidden | bottleneck hidden", "", ((1, f"{path}.adapter.down"),)),
        _row(f"{down}.bias_add", "BiasAdd", "rows:R bottleneck | bottleneck", f"{down}.matmul",
             ((1, f"{path}.adapter.down_bias"),)),
        _row(narrow, "GeLU", "rows:R bottleneck", f"{down}.bias_add"),
        _row(f"{up}.matmul", "MatMul", "rows:R bottleneck | hidden bottleneck", narrow,
             ((1, f"{path}.adapter.up"),)),
        _row(f"{up}.bias_add", "BiasAdd", "rows:R hidden | hidden", f"{up}.matmul", ((1, f"{path}.adapter.up_bias"),)),
    ]  # fmt: skip


ADAPTER_ROWS: tuple[Row, ...] = (
    *_low_rank("attention.dense1", TOKENS, "hidden", "width:M"),
    *_low_rank("attention.dense2", TOKENS, "hidden", "key_width:M"),
    *_low_rank("attention.dense3", TOKENS, "hidden", "key_width:M"),
    *_low_rank("attention.projection", RESIDUAL_TOKENS, "width:M", "hidden"),
    *_low_rank("output.mapping", TOKENS, "hidden", "up:M"),
    *_low_rank("output.projection", RESIDUAL_TOKENS, "ffn:M", "hidden"),
    *_bottleneck("attention.projection"),
    *_bottleneck("output.projection"),
)
DENSE_ONLY = ("output.mapping", "output.activation", "output.projection")


def layer_rows(model: ModelSpec, layer: int) -> tuple[Row, ...]:
    """Return the rows of one layer."""
    if not model.is_expert_layer(layer):
        return LAYER_ROWS
    return tuple(row for row in LAYER_ROWS if not row.path.startswith(DENSE_ONLY)) + EXPERT_ROWS


EMBEDDED = "backbone.embedding_add"  # what the first layer gets
# Operators outside of the layers that run before the first of them.
EMBEDDING_PARTS = (WORD_LOOKUP, "backbone.position", "backbone.embedding", "objective.")
PAIRS = "batch:D seq:C keys"  # which token sees which
LOGITS = "rows:T vocab:V"

NETWORK_ROWS: tuple[Row, ...] = (
    # tables and the ends of the layers
    _row(WORD_LOOKUP, "Gather", "vocab:V hidden | batch:D seq:C", "", ((0, WORD_TABLE),)),
    _row("backbone.position_embedding.gather", "Gather", "positions hidden | batch:D seq:C", "",
         ((0, "backbone.position_embedding.embedding_table"),)),
    _row("backbone.top_query_embedding.gather", "Gather", "positions hidden | batch:D seq:C", "",
         ((0, "backbone.top_query_embedding.embedding_table"),)),
    _row("backbone.embedding_add", "Add", "batch:D seq:C hidden | batch:D seq:C hidden",
         f"{WORD_LOOKUP} backbone.position_embedding.gather"),
    *_dropout("backbone.embedding_dropout", "backbone.embedding_add", STREAM, STREAM_ROW, "one one hidden"),
    *_norm("backbone.layernorm", ""),
    _row(HEAD, "MatMul", "rows:T hidden | vocab:V hidden", "", ((1, WORD_TABLE),)),
    # who sees whom
    _row("objective.attention_mask.ends", "Equal", "batch:D seq | -"),
    _row("objective.attention_mask.real", "NotEqual", "batch:D seq | -"),
    _row("objective.attention_mask.from_zero", "Sub", "batch:D seq:C | -"),
    _row("objective.attention_mask.cumsum", "CumSum", "batch:D seq"),
    _row("objective.attention_mask.before", "Sub", "batch:D seq | batch:D seq"),
    _row("objective.attention_mask.repeat_positions", "Add", "batch:D seq | one seq"),
    _row("objective.attention_mask.same_document", "Equal", "batch:D seq:C one | batch:D one keys"),
    _row("objective.attention_mask.causal", "Mul", f"{PAIRS} | one seq:C keys"),
    _row("objective.attention_mask.repeat_causal", "Add", "batch:D seq:C one | one seq:C keys"),
    _row("objective.attention_mask.see_real", "Mul", f"{PAIRS} | batch:D seq:C one"),
    _row("objective.attention_mask.seen_real", "Mul", f"{PAIRS} | batch:D one keys"),
    _row("objective.attention_mask.count", "ReduceSum", PAIRS),
    _row("objective.attention_mask.hidden", "Sub", f"- | {PAIRS}"),
    _row("objective.attention_mask.penalise", "Mul", f"{PAIRS} | -"),
    _row("objective.interval_mask.before", "Less", "one one keys | batch:D seq:C one"),
    _row("objective.interval_mask.after", "Greater", "one one keys | batch:D seq:C one"),
    _row("objective.interval_mask.either", "LogicalOr", f"{PAIRS} | {PAIRS}"),
    _row("objective.interval_mask.penalise", "Mul", f"{PAIRS} | -"),
    # the loss
    _row("objective.take", "StridedSlice", "batch:D fields seq"),
    _row("objective.inputs", "StridedSlice", "batch:D seq"),
    _row("objective.labels", "StridedSlice", "batch:D seq"),
    _row("objective.is_counted", "NotEqual", "batch:D seq:C | -"),
    _row("nll.maximum", "ReduceMax", LOGITS, HEAD),
    _row("nll.shift", "Sub", f"{LOGITS} | rows:T one", HEAD),
    _row("nll.exp", "Exp", LOGITS, "nll.shift"),
    _row("nll.sum", "ReduceSum", LOGITS, "nll.exp"),
    _row("nll.log", "Log", "rows:T"),
    _row("nll.one_hot", "OneHot", "rows:T vocab:V | - | -"),
    _row("nll.pick", "Mul", f"{LOGITS} | {LOGITS}", "nll.shift nll.one_hot"),
    _row("nll.target", "ReduceSum", LOGITS, "nll.pick"),
    _row("nll.subtract", "Sub", "rows:T | rows:T"),
    _row("add_penalty", "Add", "batch:D seq | batch:D one"),  # of experts, as the next
    _row("backbone.penalty_add", "Add", "batch:D | batch:D"),
    _row("row_sum", "ReduceSum", "batch:D seq"),  # for the same on a pipeline, as the next two
    _row("scale_rows", "Mul", "batch:D | -"),
    _row("share_rows", "Mul", "batch:D | -"),
    _row("count", "Mul", "rows:T | rows:T"),
    _row("sum", "ReduceSum", "rows:T"),
    _row("scale", "Mul", "- | -"),
)  # fmt: skip

PENALTIES = ("add_penalty", "backbone.penalty_add", "row_sum", "scale_rows", "share_rows")  # of experts alone

# What a step of a fine-tuning has beside them: rows say of each id whether it is learnt.
ANSWERS_ROWS: tuple[Row, ...] = (_row("objective.learnt", "StridedSlice", "batch:D seq"),)

# Names that stand for another kind in a network with another activation.
OTHER_KINDS = {
    "output.activation.kernel": ("GeLU", "FastGeLU"),
    "output.experts.activation.kernel": ("GeLU", "FastGeLU"),
}


# --- where operators, parameters and cells are -------------------------------------------------------------------


def layer_path(model: ModelSpec, layer: int) -> str:
    """Return the path of a layer's cell; the query layer is the last."""
    return QUERY_LAYER if model.query_layer and layer == model.num_layers - 1 else f"{BLOCKS}{layer}"


@cache
def _rows() -> tuple[dict[str, Row], dict[str, Row]]:
    in_layer = (*LAYER_ROWS, *EXPERT_ROWS, *ADAPTER_ROWS)
    return {row.path: row for row in in_layer}, {row.path: row for row in (*NETWORK_ROWS, *ANSWERS_ROWS)}


def row_of(path: str) -> Row | None:
    """Return the row of an operator by its path; None where the network has no such operator."""
    in_layer, in_network = _rows()
    if found := re.fullmatch(r"backbone\.(?:blocks\.\d+|top_query_layer)\.(.+)", path):
        return in_layer.get(found[1])
    return in_network.get(path)


def operators(model: ModelSpec) -> Iterator[tuple[str, Row]]:
    """Yield the path and the row of every operator that the table knows for this model."""
    for layer in range(model.num_layers):
        where = layer_path(model, layer)
        for row in layer_rows(model, layer):
            yield f"{where}.{row.path}", row
    for row in NETWORK_ROWS:
        if row.path in PENALTIES and model.experts is None:
            continue
        if model.query_layer or not row.path.startswith("backbone.top_query_embedding"):
            yield row.path, row


def is_executed(model: ModelSpec, path: str) -> bool:
    """Return whether a training step runs an operator, by its path or the end of it. Fused attention runs in half
    precision and without dropout, in the place of its parts."""
    fused = model.compute_dtype != "fp32" and not model.dropout_rate
    if "flash_attention." in path:
        return fused
    if "dropout." in path:
        return model.dropout_rate > 0
    if "output.activation." in path or "experts.activation." in path:
        return path.endswith("kernel") == (model.activation != "gelu_erf")
    return not (fused and path.endswith(tuple(f"attention.{name}" for name in RECOMPUTED)))


def sizes(model: ModelSpec, sequences: int = 1) -> dict[str, int]:
    """Return the words of dimensions as numbers; `sequences`: of one micro-batch, over all data-parallel ranks."""
    up = 2 if model.gated_ffn else 1
    experts = {}
    if model.experts is not None:
        count = model.experts.count
        places = min(
            model.seq_length, ceil(model.experts.top_k * model.seq_length * model.experts.capacity_factor / count)
        )
        experts = {"experts": count, "places": places, "slots": count * places, "expert_rows": sequences * places}
    return experts | {
        "one": 1,
        "batch": sequences,
        "seq": model.seq_length,
        "keys": model.seq_length,
        "rows": sequences * model.seq_length,
        "hidden": model.hidden_size,
        "heads": model.num_heads,
        "size": model.head_width,
        "width": model.num_heads * model.head_width,
        "key_width": model.key_value_heads * model.head_width,
        "up": up * model.ffn_hidden_size,
        "ffn": model.ffn_hidden_size,
        "vocab": model.vocab_size,
        "positions": model.seq_length,
        "fields": 1,  # what a batch has beside one another: a slice takes one of them, and the others stay whole
    }


@dataclass(frozen=True, slots=True)
class OwnedParameter:
    """A parameter and an operator that reads it: `path` of the operator, and as which operand."""

    parameter: str
    shape: tuple[int, ...]
    layer: int
    operator: str
    path: str
    operand: int


def owned_parameters(model: ModelSpec) -> Iterator[OwnedParameter]:
    """Yield every parameter with the operators that read it, in the network's order. The word table comes twice."""
    last = model.num_layers - 1
    words, positions, queries, norm, head = (
        row_of(path)
        for path in (
            WORD_LOOKUP,
            "backbone.position_embedding.gather",
            "backbone.top_query_embedding.gather",
            "backbone.layernorm.normalisation.layer_norm",
            HEAD,
        )
    )
    yield from _owned(model, "", words, 0)
    yield from _owned(model, "", positions, 0)
    if model.query_layer:
        yield from _owned(model, "", queries, last)
    for layer in range(model.num_layers):
        for row in layer_rows(model, layer):
            yield from _owned(model, f"{layer_path(model, layer)}.", row, layer)
    yield from _owned(model, "", norm, last)
    yield from _owned(model, "", head, last)


def _owned(model: ModelSpec, prefix: str, row: Row | None, layer: int) -> Iterator[OwnedParameter]:
    assert row is not None
    size = sizes(model)
    for operand, name in row.weights:
        shape = tuple(size[dimension.size] for dimension in row.operands[operand])
        yield OwnedParameter(f"{prefix}{name}", shape, layer, row.kind, f"{prefix}{row.path}", operand)


def layer_of_cell(model: ModelSpec, path: str) -> int | None:
    """Return the number of the layer that a cell is."""
    if found := re.fullmatch(r"backbone\.blocks\.(\d+)", path):
        return int(found[1])
    return model.num_layers - 1 if path == QUERY_LAYER else None


def stage_layer_of_cell(model: ModelSpec, path: str) -> int | None:
    """Return the layer with which a cell shares its pipeline stage; None: the stage of its parts or neighbours."""
    if path in ("backbone.word_embedding", "backbone.position_embedding", "backbone.embedding_dropout"):
        return 0
    if path in ("backbone.layernorm", "backbone.top_query_embedding"):
        return model.num_layers - 1
    return layer_of_cell(model, path)


def layer_of_parameter(name: str, num_layers: int) -> int:
    """Return the layer of a parameter: tables are in layer 0, what comes after the last layer in `num_layers`."""
    if found := re.search(r"\bblocks\.(\d+)\.", name):
        return int(found[1])
    if "top_query" in name:
        return num_layers - 1
    return 0 if "embedding" in name else num_layers


def blocks_of_scopes(scopes: Iterable[str]) -> set[int]:
    """Return the numbers of the blocks that scopes of a compiled graph name."""
    return {int(found[1]) for scope in scopes if (found := re.search(IN_BLOCK, scope))}


def layer_of_scope(scope: str, num_layers: int) -> int:
    """Return the layer that a scope of a compiled graph names, counted as `layer_of_parameter` does."""
    if found := re.search(IN_BLOCK, scope):
        return int(found[1])
    if "top_query" in scope:
        return num_layers - 1
    if "word_embedding" in scope or "position_embedding" in scope:
        return 0
    return num_layers


def short_name_of_scope(scope: str) -> str:
    """Return `attention.projection` for `Default/.../attention-Attention/projection-Linear/.../AllReduce-op0`."""
    parts = [part.split("-")[0] for part in scope.split("/")[:-1]]
    kept = [part for part in parts if part in ("attention", "output", "projection", "word_embedding", "nll", "mapping")]
    return ".".join(kept) or "loss"


# --- the emulator's names ----------------------------------------------------------------------------------------

LINEAR = {
    "attention.query": "attention.dense1",
    "attention.key": "attention.dense2",
    "attention.value": "attention.dense3",
    "attention.output": "attention.projection",
    "feed_forward.up": "output.mapping",
    "feed_forward.down": "output.projection",
    "experts.router": "output.router",
    "experts.up": "output.experts.mapping",
    "experts.down": "output.experts.projection",
}
NORMS = {"attention.norm": "layernorm1", "feed_forward.norm": "layernorm2", "experts.norm": "layernorm2"}
TABLES = {
    "embedding.word.weight": "word_embedding",
    "head.logits.weight": "word_embedding",
    "embedding.position.weight": "position_embedding",
    "query_embedding.weight": "top_query_embedding",
}
WORD_TABLES = ("embedding.word.weight", "head.logits.weight")  # two copies of one table, where it is tied across stages


@dataclass(frozen=True, slots=True)
class LayerOperator:
    """An operator of a layer as the emulator and `search` name it, over [rows, columns]; a product has `inner` too.
    `paths`: the operators of the network that it is; `inputs`: tensors that it reads."""

    paths: tuple[str, ...]
    columns: str
    inner: str = ""
    inputs: int = 1

    @property
    def ranks(self) -> tuple[int, ...]:
        """Return how many dimensions each operand has where `search` prints its split."""
        if self.inner:
            return 2, 2
        return (2, 1, 1) if self.paths[0].endswith("layer_norm") else (2,) * self.inputs


CORE = (*RECOMPUTED, "merge_transpose", "flash_attention.is_hidden", "flash_attention.kernel")
LAYER_OPERATORS: dict[str, LayerOperator] = {
    "attention.norm": LayerOperator((NORM1,), "hidden", inputs=3),
    "attention.query": LayerOperator(("attention.dense1.affine.matmul",), "width", "hidden"),
    "attention.key": LayerOperator(("attention.dense2.affine.matmul",), "key_width", "hidden"),
    "attention.value": LayerOperator(("attention.dense3.affine.matmul",), "key_width", "hidden"),
    "attention.core": LayerOperator(
        (SPLIT, *(f"attention.{name}" for name in CORE),
         *(row.path for row in LAYER_ROWS if "probability_dropout" in row.path)),
        "heads", inputs=3),
    "attention.output": LayerOperator(("attention.projection.affine.matmul",), "hidden", "width"),
    "attention.residual": LayerOperator(("attention_add",), "hidden", inputs=2),
    "feed_forward.norm": LayerOperator((NORM2,), "hidden", inputs=3),
    "feed_forward.up": LayerOperator(("output.mapping.affine.matmul",), "up", "hidden"),
    "feed_forward.activation": LayerOperator(
        tuple(f"output.activation.{name}" for name in ("kernel", "erf", "scale", "shift", "multiply")), "up"),
    "feed_forward.down": LayerOperator(("output.projection.affine.matmul",), "hidden", "ffn"),
    "feed_forward.residual": LayerOperator(("output_add",), "hidden", inputs=2),
}  # fmt: skip


def released_name(layer: int, name: str, query_layer: int | None) -> str:
    """Return the released name of the weight `name` of a layer; `query_layer` is the number of the query layer, if any.

    Weights that PanGu-alpha does not have keep their own name.
    """
    if name in TABLES:
        return f"{BACKBONE}{TABLES[name]}.embedding_table"
    part, _, kind = name.rpartition(".")
    scale = "gamma" if kind == "weight" else "beta"
    if part in ("final.norm", "head.norm"):
        return f"{BACKBONE}layernorm.{scale}"
    where = QUERY_LAYER if layer == query_layer else f"{BLOCKS}{layer}"
    if part in NORMS:
        return f"{where}.{NORMS[part]}.{scale}"
    return f"{where}.{LINEAR[part]}.{kind}" if part in LINEAR else f"{layer}.{name}"


def is_turned(name: str) -> bool:
    """Return whether the checkpoint has [out, in] where the program has [in, out]."""
    return name in ("attention.query.weight", "attention.key.weight", "attention.value.weight")


def is_table(name: str) -> bool:
    """Return whether a weight of the program is a lookup table."""
    return name in TABLES
