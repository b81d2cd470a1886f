"""Predict answers: a causal batch whose loss weights come with the rows."""

from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from pangu.config import AttentionConfig
from pangu.model.attention_mask import CausalMask
from pangu.training.objectives.batch import Batch


class InstructionBatch(nn.Cell):
    """rows int32 [B, 2 (S+1)] -> batch. The second half of a row says for each id whether it is learnt."""

    def __init__(self, end_of_document: int | None, attention: AttentionConfig | None = None) -> None:
        super().__init__()
        self.attention_mask = CausalMask(end_of_document, attention=attention)
        self.inputs, self.labels, self.learnt = ops.StridedSlice(), ops.StridedSlice(), ops.StridedSlice()
        self.cast = ops.Cast()

    def construct(self, rows: Tensor) -> Batch:
        batch, width = rows.shape
        half = width // 2
        ids = self.inputs(rows, (0, 0), (batch, half - 1), (1, 1))
        labels = self.labels(rows, (0, 1), (batch, half), (1, 1))
        weights = self.cast(self.learnt(rows, (0, half + 1), (batch, width), (1, 1)), ms.float32)
        positions, attention_bias = self.attention_mask(ids)
        return ids, labels, weights, positions, positions, attention_bias


@dataclass(frozen=True)
class Instruction:
    """The objective. end_of_document: None where documents of a row see each other."""

    end_of_document: int | None
    attention: AttentionConfig | None = None

    def prepare(self, rows: np.ndarray, first_row: int) -> np.ndarray:
        """Return the rows: nothing is drawn."""
        return rows

    def predictions(self, prepared: np.ndarray) -> float:
        """Return the sum of the loss weights of the whole batch, plus the original's 1e-5."""
        return float(prepared[..., prepared.shape[-1] // 2 + 1 :].sum()) + 1e-5

    def in_graph(self) -> nn.Cell:
        return InstructionBatch(self.end_of_document, self.attention)
