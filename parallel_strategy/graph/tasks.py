"""What a task of the pipeline schedule runs: kernels and collectives in execution order, for one chunk of layers.

F is forward. B is backward of activations, with what is recomputed before it. W is backward of weights; where a
schedule does not split backward, B runs both.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from parallel_strategy.graph.operator import Block, Collective, Kernel, Phase
from parallel_strategy.graph.program import Chunk, Piece, Program
from parallel_strategy.graph.recompute import skipped_again
from parallel_strategy.graph.weight_collectives import gather_weights, scatter_gradients, scatter_micro_batch
from parallel_strategy.schedule.orders import Kind, splits_backward


@dataclass(frozen=True, slots=True)
class TaskNode:
    """One node of a task. `phase`: forward, recompute or backward."""

    work: Kernel | Collective
    layer: int
    phase: str
    block: Block | None  # None: a stage boundary, or traffic of the whole stage


class Tasks:
    """The tasks of one program."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.split = splits_backward(program.setup.strategy.pipeline.schedule) and program.pp > 1
        self.steps = cache(self._steps)

    def _steps(self, kind: Kind, chunk: int) -> tuple[TaskNode, ...]:
        """Return the nodes of one task; they are the same for every micro-batch. A group of one rank has no
        collectives."""
        piece = self.program.chunks[chunk]
        if kind == "F":
            return tuple(step for step in self._forward(piece) if self._is_there(step))
        backward = [step for step in self._backward(piece) if self._is_there(step)]
        if not self.split:
            return tuple(backward)
        late = [step for step in backward if step.work.phase == Phase.BACKWARD_WEIGHT]
        if kind == "W":
            return tuple(late)
        return tuple(step for step in backward if step.work.phase != Phase.BACKWARD_WEIGHT)

    def _is_there(self, step: TaskNode) -> bool:
        return isinstance(step.work, Kernel) or self.program.group(step.work.axis)[0] > 1

    def _crosses(self, chunk: Chunk, other: int) -> bool:
        """Return whether the neighbouring chunk is on another stage."""
        chunks = self.program.chunks
        return 0 <= other < len(chunks) and chunks[other].stage != chunk.stage

    def _forward(self, chunk: Chunk) -> Iterator[TaskNode]:
        first, last = chunk.pieces[0].first, _last_layer(chunk)
        if self._crosses(chunk, chunk.index - 1):
            yield from self._receive("activation", Phase.FORWARD, first, "forward")
        for piece in chunk.pieces:
            for offset in range(piece.count):
                layer = piece.first + offset
                for gather in gather_weights(self.program, piece.block, Phase.FORWARD, layer):
                    yield TaskNode(gather, layer, "forward", piece.block)
                for work in piece.block.forward:
                    yield TaskNode(work, layer, "forward", piece.block)
        if self._crosses(chunk, chunk.index + 1):
            yield TaskNode(self._boundary("send_activation", "send", Phase.FORWARD), last, "forward", None)

    def _backward(self, chunk: Chunk) -> Iterator[TaskNode]:
        program = self.program
        first, last = chunk.pieces[0].first, _last_layer(chunk)
        if self._crosses(chunk, chunk.index + 1):
            yield from self._receive("gradient", Phase.BACKWARD_INPUT, last, "backward")
        for piece in reversed(chunk.pieces):
            for offset in reversed(range(piece.count)):
                layer = piece.first + offset
                again = offset < piece.recomputed and program.setup.strategy.recompute.mode == "full"
                for gather in gather_weights(program, piece.block, Phase.BACKWARD_INPUT, layer, again=again):
                    yield TaskNode(gather, layer, "backward", piece.block)
                yield from self._layer_backward(piece, offset)
                for scatter in scatter_gradients(program, piece.block, layer):
                    yield TaskNode(scatter, layer, "backward", piece.block)
        if self._crosses(chunk, chunk.index - 1):
            yield TaskNode(self._boundary("send_gradient", "send", Phase.BACKWARD_INPUT), first, "backward", None)
        if chunk.index == min(other.index for other in program.stage_chunks(chunk.stage)):
            for layer, scatter in scatter_micro_batch(program, chunk.stage):
                yield TaskNode(scatter, layer, "backward", None)

    def _layer_backward(self, piece: Piece, offset: int) -> Iterator[TaskNode]:
        recompute, layer, block = self.program.setup.strategy.recompute, piece.first + offset, piece.block
        again = offset < piece.recomputed
        if again and recompute.mode == "full":
            if sliced := self.program.recompute_gather:
                yield TaskNode(sliced, layer, "recompute", block)
            skipped = skipped_again(block) if self.program.setup.framework.recompute_pruned else []
            for work in block.forward:
                if (isinstance(work, Kernel) or recompute.mp_comm) and work not in skipped:
                    yield TaskNode(work, layer, "recompute", block)
        core = again and recompute.mode == "selective"
        for work in block.backward:
            if core and isinstance(work, Kernel) and work.name.startswith("attention.core"):
                core = False
                for before in block.forward:
                    if isinstance(before, Kernel) and before.name.startswith("attention.core"):
                        yield TaskNode(before, layer, "recompute", block)
            yield TaskNode(work, layer, "backward", block)

    def _boundary(self, name: str, op: str, phase: Phase) -> Collective:
        program = self.program
        return Collective(name, op, "pp", program.boundary_bytes, phase, program.model.activation_dtype)

    def _receive(self, what: str, phase: Phase, layer: int, label: str) -> Iterator[TaskNode]:
        yield TaskNode(self._boundary(f"receive_{what}", "receive", phase), layer, label, None)
        if self.program.boundary_scattered:
            whole = self.program.boundary_bytes * self.program.shard.tp
            gather = Collective(f"gather_{what}", "all_gather", "tp", whole, phase, self.program.model.activation_dtype)
            yield TaskNode(gather, layer, label, None)


def _last_layer(chunk: Chunk) -> int:
    return chunk.pieces[-1].first + chunk.pieces[-1].count - 1
