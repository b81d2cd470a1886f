"""Connected components of an undirected graph."""

import numpy as np

from data_pipeline.kernels.compiled import compiled


def components(nodes: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """int64[nodes]: the least node of each node's component, for the edges `left[i]`-`right[i]` (int64)."""
    parent = np.arange(nodes, dtype=np.int64)
    _components(parent, np.ascontiguousarray(left, np.int64), np.ascontiguousarray(right, np.int64))
    return parent


@compiled
def _root(parent: np.ndarray, node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]  # path halving
        node = parent[node]
    return node


@compiled
def _components(parent: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    for edge in range(left.size):
        a = _root(parent, left[edge])
        b = _root(parent, right[edge])
        # The lesser root stays a root, so the label of a component does not depend on the order of the edges.
        parent[max(a, b)] = min(a, b)
    for node in range(parent.size):
        parent[node] = _root(parent, node)


def components_reference(nodes: int, edges: list[tuple[int, int]]) -> list[int]:
    """The same, plainly: lower labels until nothing changes."""
    labels = list(range(nodes))
    changed = True
    while changed:
        changed = False
        for a, b in edges:
            least = min(labels[a], labels[b])
            changed |= labels[a] != least or labels[b] != least
            labels[a] = labels[b] = least
    return labels
