"""How a step is run: by one device, by data-parallel ranks, or split by MindSpore's compiler. One interface for all.

`Execution` is that interface, and what one device does. The other two are `data_parallel` and `semi_auto`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pangu.checkpoint.open import Checkpoint, TrainingState, step_directory
from pangu.checkpoint.save import save_checkpoint
from pangu.config import TrainConfig
from pangu.distributed.process_group import World
from pangu.distributed.stored import StoredCheckpoint
from pangu.distributed.strategy import RunStrategy, rows_of_rank

if TYPE_CHECKING:
    from mindspore import Parameter, nn

    from pangu.model import PanguAlpha
    from pangu.training.loss import Loss


@dataclass(frozen=True)
class Job:
    """What is to be run. example: prepared rows of zeros, as many as an update takes on all ranks together."""

    config: TrainConfig
    network: "PanguAlpha"
    loss: "nn.Cell"
    world: World
    strategy: RunStrategy | None
    example: np.ndarray


class Execution:
    """A step on one device. `step` is called with this rank's prepared rows and the numbers of `TrainStep`."""

    can_evaluate = True
    is_split = False  # whether a compiler splits the step over devices
    engine = "mindspore"

    def __init__(self, job: Job) -> None:
        self.job, self.world = job, job.world
        self.shares = job.strategy.data_parallel if job.strategy else job.world.size
        self.share = job.strategy.data_rank(job.world.rank) if job.strategy else job.world.rank
        self.recompute_layers()
        self.optimizer = self.make_optimizer(job.network.trainable_params())
        self.step = self.make_step()

    def recompute_layers(self) -> None:
        if self.job.config.recompute:
            for block in self.job.network.backbone.blocks:
                block.recompute()

    def make_optimizer(self, weights: "Iterable[Parameter]") -> "nn.Cell":
        from pangu.training.optimizer import AdamW

        return AdamW(list(weights), *self.betas)

    def make_step(self) -> "nn.Cell":
        from pangu.training.step import TrainStep

        config = self.job.config
        clip_norm, limit = config.optimizer.clip_norm, config.skip_above_norm
        return TrainStep(self.job.loss, self.optimizer, clip_norm, config.accumulate, self.reduction, limit)

    @cached_property
    def reduction(self) -> "nn.Cell | None":
        """Return what adds gradients up over the ranks."""
        return None

    @property
    def betas(self) -> tuple[float, float]:
        return self.job.config.optimizer.beta1, self.job.config.optimizer.beta2

    def rows_here(self, prepared: np.ndarray) -> np.ndarray:
        """Return this rank's part of a batch."""
        return rows_of_rank(prepared, self.job.config.accumulate, self.shares, self.share)

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Begin with these weights (released names)."""
        from pangu.model.network import load_weights

        load_weights(self.job.network, weights)
        self.optimizer.load_parts()

    def load_table(self, table: np.ndarray) -> None:
        """Take this table of experts."""
        from mindspore import Tensor

        self.job.network.backbone.expert_table.set_data(Tensor(table))

    def load_moments(self, moments: Mapping[str, np.ndarray]) -> None:
        self.optimizer.load_states(moments)

    def restore(self, saved: Checkpoint) -> None:
        """Load a checkpoint, whatever layout it has; of what ranks share out, only this rank's parts are read."""
        with StoredCheckpoint(saved, self.world.rank) as stored:
            self.load_weights(stored.weights)
            self.load_moments(stored.moments)

    def save(self, run: Path, state: TrainingState, decided: dict) -> Path:
        """Write a checkpoint: here the first rank does, whole."""
        from pangu.model.network import values_of, weights_of

        if self.world.is_first:
            weights, moments = values_of(weights_of(self.job.network)), self.optimizer.states()
            save_checkpoint(run, state, weights, moments, self.job.network.config, decided)
        return step_directory(run, state.step)

    def loss(self, evaluation: "Loss", rows: np.ndarray) -> float:
        """Return the summed loss of an evaluation's rows, in nats."""
        from mindspore import Tensor, int32

        return float(evaluation(Tensor(rows), Tensor(0, int32)).asnumpy())

    def times(self) -> dict[str, list[float]] | None:
        """Return calls and seconds of each kind of kernel so far, to be emptied; None where MindSpore's profiler has
        them."""
        return None

    def ask(self, asked: bool) -> None:
        """Tell the other ranks, in the coming step, whether this one was asked to stop."""

    def asked_by_any(self, asked: bool) -> bool:
        """Return after a step whether some rank was asked to stop, the same on all."""
        return self.world.sum(float(asked)) > 0
