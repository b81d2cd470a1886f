"""Rank, coordinate, device: where the strategy's mesh lies on the cluster's topology."""

from dataclasses import dataclass
from itertools import product

from parallel_strategy.cost.collective import Network
from parallel_strategy.spec.cluster import ClusterSpec
from parallel_strategy.spec.strategy import Mesh


@dataclass(frozen=True, slots=True)
class Place:
    """`coordinate` in the mesh's own order of axes, outermost first; `device` in the topology, outermost level
    first."""

    rank: int
    coordinate: tuple[int, ...]
    device: tuple[int, ...]


def places(mesh: Mesh, cluster: ClusterSpec) -> list[Place]:
    """Return every rank of the mesh. Ranks run through the axes with the last one fastest, and fill the topology in
    order."""
    sizes = [getattr(mesh, axis) for axis in mesh.axes]
    levels = [level.size for level in cluster.topology]
    result = []
    for rank, coordinate in enumerate(product(*(range(size) for size in sizes))):
        left, device = rank, []
        for size in levels[:-1]:
            left, inside = divmod(left, size)
            device.append(inside)
        result.append(Place(rank, coordinate, tuple(reversed([*device, left]))))
    return result


def axis_levels(mesh: Mesh, cluster: ClusterSpec) -> dict[str, str]:
    """Return the widest level of topology that the traffic of each axis crosses."""
    network = Network(cluster, mesh.devices)
    return {axis: network.outermost_level(getattr(mesh, axis), mesh.stride(axis)) for axis in mesh.axes}


def group_ranks(mesh: Mesh, axis: str, rank: int) -> list[int]:
    """Return the ranks that share all coordinates but `axis` with `rank`."""
    stride, size = mesh.stride(axis), getattr(mesh, axis)
    first = rank - (rank // stride % size) * stride
    return [first + index * stride for index in range(size)]
