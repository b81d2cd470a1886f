"""Attention: scores, softmax and weighted values, in parts or fused, over heads that tensor parallelism split."""

from collections.abc import Callable

import numpy as np

from parallel_strategy.virtual import arithmetic as op
from parallel_strategy.virtual.kernels import linear as linear  # its products come first, to be wrapped here
from parallel_strategy.virtual.values import EXCHANGES, KERNELS, Exchange, Values, kernel


def _groups(values: Values) -> int:
    return values.read("attention.key").shape[-1] // values.model.head_width


for _name in ("attention.ring.merge", "attention.ring.merge.gradient"):  # what a gathered ring has no need of
    KERNELS[_name] = linear.nothing


@kernel("attention.rotary")
def _rotary(values: Values) -> None:
    _unfuse(values)
    for name in ("attention.query", "attention.key"):
        values.made[name] = op.rotate(values.made[name], values.tokens.positions, values.model.head_width)


@kernel("attention.rotary.gradient")
def _rotary_gradient(values: Values) -> None:
    for name in ("d.attention.query", "d.attention.key"):
        turned = op.rotate(values.read(name), values.tokens.positions, values.model.head_width, back=True)
        values.made[name] = turned
        values.sent.pop(name, None)


def _unfuse(values: Values) -> None:
    """Take queries, keys and values out of one product."""
    fused = values.made.pop("attention.query_key_value", None)
    if fused is None:
        return
    model = values.model
    sizes = np.array([model.num_heads, model.key_value_heads, model.key_value_heads]) * model.head_width
    cuts = np.cumsum(sizes // values.tensors)[:2]
    parts = np.split(fused, cuts, axis=-1)
    values.made.update(zip(("attention.query", "attention.key", "attention.value"), parts, strict=True))


def _fuse_gradient(values: Values) -> None:
    parts = [values.read(f"d.attention.{name}") for name in ("query", "key", "value")]
    values.made["d.attention.query_key_value"] = np.concatenate(parts, axis=-1)


def _before(name: str, prepare: Callable[[Values], None]) -> None:
    run = KERNELS[name]

    def both(values: Values) -> None:
        prepare(values)
        run(values)

    KERNELS[name] = both


for _name in ("input_gradient", "weight_gradient", "bias_gradient"):
    _before(f"attention.query_key_value.{_name}", _fuse_gradient)


@kernel("attention.core.scores")
def _scores(values: Values) -> None:
    _unfuse(values)
    query, key = values.made["attention.query"], values.read("attention.key")
    values.made["attention.scores"] = op.scores(query, key, values.model.head_width, values.tokens.penalty)


@kernel("attention.core.softmax")
def _softmax(values: Values) -> None:
    values.made["attention.probabilities"] = op.softmax(values.made.pop("attention.scores"))


def _dropped(values: Values) -> np.ndarray | float:
    """Return what dropout multiplies probabilities with, [B, H, T, S]; heads are numbered over the tensor group."""
    tokens, rate = values.tokens, values.model.dropout_rate
    if not rate:
        return 1.0
    heads = values.model.num_heads // values.tensors
    places = values.tensor * heads + np.arange(heads), tokens.places, np.arange(tokens.penalty.shape[-1])
    return op.dropout(rate, 3 * values.layer + 1, tokens.numbers, *places, dtype=tokens.counted.dtype.type)


@kernel("attention.core.dropout")
def _dropout(values: Values) -> None:
    values.made["attention.dropped"] = values.made["attention.probabilities"] * _dropped(values)


@kernel("attention.core.dropout.gradient")
def _dropout_gradient(values: Values) -> None:
    values.made["d.attention.probabilities"] = values.made["d.attention.probabilities"] * _dropped(values)


def _weights_of_values(values: Values) -> np.ndarray:
    kept = "attention.dropped" if values.model.dropout_rate else "attention.probabilities"
    return values.made[kept]


@kernel("attention.core.context")
def _context(values: Values) -> None:
    probabilities, value = _weights_of_values(values), values.read("attention.value")
    values.made["attention.context"] = op.context(probabilities, value, values.model.head_width)


@kernel("attention.core.context.input_gradient")
def _context_gradient(values: Values) -> None:
    gradient, value = values.made["d.attention.context"], values.read("attention.value")
    values.made["d.attention.probabilities"] = op.context_to_probabilities(gradient, value, values.model.head_width)


@kernel("attention.core.context.weight_gradient")
def _value_gradient(values: Values) -> None:
    gradient, probabilities = values.made["d.attention.context"], _weights_of_values(values)
    width = values.model.head_width
    values.made["d.attention.value"] = op.context_to_value(gradient, probabilities, width, _groups(values))


@kernel("attention.core.softmax.gradient")
def _softmax_gradient(values: Values) -> None:
    gradient = op.softmax_gradient(values.made["d.attention.probabilities"], values.made["attention.probabilities"])
    values.made["d.attention.scores"] = gradient


@kernel("attention.core.scores.input_gradient")
def _query_gradient(values: Values) -> None:
    key = values.read("attention.key")
    gradient = op.scores_to_query(values.made["d.attention.scores"], key, values.model.head_width)
    values.made["d.attention.query"] = gradient


@kernel("attention.core.scores.weight_gradient")
def _key_gradient(values: Values) -> None:
    query, width = values.made["attention.query"], values.model.head_width
    gradient = op.scores_to_key(values.made["d.attention.scores"], query, width, _groups(values))
    values.made["d.attention.key"] = gradient


@kernel("attention.core")
def _flash(values: Values) -> None:
    """Compute fused attention, which keeps no probabilities."""
    for part in (_scores, _softmax, _dropout, _context):
        part(values)
    del values.made["attention.probabilities"], values.made["attention.dropped"]


@kernel("attention.core.gradient")
def _flash_gradient(values: Values) -> None:
    for part in (
        _scores, _softmax, _dropout, _value_gradient, _context_gradient, _dropout_gradient, _softmax_gradient,
        _query_gradient, _key_gradient,
    ):  # fmt: skip
        part(values)


EXCHANGES["attention.ring"] = Exchange(("attention.key", "attention.value"), prepare=_unfuse)
EXCHANGES["attention.ring.gradient"] = Exchange(("d.attention.key", "d.attention.value"))
for _name, _value in (("all_keys", "attention.key"), ("all_values", "attention.value")):
    EXCHANGES[f"attention.{_name}"] = Exchange((_value,), prepare=_unfuse)
    EXCHANGES[f"attention.{_name}.gradient"] = Exchange((f"d.{_value}",))
