"""Between the two matrices of a feed-forward layer, and the way of tokens to experts and back.

Every expert has a place for each token of each rank, so none is dropped whatever the layout.
"""

import numpy as np

from parallel_strategy.virtual import arithmetic as op
from parallel_strategy.virtual.values import EXCHANGES, KERNELS, Exchange, Values, kernel


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
    """Permute to [E, tokens, h]: every expert has a place for each token, so none is dropped."""
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


def _prepare_combine(values: Values) -> None:
    values.made["experts.combined"] = _with_bias(values)


def _with_bias(values: Values) -> np.ndarray:
    """Return what the experts give back; their second bias is in it, or has been added."""
    return values.made["experts.biased"] if "experts.biased" in values.made else values.read("experts.returned")


def _combined(values: Values) -> np.ndarray:
    """Return what comes back to the tokens' own rank: the group's, where experts are spread over one."""
    return values.sent["experts.combined"] if "experts.combined" in values.sent else _with_bias(values)


@kernel("experts.unpermute")
def _unpermute(values: Values) -> None:
    chosen, shares = values.made["experts.chosen"], values.made["experts.shares"]
    back = _combined(values)[chosen, np.arange(len(chosen))[:, None]]
    values.made["experts.back"] = back
    values.made["experts.output"] = (back * shares[..., None]).sum(axis=1).reshape(values.made["experts.norm"].shape)


@kernel("experts.unpermute.gradient")
def _unpermute_gradient(values: Values) -> None:
    chosen, shares = values.made["experts.chosen"], values.made["experts.shares"]
    gradient = values.made["d.experts.output"].reshape(len(chosen), 1, -1)
    values.made["d.experts.shares"] = (values.made["experts.back"] * gradient).sum(axis=-1)
    places = np.zeros_like(_combined(values))
    places[chosen, np.arange(len(chosen))[:, None]] = gradient * shares[..., None]
    values.made["d.experts.returned"] = places


@kernel("experts.bias")
def _bias(values: Values) -> None:
    """Add the bias of the second matrix to what the tensor group has summed, which a recomputation may keep."""
    values.made["experts.biased"] = values.read("experts.returned") + values.weight("experts.down.bias")[:, None]


@kernel("experts.bias.gradient")
def _bias_gradient(values: Values) -> None:
    values.gradient("experts.down.bias", values.read("d.experts.returned").sum(axis=1))


# along 1: experts apart, their places joined; along -1: the way back
for _name, _value, _along in (
    ("dispatch", "experts.dispatched", 1),
    ("dispatch.gradient", "d.experts.dispatched", -1),
    ("gather", "experts.dispatched", 1),
    ("gather.gradient", "d.experts.dispatched", 1),
    ("reduce", "experts.returned", 1),
    ("reduce.gradient", "d.experts.returned", 1),
    ("scatter", "experts.returned", 1),
    ("scatter.gradient", "d.experts.returned", 1),
    ("combine.gradient", "d.experts.returned", 1),
):
    EXCHANGES[f"experts.{_name}"] = Exchange((_value,), along=_along)
EXCHANGES["experts.combine"] = Exchange(("experts.combined",), along=-1, prepare=_prepare_combine)
