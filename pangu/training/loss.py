"""The loss of a batch, whatever objective made it."""

import mindspore as ms
from mindspore import Tensor, nn, ops

from pangu.model import PanguAlpha, cpu


class NegativeLogLikelihood(nn.Cell):
    """logits fp32 [N, V], labels int32 [N] -> -log softmax(logits)[labels], fp32 [N].

    Made of operators that may be split along V as well: log Σ exp(x - max) - (x[label] - max).
    """

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


class Loss(nn.Cell):
    """What an objective is fed with -> the weighted sum of the negative log-likelihoods in nats, fp32 scalar."""

    def __init__(self, network: PanguAlpha, objective: nn.Cell) -> None:
        """objective: a cell that makes a `Batch`."""
        super().__init__(auto_prefix=False)
        self.network, self.objective = network, objective
        self.nll = (cpu.NegativeLogLikelihood if cpu.is_used() else NegativeLogLikelihood)()
        self.count, self.sum = ops.Mul(), ops.ReduceSum()
        self.reshape = ops.Reshape()

    def construct(self, prepared: Tensor, dropout_seed: Tensor) -> Tensor:
        ids, labels, weights, positions, query_positions, attention_bias = self.objective(prepared)
        logits = self.network(ids, positions, query_positions, attention_bias, dropout_seed)
        nll = self.nll(self.reshape(logits, (-1, logits.shape[-1])), self.reshape(labels, (-1,)))
        return self.sum(self.count(nll, self.reshape(weights, (-1,))))
