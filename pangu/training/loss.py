"""The pretraining loss, as the original computes it."""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from pangu.model import PanguAlpha
from pangu.model.activation import on_cpu
from pangu.model.attention_mask import Visibility


class NegativeLogLikelihoodOnCpu(nn.Cell):
    """logits fp32 [N, V], labels int32 [N] -> -log softmax(logits)[labels], fp32 [N]."""

    def __init__(self) -> None:
        super().__init__()
        self.log_softmax = ops.LogSoftmax(axis=-1)

    def construct(self, logits: Tensor, labels: Tensor) -> Tensor:
        return -ops.gather_d(self.log_softmax(logits), 1, labels.reshape((-1, 1))).reshape((-1,))


class NegativeLogLikelihood(nn.Cell):
    """The same out of operators that may be split along V as well: log Σ exp(x - max) - (x[label] - max)."""

    def __init__(self) -> None:
        super().__init__()
        self.maximum, self.shift = ops.ReduceMax(keep_dims=True), ops.Sub()
        self.exp, self.sum, self.log = ops.Exp(), ops.ReduceSum(), ops.Log()
        self.one_hot, self.pick, self.target = ops.OneHot(), ops.Mul(), ops.ReduceSum()
        self.subtract = ops.Sub()

    def construct(self, logits: Tensor, labels: Tensor) -> Tensor:
        # The maximum only keeps exp in range: its gradient is zero by the formula, and is not computed.
        shifted = self.shift(logits, self.maximum(ops.stop_gradient(logits), -1))
        log_sum = self.log(self.sum(self.exp(shifted), -1))
        one, zero = Tensor(1.0, ms.float32), Tensor(0.0, ms.float32)
        picked = self.pick(shifted, self.one_hot(labels, logits.shape[-1], one, zero))
        return self.subtract(log_sum, self.target(picked, -1))


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
        self.nll = NegativeLogLikelihoodOnCpu() if on_cpu() else NegativeLogLikelihood()
        self.inputs, self.labels = ops.StridedSlice(), ops.StridedSlice()
        self.is_counted, self.count, self.sum = ops.NotEqual(), ops.Mul(), ops.ReduceSum()
        self.cast, self.reshape = ops.Cast(), ops.Reshape()

    def construct(self, rows: Tensor, dropout_seed: Tensor) -> Tensor:
        batch, length = rows.shape
        ids = self.inputs(rows, (0, 0), (batch, length - 1), (1, 1))
        labels = self.labels(rows, (0, 1), (batch, length), (1, 1))
        positions, penalty = self.visibility(ids)
        logits = self.network(ids, positions, penalty, dropout_seed)
        counted = self.reshape(self.cast(self.is_counted(ids, self.pad), ms.float32), (-1,))
        nll = self.nll(self.reshape(logits, (-1, logits.shape[-1])), self.reshape(labels, (-1,)))
        return self.sum(self.count(nll, counted))


def counted_predictions(rows: np.ndarray, pad: int) -> float:
    """The loss's denominator for rows [.., S+1]: predictions from tokens other than pad, plus the original's 1e-5."""
    return float((rows[..., :-1] != pad).sum()) + 1e-5
