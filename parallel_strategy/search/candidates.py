"""Candidates of one number of stages and chunks as parallel arrays, and the strategy file of each."""

from dataclasses import dataclass

import numpy as np

from parallel_strategy.search.shapes import MeshLayout
from parallel_strategy.spec.strategy import Setup, StrategySpec, even_stages


@dataclass(slots=True)
class Candidates:
    """Candidates that share stages and chunks, as parallel arrays; `layout` indexes `layouts`, `choice` indexes
    `recompute`, `schedule` indexes `schedules`; the other arrays hold values."""

    pp: int
    chunks: int
    layouts: list[MeshLayout]
    recompute: list[tuple[str, float]]
    schedules: list[str]
    layout: np.ndarray
    choice: np.ndarray
    interleave: np.ndarray
    schedule: np.ndarray
    zero: np.ndarray
    offload: np.ndarray
    activation: np.ndarray
    needed: np.ndarray  # False: its twin with all activations on the device fits too, and is no slower
    seconds: np.ndarray
    gib: np.ndarray

    def strategy_fields(self, index: int, setup: Setup) -> dict:
        """Return the fields of strategy.yaml of one candidate."""
        layout = self.layouts[int(self.layout[index])]
        mode, share = self.recompute[int(self.choice[index])]
        zero = int(self.zero[index])
        return {
            "model": setup.strategy.model.model_dump(exclude_none=True),
            "cluster": setup.strategy.cluster.model_dump(exclude_none=True),
            "framework": setup.strategy.framework,
            "batch": {"global": setup.strategy.batch.global_, "micro": layout.micro},
            "mesh": {
                "pp": self.pp,
                "dp": layout.dp,
                "cp": layout.cp,
                "tp": layout.tp,
                "ep": layout.ep,
                "etp": layout.etp,
                "order": list(layout.order) or ["pp", "dp", "tp"],
            },
            "pipeline": {"schedule": self.schedules[int(self.schedule[index])], "vpp": self.chunks},
            "tensor": {
                "sequence_parallel": layout.sequence_parallel,
                "vocab": setup.strategy.tensor.vocab,
                "interleave": int(self.interleave[index]),
            },
            "zero": {
                "optimizer_shard": zero > 0,
                "level": max(1, zero),
                "threshold_kb": setup.strategy.zero.threshold_kb,
            },
            "recompute": {
                "mode": mode,
                "per_stage": recomputed_layers(setup, self.pp, self.chunks, mode, share),
                "mp_comm": setup.strategy.recompute.mp_comm,
            },
            "offload": {"optimizer": bool(self.offload[index]), "activation": float(self.activation[index])},
        }

    def strategy(self, index: int, setup: Setup) -> StrategySpec:
        return StrategySpec.from_fields(self.strategy_fields(index, setup), "candidate")


def recomputed_layers(setup: Setup, pp: int, chunks: int, mode: str, share: float) -> list[int] | None:
    """Return how many layers each stage computes again, or None for all that `mode` says."""
    if mode == "none" or share >= 1.0:
        return None
    sizes = even_stages(setup.model.num_layers, pp * chunks)
    return [int(np.ceil(sum(sizes[stage::pp]) * share)) for stage in range(pp)]


def program_of(strategy: StrategySpec, num_layers: int) -> str:
    """Return what a strategy runs, without the fields that have no effect in it: equal for equal programs."""
    mesh, zero, recompute = strategy.mesh, strategy.zero, strategy.recompute
    order, layers = [axis for axis in mesh.axes if getattr(mesh, axis) > 1], strategy.layers_of_stages(num_layers)
    etp = mesh.etp if mesh.is_folded else None
    updates: dict[str, object] = {"mesh": mesh.model_copy(update={"order": order, "etp": etp})}
    if mesh.dp * mesh.cp == 1:
        kept_whole = {"optimizer_shard": False, "level": 1, "weight_shard_size": -1, "bucket_mb": None}
        updates["zero"] = zero.model_copy(update=kept_whole)
    elif not zero.optimizer_shard:
        updates["zero"] = zero.model_copy(update={"level": 1, "weight_shard_size": -1})
    pipeline = strategy.pipeline.model_copy(update={"stages": layers, "micro_batches": None})
    updates["pipeline"] = pipeline.model_copy(update={"schedule": "1f1b"}) if mesh.pp == 1 else pipeline
    if mesh.tp == 1:
        split = {"sequence_parallel": False, "vocab": "split", "overlap": 1}
        updates["tensor"] = strategy.tensor.model_copy(update=split)
    if recompute.mode == "none" or not any(recompute.per_stage or [1]):
        updates["recompute"] = type(recompute)()
    else:
        changed: dict[str, object] = {"per_stage": recompute.per_stage or layers}
        if recompute.mode == "selective" or mesh.tp == 1:
            changed |= {"mp_comm": True, "slice_activation": False}
        updates["recompute"] = recompute.model_copy(update=changed)
    return strategy.model_copy(update=updates).model_dump_json(exclude={"model", "cluster", "framework", "version"})
