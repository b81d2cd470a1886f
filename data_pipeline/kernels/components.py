"""Connected components of a graph. SciPy has them too, but its import alone takes longer than a million edges here."""

import numpy as np

from data_pipeline.kernels.compiled import compiled


@compiled
def _root(label: np.ndarray, node: int) -> int:
    """Return the node that stands for the part of `node`; the ways to it are halved."""
    while label[node] != node:
        label[node] = label[label[node]]
        node = label[node]
    return node


@compiled
def _join(left: np.ndarray, right: np.ndarray, label: np.ndarray) -> None:
    """Fill `label` (int64[nodes], each its own number) with the least node of each node's component."""
    for edge in range(left.size):
        one, other = _root(label, left[edge]), _root(label, right[edge])
        if one < other:
            label[other] = one
        else:
            label[one] = other
    for node in range(label.size):
        label[node] = _root(label, node)


def components(nodes: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return int64[nodes]: the least node of each node's connected component, for the edges `left[i]`-`right[i]`."""
    label = np.arange(nodes, dtype=np.int64)
    _join(np.asarray(left, np.int64), np.asarray(right, np.int64), label)
    return label
