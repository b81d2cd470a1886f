"""Predict the next token of each document: the original's pretraining."""

from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from pangu.config import AttentionConfig
from pangu.model.attention_mask import CausalMask
from pangu.training.objectives.batch import Batch


class CausalBatch(nn.Cell):
    """rows int32 [B, S+1] -> batch: the first S ids of a row are the input and the last S the labels.

    A prediction counts unless its *input* token is `pad`, so a pad label is learnt and nothing is learnt from a pad
    (the original's loss mask). Documents within a row do not see each other and each starts at position 0.
    """

    def __init__(self, end_of_document: int | None, pad: int, attention: AttentionConfig | None = None) -> None:
        super().__init__()
        self.attention_mask = CausalMask(end_of_document, attention=attention)
        self.pad = pad
        self.inputs, self.labels = ops.StridedSlice(), ops.StridedSlice()
        self.is_counted, self.cast = ops.NotEqual(), ops.Cast()

    def construct(self, rows: Tensor) -> Batch:
        batch, length = rows.shape
        ids = self.inputs(rows, (0, 0), (batch, length - 1), (1, 1))
        labels = self.labels(rows, (0, 1), (batch, length), (1, 1))
        positions, attention_bias = self.attention_mask(ids)
        weights = self.cast(self.is_counted(ids, self.pad), ms.float32)
        return ids, labels, weights, positions, positions, attention_bias


class DomainBatch(nn.Cell):
    """rows int32 [B, 2 (S+1)] -> a batch and int32 [B, S], the domain of each input token, which the second half of a
    row says."""

    def __init__(self, end_of_document: int | None, pad: int, attention: AttentionConfig | None = None) -> None:
        super().__init__()
        self.causal = CausalBatch(end_of_document, pad, attention)

    def construct(self, rows: Tensor) -> tuple[Tensor, ...]:
        half = rows.shape[1] // 2
        return (*self.causal(rows[:, :half]), rows[:, half : 2 * half - 1])


@dataclass(frozen=True)
class Causal:
    """The objective. end_of_document: None where documents of a row see each other."""

    end_of_document: int | None
    pad: int
    attention: AttentionConfig | None = None

    def prepare(self, rows: np.ndarray, first_row: int) -> np.ndarray:
        """Return the rows: nothing is drawn."""
        return rows

    def predictions(self, prepared: np.ndarray) -> float:
        """Return the number of predictions from tokens other than pad, plus the original's 1e-5."""
        return float((prepared[..., :-1] != self.pad).sum()) + 1e-5

    def in_graph(self) -> nn.Cell:
        return CausalBatch(self.end_of_document, self.pad, self.attention)


class DomainCausal(Causal):
    """The same for rows that say the domain of each id behind the ids."""

    def predictions(self, prepared: np.ndarray) -> float:
        return super().predictions(prepared[..., : prepared.shape[-1] // 2])

    def in_graph(self) -> nn.Cell:
        return DomainBatch(self.end_of_document, self.pad, self.attention)
