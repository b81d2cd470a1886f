"""A step on one CPU without MindSpore's graph (`pangu.training.compiled`)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pangu.distributed.execution.one_device import Execution

if TYPE_CHECKING:
    from pangu.training.compiled.compiled_step import CompiledStep
    from pangu.training.loss import Loss


class OneCpu(Execution):
    """The same weights, moments and results as `Execution`; only the evaluation and the step are computed otherwise."""

    engine = "compiled"
    step: "CompiledStep"

    def recompute_layers(self) -> None:
        """Do nothing: the step reads `recompute` itself."""

    def make_step(self) -> "CompiledStep":  # type: ignore[override]  # called alike
        from pangu.training.compiled.compiled_step import CompiledStep, StepRules

        rules = StepRules.of(self.job.config)
        return CompiledStep(self.job.network, self.job.loss.objective, self.optimizer, rules)

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        super().load_weights(weights)
        self.step.look_again()

    def load_moments(self, moments: Mapping[str, np.ndarray]) -> None:
        super().load_moments(moments)
        self.step.look_again()

    def loss(self, evaluation: "Loss", rows: np.ndarray) -> float:
        return self.step.loss(evaluation.objective, rows)

    def times(self) -> dict[str, list[float]]:
        return self.step.passes.crew.times
