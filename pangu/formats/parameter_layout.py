"""Which part of a parameter a rank holds, as MindSpore defines it: device matrix, tensor map, optimizer sharding.

Ranks number the cells of the device matrix in row-major order. An axis of the tensor is split along the device axes
that its entry of the tensor map names, counted from the right. All ranks that then hold the same part form a group, and
with optimizer sharding the first axis of the part is split once more among that group. So the parts of a parameter
always form a regular grid. (MindSpore: docs "distributed parallel native", `parallel/_tensor.py`.)
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod


@dataclass(frozen=True)
class ParameterLayout:
    """The layout of one parameter.

    tensor_map: for each axis of the tensor the device axes that split it, counted from the right, outermost first; ()
    where it is not split. optimizer_shard_size: 0 none, -1 the whole group, n the group in runs of n.
    first_rank: the first rank of the pipeline stage that holds the parameter.
    Raises ValueError, in one line, for a layout that contradicts itself.
    """

    device_matrix: tuple[int, ...]
    tensor_map: tuple[tuple[int, ...], ...]
    optimizer_shard_step: int = 0
    optimizer_shard_size: int = 0
    first_rank: int = 0

    def __post_init__(self) -> None:
        if not self.device_matrix or any(length < 1 for length in self.device_matrix):
            raise ValueError(f"device matrix {list(self.device_matrix)} must be positive numbers")
        used = [axis for axes in self.tensor_map for axis in axes]
        if any(not 0 <= axis < len(self.device_matrix) for axis in used):
            raise ValueError(f"tensor map {self.tensor_map} names an axis that {list(self.device_matrix)} has not")
        if len(used) != len(set(used)):
            raise ValueError(f"tensor map {self.tensor_map} splits two axes along the same device axis")
        if self.optimizer_shards > 1 and not self.tensor_map:
            raise ValueError("a scalar cannot be split by optimizer sharding")
        if self.group_size % self.optimizer_shards:
            raise ValueError(f"optimizer sharding by {self.optimizer_shards} does not divide {self.group_size} ranks")
        step = self.group_step
        if self.optimizer_shards > 1 and step and self.optimizer_shard_step not in (0, step):
            raise ValueError(f"optimizer sharding has step {self.optimizer_shard_step}, the device matrix gives {step}")

    @property
    def num_ranks(self) -> int:
        """Return ranks of this parameter's stage."""
        return prod(self.device_matrix)

    @cached_property
    def free_axes(self) -> list[int]:
        """Return device axes, from the left, that split no axis of the tensor: along them the part is the same."""
        used = {len(self.device_matrix) - 1 - axis for axes in self.tensor_map for axis in axes}
        return [axis for axis in range(len(self.device_matrix)) if axis not in used]

    @property
    def group_size(self) -> int:
        """Return ranks that hold the same part, were it not for optimizer sharding."""
        return prod(self.device_matrix[axis] for axis in self.free_axes)

    @property
    def group_step(self) -> int:
        """Return distance of neighbouring ranks in the group, 0 where it is not one distance."""
        axes = [axis for axis in self.free_axes if self.device_matrix[axis] > 1]
        return prod(self.device_matrix[axes[0] + 1 :]) if len(axes) == 1 else 0

    @property
    def optimizer_shards(self) -> int:
        """Return into how many pieces optimizer sharding splits the first axis of a part."""
        return self.group_size if self.optimizer_shard_size == -1 else max(1, self.optimizer_shard_size)

    @cached_property
    def grid(self) -> tuple[int, ...]:
        """Return parts along each axis of the tensor, optimizer sharding included."""
        splits = [prod(self.device_matrix[-1 - axis] for axis in axes) for axes in self.tensor_map]
        if splits:
            splits[0] *= self.optimizer_shards
        return tuple(splits)

    @property
    def num_parts(self) -> int:
        return prod(self.grid)

    def cell(self, rank: int) -> tuple[int, ...]:
        """Return the place in `grid` of the part that a rank (counted over all stages) holds."""
        remainder = rank - self.first_rank
        if not 0 <= remainder < self.num_ranks:
            raise ValueError(f"rank {rank} is not one of the {self.num_ranks} from {self.first_rank} on")
        coordinates = []
        for length in reversed(self.device_matrix):
            coordinates.append(remainder % length)
            remainder //= length
        indices = []
        for axes in self.tensor_map:
            index = 0
            for axis in axes:
                index = index * self.device_matrix[-1 - axis] + coordinates[axis]
            indices.append(index)
        if self.optimizer_shards > 1:
            position = 0
            for axis in self.free_axes:
                position = position * self.device_matrix[axis] + coordinates[len(self.device_matrix) - 1 - axis]
            indices[0] = indices[0] * self.optimizer_shards + position % self.optimizer_shards
        return tuple(indices)

    def full_shape(self, part_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the parameter's shape from that of a part."""
        if len(part_shape) != len(self.grid):
            raise ValueError(f"a part has {len(part_shape)} axes, its layout {len(self.grid)}")
        return tuple(length * parts for length, parts in zip(part_shape, self.grid, strict=True))

    def part_shape(self, full_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of every part of a parameter."""
        if len(full_shape) != len(self.grid) or any(n % parts for n, parts in zip(full_shape, self.grid, strict=True)):
            raise ValueError(f"shape {list(full_shape)} cannot be split into {list(self.grid)} parts")
        return tuple(length // parts for length, parts in zip(full_shape, self.grid, strict=True))


def region(cell: tuple[int, ...], part_shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Return the index of a part in its parameter."""
    return tuple(slice(i * length, (i + 1) * length) for i, length in zip(cell, part_shape, strict=True))


@lru_cache(maxsize=256)
def owners(layout: ParameterLayout) -> dict[tuple[int, ...], int]:
    """Return the lowest rank that holds each part. Every cell of the grid is there."""
    found: dict[tuple[int, ...], int] = {}
    for rank in range(layout.first_rank, layout.first_rank + layout.num_ranks):
        found.setdefault(layout.cell(rank), rank)
    return found


@lru_cache(maxsize=256)
def owners_of_row(layout: ParameterLayout) -> dict[int, list[tuple[tuple[int, ...], int]]]:
    """Return `owners` of a tensor that is no scalar, by the part's place along the first axis."""
    rows: dict[int, list[tuple[tuple[int, ...], int]]] = {}
    for cell, rank in owners(layout).items():
        rows.setdefault(cell[0], []).append((cell, rank))
    return rows
