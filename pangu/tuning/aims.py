"""What a fine-tuning minimises: the loss of answers, of preferences, or the distance to a teacher."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from pangu.config import ModelConfig
from pangu.model import PanguAlpha
from pangu.training.loss import Loss
from pangu.training.objectives import distillation, preference
from pangu.training.objectives.instruction import Instruction
from pangu.tuning.tuning_settings import Settings

Batches = Callable[[nn.Cell], nn.Cell]  # what a method makes of an objective's batches
Evaluation = Callable[[Tensor, Tensor], Tensor]  # rows and a seed that nothing takes -> nats, summed


class Aim(ABC):
    """loss: what `TrainStep` differentiates. parameters: what it trains beside the network."""

    loss: nn.Cell
    parameters: tuple[Parameter, ...] = ()

    @abstractmethod
    def predictions(self, rows: np.ndarray) -> float:
        """Return the divisor of the summed loss of these rows."""

    @abstractmethod
    def figures(self, rows: np.ndarray, size: int) -> dict[str, float]:
        """Return what is told of validation rows; nothing where they teach nothing. size: rows of a call."""


def in_parts(cell: Evaluation, rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Call a cell on rows, `size` at a time: one compiled shape. Rows of zeros, which count for nothing, fill up."""
    results = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        if len(part) < size:
            part = np.concatenate([part, np.zeros((size - len(part), rows.shape[1]), np.int32)])
        results.append(cell(Tensor(part), Tensor(0, ms.int32)).asnumpy())
    return results


def mean_nats(evaluation: Evaluation, rows: np.ndarray, size: int) -> float | None:
    """Return nats a learnt token of rows [N, 2 (S+1)]; None where nothing is learnt."""
    count = int(rows[:, rows.shape[1] // 2 + 1 :].sum())
    return sum(map(float, in_parts(evaluation, rows, size))) / count if count else None


class Answers(Aim):
    evaluation: Evaluation

    def __init__(self, network: PanguAlpha, batches: Batches, end_of_document: int, config: ModelConfig) -> None:
        self.objective = Instruction(end_of_document, config.attention)
        self.loss = Loss(network, batches(self.objective.in_graph()))
        self.evaluation = Loss(network, batches(self.objective.in_graph()))

    def predictions(self, rows: np.ndarray) -> float:
        return self.objective.predictions(rows)

    def figures(self, rows: np.ndarray, size: int) -> dict[str, float]:
        found = mean_nats(self.evaluation, rows, size)
        return {} if found is None else {"loss": found}


class Distillation(Answers):
    """teacher: frozen here; weight 0: the same as `Answers`, bit for bit."""

    def __init__(
        self,
        network: PanguAlpha,
        batches: Batches,
        end_of_document: int,
        config: ModelConfig,
        settings: Settings,
        teacher: PanguAlpha,
    ) -> None:
        super().__init__(network, batches, end_of_document, config)
        weights = distillation.Weights(settings.teacher_weight, settings.temperature, settings.hidden_weight)
        if weights.teacher or weights.hidden:
            plain = Instruction(end_of_document, teacher.config.attention).in_graph()
            loss = distillation.DistillationLoss(
                network, batches(self.objective.in_graph()), distillation.freeze_teacher(teacher), plain, weights
            )
            self.loss, self.parameters = loss, tuple(loss.parameters)


class Preferences(Aim):
    """Rows must hold the reference's differences (`reference`, of the network as it was)."""

    def __init__(
        self, network: PanguAlpha, batches: Batches, end_of_document: int, beta: float, config: ModelConfig
    ) -> None:
        self.objective, self.beta = preference.Preference(end_of_document, config.attention), beta
        self.margins = preference.Margins(network, batches(self.objective.in_graph()))
        training = preference.Margins(network, batches(self.objective.in_graph()))
        self.loss = preference.PreferenceLoss(training, beta)

    def predictions(self, rows: np.ndarray) -> float:
        return self.objective.predictions(rows)

    def reference(self, rows: np.ndarray, size: int) -> np.ndarray:
        """Return rows with the differences of the network as it is now."""
        if not len(rows):
            return rows
        return preference.with_reference(rows, np.concatenate(in_parts(self.margins, rows, size))[: len(rows)])

    def figures(self, rows: np.ndarray, size: int) -> dict[str, float]:
        if not len(rows):
            return {}
        rewards = self.beta * np.concatenate(in_parts(self.margins, rows, size))[: len(rows)].astype(np.float64)
        return {
            "loss": float(np.logaddexp(0, -rewards).mean()),
            "reward_margin": float(rewards.mean()),
            "preferred": float((rewards > 0).mean()),
        }
