"""A training step under a strategy that splits more than the batch: MindSpore's semi-automatic parallelism, on Ascend.

`parallel_strategy.mindspore.apply` sets the strategy on the serial step, and MindSpore's compiler splits it. Here is
what a run needs around that: this rank's parts of weights and moments, in and out. The step is compiled for Ascend
where `apply` is tested; the run itself has not been seen on a device.
"""

from collections.abc import Iterator, Mapping

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from pangu.distributed.shards import part_of, with_moments
from pangu.distributed.strategy import RunStrategy
from pangu.formats.parameter_layout import ParameterLayout
from pangu.foundation.errors import UserError
from pangu.parameters import WORD_TABLE

# The last stage's own copy of the word table (`parallel_strategy.mindspore.apply.copy_tied_table`).
COPY = "output_table"


class AppliedStep:
    """Called as `TrainStep` is, with this rank's rows."""

    def __init__(self, strategy: RunStrategy, step: nn.Cell, rank: int, rows: int, row_length: int) -> None:
        """Compiles. rows: how many this rank gets. Raises UserError for what MindSpore cannot do."""
        from pangu.foundation.errors import UserError as StrategyError
        from parallel_strategy.mindspore.apply import apply

        try:
            self.parallel = apply(strategy.question, step)
        except StrategyError as error:
            raise UserError(f"{strategy.path}: {error}") from None
        self.optimizer, self.rank = step.optimizer, rank
        stage = max(first for first in strategy.stage_layouts if first <= rank)
        self.layouts: Mapping[str, ParameterLayout] = with_moments(strategy.stage_layouts[stage])
        self.parallel.compile(Tensor(np.zeros((rows, row_length), np.int32)))

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.parallel(*inputs)

    def parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Weights and moments of this rank's stage, by the names that checkpoints give them."""
        for parameter in (*self.optimizer.parameters, *self.optimizer.first, *self.optimizer.second):
            name = parameter.name.replace(COPY, WORD_TABLE)
            if name in self.layouts:
                yield name, parameter

    def held(self) -> dict[str, np.ndarray]:
        """This rank's parts."""
        return {name: parameter.asnumpy().copy() for name, parameter in self.parameters()}

    def load(self, whole: Mapping[str, np.ndarray]) -> None:
        """Take this rank's parts of those weights and moments that are given."""
        for name, parameter in self.parameters():
            if name in whole:
                part = part_of(self.layouts[name], self.rank, whole[name])
                parameter.set_data(Tensor(part, ms.float32), slice_shape=True)
