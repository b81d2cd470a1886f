"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290): learn which of two answers is better.

margin = log p(chosen) - log p(rejected) - (the same by the frozen reference)
loss = -log sigmoid(beta · margin), a pair
"""

from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from pangu.config import AttentionConfig
from pangu.model import PanguAlpha, cpu
from pangu.training.loss import NegativeLogLikelihood
from pangu.training.objectives.batch import Batch
from pangu.training.objectives.instruction import InstructionBatch

# The reference's difference stands in a row of whole numbers, in units of 1/65536 nat.
UNITS = 65536


class PreferenceBatch(nn.Cell):
    """rows int32 [B, 2 W + 1] -> batch of W - 1 steps, with loss weights of 1, 0 and -1."""

    def __init__(self, end_of_document: int, attention: AttentionConfig | None = None) -> None:
        super().__init__()
        self.instruction = InstructionBatch(end_of_document, attention)

    def construct(self, rows: Tensor) -> Batch:
        return self.instruction(rows[:, :-1])


class Margins(nn.Cell):
    """rows int32 [B, 2 W + 1] -> margins in nats, fp32 [B]."""

    def __init__(self, network: PanguAlpha, objective: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.network, self.objective = network, objective
        self.nll = (cpu.NegativeLogLikelihood if cpu.is_used() else NegativeLogLikelihood)()

    def construct(self, rows: Tensor, dropout_seed: Tensor) -> Tensor:
        ids, labels, weights, positions, query_positions, attention_bias = self.objective(rows)
        logits = self.network(ids, positions, query_positions, attention_bias, dropout_seed)
        nll = self.nll(logits.reshape((-1, logits.shape[-1])), labels.reshape((-1,))).reshape(labels.shape)
        return -(nll * weights).sum(-1) - ops.cast(rows[:, -1], ms.float32) / UNITS


class PreferenceLoss(nn.Cell):
    """What the margins take -> the sum of the pairs' losses, fp32 scalar."""

    def __init__(self, margins: Margins, beta: float) -> None:
        super().__init__(auto_prefix=False)
        self.margins, self.beta = margins, beta

    def construct(self, rows: Tensor, dropout_seed: Tensor) -> Tensor:
        x = self.margins(rows, dropout_seed) * self.beta
        # -log sigmoid(x) = max(-x, 0) + log(1 + exp(-|x|)), which no x overflows
        return (ops.relu(-x) + ops.log(1.0 + ops.exp(-ops.abs(x)))).sum()


@dataclass(frozen=True)
class Preference:
    """The objective. end_of_document: behind each of a row's two answers."""

    end_of_document: int
    attention: AttentionConfig | None = None

    def prepare(self, rows: np.ndarray, first_row: int) -> np.ndarray:
        """Return the rows: nothing is drawn."""
        return rows

    def predictions(self, prepared: np.ndarray) -> float:
        """Return the number of pairs, by which the sum of their losses is divided."""
        return float(len(prepared))

    def in_graph(self) -> nn.Cell:
        return PreferenceBatch(self.end_of_document, self.attention)


def with_reference(rows: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """Return rows that hold the reference's differences, margins [N] of rows that held none."""
    result = rows.copy()
    result[:, -1] = np.round(margins.astype(np.float64) * UNITS)
    return result
