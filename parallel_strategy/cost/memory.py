"""Bytes that a rank of a stage holds, over the course of a step.

Weights, gradients and optimizer states by dtype and shard group; activations by walking the stage's schedule: a
forward adds
what the chunk keeps, the matching backward (or weight gradient) frees it, and recomputation needs one layer's worth
beside.
"""

from dataclasses import dataclass
from functools import cached_property

from parallel_strategy.graph.operator import Block
from parallel_strategy.graph.program import Chunk, Piece, Program
from parallel_strategy.graph.sharding import owned_elements
from parallel_strategy.schedule.orders import Order, Task, splits_backward
from parallel_strategy.spec.cluster import ClusterSpec
from parallel_strategy.spec.framework import FrameworkSpec

GIB = 1024.0**3
GRANULE = 512  # bytes: what an allocator rounds a tensor up to


@dataclass(frozen=True, slots=True)
class StageMemory:
    """GiB of one rank of a stage at its peak."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    recompute: float
    buffers: float
    context: float

    @property
    def total(self) -> float:
        return (
            self.weights
            + self.gradients
            + self.optimizer
            + self.activations
            + self.recompute
            + self.buffers
            + self.context
        )


class Memory:
    """Memory of a program under a schedule order."""

    def __init__(self, program: Program, order: Order) -> None:
        self.program, self.order = program, order
        question = program.question
        self.framework, self.strategy, self.cluster = question.framework, question.strategy, question.cluster

    def kept(self, piece: Piece) -> float:
        """Bytes that one micro-batch leaves behind in a piece until its backward."""
        return kept_bytes(piece, self.program, rounded_bytes(piece.block))

    def chunk_bytes(self, chunk: Chunk) -> float:
        kept = sum(self.kept(piece) for piece in chunk.pieces)
        return kept * (1.0 - self.strategy.offload.activation)

    def working_bytes(self, chunk: Chunk) -> float:
        """What the backward of a chunk needs beside what was kept: a recomputed layer, and gradients of activations."""
        largest = 0.0
        mode = self.strategy.recompute.mode
        for piece in chunk.pieces:
            again = 0.0
            if piece.recomputed:
                again = piece.block.saved_bytes if mode == "full" else piece.block.attention_bytes
            largest = max(largest, again + transient_bytes(piece.block, self.framework))
        return largest

    @cached_property
    def chunks(self) -> list[tuple[float, float]]:
        """(kept, working) bytes of every chunk."""
        return [(self.chunk_bytes(chunk), self.working_bytes(chunk)) for chunk in self.program.chunks]

    def walk(self, stage: int) -> list[tuple[Task, float, float]]:
        """Activation bytes after each task of the stage, and at its peak."""
        split = splits_backward(self.strategy.pipeline.schedule)
        level, rows = 0.0, []
        for task in self.order[stage]:
            kept, working = self.chunks[task.chunk]
            if task.kind == "F":
                level += kept
                rows.append((task, level, level))
            else:
                peak = level + working
                if task.kind == "W" or not split:
                    level -= kept
                rows.append((task, level, peak))
        return rows

    def stage(self, stage: int) -> StageMemory:
        program, framework, strategy = self.program, self.framework, self.strategy
        zero = strategy.zero.stage
        groups = []
        for expert, axis in ((False, "weights"), (True, "expert_dp")):
            elements = program.stage_elements(stage, expert=expert)
            size = program.group(axis)[0]
            if strategy.zero.weight_shard_size > 0:
                size = min(size, strategy.zero.weight_shard_size)
            groups.append((elements, size))
        weights = sum(n / (g if zero >= 3 else 1) for n, g in groups) * framework.weight_bytes
        resident, updated = gradient_and_state_bytes(framework, program.model.compute_dtype)
        gradients = sum(n / (g if zero >= 2 else 1) for n, g in groups) * resident
        states = owned_elements(program, stage) * updated
        if strategy.offload.optimizer:
            states = 0.0
        peak_kept, peak_working = self.activation_peak(stage)
        buffers = framework.workspace_mib * 2**20
        if zero >= 3:  # the layer that runs and the one that is fetched
            block = max(program.blocks.values(), key=lambda b: b.elements(False) + b.elements(True))
            buffers += 2 * (block.elements(False) + block.elements(True)) * framework.weight_bytes
        if program.pp > 1:
            buffers += 2 * program.boundary_bytes
        lost = 1.0 + framework.fragmentation
        return StageMemory(
            weights / GIB,
            gradients / GIB,
            states / GIB,
            peak_kept * lost / GIB,
            peak_working * lost / GIB,
            buffers / GIB,
            framework.context_gib,
        )

    def activation_peak(self, stage: int) -> tuple[float, float]:
        """(kept, working) bytes at the stage's fullest moment."""
        best = (0.0, 0.0)
        split = splits_backward(self.strategy.pipeline.schedule)
        level = 0.0
        for kind, chunk, _ in self.order[stage]:
            kept, working = self.chunks[chunk]
            if kind == "F":
                level += kept
                working = 0.0
            if level + working > best[0] + best[1]:
                best = (level, working)
            if kind == "W" or (kind == "B" and not split):
                level -= kept
        return best

    def usable_gib(self) -> float:
        return usable_gib(self.cluster)


def usable_gib(cluster: ClusterSpec) -> float:
    """What a training process can have of a device."""
    hbm = cluster.device.hbm
    return hbm.usable_gb if hbm.usable_gb is not None else hbm.gb


def gradient_and_state_bytes(framework: FrameworkSpec, dtype: str) -> tuple[float, float]:
    """Bytes of a parameter's gradient, and of its optimizer states where they are held."""
    states = framework.master_bytes + framework.moment_bytes
    if framework.bf16_accumulated and dtype == "bf16":
        return framework.gradient_bytes + 4.0, states - 4.0
    return framework.gradient_bytes, states


def kept_bytes(piece: Piece, program: Program, whole: float) -> float:
    """Bytes that one micro-batch leaves behind in a piece until its backward. `whole`: of one block without
    recomputation."""
    block, strategy = piece.block, program.question.strategy
    if block.kind == "head":
        return piece.count * whole
    left = whole - block.attention_bytes
    if strategy.recompute.mode == "full":
        left = block.input_bytes
        if strategy.recompute.slice_activation and not program.shard.sequence_parallel:
            left /= strategy.mesh.tp
    return (piece.count - piece.recomputed) * whole + piece.recomputed * left


def rounded_bytes(block: Block) -> float:
    """What a block keeps, each tensor in whole granules of the allocator."""
    return sum(-(-tensor.bytes // GRANULE) * GRANULE for tensor in block.saved)


def transient_bytes(block: Block, framework: FrameworkSpec) -> float:
    """What lives at one moment of a block's backward beside what was kept: the gradients on both sides of the widest
    operator, and where weight gradients are not added in place, the gradient of the largest weight."""
    if not block.saved:  # an embedding's gradient is written when its micro-batch has freed all the rest
        return 0.0
    sizes = sorted((tensor.bytes for tensor in block.saved), reverse=True)
    gradients = sizes[0] if block.kind == "head" else max(sum(sizes[:2]), 2 * block.input_bytes)
    # where tokens are split, a product's input is gathered again, and its gradient is whole before it is scattered
    gradients += 2 * max((node.bytes for node in block.collectives if ".again" in node.name), default=0.0)
    weights = [parameter.elements for parameter in block.parameters if not parameter.expert]
    return gradients + framework.weight_gradient_copy_bytes * max(weights, default=0.0)
