"""The arithmetic of the network's operators, forward and backward, on numpy arrays of any float type.

The serial model and the virtual devices call the same functions on whole tensors and on shards. Shapes: B rows, T
tokens of a row, S tokens that can be seen, h hidden size, H heads, D width of a head.
"""

import math

import numpy as np

from parallel_strategy.spec.model import ModelSpec

NORM_EPSILON = 1e-5
MASKED_SCORE = -10000.0  # not -inf: a row that sees nothing is uniform over everything
ROTARY_BASE = 10000.0


def _mean(x: np.ndarray) -> np.ndarray:
    """Return over the last axis, kept; `ndarray.mean` takes three times as long on small arrays."""
    return np.add.reduce(x, axis=-1, keepdims=True) * x.dtype.type(1 / x.shape[-1])


def normalise(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """Return LayerNorm over the last axis, or RMSNorm where there is no bias."""
    centred = x if bias is None else x - _mean(x)
    y = centred / np.sqrt(_mean(centred * centred) + x.dtype.type(NORM_EPSILON)) * weight
    return y if bias is None else y + bias


def normalise_gradient(
    gradient: np.ndarray, x: np.ndarray, weight: np.ndarray, *, centre: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradients of x, weight and bias (Ba et al. 2016; without centring: Zhang and Sennrich 2019)."""
    centred = x - _mean(x) if centre else x
    scale = 1 / np.sqrt(_mean(centred * centred) + x.dtype.type(NORM_EPSILON))
    normed, weighted = centred * scale, gradient * weight
    slope = weighted - normed * _mean(weighted * normed)
    if centre:
        slope = slope - _mean(weighted)
    return slope * scale, over_rows(gradient * normed), over_rows(gradient)


def over_rows(x: np.ndarray) -> np.ndarray:
    """Return the sum over all axes but the last."""
    return x.reshape(-1, x.shape[-1]).sum(axis=0)


def weight_gradient(x: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Return the gradient of w in y = x w: [k, n]."""
    return x.reshape(-1, x.shape[-1]).T @ gradient.reshape(-1, gradient.shape[-1])


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def activate(kind: str, x: np.ndarray) -> np.ndarray:
    if kind == "relu":
        return np.maximum(x, 0)
    if kind == "gelu_erf":
        return x * _normal(x)
    inner, _ = _gate(kind, x)
    return x * _sigmoid(inner)


def activate_gradient(kind: str, x: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    if kind == "relu":
        return gradient * (x > 0)
    if kind == "gelu_erf":
        density = np.exp(-x * x / 2) / x.dtype.type(math.sqrt(2 * math.pi))
        return gradient * (_normal(x) + x * density)
    inner, slope = _gate(kind, x)
    gate = _sigmoid(inner)
    return gradient * gate * (1 + x * slope * (1 - gate))


def _gate(kind: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray | float]:
    """Return x sigmoid(inner): inner and its derivative. GELU by tanh is one of them, since tanh(u) = 2 sigmoid(2u) -
    1."""
    if kind == "gelu_tanh":
        a = x.dtype.type(2 * math.sqrt(2 / math.pi))
        b = x.dtype.type(2 * math.sqrt(2 / math.pi) * 0.044715)
        return x * (a + b * x * x), a + 3 * b * x * x
    factor = x.dtype.type(1.702 if kind == "fast_gelu" else 1.0)  # silu
    return factor * x, factor


def _normal(x: np.ndarray) -> np.ndarray:
    from scipy.special import erf

    return 0.5 * (1 + erf(x / x.dtype.type(math.sqrt(2))))


def inner_width(model: ModelSpec, up: np.ndarray) -> np.ndarray:
    """Return what stands between the two matrices of a feed-forward layer; `up` holds the gate and the rest side by
    side."""
    if not model.gated_ffn:
        return activate(model.activation, up)
    gate, rest = np.split(up, 2, axis=-1)
    return activate(model.activation, gate) * rest


def inner_width_gradient(model: ModelSpec, up: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    if not model.gated_ffn:
        return activate_gradient(model.activation, up, gradient)
    gate, rest = np.split(up, 2, axis=-1)
    back = activate_gradient(model.activation, gate, gradient * rest)
    return np.concatenate([back, gradient * activate(model.activation, gate)], axis=-1)


def split_heads(x: np.ndarray, width: int) -> np.ndarray:
    """Return [B, T, H D] -> [B, H, T, D]."""
    return x.reshape(*x.shape[:2], -1, width).transpose(0, 2, 1, 3)


def merge_heads(x: np.ndarray) -> np.ndarray:
    """Return [B, H, T, D] -> [B, T, H D]."""
    return x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)


def _shared(x: np.ndarray, heads: int) -> np.ndarray:
    """Return keys or values of grouped-query attention, repeated for every query head of their group."""
    return np.repeat(x, heads // x.shape[1], axis=1)


def _gathered(x: np.ndarray, groups: int) -> np.ndarray:
    """Return the sum over each group's query heads."""
    return x.reshape(x.shape[0], groups, -1, *x.shape[2:]).sum(axis=2)


def scores(query: np.ndarray, key: np.ndarray, width: int, penalty: np.ndarray) -> np.ndarray:
    """Return queries [B, T, H D], keys [B, S, K D], penalty [B, T, S] -> [B, H, T, S], scaled by 1/√D."""
    queries, keys = split_heads(query, width), split_heads(key, width)
    scale = query.dtype.type(1 / math.sqrt(width))
    return (queries @ _shared(keys, queries.shape[1]).swapaxes(-1, -2)) * scale + penalty[:, None]


def scores_to_query(gradient: np.ndarray, key: np.ndarray, width: int) -> np.ndarray:
    keys = _shared(split_heads(key, width), gradient.shape[1])
    return merge_heads(gradient @ keys) * key.dtype.type(1 / math.sqrt(width))


def scores_to_key(gradient: np.ndarray, query: np.ndarray, width: int, groups: int) -> np.ndarray:
    back = gradient.swapaxes(-1, -2) @ split_heads(query, width)
    return merge_heads(_gathered(back, groups)) * query.dtype.type(1 / math.sqrt(width))


def softmax(x: np.ndarray) -> np.ndarray:
    shifted = np.exp(x - x.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def softmax_gradient(gradient: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    return probabilities * (gradient - (gradient * probabilities).sum(axis=-1, keepdims=True))


def context(probabilities: np.ndarray, value: np.ndarray, width: int) -> np.ndarray:
    """Return probabilities [B, H, T, S], values [B, S, K D] -> [B, T, H D]."""
    return merge_heads(probabilities @ _shared(split_heads(value, width), probabilities.shape[1]))


def context_to_probabilities(gradient: np.ndarray, value: np.ndarray, width: int) -> np.ndarray:
    heads = split_heads(gradient, width)
    return heads @ _shared(split_heads(value, width), heads.shape[1]).swapaxes(-1, -2)


def context_to_value(gradient: np.ndarray, probabilities: np.ndarray, width: int, groups: int) -> np.ndarray:
    return merge_heads(_gathered(probabilities.swapaxes(-1, -2) @ split_heads(gradient, width), groups))


def rotate(x: np.ndarray, positions: np.ndarray, width: int, *, back: bool = False) -> np.ndarray:
    """Return rotary positions (Su et al. 2021) on [B, T, H D] at positions [B, T]; `back`: as gradients turn."""
    half = width // 2
    frequencies = ROTARY_BASE ** (-np.arange(half) / half)
    angles = positions[:, None, :, None] * frequencies
    cosine, sine = np.cos(angles).astype(x.dtype), np.sin(angles).astype(x.dtype)
    if back:
        sine = -sine
    heads = split_heads(x, width)
    first, second, rest = heads[..., :half], heads[..., half : 2 * half], heads[..., 2 * half :]
    turned = [first * cosine - second * sine, second * cosine + first * sine, rest]
    return merge_heads(np.concatenate(turned, axis=-1))


STEPS = (0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35, 0x27D4EB2F)  # odd, far apart: rows, then axes


def dropout(rate: float, site: int, rows: np.ndarray, *axes: np.ndarray, dtype: type) -> np.ndarray:
    """Return what elements are multiplied with: 0 with probability `rate`, else 1/(1-rate).

    The bits are a hash (Mueller's hash32) of where the element lies in the whole computation, its site, the number of
    its row and its place along each of `axes`, so that every layout drops the same ones.
    """
    bits = rows.astype(np.uint32).reshape(-1, *(1,) * len(axes)) * np.uint32(STEPS[0]) + np.uint32(7919 * site)
    for number, (axis, step) in enumerate(zip(axes, STEPS[1:], strict=False), start=1):
        bits = bits + (axis.astype(np.uint32) * np.uint32(step)).reshape(-1, *(1,) * (len(axes) - number))
    for multiplier in (0x45D9F3B, 0x119DE1F3):
        bits = (bits ^ (bits >> np.uint32(16))) * np.uint32(multiplier)
    return np.where(bits >= round(rate * (1 << 32)), dtype(1 / (1 - rate)), dtype(0))


def scatter_rows(rows: int, ids: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Return the gradient of a table of which `ids` were looked up: [rows, h]."""
    table = np.zeros((rows, gradient.shape[-1]), gradient.dtype)
    np.add.at(table, ids.reshape(-1), gradient.reshape(-1, gradient.shape[-1]))
    return table


def route(logits: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return router logits [N, E] -> the chosen experts [N, k] and their shares [N, k], a softmax over the chosen
    ones."""
    chosen = np.argsort(-logits, axis=-1, kind="stable")[:, :top_k]
    return chosen, softmax(np.take_along_axis(logits, chosen, axis=-1))


def route_gradient(gradient: np.ndarray, chosen: np.ndarray, shares: np.ndarray, experts: int) -> np.ndarray:
    """Return the gradient of the shares [N, k] -> of the logits [N, E]."""
    logits = np.zeros((len(chosen), experts), gradient.dtype)
    np.put_along_axis(logits, chosen, softmax_gradient(gradient, shares), axis=-1)
    return logits
