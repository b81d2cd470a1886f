"""What weights and gradients send, by role, as bytes of one rank: read from the collectives that the program lists.

A stage sends the sum over its blocks, so the bytes of each block serve every stage and every candidate of its shape;
only where weights are kept whole by name do stages differ beyond that.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from parallel_strategy.graph.operator import Collective, Phase
from parallel_strategy.graph.program import Program
from parallel_strategy.graph.stages import SLOTS
from parallel_strategy.graph.weight_collectives import (
    Holding,
    Node,
    gather_weights,
    gradient_collectives,
    micro_batch_collectives,
    owned_elements,
    scatter_gradients,
    weight_collectives,
)

# between stages and inside the tensor group: they have no overlap with backward
BETWEEN = ("gradients.tied", "gradients.partial")
Sizes = dict[tuple[str, str], np.ndarray]  # (operation, axis) -> bytes, [holder]


@dataclass(frozen=True, slots=True)
class WeightBytes:
    """Bytes by role. A holder of the step's roles is a block of a slot, or a stage where `by_stage`; of the last three
    roles, which run with every block, always a block."""

    by_stage: bool
    owned: np.ndarray  # [holder] elements that a rank updates
    reduce: Sizes  # gradients, once a step
    micro_batch: Sizes  # gradients, once a micro-batch
    apart: Sizes  # gradients between stages and inside the tensor group
    gather: Sizes  # updated weights
    block_gather: Sizes  # ZeRO-3: weights before forward, before backward, gradients after it
    block_gather_again: Sizes
    block_scatter: Sizes

    @classmethod
    def of(cls, program: Program) -> "WeightBytes":
        blocks = {SLOTS.index(p.slot): p.block for chunk in program.chunks for p in chunk.pieces}
        by_stage = bool(program.setup.strategy.zero.whole)
        if by_stage:
            holdings = {stage: Holding.of_stage(program, stage) for stage in range(program.pp)}
        else:
            holdings = {slot: Holding.of_block(block) for slot, block in blocks.items()}
        count = program.pp if by_stage else len(SLOTS)
        owned = np.zeros(count)
        reduced: dict[int, list[Collective]] = {}
        apart: dict[int, list[Collective]] = {}
        for holder, holding in holdings.items():
            owned[holder] = owned_elements(program, holding)
            nodes = _works(gradient_collectives(program, holding))
            reduced[holder] = [node for node in nodes if node.name not in BETWEEN]
            apart[holder] = [node for node in nodes if node.name in BETWEEN]
        return cls(
            by_stage,
            owned,
            _sizes(reduced, count),
            _sizes({h: _works(micro_batch_collectives(program, holding)) for h, holding in holdings.items()}, count),
            _sizes(apart, count),
            _sizes({h: _works(weight_collectives(program, holding)) for h, holding in holdings.items()}, count),
            _sizes({s: gather_weights(program, block, Phase.FORWARD) for s, block in blocks.items()}),
            _sizes({s: gather_weights(program, block, Phase.BACKWARD_INPUT) for s, block in blocks.items()}),
            _sizes({s: scatter_gradients(program, block) for s, block in blocks.items()}),
        )


def _works(nodes: Iterable[Node]) -> list[Collective]:
    return [node for _, node in nodes]


def _sizes(nodes: dict[int, list[Collective]], count: int = len(SLOTS)) -> Sizes:
    """Add up the collectives of one kind over one axis: they go as one message, as buckets do."""
    sizes: Sizes = {}
    for holder, collectives in nodes.items():
        for node in collectives:
            sizes.setdefault((node.op, node.axis), np.zeros(count))[holder] += node.bytes
    return sizes
