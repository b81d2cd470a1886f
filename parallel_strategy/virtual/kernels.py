"""What each kernel and collective of a program's blocks does with the values of one layer on one rank.

Values are named after the operator that makes them; `d.` before a name is a gradient. What a collective made of a value
stands beside it (`Values.sent`), and readers take that where it exists.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from parallel_strategy.graph.operator import Collective
from parallel_strategy.spec.model import ModelSpec
from parallel_strategy.virtual import operators as op
from parallel_strategy.virtual.batch import Tokens


class Store(Protocol):
    """The weights of one rank, and where their gradients are added."""

    def weight(self, layer: int, name: str) -> np.ndarray: ...

    def has(self, layer: int, name: str) -> bool: ...

    def add_gradient(self, layer: int, name: str, gradient: np.ndarray) -> None: ...


@dataclass(slots=True)
class Stream:
    """What flows from layer to layer of one chunk, for one micro-batch on one rank: hidden states, then gradients."""

    hidden: np.ndarray | None = None
    gradient: np.ndarray | None = None


@dataclass(slots=True)
class Values:
    """One layer on one rank for one micro-batch. `tokens`: those of this rank's context-parallel slice; `own`: those of
    the residual stream, fewer under sequence parallelism."""

    model: ModelSpec
    store: Store
    stream: Stream
    layer: int
    kind: str
    tokens: Tokens
    own: Tokens
    tensor: int  # place in the tensor group
    tensors: int
    first_word: int | None  # that this rank's part of the vocabulary begins with; None: it has the whole
    vocabulary: int  # words without padding
    divisor: float
    made: dict[str, np.ndarray] = field(default_factory=dict)
    sent: dict[str, np.ndarray] = field(default_factory=dict)
    loss: float = 0.0

    def read(self, name: str) -> np.ndarray:
        return self.sent[name] if name in self.sent else self.made[name]

    def weight(self, name: str) -> np.ndarray:
        return self.store.weight(self.layer, name)

    def bias(self, name: str) -> np.ndarray | None:
        return self.store.weight(self.layer, name) if self.store.has(self.layer, name) else None

    def gradient(self, name: str, value: np.ndarray) -> None:
        self.store.add_gradient(self.layer, name, value)

    @property
    def offset(self) -> int:
        return self.first_word or 0

    def add(self, name: str, value: np.ndarray) -> None:
        self.made[name] = self.made[name] + value if name in self.made else value

    def mine(self, x: np.ndarray) -> np.ndarray:
        """This rank's tokens of what the whole tensor group has."""
        rows = self.own.ids.shape[1]
        return x if x.shape[1] == rows else x[:, self.tensor * rows : (self.tensor + 1) * rows]


KERNELS: dict[str, Callable[[Values], None]] = {}
Kernel = Callable[[Values], None]


def kernel(*names: str) -> Callable[[Kernel], Kernel]:
    def register(function: Kernel) -> Kernel:
        KERNELS.update(dict.fromkeys(names, function))
        return function

    return register


# where the input of a matrix product comes from, and where its gradient goes
INPUT = {
    "attention.query_key_value": "attention.input", "attention.query": "attention.input",
    "attention.key": "attention.input", "attention.value": "attention.input",
    "attention.output": "attention.context", "feed_forward.up": "feed_forward.input",
    "feed_forward.down": "feed_forward.activation", "experts.router": "experts.norm",
    "experts.up": "experts.dispatched", "experts.down": "experts.activation", "head.logits": "head.input",
}  # fmt: skip
OUTPUT = {"feed_forward.down": "feed_forward.output", "experts.down": "experts.returned"}


def _source(values: Values, name: str) -> str:
    return "query_embedding" if name == "attention.query" and values.kind == "query" else INPUT[name]


def _linear(name: str) -> None:
    """Registers y = x w (+ b) and its gradients. A row-split product adds its bias after the sum, elsewhere."""
    output = OUTPUT.get(name, name)
    experts = name.startswith("experts.") and name != "experts.router"

    def forward(values: Values) -> None:
        y = values.read(_source(values, name)) @ _matrix(values, name)
        bias = values.bias(f"{name}.bias") if name not in ("attention.output", "feed_forward.down") else None
        if bias is not None:
            y = y + (bias[:, None] if experts else bias)
        values.made[output] = y

    def input_gradient(values: Values) -> None:
        back = values.read(f"d.{output}") @ _matrix(values, name).swapaxes(-1, -2)
        values.add(f"d.{_source(values, name)}", back)

    def weight_gradient(values: Values) -> None:
        x, gradient = values.read(_source(values, name)), values.read(f"d.{output}")
        weight = x.swapaxes(-1, -2) @ gradient if experts else op.weight_gradient(x, gradient)
        if name == "head.logits":
            values.store.add_gradient(*_table(values), weight.T)
        else:
            values.gradient(f"{name}.weight", weight)

    def bias_gradient(values: Values) -> None:
        gradient = values.read(f"d.{output}")
        values.gradient(f"{name}.bias", gradient.sum(axis=1) if experts else op.over_rows(gradient))

    KERNELS[name] = forward
    KERNELS[f"{name}.input_gradient"] = input_gradient
    KERNELS[f"{name}.weight_gradient"] = weight_gradient
    KERNELS[f"{name}.bias_gradient"] = bias_gradient
    KERNELS[f"{name}.accumulate"] = _nothing  # the store has added it


def _nothing(values: Values) -> None:
    pass


def _table(values: Values) -> tuple[int, str]:
    """The head's own table, or the first one where it is tied and on the same rank."""
    own = (values.layer, "head.logits.weight")
    return own if values.store.has(*own) else (0, "embedding.word.weight")


def _matrix(values: Values, name: str) -> np.ndarray:
    if name == "head.logits":
        return values.store.weight(*_table(values)).T
    return values.weight(f"{name}.weight")


def _norm(name: str, *, last: bool = False) -> None:
    """Registers a norm of the residual stream. `last`: the model's last one, which replaces the stream."""

    def forward(values: Values) -> None:
        x = values.stream.hidden
        assert x is not None
        values.made[f"{name}.input"] = x
        y = op.normalise(x, values.weight(f"{name}.weight"), values.bias(f"{name}.bias"))
        if name in _FEEDS:
            values.made[_FEEDS[name]] = y
        if last:
            values.stream.hidden = y

    def backward(values: Values) -> None:
        gradient = values.mine(values.read(f"d.{_FEEDS[name]}")) if name in _FEEDS else values.stream.gradient
        assert gradient is not None
        centre = values.bias(f"{name}.bias") is not None
        x, weight = values.made[f"{name}.input"], values.weight(f"{name}.weight")
        back, of_weight, of_bias = op.normalise_gradient(gradient, x, weight, centre=centre)
        values.gradient(f"{name}.weight", of_weight)
        if centre:
            values.gradient(f"{name}.bias", of_bias)
        before = values.stream.gradient
        values.stream.gradient = back if last or before is None else before + back

    KERNELS[name] = forward
    KERNELS[f"{name}.gradient"] = backward


_FEEDS = {
    "attention.norm": "attention.input",
    "feed_forward.norm": "feed_forward.input",
    "experts.norm": "experts.norm",
    "head.norm": "head.input",
}

for _name in INPUT:
    _linear(_name)
for _name in ("attention.norm", "feed_forward.norm", "experts.norm"):
    _norm(_name)
for _name in ("final.norm", "head.norm"):
    _norm(_name, last=True)


def _residual(name: str, output: str, bias: str) -> None:
    """Registers the addition to the residual stream, with the bias of the matmul before it where there is one."""

    def forward(values: Values) -> None:
        y, added = values.read(output), values.bias(bias)
        assert values.stream.hidden is not None
        values.stream.hidden = values.stream.hidden + (y if added is None else y + added)

    def backward(values: Values) -> None:
        gradient = values.stream.gradient
        assert gradient is not None
        if values.bias(bias) is not None:
            values.gradient(bias, op.over_rows(gradient))
        values.made[f"d.{output}"] = gradient

    KERNELS[f"{name}.residual"] = forward
    KERNELS[f"{name}.residual.gradient"] = backward


_residual("attention", "attention.output", "attention.output.bias")
_residual("feed_forward", "feed_forward.output", "feed_forward.down.bias")
_residual("experts", "experts.output", "experts.down.bias")


# --- embedding -------------------------------------------------------------------------------------------------------


@kernel("embedding.word")
def _embed(values: Values) -> None:
    table, ids = values.store.weight(0, "embedding.word.weight"), values.tokens.ids - values.offset
    here = (ids >= 0) & (ids < len(table))
    rows = table[np.where(here, ids, 0)] * here[..., None]
    # a whole table gives the whole row's tokens, of which each rank keeps its own
    values.made["embedding.word"] = values.mine(rows) if values.first_word is None else rows


@kernel("embedding.word.gradient")
def _embed_gradient(values: Values) -> None:
    table, ids = values.store.weight(0, "embedding.word.weight"), values.tokens.ids - values.offset
    here = (ids >= 0) & (ids < len(table))
    gradient = values.read("d.embedding.word")
    values.gradient("embedding.word.weight", op.scatter_rows(len(table), ids[here], gradient[here]))


@kernel("embedding.position")
def _positions(values: Values) -> None:
    table = values.weight("embedding.position.weight")
    values.made["embedding.position"] = values.read("embedding.word") + table[values.own.positions]


@kernel("embedding.position.gradient")
def _positions_gradient(values: Values) -> None:
    gradient = values.stream.gradient
    assert gradient is not None
    rows = len(values.weight("embedding.position.weight"))
    values.gradient("embedding.position.weight", op.scatter_rows(rows, values.own.positions, gradient))


@kernel("query_embedding")
def _queries(values: Values) -> None:
    values.made["query_embedding"] = values.weight("query_embedding.weight")[values.tokens.positions]


@kernel("query_embedding.gradient")
def _queries_gradient(values: Values) -> None:
    rows = len(values.weight("query_embedding.weight"))
    gradient = op.scatter_rows(rows, values.tokens.positions, values.made["d.query_embedding"])
    values.gradient("query_embedding.weight", gradient)


# --- attention -------------------------------------------------------------------------------------------------------


def _groups(values: Values) -> int:
    return values.read("attention.key").shape[-1] // values.model.head_width


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
    """Queries, keys and values out of one product."""
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


@kernel("attention.core.context")
def _context(values: Values) -> None:
    probabilities, value = values.made["attention.probabilities"], values.read("attention.value")
    values.made["attention.context"] = op.context(probabilities, value, values.model.head_width)


@kernel("attention.core.context.input_gradient")
def _context_gradient(values: Values) -> None:
    gradient, value = values.made["d.attention.context"], values.read("attention.value")
    values.made["d.attention.probabilities"] = op.context_to_probabilities(gradient, value, values.model.head_width)


@kernel("attention.core.context.weight_gradient")
def _value_gradient(values: Values) -> None:
    gradient, probabilities = values.made["d.attention.context"], values.made["attention.probabilities"]
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
    """Fused attention keeps no probabilities."""
    for part in (_scores, _softmax, _context):
        part(values)
    del values.made["attention.probabilities"]


@kernel("attention.core.gradient")
def _flash_gradient(values: Values) -> None:
    for part in (
        _scores, _softmax, _value_gradient, _context_gradient, _softmax_gradient, _query_gradient, _key_gradient,
    ):  # fmt: skip
        part(values)


# --- feed-forward and experts ----------------------------------------------------------------------------------------


def _activation(name: str) -> None:
    def forward(values: Values) -> None:
        values.made[f"{name}.activation"] = op.inner_width(values.model, values.made[f"{name}.up"])

    def backward(values: Values) -> None:
        up, gradient = values.made[f"{name}.up"], values.made[f"d.{name}.activation"]
        values.made[f"d.{name}.up"] = op.inner_width_gradient(values.model, up, gradient)

    KERNELS[f"{name}.activation"] = forward
    KERNELS[f"{name}.activation.gradient"] = backward


_activation("feed_forward")
_activation("experts")


@kernel("experts.route")
def _route(values: Values) -> None:
    assert values.model.experts is not None
    logits = values.made["experts.router"].reshape(-1, values.model.experts.count)
    chosen, shares = op.route(logits, values.model.experts.top_k)
    values.made["experts.chosen"], values.made["experts.shares"] = chosen, shares


@kernel("experts.route.gradient")
def _route_gradient(values: Values) -> None:
    assert values.model.experts is not None
    chosen, shares = values.made["experts.chosen"], values.made["experts.shares"]
    back = op.route_gradient(values.made["d.experts.shares"], chosen, shares, values.model.experts.count)
    values.made["d.experts.router"] = back.reshape(values.made["experts.router"].shape)


@kernel("experts.permute")
def _permute(values: Values) -> None:
    """[E, tokens, h]: every expert has a place for each token, so none is dropped."""
    assert values.model.experts is not None
    flat = values.made["experts.norm"].reshape(-1, values.model.hidden_size)
    places = np.zeros((values.model.experts.count, *flat.shape), flat.dtype)
    token = np.arange(len(flat))[:, None]
    places[values.made["experts.chosen"], token] = flat[token]
    values.made["experts.dispatched"] = places


@kernel("experts.permute.gradient")
def _permute_gradient(values: Values) -> None:
    chosen, places = values.made["experts.chosen"], values.read("d.experts.dispatched")
    back = places[chosen, np.arange(len(chosen))[:, None]].sum(axis=1)
    values.add("d.experts.norm", back.reshape(values.made["experts.norm"].shape))


@kernel("experts.unpermute")
def _unpermute(values: Values) -> None:
    chosen, shares = values.made["experts.chosen"], values.made["experts.shares"]
    back = values.read("experts.returned")[chosen, np.arange(len(chosen))[:, None]]
    values.made["experts.back"] = back
    values.made["experts.output"] = (back * shares[..., None]).sum(axis=1).reshape(values.made["experts.norm"].shape)


@kernel("experts.unpermute.gradient")
def _unpermute_gradient(values: Values) -> None:
    chosen, shares = values.made["experts.chosen"], values.made["experts.shares"]
    gradient = values.made["d.experts.output"].reshape(len(chosen), 1, -1)
    values.made["d.experts.shares"] = (values.made["experts.back"] * gradient).sum(axis=-1)
    places = np.zeros_like(values.read("experts.returned"))
    places[chosen, np.arange(len(chosen))[:, None]] = gradient * shares[..., None]
    values.made["d.experts.returned"] = places


# --- head ------------------------------------------------------------------------------------------------------------


@kernel("head.loss")
def _loss(values: Values) -> None:
    logits = values.made["head.logits"]
    words = values.offset + np.arange(logits.shape[-1])
    logits[..., words >= values.vocabulary] = -np.inf  # rows that only fill the table
    values.made["head.loss.maximum"] = logits.max(axis=-1)


def target(values: Values) -> None:
    """Shifted logits of the labels that this rank's part of the vocabulary has."""
    shifted = values.made["head.logits"] - values.read("head.loss.maximum")[..., None]
    values.made["head.shifted"] = shifted
    label = values.tokens.labels - values.offset
    here = (label >= 0) & (label < shifted.shape[-1])
    found = np.take_along_axis(shifted, np.where(here, label, 0)[..., None], axis=-1)[..., 0]
    values.made["head.loss.target"] = np.where(here, found, 0)


def total(values: Values) -> None:
    values.made["head.loss.sum"] = np.exp(values.made["head.shifted"]).sum(axis=-1)


def finish_head(values: Values) -> None:
    """The loss of this rank's tokens, once the sums over the vocabulary are there."""
    if "head.loss.target" not in values.made:
        target(values)
        total(values)
    nll = np.log(values.read("head.loss.sum")) - values.read("head.loss.target")
    values.loss = float((nll * values.tokens.counted).sum()) / values.divisor


@kernel("head.loss.gradient")
def _loss_gradient(values: Values) -> None:
    gradient = np.exp(values.made["head.shifted"]) / values.read("head.loss.sum")[..., None]
    label = values.tokens.labels - values.offset
    here = (label >= 0) & (label < gradient.shape[-1])
    place = np.where(here, label, 0)[..., None]
    np.put_along_axis(gradient, place, np.take_along_axis(gradient, place, axis=-1) - here[..., None], axis=-1)
    scale = values.tokens.counted / values.tokens.counted.dtype.type(values.divisor)
    values.made["d.head.logits"] = gradient * scale[..., None]


# --- collectives of blocks -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Exchange:
    """The values that a collective takes; its results stand beside them. `along`: the dimension that is cut or joined;
    for all_to_all see `exchange.all_to_all`."""

    values: tuple[str, ...]
    along: int = 1
    prepare: Kernel | None = None
    maximum: bool = False


_FIXED = {
    "attention.ring": Exchange(("attention.key", "attention.value"), prepare=_unfuse),
    "attention.ring.gradient": Exchange(("d.attention.key", "d.attention.value")),
    "head.loss.maximum": Exchange(("head.loss.maximum",), maximum=True),
    "head.loss.target": Exchange(("head.loss.target",), prepare=target),
    "head.loss.sum": Exchange(("head.loss.sum",), prepare=total),
    "experts.dispatch": Exchange(("experts.dispatched",)),
    "experts.dispatch.gradient": Exchange(("d.experts.dispatched",), along=-1),
    "experts.gather": Exchange(("experts.dispatched",)),
    "experts.gather.gradient": Exchange(("d.experts.dispatched",)),
    "experts.reduce": Exchange(("experts.returned",)),
    "experts.scatter": Exchange(("experts.returned",)),
    "experts.scatter.gradient": Exchange(("d.experts.returned",)),
    "experts.combine": Exchange(("experts.returned",), along=-1),
    "experts.combine.gradient": Exchange(("d.experts.returned",)),
}


def exchange_of(node: Collective) -> Exchange:
    """The values of a block's collective, by its name."""
    name = node.name.removesuffix(".again.gradient")
    if name in _FIXED:
        return _FIXED[name]
    if name.endswith(".gradient"):
        value = f"d.{name.removesuffix('.gradient')}"
        return Exchange((value,))
    return Exchange((name,))


def enter_forward(values: Values) -> None:
    """Before a block's first kernel. A head without a norm of its own takes the residual stream as it is."""
    if values.kind == "head" and not values.store.has(values.layer, "head.norm.weight"):
        assert values.stream.hidden is not None
        values.made["head.input"] = values.stream.hidden


def leave_forward(values: Values) -> None:
    if values.kind == "embedding":
        positions = values.made.get("embedding.position")
        values.stream.hidden = values.read("embedding.word") if positions is None else positions
    elif values.kind == "head":
        finish_head(values)


def enter_backward(values: Values) -> None:
    if values.kind == "embedding":
        assert values.stream.gradient is not None
        values.made["d.embedding.word"] = values.stream.gradient


def leave_backward(values: Values) -> None:
    if values.kind == "head" and not values.store.has(values.layer, "head.norm.weight"):
        values.stream.gradient = values.mine(values.read("d.head.input"))
