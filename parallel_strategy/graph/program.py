"""The program of a strategy: the blocks of every chunk, built. `stages` says where they lie, `tasks` unfolds them into
nodes.

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
from parallel_strategy.graph.stages import runs_of_chunks
from parallel_strategy.spec.model import ModelSpec
from parallel_strategy.spec.strategy import Setup


@dataclass(frozen=True, slots=True)
class Piece:
    """`count` equal blocks in a row, the first of them layer number `first`; `recomputed` of them are checkpointed."""

    block: Block
    slot: str  # of `graph.stages.SLOTS`
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
    """A setup, unfolded."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        strategy, mesh = setup.strategy, setup.strategy.mesh
        self.model: ModelSpec = _padded(setup)
        self.shard = Shard(
            micro=strategy.batch.micro,
            tp=mesh.tp,
            cp=mesh.cp,
            ep=mesh.ep,
            etp=mesh.etp if mesh.is_folded else None,
            sequence_parallel=strategy.tensor.sequence_parallel and mesh.tp > 1,
            vocab_split=strategy.tensor.vocab == "split",
        )
        self.groups = Groups(mesh, strategy.zero.weight_shard_size)
        self.cuts: dict[tuple[Parameter, int], Cut] = {}  # those that `sharding.cut_of` has found
        self.chunks = self._chunks()

    def moved_to(self, setup: Setup) -> "Program":
        """Return the same blocks under another placement or other figures: nothing that decides a shape may differ."""
        program = copy.copy(self)
        program.setup = setup
        program.groups = Groups(setup.strategy.mesh, setup.strategy.zero.weight_shard_size)
        program.cuts = {}
        return program

    @property
    def pp(self) -> int:
        return self.setup.strategy.mesh.pp

    @property
    def chunks_per_stage(self) -> int:
        return len(self.chunks) // self.pp

    @cached_property
    def blocks(self) -> dict[str, Block]:
        """Return distinct blocks by kind."""
        return {piece.block.kind: piece.block for chunk in self.chunks for piece in chunk.pieces}

    @cached_property
    def tied_across_stages(self) -> bool:
        """Return whether the word table is on the first and on the last stage, which sum its gradients."""
        return self.model.tied_embedding and self.chunks[0].stage != self.chunks[-1].stage

    def _chunks(self) -> tuple[Chunk, ...]:
        runs = runs_of_chunks(self.setup.model, self.setup.strategy)
        untied = not self.model.tied_embedding or runs[0][0] != runs[-1][0]
        blocks: dict[str, Block] = {}
        for _, chunk in runs:
            for run in chunk:
                kind = self._kind(run.slot)
                if kind not in blocks:
                    blocks[kind] = self._build(kind, untied)
        return tuple(
            Chunk(
                index,
                stage,
                tuple(Piece(blocks[self._kind(r.slot)], r.slot, r.first, r.count, r.recomputed) for r in chunk),
            )
            for index, (stage, chunk) in enumerate(runs)
        )

    def _kind(self, slot: str) -> str:
        if slot != "prediction":
            return slot
        return "layer" if self.model.experts is None else "expert_layer"

    def _build(self, kind: str, untied: bool) -> Block:
        model, framework, shard = self.model, self.setup.framework, self.shard
        if kind == "embedding":
            return build_embedding(model, framework, shard)
        if kind == "head":
            return build_head(model, framework, shard, owns_table=untied)
        return build_layer(model, framework, shard, experts=kind == "expert_layer", query=kind == "query")

    def group(self, axis: str) -> tuple[int, int]:
        """Return (size, stride in ranks) of this rank's group along an axis of a collective."""
        return self.groups.extent(axis)

    def stage_chunks(self, stage: int) -> list[Chunk]:
        return [chunk for chunk in self.chunks if chunk.stage == stage]

    def stage_parameters(self, stage: int) -> list[tuple[int, Parameter]]:
        """Return (layer, weight) of all that one rank of the stage holds. A head that runs several times is held
        once."""
        return [
            (piece.first + offset, parameter)
            for chunk in self.stage_chunks(stage)
            for piece in chunk.pieces
            for offset in range(1 if piece.block.kind == "head" else piece.count)
            for parameter in piece.block.parameters
        ]

    def stage_blocks(self, stage: int) -> list[tuple[Block, int]]:
        """Return (block, how many of them a rank of the stage holds), kind by kind as they come. A head is held
        once."""
        counts: dict[str, int] = {}
        for chunk in self.stage_chunks(stage):
            for piece in chunk.pieces:
                held = 1 if piece.block.kind == "head" else piece.count
                counts[piece.block.kind] = counts.get(piece.block.kind, 0) + held
        return [(self.blocks[kind], count) for kind, count in counts.items()]

    @cached_property
    def boundary_bytes(self) -> float:
        """Return the activation that one rank sends to the next stage."""
        size = self.shard.boundary_tokens(self.model) * self.model.hidden_size * self.model.element_bytes
        return size / self.shard.tp if self.boundary_scattered else size

    @property
    def boundary_scattered(self) -> bool:
        """Return each rank of a tensor group sends its part of a boundary, and the receivers gather the parts."""
        return self.setup.framework.p2p_scatter_gather and self.shard.tp > 1 and not self.shard.tokens_split

    @cached_property
    def recompute_gather(self) -> Collective | None:
        """Return what a recomputed layer gathers first, where its kept input is cut over the tensor group."""
        recompute = self.setup.strategy.recompute
        if not recompute.slice_activation or self.shard.tp == 1 or self.shard.tokens_split:
            return None
        size = self.shard.boundary_tokens(self.model) * self.model.hidden_size * self.model.element_bytes
        return Collective("recompute.input", "all_gather", "tp", size, Phase.FORWARD, self.model.activation_dtype)

    @cached_property
    def total_parameters(self) -> float:
        """Return parameters of the whole model."""
        return model_parameters(self.setup.model)

    def flops_per_step(self) -> float:
        """Return model FLOPs of one step over all devices: forward and backward matrix products, nothing counted
        twice."""
        strategy, mesh = self.setup.strategy, self.setup.strategy.mesh
        whole = sum(piece.block.flops() * piece.count for chunk in self.chunks for piece in chunk.pieces)
        return whole * mesh.tp * mesh.cp * mesh.dp * strategy.micro_batches


def _padded(setup: Setup) -> ModelSpec:
    """Return the vocabulary as the framework stores it: Megatron pads it to a multiple of 128 x tp."""
    model, multiple = setup.model, setup.framework.pad_vocab_to
    if multiple <= 1:
        return model
    multiple *= setup.strategy.mesh.tp if setup.strategy.tensor.vocab == "split" else 1
    return model.model_copy(update={"vocab_size": -(-model.vocab_size // multiple) * multiple})


def model_parameters(model: ModelSpec) -> float:
    """Return the parameters of the whole model, unsplit and unpadded."""
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
