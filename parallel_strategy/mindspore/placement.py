"""Where everything of PanGu-alpha is under a strategy: axes of the mesh, stages of cells, layouts of parameters.

MindSpore is not needed to ask. `apply` sets these decisions on a network, `strategy_file` writes them down.
"""

import fnmatch
import re
from dataclasses import dataclass

from pangu.foundation.errors import UserError
from parallel_strategy.graph.program import Program
from parallel_strategy.spec.strategy import Question

WORD_TABLE = "backbone.word_embedding.embedding_table"
LAYERS = ("layer", "query")  # the program's blocks that are layers


@dataclass(frozen=True)
class Place:
    """Pipeline stage, and which of the stage's chunks of layers."""

    stage: int
    chunk: int


def degrees(question: Question) -> dict[str, int]:
    """The letters of `operators` as numbers."""
    mesh, tensor = question.strategy.mesh, question.strategy.tensor
    sequence = mesh.tp if tensor.sequence_parallel else 1
    return {
        "1": 1,
        "D": mesh.dp,
        "M": mesh.tp,
        "V": mesh.tp if tensor.vocab == "split" else 1,
        "S": sequence,
        "R": mesh.dp * sequence,
    }


def check_supported(question: Question) -> None:
    """Raises UserError that names the field which MindSpore 2.10 cannot carry out for this network."""
    strategy, model = question.strategy, question.model
    mesh = strategy.mesh
    wanted = ["pp", "dp", "tp"]
    order = [axis for axis in mesh.axes if getattr(mesh, axis) > 1]
    if mesh.devices not in (1, 2, 4) and mesh.devices % 8:
        raise UserError(f"mesh: {mesh.devices} devices; MindSpore 2.10 takes 1, 2, 4 or a multiple of 8")
    if mesh.cp > 1 or mesh.ep > 1:
        raise UserError("mesh.cp and mesh.ep must be 1: PanGu-alpha under MindSpore splits batch, heads and layers")
    if order != [axis for axis in wanted if axis in order]:
        raise UserError(f"mesh.order {mesh.order}: MindSpore's ranks are ordered pp, dp, tp from the outermost")
    for field, needed in (("position", "learned"), ("norm", "layer_norm"), ("experts", None), ("kv_heads", None)):
        if getattr(model, field) not in (needed, model.num_heads if field == "kv_heads" else needed):
            raise UserError(f"model field {field}: {getattr(model, field)!r} is no PanGu-alpha, which alone is applied")
    if model.vocab_size % (mesh.tp if strategy.tensor.vocab == "split" else 1):
        raise UserError(f"tensor.vocab split: vocab_size {model.vocab_size} must be a multiple of mesh.tp {mesh.tp}")
    if strategy.tensor.sequence_parallel and strategy.batch.micro > 1 and mesh.tp > 1:
        raise UserError("tensor.sequence_parallel under MindSpore needs batch.micro 1: rows of a rank are one sequence")
    if strategy.tensor.interleave > 1:
        raise UserError(f"tensor.interleave {strategy.tensor.interleave} is priced, not applied; nearest: 1")
    if strategy.offload.activation:
        raise UserError(f"offload.activation {strategy.offload.activation} is priced, not applied; nearest: 0")
    if strategy.pipeline.schedule not in ("1f1b", "gpipe", "mindspore_vpp", "zb_v") and mesh.pp > 1:
        raise UserError(
            f"pipeline.schedule {strategy.pipeline.schedule!r}: MindSpore 2.10 has 1f1b, gpipe, mindspore_vpp and zb_v"
        )


def check_propagated(question: Question) -> None:
    """Raises UserError where an operator strategy file does not do. Only MindSpore's sharding propagation reads and
    writes it, which in 2.10 ends with "The pointer[node_prim] is null" on a pipeline."""
    if question.strategy.tensor.sequence_parallel and question.strategy.mesh.tp > 1:
        raise UserError(
            "tensor.sequence_parallel: MindSpore's operator strategy file says how operators take their inputs, and "
            "this needs to say what they give"
        )
    if question.strategy.mesh.pp > 1:
        raise UserError(
            f"mesh.pp {question.strategy.mesh.pp}: MindSpore 2.10 reads operator strategy files in sharding "
            "propagation only, which compiles no pipeline; parameter strategy files are read there"
        )


def places_of_layers(question: Question) -> list[Place]:
    """Layers are dealt out as in the emulator's program; the query layer is the last."""
    places = [Place(0, 0)] * question.model.num_layers
    for chunk in Program(question).chunks:
        for piece in chunk.pieces:
            if piece.block.kind in LAYERS:
                for layer in range(piece.first, piece.first + piece.count):
                    places[layer] = Place(chunk.stage, chunk.index // question.strategy.mesh.pp)
    return places


def recomputed_layers(question: Question) -> set[int]:
    """The layers that the emulator's program recomputes."""
    return {
        layer
        for chunk in Program(question).chunks
        for piece in chunk.pieces
        if piece.block.kind in LAYERS
        for layer in range(piece.first, piece.first + piece.recomputed)
    }


def layer_of_cell(question: Question, path: str) -> int | None:
    """The number of the layer that a cell is."""
    if found := re.fullmatch(r"backbone\.blocks\.(\d+)", path):
        return int(found[1])
    return question.model.num_layers - 1 if path == "backbone.top_query_layer" else None


def stage_of_cell(question: Question, path: str, places: list[Place]) -> Place | None:
    """The place of a cell of the network by its path; None: of its parts or its neighbours."""
    if path in ("backbone.word_embedding", "backbone.position_embedding", "backbone.embedding_dropout"):
        return places[0]
    if path in ("backbone.layernorm", "backbone.top_query_embedding"):
        return places[-1]
    layer = layer_of_cell(question, path)
    return None if layer is None else places[layer]


def stays_whole(question: Question, parameter: str) -> bool:
    """Whether optimizer sharding leaves a parameter alone: by its name in the strategy, or because MindSpore 2.10 does
    not compile it, a table with two readers on one stage whose gradients are added up over micro-batches at level 3."""
    strategy = question.strategy
    if parameter == WORD_TABLE and strategy.zero.level == 3 and strategy.micro_batches > 1:
        places = places_of_layers(question)
        if places[0].stage == places[-1].stage:
            return True
    return any(fnmatch.fnmatch(parameter, pattern) for pattern in question.strategy.zero.whole)
