"""A step under a strategy that splits more than the batch: MindSpore's semi-automatic parallelism, on Ascend.

`parallel_strategy.mindspore.apply` sets the strategy on the serial step, and MindSpore's compiler splits it. Here is
what a run needs around that: this rank's parts of weights and moments, in and out. The step is compiled for Ascend
where `apply` is tested; the run itself has not been seen on a device.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor

from pangu.checkpoint.open import TrainingState, with_moments
from pangu.distributed.execution.one_device import Execution, Job
from pangu.distributed.sharded_checkpoint import part_of, save_shards
from pangu.formats.parameter_layout import ParameterLayout
from pangu.foundation.errors import UserError
from pangu.parameters import WORD_TABLE

# The last stage's own copy of the word table (`parallel_strategy.mindspore.pangu_network.TABLE_COPY`).
COPY = "output_table"


class SemiAuto(Execution):
    """No evaluation: it is compiled whole. `python -m pangu reshard` puts a checkpoint together for that."""

    can_evaluate = False
    is_split = True

    def __init__(self, job: Job) -> None:
        """Compile. Raises UserError for what MindSpore cannot do."""
        assert job.strategy
        super().__init__(job)
        stage = max(first for first in job.strategy.stage_layouts if first <= job.world.rank)
        self.layouts: Mapping[str, ParameterLayout] = with_moments(job.strategy.stage_layouts[stage])
        self.step.compile(Tensor(self.rows_here(job.example)))

    def recompute_layers(self) -> None:
        """Leave that to `apply`, which knows what the strategy says of it."""

    def make_step(self):  # type: ignore[no-untyped-def]
        from parallel_strategy.mindspore.apply import apply

        strategy = self.job.strategy
        assert strategy
        try:
            return apply(strategy.setup, super().make_step(), row_axes=self.job.example.ndim - 1)
        except UserError as error:
            raise UserError(f"{strategy.path}: {error}") from None

    def parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield weights and moments of this rank's stage, by the names that checkpoints give them."""
        for parameter in (*self.optimizer.parameters, *self.optimizer.first, *self.optimizer.second):
            name = parameter.name.replace(COPY, WORD_TABLE)
            if name in self.layouts:
                yield name, parameter

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Take this rank's parts of those tensors that are given."""
        for name, parameter in self.parameters():
            if name in weights:
                part = part_of(self.layouts[name], self.world.rank, weights[name])
                parameter.set_data(Tensor(part, ms.float32), slice_shape=True)

    def load_moments(self, moments: Mapping[str, np.ndarray]) -> None:
        self.load_weights(moments)

    def save(self, run: Path, state: TrainingState, decided: dict) -> Path:
        assert self.job.strategy
        parts = {name: parameter.asnumpy() for name, parameter in self.parameters()}
        stages = self.job.strategy.stage_layouts.values()
        return save_shards(run, state, parts, stages, self.job.network.config, decided, self.world)
