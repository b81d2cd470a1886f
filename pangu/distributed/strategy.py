"""strategy.yaml as `pangu` uses it: which rank computes which rows, and which part of each parameter it holds.

The only module of `pangu` besides `pangu.training.run` that knows `parallel_strategy`.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pangu.config import ModelConfig, TrainConfig
from pangu.formats.parameter_layout import ParameterLayout
from pangu.foundation.errors import UserError

if TYPE_CHECKING:
    from parallel_strategy.mindspore.layouts import Layout
    from parallel_strategy.spec.strategy import Setup

# What of the strategy's model must be the run's; and what it takes from the run: the vocabulary is the corpus's, the
# rest may be left out of a model.yaml, with other defaults there.
MODEL_FIELDS = ("num_layers", "hidden_size", "num_heads", "ffn_hidden_size")
TAKEN_FIELDS = ("vocab_size", "seq_length", "query_layer", "final_norm")


@dataclass(frozen=True)
class RunStrategy:
    """A strategy file with the model that is trained, or resharded, under it."""

    path: str
    setup: "Setup"

    @property
    def devices(self) -> int:
        return self.setup.strategy.mesh.devices

    @property
    def data_parallel(self) -> int:
        return self.setup.strategy.mesh.dp

    @property
    def splits_only_the_batch(self) -> bool:
        """Return whether every device has the whole network: nothing but data parallelism and optimizer sharding."""
        mesh, overrides = self.setup.strategy.mesh, self.setup.strategy.overrides
        return mesh.pp == mesh.tp == mesh.cp == mesh.ep == 1 and not overrides

    def data_rank(self, rank: int) -> int:
        """Return which share of the batch a rank computes."""
        mesh = self.setup.strategy.mesh
        return rank // mesh.stride("dp") % mesh.dp

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every weight, by the strategy's model."""
        return {name: placed.shape for name, placed in self.placed.items()}

    @cached_property
    def placed(self) -> "dict[str, Layout]":
        """Return where the strategy places every weight. Raises UserError for what it cannot place."""
        from pangu.foundation.errors import UserError as StrategyError
        from parallel_strategy.mindspore.layouts import parameter_layouts

        try:
            return parameter_layouts(self.setup)
        except StrategyError as error:
            raise UserError(f"{self.path}: {error}") from None

    @cached_property
    def stage_layouts(self) -> dict[int, dict[str, ParameterLayout]]:
        """Return {first rank of a pipeline stage: {weight: layout}}, under the released names."""
        mesh = self.setup.strategy.mesh
        ranks = mesh.devices // mesh.pp
        stages: dict[int, dict[str, ParameterLayout]] = {stage * ranks: {} for stage in range(mesh.pp)}
        for name, placed in self.placed.items():
            for stage in placed.stages:
                stages[stage * ranks][name] = ParameterLayout(
                    tuple(placed.device_matrix),
                    tuple(() if axis == -1 else (axis,) for axis in placed.tensor_map),
                    placed.optimizer_shard_step,
                    placed.optimizer_shard_size,
                    stage * ranks,
                )
        return stages

    @property
    def layouts(self) -> dict[str, ParameterLayout]:
        """Return the layout of every weight; of one that several stages hold, the first's."""
        found: dict[str, ParameterLayout] = {}
        for _, held in sorted(self.stage_layouts.items()):
            found = held | found
        return found


def load_strategy(path: str | Path, model: ModelConfig | None = None) -> RunStrategy:
    """Read a strategy file. model: the one it must be for. Raises UserError in one line."""
    from pangu.foundation.errors import UserError as StrategyError
    from parallel_strategy.mindspore.operator_splits import load_setup

    try:
        setup = load_setup(path)
    except StrategyError as error:
        raise UserError(str(error)) from None
    if model is not None:
        if model.attention.pattern != "full":
            raise UserError(f"{path}: strategies know attention.pattern full, and not {model.attention.pattern}")
        if model.target_in_trunk:
            raise UserError(f"{path}: strategies do not know target_in_trunk: train without one, or a model without it")
        for field in MODEL_FIELDS:
            planned, real = getattr(setup.model, field), getattr(model, field)
            if planned != real:
                raise UserError(
                    f"{path}: is for a model with {field} {planned}, this one has {real}: set `model` in that file"
                )
        check_experts(str(path), setup, model)
        changes = {field: getattr(model, field) for field in TAKEN_FIELDS}
        setup = setup.model_copy(update={"model": setup.model.model_copy(update=changes)})
    return RunStrategy(str(path), setup)


def check_experts(path: str, setup: "Setup", model: ModelConfig) -> None:
    """Raise UserError where a strategy is for other experts than the model's, or for what no strategy lays out."""
    planned, real = setup.model.experts, model.experts
    if (planned and planned.count) != (real and real.count):
        raise UserError(
            f"{path}: is for a model with {planned.count if planned else 'no'} experts, this one has "
            f"{real.count if real else 'none'}: set `model` in that file"
        )
    if real is not None and (not real.has_router or real.shared):
        what = f"experts.shared {real.shared}" if real.shared else f"experts.routing {real.routing}"
        raise UserError(f"{path}: strategies do not know {what}; right: routing switch or top_k, and shared 0")


def applied(strategy: RunStrategy, config: TrainConfig) -> TrainConfig:
    """Return the run's configuration with what the strategy says of it: micro-batches and recomputation.

    Raises UserError where they contradict each other.
    """
    planned = strategy.setup.strategy
    if planned.batch.global_ != config.batch_size:
        raise UserError(
            f"{strategy.path}: batch.global {planned.batch.global_} is not the run's batch_size {config.batch_size}"
        )
    return config.model_copy(
        update={"accumulate": planned.micro_batches, "recompute": planned.recompute.mode != "none"}
    )


def rows_of_rank(rows: np.ndarray, accumulate: int, shares: int, share: int) -> np.ndarray:
    """Return the rows [B, ...] of the batch that one of `shares` data-parallel ranks computes: its part of each
    micro-batch.

    So micro-batch i of all ranks together is what one process computes as micro-batch i.
    """
    parts = rows.reshape(accumulate, shares, len(rows) // accumulate // shares, *rows.shape[1:])
    return np.ascontiguousarray(parts[:, share].reshape(-1, *rows.shape[1:]))
