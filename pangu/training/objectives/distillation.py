"""Learn from a teacher's probabilities (Hinton et al. 2015, arXiv 1503.02531) beside the labels.

    w · T² · KL(softmax(teacher / T) ‖ softmax(student / T)) + (1 - w) · nll       a counted prediction
    + v · mean square of (P · hidden - teacher's hidden)                           where hidden states are asked for

T² keeps the gradient's size when T changes. The teacher is frozen and has no dropout. P is learnt, and dropped in the
end; it begins as the identity where the two are equally wide.
"""

from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from pangu.model import PanguAlpha, cpu
from pangu.training.loss import NegativeLogLikelihood


@dataclass(frozen=True)
class Weights:
    """teacher: w above, 0 to 1; temperature: T; hidden: v."""

    teacher: float
    temperature: float
    hidden: float = 0.0


def freeze_teacher(teacher: PanguAlpha) -> PanguAlpha:
    """Return the teacher, never trained, with names of its own beside a student's."""
    teacher.set_train(False)
    for parameter in teacher.get_parameters():
        parameter.requires_grad = False
        parameter.name = f"teacher.{parameter.name}"
    return teacher


class DistillationLoss(nn.Cell):
    """What an objective is fed with -> the weighted sum of the losses in nats, fp32 scalar.

    objective: makes the student's batch; plain: makes the teacher's. The student's may have steps in front, which
    predict nothing.
    """

    def __init__(
        self, network: PanguAlpha, objective: nn.Cell, teacher: PanguAlpha, plain: nn.Cell, weights: Weights
    ) -> None:
        super().__init__(auto_prefix=False)
        self.network, self.objective, self.teacher, self.plain, self.weights = (
            network, objective, teacher, plain, weights,
        )  # fmt: skip
        self.nll = (cpu.NegativeLogLikelihood if cpu.is_used() else NegativeLogLikelihood)()
        self.log_softmax = ops.LogSoftmax(axis=-1)
        self.has_hidden = weights.hidden > 0
        if self.has_hidden:
            ours, theirs = network.config.hidden_size, teacher.config.hidden_size
            start = np.eye(theirs, ours, dtype=np.float32)
            self.projection = Parameter(Tensor(start), name="distillation.projection")
            self.project = ops.MatMul(transpose_b=True)

    @property
    def parameters(self) -> list[Parameter]:
        """Return what is learnt beside the student."""
        return [self.projection] if self.has_hidden else []

    def construct(self, prepared: Tensor, dropout_seed: Tensor) -> Tensor:
        ids, labels, weights, positions, query_positions, bias = self.objective(prepared)
        hidden = self.network.backbone(ids, positions, query_positions, bias, dropout_seed)
        ids, labels, weights, positions, query_positions, bias = self.plain(prepared)
        length, rows = ids.shape[1], (ids.shape[0] * ids.shape[1], -1)
        hidden = hidden[:, hidden.shape[1] - length :].reshape(rows)
        taught = ops.stop_gradient(self.teacher.backbone(ids, positions, query_positions, bias, dropout_seed))
        taught = taught.reshape(rows)
        logits, wanted = self.network.logits(hidden), ops.stop_gradient(self.teacher.logits(taught))
        temperature, share = self.weights.temperature, self.weights.teacher
        ours, theirs = self.log_softmax(logits / temperature), self.log_softmax(wanted / temperature)
        distance = (ops.exp(theirs) * (theirs - ours)).sum(-1)
        loss = share * temperature**2 * distance + (1 - share) * self.nll(logits, labels.reshape((-1,)))
        if self.has_hidden:
            gap = self.project(ops.cast(hidden, ms.float32), self.projection) - ops.cast(taught, ms.float32)
            loss = loss + self.weights.hidden * (gap * gap).mean(-1)
        return (loss * weights.reshape((-1,))).sum()
