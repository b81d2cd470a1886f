"""The ends of the network: embedding tables, and the head with its loss over a vocabulary that may be split."""

import numpy as np

from parallel_strategy.virtual import arithmetic as op
from parallel_strategy.virtual.values import EXCHANGES, Exchange, Values, kernel


@kernel("embedding.word")
def _embed(values: Values) -> None:
    table, ids = values.store.weight(0, "embedding.word.weight"), values.tokens.ids - values.offset
    here = (ids >= 0) & (ids < len(table))
    rows = table[np.where(here, ids, 0)] * here[..., None]
    # a whole table gives the whole row's tokens, of which each rank keeps its own
    values.made["embedding.word"] = values.mine(rows) if values.first_word is None else rows


@kernel("embedding.word.gradient")
def _embed_gradient(values: Values) -> None:
    rows, gradient = values.store.rows(0, "embedding.word.weight"), values.read("d.embedding.word")
    tokens = values.tokens if gradient.shape[1] == values.tokens.ids.shape[1] else values.own
    ids = tokens.ids - values.offset
    here = (ids >= 0) & (ids < rows)
    values.gradient("embedding.word.weight", op.scatter_rows(rows, ids[here], gradient[here]))


@kernel("embedding.position")
def _positions(values: Values) -> None:
    table = values.weight("embedding.position.weight")
    values.made["embedding.position"] = values.mine(values.read("embedding.word")) + table[values.own.positions]


@kernel("embedding.position.gradient")
def _positions_gradient(values: Values) -> None:
    gradient = values.stream.gradient
    assert gradient is not None
    rows = values.store.rows(values.layer, "embedding.position.weight")
    values.gradient("embedding.position.weight", op.scatter_rows(rows, values.own.positions, gradient))


@kernel("embedding.dropout")
def _dropout(values: Values) -> None:
    before = values.made.get("embedding.position")
    before = values.mine(values.read("embedding.word")) if before is None else before
    values.made["embedding.dropout"] = before * values.dropped(0)


@kernel("embedding.dropout.gradient")
def _dropout_gradient(values: Values) -> None:
    assert values.stream.gradient is not None
    values.stream.gradient = values.stream.gradient * values.dropped(0)
    _begin_word_gradient(values)


def _begin_word_gradient(values: Values) -> None:
    """Begin the gradient of the looked-up rows. Where ranks took their own tokens out of a sum, the gradient of that
    sum is theirs, and zero elsewhere."""
    gradient = values.stream.gradient
    assert gradient is not None
    values.made["d.embedding.word"] = values.among_all(gradient) if values.partial else gradient


@kernel("query_embedding")
def _queries(values: Values) -> None:
    values.made["query_embedding"] = values.weight("query_embedding.weight")[values.tokens.positions]


@kernel("query_embedding.gradient")
def _queries_gradient(values: Values) -> None:
    rows = values.store.rows(values.layer, "query_embedding.weight")
    gradient = op.scatter_rows(rows, values.tokens.positions, values.made["d.query_embedding"])
    values.gradient("query_embedding.weight", gradient)


@kernel("head.loss")
def _loss(values: Values) -> None:
    logits = values.made["head.logits"]
    words = values.offset + np.arange(logits.shape[-1])
    logits[..., words >= values.vocabulary] = -np.inf  # rows that only fill the table
    values.made["head.loss.maximum"] = logits.max(axis=-1)


def target(values: Values) -> None:
    """Take the shifted logits of the labels that this rank's part of the vocabulary has."""
    shifted = values.made["head.logits"] - values.read("head.loss.maximum")[..., None]
    values.made["head.shifted"] = shifted
    label = values.tokens.labels - values.offset
    here = (label >= 0) & (label < shifted.shape[-1])
    found = np.take_along_axis(shifted, np.where(here, label, 0)[..., None], axis=-1)[..., 0]
    values.made["head.loss.target"] = np.where(here, found, 0)


def total(values: Values) -> None:
    values.made["head.loss.sum"] = np.exp(values.made["head.shifted"]).sum(axis=-1)


def loss(values: Values) -> None:
    """Compute the loss of this rank's tokens, once the sums over the vocabulary are there."""
    if "head.loss.target" not in values.made:
        target(values)
        total(values)
    nll = np.log(values.read("head.loss.sum")) - values.read("head.loss.target")
    values.made["head.loss.total"] = np.array([(nll * values.tokens.counted).sum() / values.divisor])


def finish_head(values: Values) -> None:
    if "head.loss.total" not in values.made:
        loss(values)
    values.loss = float(values.read("head.loss.total")[0])


def _begin(values: Values) -> None:
    values.made["d.head.loss.total"] = np.array([values.share])


def _slope(values: Values) -> np.ndarray:
    """Return the slope of the loss by each token's negative log-likelihood."""
    if "d.head.loss.total" not in values.made:
        _begin(values)
    scale = values.read("d.head.loss.total")[0] / values.divisor
    return values.tokens.counted * values.tokens.counted.dtype.type(scale)


def _sum_gradient(values: Values) -> None:
    values.made["d.head.loss.sum"] = _slope(values) / values.read("head.loss.sum")


def _target_gradient(values: Values) -> None:
    values.made["d.head.loss.target"] = -_slope(values)


@kernel("head.loss.gradient")
def _loss_gradient(values: Values) -> None:
    if "d.head.loss.sum" not in values.made:
        _sum_gradient(values)
        _target_gradient(values)
    gradient = np.exp(values.made["head.shifted"]) * values.read("d.head.loss.sum")[..., None]
    label = values.tokens.labels - values.offset
    here = (label >= 0) & (label < gradient.shape[-1])
    place = np.where(here, label, 0)[..., None]
    hits = (here * values.read("d.head.loss.target"))[..., None]
    np.put_along_axis(gradient, place, np.take_along_axis(gradient, place, axis=-1) + hits, axis=-1)
    values.made["d.head.logits"] = gradient


EXCHANGES["head.loss.maximum"] = Exchange(("head.loss.maximum",), maximum=True)
EXCHANGES["head.loss.target"] = Exchange(("head.loss.target",), prepare=target)
EXCHANGES["head.loss.sum"] = Exchange(("head.loss.sum",), prepare=total)
EXCHANGES["head.loss.total"] = Exchange(("head.loss.total",), prepare=loss)
EXCHANGES["head.loss.total.gradient"] = Exchange(("d.head.loss.total",), prepare=_begin)
EXCHANGES["head.loss.sum.gradient"] = Exchange(("d.head.loss.sum",), prepare=_sum_gradient)
EXCHANGES["head.loss.target.gradient"] = Exchange(("d.head.loss.target",), prepare=_target_gradient)


def enter_forward(values: Values) -> None:
    """Prepare a block's first kernel. A head without a norm of its own takes the residual stream as it is."""
    if values.kind == "head" and not values.store.has(values.layer, "head.norm.weight"):
        assert values.stream.hidden is not None
        values.made["head.input"] = values.stream.hidden


def leave_forward(values: Values) -> None:
    if values.kind == "embedding":
        made = (values.made[name] for name in ("embedding.dropout", "embedding.position") if name in values.made)
        values.stream.hidden = next(made, None)
        if values.stream.hidden is None:
            values.stream.hidden = values.mine(values.read("embedding.word"))
    elif values.kind == "head":
        finish_head(values)


def enter_backward(values: Values) -> None:
    if values.kind == "embedding":
        _begin_word_gradient(values)


def leave_backward(values: Values) -> None:
    if values.kind == "head" and not values.store.has(values.layer, "head.norm.weight"):
        values.stream.gradient = values.mine(values.read("d.head.input"))
