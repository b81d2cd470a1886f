"""The pretraining loss, as the original computes it."""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from pangu.model import PanguAlpha
from pangu.model.visibility import Visibility


class PretrainLoss(nn.Cell):
    """rows int32 [B, S+1] -> the summed negative log-likelihood of the counted predictions, in nats, fp32 scalar.

    The first S ids of a row are the input and the last S the labels. A prediction counts unless its *input* token is
    `pad`, so a pad label is learnt and nothing is learnt from a pad (the original's loss mask). Documents within a row
    do not see each other and each starts at position 0.
    """

    def __init__(self, network: PanguAlpha, end_of_document: int | None, pad: int) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.visibility = Visibility(end_of_document)
        self.pad = pad
        self.log_softmax = ops.LogSoftmax(axis=-1)
        self.cast = ops.Cast()

    def construct(self, rows: Tensor, dropout_seed: Tensor) -> Tensor:
        ids, labels = rows[:, :-1], rows[:, 1:]
        positions, penalty = self.visibility(ids)
        logits = self.network(ids, positions, penalty, dropout_seed)
        counted = self.cast(ids != self.pad, ms.float32).reshape((-1,))
        log_probabilities = self.log_softmax(logits.reshape((-1, logits.shape[-1])))
        nll = -ops.gather_d(log_probabilities, 1, labels.reshape((-1, 1))).reshape((-1,))
        return (nll * counted).sum()


def counted_predictions(rows: np.ndarray, pad: int) -> float:
    """The loss's denominator for rows [.., S+1]: predictions from tokens other than pad, plus the original's 1e-5."""
    return float((rows[..., :-1] != pad).sum()) + 1e-5
