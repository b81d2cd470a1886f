"""Sparse attention as masks: which places before its own a place sees (Child et al. 2019, arXiv 1904.10509).

    sliding_window  the last `span` places, its own among them
    strided         the last `span` places, and every place whose distance is a multiple of `span`
    fixed           its own block of `span` places, and the last `summary` places of every block

The kernels compute every score and hide some, so a pattern costs what full attention does; it decides what is learnt.
`generation.compiled.products.is_seen` says the same for the compiled engine.
"""

from mindspore import Tensor

from pangu.config import AttentionConfig


def seen_places(asking: Tensor, places: Tensor, pattern: str, span: int, summary: int) -> Tensor:
    """Return places that ask, int32 [..., Q, 1], and places [..., 1, K] -> bool [..., Q, K]; `full` is not asked
    here."""
    distance = asking - places
    if pattern == "sliding_window":
        return distance < span
    if pattern == "strided":
        return (distance < span).logical_or(distance % span == 0)
    return (asking // span == places // span).logical_or(places % span >= span - summary)


def arguments_of(attention: AttentionConfig) -> tuple[str, int, int]:
    """Return pattern, span and summary as `seen_places` takes them."""
    return attention.pattern, attention.span or 0, attention.summary
