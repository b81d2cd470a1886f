"""A step by data-parallel ranks: each has the whole network and its rows; gradients are added up over all.

Where the strategy shards the optimizer, ranks share out the moments and write checkpoints together.
"""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from mindspore import Parameter, nn

from pangu.checkpoint.open import TrainingState
from pangu.distributed.execution.one_device import Execution
from pangu.distributed.execution.reduction import SumOverRanks
from pangu.distributed.execution.sharded_optimizer import ShardedAdamW
from pangu.distributed.sharded_checkpoint import part_of, save_shards
from pangu.model.dropout import Dropout
from pangu.model.network import values_of, weights_of
from pangu.training.optimizer import AdamW


class DataParallel(Execution):
    @cached_property
    def is_sharded(self) -> bool:
        """Return whether ranks hold different parts of the moments."""
        layouts = self.job.strategy.layouts if self.job.strategy else {}
        return any(layout.num_parts > 1 for layout in layouts.values())

    def make_optimizer(self, weights: Iterable[Parameter]) -> nn.Cell:
        if self.is_sharded and self.job.strategy:
            return ShardedAdamW(list(weights), *self.betas, self.job.strategy.layouts, self.world.rank)
        return AdamW(list(weights), *self.betas)

    @cached_property
    def reduction(self) -> SumOverRanks:
        for _, cell in self.job.network.cells_and_names():
            if isinstance(cell, Dropout):
                cell.part = self.share
        return SumOverRanks([weight.shape for weight in self.job.network.trainable_params()])

    def save(self, run: Path, state: TrainingState, decided: dict) -> Path:
        if not self.is_sharded or self.job.strategy is None:
            return super().save(run, state, decided)
        strategy, rank = self.job.strategy, self.world.rank
        weights = values_of(weights_of(self.job.network))
        parts = {name: part_of(strategy.layouts[name], rank, weight) for name, weight in weights.items()}
        parts |= self.optimizer.states()
        stages = strategy.stage_layouts.values()
        return save_shards(run, state, parts, stages, self.job.network.config, decided, self.world)

    def ask(self, asked: bool) -> None:
        self.reduction.ask(asked)

    def asked_by_any(self, asked: bool) -> bool:
        """Return what `SumOverRanks` has told in the last step."""
        return self.reduction.asked_by_any()
