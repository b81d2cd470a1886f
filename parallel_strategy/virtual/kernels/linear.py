"""Matrix products, norms and additions to the residual stream."""

import numpy as np

from parallel_strategy.virtual import arithmetic as op
from parallel_strategy.virtual.values import KERNELS, Values

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
    """Register y = x w (+ b) and its gradients. A row-split product adds its bias after the sum, elsewhere."""
    output = OUTPUT.get(name, name)
    experts = name.startswith("experts.") and name != "experts.router"

    def forward(values: Values) -> None:
        y = values.read(_source(values, name)) @ _matrix(values, name)
        bias = values.bias(f"{name}.bias") if name not in ("attention.output", "feed_forward.down") else None
        if name == "experts.down" and (values.expert_tensor or values.biases_sum):
            bias = None  # one of those whose parts are summed adds it, or all add it to the sum
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
    KERNELS[f"{name}.accumulate"] = nothing  # the store has added it


def nothing(values: Values) -> None:
    pass


def _table(values: Values) -> tuple[int, str]:
    """Return the head's own table, or the first one where it is tied and on the same rank."""
    own = (values.layer, "head.logits.weight")
    return own if values.store.has(*own) else (0, "embedding.word.weight")


def _matrix(values: Values, name: str) -> np.ndarray:
    if name == "head.logits":
        return values.store.weight(*_table(values)).T
    return values.weight(f"{name}.weight")


def _norm(name: str, *, last: bool = False) -> None:
    """Register a norm of the residual stream. `last`: the model's last one, which replaces the stream."""

    def forward(values: Values) -> None:
        x = values.stream.hidden
        assert x is not None
        values.made[f"{name}.input"] = x
        y = op.normalise(x, values.weight(f"{name}.weight"), values.bias(f"{name}.bias"))
        if name in _FEEDS:
            values.made[_FEEDS[name]] = y
        if last:
            values.made[name] = values.stream.hidden = y

    def backward(values: Values) -> None:
        gradient = values.mine(values.read(f"d.{_FEEDS[name]}")) if name in _FEEDS else values.stream.gradient
        assert gradient is not None
        centre = values.has(f"{name}.bias")
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


def _residual(name: str, output: str, bias: str | None, site: int) -> None:
    """Register dropout and the addition to the residual stream, with the bias of the matmul before it if there is one;
    experts add their own. `site`: of the layer's three places of dropout."""

    def forward(values: Values) -> None:
        y, added = values.read(output), values.bias(bias) if bias else None
        assert values.stream.hidden is not None
        y = (y if added is None else y + added) * values.dropped(3 * values.layer + site)
        values.stream.hidden = values.stream.hidden + y

    def backward(values: Values) -> None:
        assert values.stream.gradient is not None
        gradient = values.stream.gradient * values.dropped(3 * values.layer + site)
        if bias and values.has(bias):
            values.gradient(bias, op.over_rows(gradient))
        values.made[f"d.{output}"] = gradient

    KERNELS[f"{name}.residual"] = forward
    KERNELS[f"{name}.residual.gradient"] = backward


_residual("attention", "attention.output", "attention.output.bias", 2)
_residual("feed_forward", "feed_forward.output", "feed_forward.down.bias", 3)
_residual("experts", "experts.output", None, 3)
