"""Collectives as functions over the list of a group's shards. Sums run in the group's order: results are repeatable."""

from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np

Shards = Sequence[np.ndarray]


def all_reduce(shards: Shards, axis: int) -> list[np.ndarray]:
    total = reduce(np.add, shards)
    return [total] * len(shards)


def all_reduce_maximum(shards: Shards, axis: int) -> list[np.ndarray]:
    largest = reduce(np.maximum, shards)
    return [largest] * len(shards)


def all_gather(shards: Shards, axis: int) -> list[np.ndarray]:
    whole = np.concatenate(shards, axis=axis)
    return [whole] * len(shards)


def reduce_scatter(shards: Shards, axis: int) -> list[np.ndarray]:
    return np.split(reduce(np.add, shards), len(shards), axis=axis)


def all_to_all(shards: Shards, axis: int) -> list[np.ndarray]:
    """Rank i cuts its shard along the first dimension and sends part j to rank j, which joins what it gets along
    `axis`; the way back cuts along `axis` (negative here) and joins along the first."""
    if axis < 0:
        parts = [np.split(shard, len(shards), axis=-axis) for shard in shards]
        return [np.concatenate([parts[i][j] for i in range(len(shards))], axis=0) for j in range(len(shards))]
    parts = [np.split(shard, len(shards), axis=0) for shard in shards]
    return [np.concatenate([parts[i][j] for i in range(len(shards))], axis=axis) for j in range(len(shards))]


COLLECTIVES: dict[str, Callable[[Shards, int], list[np.ndarray]]] = {
    "all_reduce": all_reduce,
    "all_gather": all_gather,
    "reduce_scatter": reduce_scatter,
    "all_to_all": all_to_all,
}
