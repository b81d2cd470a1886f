"""The loss of a batch, whatever objective made it.

`Loss` is of the predictions alone. Where the network has experts, training minimises more: the losses of uneven loads
and of large router logits are added, each row's weighted by its predictions, so that they are means over rows however a
batch is cut. `PenalisedLoss` adds them, `ToldLoss` also tells what is written down of it, and `StagedLoss` has the same
gradient.
"""

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

    def nll_sum(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        nll = self.nll(self.reshape(logits, (-1, logits.shape[-1])), self.reshape(labels, (-1,)))
        return self.sum(self.count(nll, self.reshape(weights, (-1,))))

    def construct(self, prepared: Tensor, dropout_seed: Tensor) -> Tensor:
        batch = self.objective(prepared)
        ids, labels, weights, positions, query_positions, attention_bias = batch[:6]
        if len(batch) > 6:
            logits = self.network(ids, positions, query_positions, attention_bias, dropout_seed, batch[6])
        else:
            logits = self.network(ids, positions, query_positions, attention_bias, dropout_seed)
        return self.nll_sum(logits, labels, weights)


class StagedLoss(Loss):
    """`Loss` of a network with experts that lies on several pipeline stages.

    The experts' penalties, times scale, reach the gradient of the scaled loss, and not the loss itself: that is of the
    predictions alone. Nothing is told.

    copies: how many devices compute the same rows. The compiler adds their gradients up, so each has its share.
    """

    def __init__(self, network: PanguAlpha, objective: nn.Cell) -> None:
        super().__init__(network, objective)
        self.copies = 1
        self.row_sum, self.scale_rows, self.share_rows = ops.ReduceSum(), ops.Mul(), ops.Mul()

    def construct(  # type: ignore[override]  # it needs one input more
        self, prepared: Tensor, dropout_seed: Tensor, scale: Tensor
    ) -> Tensor:
        ids, labels, weights, positions, query_positions, attention_bias = self.objective(prepared)
        penalty_weights = self.share_rows(self.scale_rows(self.row_sum(weights, 1), scale), 1 / self.copies)
        logits = self.network(ids, positions, query_positions, attention_bias, dropout_seed, None, penalty_weights)
        return self.nll_sum(logits, labels, weights)


class PenalisedLoss(Loss):
    """`Loss` and the penalties of experts."""

    def __init__(self, network: PanguAlpha, objective: nn.Cell) -> None:
        super().__init__(network, objective)
        self.add_penalty = ops.Add()

    def parts(self, prepared: Tensor, dropout_seed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return nll and weights of each prediction [B, S], the penalty of each row [B, 1], and what is told."""
        batch = self.objective(prepared)
        ids, labels, weights, positions, query_positions, attention_bias = batch[:6]
        domains = batch[6] if len(batch) > 6 else None
        logits, penalty, told = self.network.with_routing(
            ids, positions, query_positions, attention_bias, dropout_seed, domains
        )
        nll = self.nll(self.reshape(logits, (-1, logits.shape[-1])), self.reshape(labels, (-1,)))
        return self.reshape(nll, labels.shape), weights, self.reshape(penalty, (-1, 1)), told

    def weighted(self, each: Tensor, weights: Tensor) -> Tensor:
        return self.sum(self.count(self.reshape(each, (-1,)), self.reshape(weights, (-1,))))

    def construct(self, prepared: Tensor, dropout_seed: Tensor) -> Tensor:
        nll, weights, penalty, _ = self.parts(prepared, dropout_seed)
        return self.weighted(self.add_penalty(nll, penalty), weights)  # one sum, so one AllReduce


class ToldLoss(PenalisedLoss):
    """-> (the same, fp32 [1 + layers·(4 + E)]: the sum of the losses alone, then sums over rows of what is told of each
    layer (`parameters.ROUTING_FIGURES`, loads), weighted as the penalties are)."""

    def construct(self, prepared: Tensor, dropout_seed: Tensor) -> tuple[Tensor, Tensor]:
        nll, weights, penalty, told = self.parts(prepared, dropout_seed)
        sums = (told * weights.sum(1).reshape((1, -1, 1))).sum(1)
        alone = ops.stop_gradient(self.weighted(nll, weights))
        loss = self.weighted(self.add_penalty(nll, penalty), weights)
        return loss, ops.concat((alone.reshape((1,)), sums.reshape((-1,))))


def training_loss(network: PanguAlpha, objective: nn.Cell, stages: int | None = None) -> Loss:
    """Return the loss that a training run minimises. stages: of a pipeline, where a compiler splits the step over
    devices; then nothing is told."""
    if network.config.experts is None:
        return Loss(network, objective)
    if stages is None:
        return ToldLoss(network, objective)
    return (PenalisedLoss if stages == 1 else StagedLoss)(network, objective)
