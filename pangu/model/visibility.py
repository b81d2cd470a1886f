"""Who sees whom, and at which position each token stands: made inside the graph from the token ids alone.

Training packs several documents into a row. A token sees the tokens of its own document up to itself, and positions
start again at 0 with each document; the token that ends a document still belongs to it.
"""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from pangu.model.attention import MASKED_SCORE


class Visibility(nn.Cell):
    """ids int32 [B, S] -> positions int32 [B, S] and the score penalty fp32 [B, 1, S, S] (0 visible, -10000 not).

    end_of_document: id after which a new document begins; None: a row is one document.
    pad: id that neither sees nor is seen, as the original's evaluation network has it; None: padding is a token like
    others, as in training, where the loss leaves it out instead.
    """

    def __init__(self, end_of_document: int | None = None, pad: int | None = None) -> None:
        super().__init__()
        self.end_of_document, self.pad = end_of_document, pad
        self.cumsum = ops.CumSum()
        self.cast = ops.Cast()

    def construct(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        batch, length = ids.shape
        causal = Tensor(np.tril(np.ones((1, length, length), np.float32)))
        positions = ops.broadcast_to(Tensor(np.arange(length, dtype=np.int32)), (batch, length))
        visible = ops.broadcast_to(causal, (batch, length, length))
        if self.end_of_document is not None:
            ends = self.cast(ids == self.end_of_document, ms.float32)
            document = self.cumsum(ends, 1) - ends  # how many documents ended before this token
            same = self.cast(document.reshape((batch, length, 1)) == document.reshape((batch, 1, length)), ms.float32)
            visible = visible * same
            positions = self.cast(visible.sum(axis=-1), ms.int32) - 1  # the tokens of one's own document before it
        if self.pad is not None:
            real = self.cast(ids != self.pad, ms.float32)
            visible = visible * real.reshape((batch, length, 1)) * real.reshape((batch, 1, length))
        return positions, ((1 - visible) * MASKED_SCORE).reshape((batch, 1, length, length))
