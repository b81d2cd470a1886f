"""On which pipeline stage each layer of PanGu-alpha is, which layers are recomputed, which parameters stay whole.

MindSpore is not needed to ask. `apply` sets these decisions on a network, `strategy_file` writes them down.
"""

import fnmatch
from dataclasses import dataclass

from parallel_strategy.graph.program import Program
from parallel_strategy.graph.stages import LAYERS
from parallel_strategy.mindspore.pangu_network import WORD_TABLE, stage_layer_of_cell
from parallel_strategy.spec.strategy import Setup


@dataclass(frozen=True)
class StagePlace:
    """Pipeline stage, and which of the stage's chunks of layers."""

    stage: int
    chunk: int


def places_of_layers(setup: Setup) -> list[StagePlace]:
    """Deal out layers as in the emulator's program; the query layer is the last."""
    places = [StagePlace(0, 0)] * setup.model.num_layers
    for chunk in Program(setup).chunks:
        for piece in chunk.pieces:
            if piece.block.kind in LAYERS:
                for layer in range(piece.first, piece.first + piece.count):
                    places[layer] = StagePlace(chunk.stage, chunk.index // setup.strategy.mesh.pp)
    return places


def recomputed_layers(setup: Setup) -> set[int]:
    """Return the layers that the emulator's program recomputes."""
    return {
        layer
        for chunk in Program(setup).chunks
        for piece in chunk.pieces
        if piece.block.kind in LAYERS
        for layer in range(piece.first, piece.first + piece.recomputed)
    }


def stage_of_cell(setup: Setup, path: str, places: list[StagePlace]) -> StagePlace | None:
    """Return the place of a cell of the network by its path; None: that of its parts or its neighbours."""
    layer = stage_layer_of_cell(setup.model, path)
    return None if layer is None else places[layer]


def stays_whole(setup: Setup, parameter: str) -> bool:
    """Return whether optimizer sharding leaves a parameter alone: by its name in the strategy, or because MindSpore
    2.10 does not compile it, a table with two readers on one stage whose gradients are added up over micro-batches at
    level 3."""
    strategy = setup.strategy
    if parameter == WORD_TABLE and strategy.zero.level == 3 and strategy.micro_batches > 1:
        places = places_of_layers(setup)
        if places[0].stage == places[-1].stage:
            return True
    return any(fnmatch.fnmatch(parameter, pattern) for pattern in setup.strategy.zero.whole)
