"""Where the layers of a model lie: which blocks each chunk of each stage runs, and which of them it computes again.

Shapes play no part here, so one answer serves every layout with the same stages, chunks and recomputation.
"""

from dataclasses import dataclass

import numpy as np

from parallel_strategy.spec.model import ModelSpec
from parallel_strategy.spec.strategy import StrategySpec

# In the order in which a chunk may run them, each at most once. A prediction layer is a block like the last layer's.
SLOTS = ("embedding", "layer", "expert_layer", "query", "prediction", "head")
HEAD = SLOTS.index("head")
LAYERS = ("layer", "expert_layer", "query")  # which of them have numbers of the model's layers


@dataclass(frozen=True, slots=True)
class Run:
    """`count` equal blocks in a row, the first of them layer number `first`; `recomputed` of them are checkpointed."""

    slot: str
    first: int
    count: int
    recomputed: int = 0


@dataclass(frozen=True, slots=True)
class Places:
    """Blocks by place: [stage, chunk of the stage, slot] counts of those that run, and of those that run again.

    `counts` and `again` hold the distinct places only, [place, slot]; `index` [stage, chunk] says which one lies there.
    """

    counts: np.ndarray
    again: np.ndarray
    index: np.ndarray
    runs: tuple[tuple[Run, ...], ...]  # of each place; where several chunks are alike, of the first of them

    @classmethod
    def of(cls, model: ModelSpec, strategy: StrategySpec, *, by_layer: bool = False) -> "Places":
        """Return `by_layer`: chunks of other layers are other places, however alike they are."""
        pp, per_stage = strategy.mesh.pp, strategy.chunks_per_stage
        known: dict[tuple[tuple[str, int, int, int], ...], int] = {}
        rows: list[tuple[Run, ...]] = []
        index = np.zeros((pp, per_stage), dtype=np.int64)
        position = [0] * pp
        for stage, runs in runs_of_chunks(model, strategy):
            alike = tuple((run.slot, run.count, run.recomputed, run.first if by_layer else 0) for run in runs)
            if alike not in known:
                known[alike] = len(rows)
                rows.append(runs)
            index[stage, position[stage]] = known[alike]
            position[stage] += 1
        counts, again = (np.zeros((len(rows), len(SLOTS))) for _ in range(2))
        for place, row in enumerate(rows):
            for run in row:
                counts[place, SLOTS.index(run.slot)], again[place, SLOTS.index(run.slot)] = run.count, run.recomputed
        return cls(counts, again, index, tuple(rows))

    @property
    def held(self) -> np.ndarray:
        """Return [stage, slot] blocks that a stage holds: a head that runs several times is held once."""
        held = self.counts[self.index].sum(axis=1)
        held[:, HEAD] = np.minimum(held[:, HEAD], 1)
        return held


def runs_of_chunks(model: ModelSpec, strategy: StrategySpec) -> list[tuple[int, tuple[Run, ...]]]:
    """Return (stage, runs) of every chunk, in the order of the model."""
    stage_of, sizes = strategy.stages_of_chunks, strategy.layers_of_chunks(model.num_layers)
    left = _recomputed_layers(strategy, model.num_layers)
    chunks, layer = [], 0
    for index, (stage, size) in enumerate(zip(stage_of, sizes, strict=True)):
        runs = [Run("embedding", 0, 1)] if index == 0 else []
        end = layer + size
        while layer < end:
            slot, last = _slot_of_layer(model, layer)
            count = min(end, last) - layer
            recomputed = min(count, left[stage])
            left[stage] -= recomputed
            runs.append(Run(slot, layer, count, recomputed))
            layer += count
        if index == len(sizes) - 1:
            if model.prediction_layers:
                runs.append(Run("prediction", layer, model.prediction_layers))
            runs.append(Run("head", layer, 1 + model.prediction_layers))
        chunks.append((stage, tuple(runs)))
    return chunks


def _slot_of_layer(model: ModelSpec, layer: int) -> tuple[str, int]:
    """Return the slot of a layer, and the first layer after it that has another."""
    last = model.num_layers - model.query_layer
    if model.query_layer and layer == last:
        return "query", model.num_layers
    if model.experts is None:
        return "layer", last
    first = model.experts.first_layer
    return ("expert_layer", last) if layer >= first else ("layer", min(first, last))


def _recomputed_layers(strategy: StrategySpec, num_layers: int) -> list[int]:
    """Return how many layers each stage computes again: the first ones that it has."""
    recompute = strategy.recompute
    if recompute.mode == "none":
        return [0] * strategy.mesh.pp
    return list(recompute.per_stage) if recompute.per_stage is not None else strategy.layers_of_stages(num_layers)
