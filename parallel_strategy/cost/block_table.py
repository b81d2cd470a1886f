"""What the blocks of one shape cost and weigh, as arrays by slot: read by every formula of time and memory.

One candidate has arrays [slot]; several, stacked, have [candidate, slot].
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from parallel_strategy.cost.price import BlockCost, Price
from parallel_strategy.graph.operator import Block
from parallel_strategy.graph.program import Program
from parallel_strategy.graph.stages import SLOTS
from parallel_strategy.spec.framework import FrameworkSpec

GRANULE = 512  # bytes: what an allocator rounds a tensor up to


@dataclass(slots=True)
class BlockTable:
    """Seconds and bytes are of one block for one micro-batch. Rows of `times`: device, tensor, host of forward, full
    and selective recomputation, backward of activations, backward of weights."""

    times: np.ndarray  # [..., 5 phases, 3, slot]
    saved: np.ndarray  # kept for backward
    kept: np.ndarray  # the same, each tensor in whole granules of the allocator
    attention: np.ndarray  # what selective recompute drops of it
    entry: np.ndarray  # what full recompute leaves of it
    transient: np.ndarray  # what backward needs beside it
    dense: np.ndarray  # parameters that one rank holds
    expert: np.ndarray
    weights: np.ndarray  # how many tensors the parameters are
    matrices: np.ndarray  # how many of them are no vectors
    boundary: np.ndarray  # [...] bytes that one rank sends to the next stage
    boundary_gathered: np.ndarray  # [...] bytes that the receivers gather then, 0 where they have the whole

    @classmethod
    def of(cls, price: Price) -> "BlockTable":
        program, framework = price.program, price.framework
        table = cls.empty(program)
        mesh = program.setup.strategy.mesh
        if framework.p2p_scatter_gather and mesh.tp > 1 and not program.shard.sequence_parallel:
            table.boundary_gathered = np.array(program.boundary_bytes * mesh.tp)
        for piece in {piece.slot: piece for chunk in program.chunks for piece in chunk.pieces}.values():
            table._fill(SLOTS.index(piece.slot), piece.block, program, framework)
            table.times[:, :, SLOTS.index(piece.slot)] = _rows(price.block(piece.block))
        return table

    @classmethod
    def empty(cls, program: Program) -> "BlockTable":
        names = ("saved", "kept", "attention", "entry", "transient", "dense", "expert", "weights", "matrices")
        return cls(
            times=np.zeros((5, 3, len(SLOTS))),
            boundary=np.array(program.boundary_bytes),
            boundary_gathered=np.array(0.0),
            **{name: np.zeros(len(SLOTS)) for name in names},
        )

    def _fill(self, slot: int, block: Block, program: Program, framework: FrameworkSpec) -> None:
        recompute = program.setup.strategy.recompute
        sliced = recompute.slice_activation and not program.shard.sequence_parallel
        self.saved[slot], self.attention[slot] = block.saved_bytes, block.attention_bytes
        self.kept[slot] = sum(-(-tensor.bytes // GRANULE) * GRANULE for tensor in block.saved)
        self.entry[slot] = block.input_bytes / (program.setup.strategy.mesh.tp if sliced else 1)
        self.transient[slot] = transient_bytes(block, framework)
        self.dense[slot], self.expert[slot] = block.elements(False), block.elements(True)
        self.weights[slot] = len(block.parameters)
        self.matrices[slot] = sum(len(parameter.shape) - parameter.expert > 1 for parameter in block.parameters)

    @classmethod
    def stack(cls, tables: Sequence["BlockTable"]) -> "BlockTable":
        """Return several as one, with a leading axis [candidate]."""
        return cls(*(np.stack([getattr(table, field.name) for table in tables]) for field in fields(cls)))

    def at(self, rows: np.ndarray) -> "BlockTable":
        """Return these candidates of a stack, in this order."""
        return BlockTable(*(getattr(self, field.name)[rows] for field in fields(self)))


def transient_bytes(block: Block, framework: FrameworkSpec) -> float:
    """Return what lives at one moment beside what was kept. Of a block's backward: the gradients on both sides of the
    widest operator, and where weight gradients are not added in place, the gradient of the largest weight."""
    if not block.saved:  # an embedding's gradient is written when its micro-batch has freed all the rest
        return 0.0
    sizes = sorted((tensor.bytes for tensor in block.saved), reverse=True)
    gradients = sizes[0] if block.kind == "head" else max(sum(sizes[:2]), 2 * block.input_bytes)
    # where tokens are split, a product's input is gathered again, and its gradient is whole before it is scattered
    gradients += 2 * max((node.bytes for node in block.collectives if ".again" in node.name), default=0.0)
    weights = [parameter.elements for parameter in block.parameters if not parameter.expert]
    backward = gradients + framework.weight_gradient_copy_bytes * max(weights, default=0.0)
    return max(backward, block.ring_bytes)  # the last forward before backward begins has as much kept beside it


def _rows(cost: BlockCost) -> np.ndarray:
    phases = (cost.forward, cost.recompute_full, cost.recompute_selective, cost.backward_input, cost.backward_weight)
    return np.array([(phase.device, phase.tensor, phase.host) for phase in phases])
