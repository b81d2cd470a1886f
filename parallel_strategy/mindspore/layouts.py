"""Layouts of PanGu-alpha's parameters under a strategy.

A parameter is split as the operator is that reads it, on the device matrix that MindSpore makes of that operator's
split. MindSpore finds the same layouts when it compiles (a test asks it, with and without overrides).
"""

import math
from dataclasses import dataclass, replace

from parallel_strategy.mindspore.device_matrix import operand_layout, shard_step
from parallel_strategy.mindspore.operator_splits import operator_splits
from parallel_strategy.mindspore.pangu_network import owned_parameters, row_of
from parallel_strategy.mindspore.pipeline_stages import places_of_layers, stays_whole
from parallel_strategy.spec.strategy import Setup

BYTES = 4  # every parameter is stored in fp32


@dataclass(frozen=True)
class Layout:
    """MindSpore's words: device_matrix of the operator; tensor_map an axis of it for each dimension, counted from the
    right, -1 not split. Optimizer sharding splits dimension 0 further: `optimizer_shard_size` ranks that lie
    `optimizer_shard_step` apart (-1: as many as there are copies; 0 and 0: not sharded). `stages` hold it.
    """

    device_matrix: tuple[int, ...]
    tensor_map: tuple[int, ...]
    optimizer_shard_step: int
    optimizer_shard_size: int
    stages: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def slice_shape(self) -> tuple[int, ...]:
        """Return what one rank has of it, before optimizer sharding."""
        return tuple(
            size if axis < 0 else size // self.device_matrix[-1 - axis]
            for size, axis in zip(self.shape, self.tensor_map, strict=True)
        )

    @property
    def copies(self) -> int:
        """Return ranks of one stage that have the same slice."""
        return math.prod(self.device_matrix) // math.prod(self.device_matrix[-1 - a] for a in self.tensor_map if a >= 0)


def parameter_layouts(setup: Setup) -> dict[str, Layout]:
    """Return {released name: layout} of every weight. Raises UserError for an override that cannot be."""
    mesh = setup.strategy.mesh
    places, splits = places_of_layers(setup), operator_splits(setup)
    layouts: dict[str, Layout] = {}
    for owned in owned_parameters(setup.model):
        row, split = row_of(owned.path), splits.of(owned.path)
        assert row is not None and split is not None, owned.path
        stage = places[owned.layer].stage
        if owned.parameter in layouts:
            before = layouts[owned.parameter]
            stages = tuple(sorted({*before.stages, stage}))
            layouts[owned.parameter] = replace(before, stages=stages)
            continue
        device_matrix, tensor_map = operand_layout(row, split.inputs, owned.operand, mesh.devices // mesh.pp)
        layout = Layout(device_matrix, tensor_map, 0, 0, (stage,), owned.shape)
        step, size = optimizer_shards(setup, owned.parameter, layout)
        layouts[owned.parameter] = replace(layout, optimizer_shard_step=step, optimizer_shard_size=size)
    return layouts


def optimizer_shards(setup: Setup, parameter: str, layout: Layout) -> tuple[int, int]:
    """Return (step, size) of optimizer sharding; (0, 0) where MindSpore leaves a parameter whole."""
    zero = setup.strategy.zero
    if not zero.optimizer_shard or stays_whole(setup, parameter):
        return 0, 0
    ranks = layout.copies if zero.weight_shard_size < 0 else zero.weight_shard_size
    local = layout.slice_shape
    if ranks == 1 or layout.copies % ranks or local[0] % ranks:
        return 0, 0
    if math.prod(local) * BYTES < zero.threshold_kb * 1024:
        return 0, 0
    step = shard_step(layout.device_matrix, layout.tensor_map)
    return step, -1 if ranks == layout.copies else ranks
