"""The program of a strategy: which blocks each stage holds, in chunks. `tasks` unfolds it into nodes.

Ranks of one stage run the same program, so a program is written per stage. The blocks are shared objects: a model of 64
equal layers has one layer block, priced once.
"""

import copy
from dataclasses import dataclass
from functools import cached_property

from parallel_strategy.graph.ends import build_embedding, build_head
from parallel_strategy.graph.groups import Groups
from parallel_strategy.graph.layer import Shard, build_layer
from parallel_strategy.graph.operator import Block, Collective, Parameter, Phase
from parallel_strategy.spec.model import ModelSpec
from parallel_strategy.spec.strategy import Question, even_stages


@dataclass(frozen=True, slots=True)
class Piece:
    """`count` equal blocks in a row, the first of them layer number `first`; `recomputed` of them are checkpointed."""

    block: Block
    first: int
    count: int
    recomputed: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one stage runs without a boundary: pieces in order."""

    index: int  # position in the model, 0 .. pp * chunks - 1
    stage: int
    pieces: tuple[Piece, ...]

    @property
    def contents(self) -> tuple[tuple[str, int, int], ...]:
        """Equal for chunks that do the same work."""
        return tuple((piece.block.kind, piece.count, piece.recomputed) for piece in self.pieces)

    @property
    def layers(self) -> int:
        return sum(piece.count for piece in self.pieces if piece.block.kind not in ("embedding", "head"))


@dataclass(frozen=True, slots=True)
class Cut:
    """How a weight is spread over the ranks that hold it, `whole`: `shard` ranks share a copy, `replica` groups of them
    hold the same parts."""

    whole: str
    shard: str
    replica: str
    shards: int
    replicas: int


class Program:
    """A question, unfolded."""

    def __init__(self, question: Question) -> None:
        self.question = question
        strategy, mesh = question.strategy, question.strategy.mesh
        self.model: ModelSpec = _padded(question)
        self.shard = Shard(
            micro=strategy.batch.micro,
            tp=mesh.tp,
            cp=mesh.cp,
            ep=mesh.ep,
            sequence_parallel=strategy.tensor.sequence_parallel and mesh.tp > 1,
            vocab_split=strategy.tensor.vocab == "split",
        )
        self.groups = Groups(mesh, strategy.zero.weight_shard_size)
        self.cuts: dict[tuple[Parameter, int], Cut] = {}  # those that `sharding.cut_of` has found
        self.chunks = self._chunks()

    def moved_to(self, question: Question) -> "Program":
        """The same blocks under another placement or other figures: nothing that decides a shape may differ."""
        program = copy.copy(self)
        program.question = question
        program.groups = Groups(question.strategy.mesh, question.strategy.zero.weight_shard_size)
        program.cuts = {}
        return program

    @property
    def pp(self) -> int:
        return self.question.strategy.mesh.pp

    @property
    def chunks_per_stage(self) -> int:
        return len(self.chunks) // self.pp

    @cached_property
    def blocks(self) -> dict[str, Block]:
        """Distinct blocks by kind."""
        return {piece.block.kind: piece.block for chunk in self.chunks for piece in chunk.pieces}

    @cached_property
    def tied_across_stages(self) -> bool:
        """The word table is on the first and on the last stage, and its gradients are summed between them."""
        return self.model.tied_embedding and self.chunks[0].stage != self.chunks[-1].stage

    def _chunks(self) -> tuple[Chunk, ...]:
        question, model, shard = self.question, self.model, self.shard
        strategy, framework = question.strategy, question.framework
        pp, per_stage = strategy.mesh.pp, strategy.chunks_per_stage
        plain = build_layer(model, framework, shard, experts=False)
        expert = build_layer(model, framework, shard, experts=True) if model.experts else None
        query = build_layer(model, framework, shard, experts=False, query=True) if model.query_layer else None
        stage_of = [stage_of_chunk(index, pp, per_stage, strategy.pipeline.schedule) for index in range(pp * per_stage)]
        untied = not model.tied_embedding or stage_of[0] != stage_of[-1]
        embedding = build_embedding(model, framework, shard)
        head = build_head(model, framework, shard, owns_table=untied)
        sizes = self._chunk_sizes(stage_of)
        left = self._recomputed_layers(sizes, stage_of)
        chunks, layer = [], 0
        for index, size in enumerate(sizes):
            pieces = [Piece(embedding, 0, 1)] if index == 0 else []
            end = layer + size
            while layer < end:
                block, run = plain, end - layer
                if expert is not None and model.is_expert_layer(layer):
                    block = expert
                elif expert is not None and model.experts is not None:
                    run = min(run, model.experts.first_layer - layer)
                if query is not None:
                    if layer == model.num_layers - 1:
                        block = query
                    else:
                        run = min(run, model.num_layers - 1 - layer)
                recomputed = min(run, left[stage_of[index]])
                left[stage_of[index]] -= recomputed
                pieces.append(Piece(block, layer, run, recomputed))
                layer += run
            if index == len(sizes) - 1:
                if model.prediction_layers:
                    pieces.append(Piece(expert or plain, layer, model.prediction_layers, 0))
                pieces.append(Piece(head, layer, 1 + model.prediction_layers))
            chunks.append(Chunk(index, stage_of[index], tuple(pieces)))
        return tuple(chunks)

    def _chunk_sizes(self, stage_of: list[int]) -> list[int]:
        """Layers of each chunk. Explicit stages are cut evenly into their chunks."""
        strategy, per_stage = self.question.strategy, self.question.strategy.chunks_per_stage
        if per_stage == 1 or strategy.pipeline.stages is None:
            if per_stage == 1:
                return strategy.layers_of_stages(self.model.num_layers)
            return even_stages(self.model.num_layers, len(stage_of))
        sizes = [0] * len(stage_of)
        for stage, layers in enumerate(strategy.pipeline.stages):
            mine = [index for index, owner in enumerate(stage_of) if owner == stage]
            for index, size in zip(mine, even_stages(layers, len(mine)), strict=True):
                sizes[index] = size
        return sizes

    def _recomputed_layers(self, sizes: list[int], stage_of: list[int]) -> list[int]:
        recompute = self.question.strategy.recompute
        if recompute.mode == "none":
            return [0] * self.pp
        if recompute.per_stage is not None:
            return list(recompute.per_stage)
        return [
            sum(size for size, owner in zip(sizes, stage_of, strict=True) if owner == stage) for stage in range(self.pp)
        ]

    def group(self, axis: str) -> tuple[int, int]:
        """(size, stride in ranks) of this rank's group along an axis of a collective."""
        return self.groups.extent(axis)

    def stage_chunks(self, stage: int) -> list[Chunk]:
        return [chunk for chunk in self.chunks if chunk.stage == stage]

    def stage_parameters(self, stage: int) -> list[tuple[int, Parameter]]:
        """(layer, weight) of all that one rank of the stage holds. A head that runs several times is held once."""
        return [
            (piece.first + offset, parameter)
            for chunk in self.stage_chunks(stage)
            for piece in chunk.pieces
            for offset in range(1 if piece.block.kind == "head" else piece.count)
            for parameter in piece.block.parameters
        ]

    def stage_blocks(self, stage: int) -> list[tuple[Block, int]]:
        """(block, how many of them a rank of the stage holds), kind by kind as they come. A head is held once."""
        counts: dict[str, int] = {}
        for chunk in self.stage_chunks(stage):
            for piece in chunk.pieces:
                held = 1 if piece.block.kind == "head" else piece.count
                counts[piece.block.kind] = counts.get(piece.block.kind, 0) + held
        return [(self.blocks[kind], count) for kind, count in counts.items()]

    def stage_elements(self, stage: int, *, expert: bool) -> float:
        """Parameters that one rank of the stage holds."""
        return sum(block.elements(expert) * count for block, count in self.stage_blocks(stage))

    @cached_property
    def boundary_bytes(self) -> float:
        """The activation that one rank sends to the next stage."""
        size = self.shard.boundary_tokens(self.model) * self.model.hidden_size * self.model.element_bytes
        return size / self.shard.tp if self.boundary_scattered else size

    @property
    def boundary_scattered(self) -> bool:
        """Each rank of a tensor group sends its part of a boundary, and the receivers gather the parts."""
        return self.question.framework.p2p_scatter_gather and self.shard.tp > 1 and not self.shard.tokens_split

    @cached_property
    def recompute_gather(self) -> Collective | None:
        """What a recomputed layer gathers first, where its kept input is cut over the tensor group."""
        recompute = self.question.strategy.recompute
        if not recompute.slice_activation or self.shard.tp == 1 or self.shard.tokens_split:
            return None
        size = self.shard.boundary_tokens(self.model) * self.model.hidden_size * self.model.element_bytes
        return Collective("recompute.input", "all_gather", "tp", size, Phase.FORWARD, self.model.activation_dtype)

    @cached_property
    def total_parameters(self) -> float:
        """Parameters of the whole model."""
        return model_parameters(self.question.model)

    def flops_per_step(self) -> float:
        """Model FLOPs of one step over all devices: forward and backward matrix products, nothing counted twice."""
        strategy, mesh = self.question.strategy, self.question.strategy.mesh
        whole = sum(piece.block.flops() * piece.count for chunk in self.chunks for piece in chunk.pieces)
        return whole * mesh.tp * mesh.cp * mesh.dp * strategy.micro_batches


def stage_of_chunk(index: int, pp: int, per_stage: int, schedule: str) -> int:
    """Which stage holds the chunk: round robin, or there and back again for the V-shaped schedules."""
    if per_stage == 2 and schedule in ("zb_v", "dualpipe"):
        return index if index < pp else 2 * pp - 1 - index
    return index % pp


def _padded(question: Question) -> ModelSpec:
    """The vocabulary as the framework stores it: Megatron pads it to a multiple of 128 x tp."""
    model, multiple = question.model, question.framework.pad_vocab_to
    if multiple <= 1:
        return model
    multiple *= question.strategy.mesh.tp if question.strategy.tensor.vocab == "split" else 1
    return model.model_copy(update={"vocab_size": -(-model.vocab_size // multiple) * multiple})


def model_parameters(model: ModelSpec) -> float:
    """Parameters of the whole model, unsplit and unpadded."""
    from parallel_strategy.spec.framework import FrameworkSpec

    framework, shard = FrameworkSpec(name="count"), Shard(micro=1)
    layers = 0.0
    plain = build_layer(model, framework, shard, experts=False)
    expert = build_layer(model, framework, shard, experts=True) if model.experts else plain
    query = build_layer(model, framework, shard, experts=False, query=True) if model.query_layer else plain
    for layer in range(model.num_layers + model.prediction_layers):
        block = expert if model.is_expert_layer(layer) else query if layer == model.num_layers - 1 else plain
        layers += block.elements(True) + block.elements(False)
    ends = (
        build_embedding(model, framework, shard),
        build_head(model, framework, shard, owns_table=not model.tied_embedding),
    )
    return layers + sum(block.elements(True) + block.elements(False) for block in ends)
