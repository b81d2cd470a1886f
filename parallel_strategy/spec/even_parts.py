"""What of a model has to fall into equal parts over the axes of a mesh: rules that files and the search share."""

from collections.abc import Iterator

from parallel_strategy.spec.divide import divisors, nearest
from parallel_strategy.spec.model import ModelSpec


def uneven_parts(
    model: ModelSpec, tp: int, cp: int, *, sequence_parallel: bool, etp: int | None = None
) -> Iterator[str]:
    """Yield what does not fall into equal parts, a line each: `field: what; nearest: what would be right`.
    `etp`: ranks that split each expert, absent: `tp`."""
    widths = {"ffn_hidden_size": model.ffn_hidden_size}
    if model.experts is not None and etp in (None, tp):
        widths["experts.ffn_hidden_size"] = model.experts.ffn_hidden_size
    for name, width in widths.items():
        if width % tp:
            yield f"mesh.tp: {tp} must divide {name} {width}; nearest: {_tensor_parallel(model, tp)}"
    heads = model.key_value_heads
    if heads % tp and tp % heads:
        yield (
            f"mesh.tp: {tp} must divide the {heads} key-value heads, or be a multiple of them; "
            f"nearest: {_tensor_parallel(model, tp)}"
        )
    if cp > 1 and model.seq_length % (2 * cp):
        legal = [1, *(n for n in divisors(model.seq_length) if model.seq_length % (2 * n) == 0)]
        yield (
            f"mesh.cp: twice {cp} must divide the sequence {model.seq_length}, of which each rank has two parts; "
            f"nearest: {nearest(legal, cp)}"
        )
    if sequence_parallel and tp > 1 and model.seq_length // cp % tp:
        yield (
            f"tensor.sequence_parallel: mesh.tp {tp} must divide the {model.seq_length // cp} tokens of a rank; "
            "nearest: false"
        )


def _tensor_parallel(model: ModelSpec, tp: int) -> int:
    """Return the legal tensor parallelism next to one that is not."""
    widths = [model.ffn_hidden_size, *([model.experts.ffn_hidden_size] if model.experts is not None else [])]
    heads = model.key_value_heads
    legal = [
        n for n in divisors(model.num_heads) if not any(width % n for width in widths) and not (heads % n and n % heads)
    ]
    return nearest(legal, tp)
