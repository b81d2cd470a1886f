"""One update of the weights as one compiled graph: loss, gradients, loss scale, clip, overflow check, AdamW."""

import mindspore as ms
from mindspore import Tensor, nn, ops

from pangu.loss import PretrainLoss
from pangu.optimizer import AdamW, global_norm


class TrainStep(nn.Cell):
    """Micro-batches int32 [A, B, S+1] -> (loss, global norm of the unclipped gradient, whether the update was made).

    The loss and its gradient are those of all A·B rows at once: sums over the micro-batches, divided by
    `predictions`, the number of counted predictions in all of them (`pangu.loss.counted_predictions`).

    The update is skipped when any gradient is infinite or NaN. That is read from the global norm, which needs no
    operator that only some devices have.
    """

    def __init__(self, loss: PretrainLoss, optimizer: AdamW, clip_norm: float, accumulate: int) -> None:
        super().__init__(auto_prefix=False)
        self.loss, self.optimizer = loss, optimizer
        self.clip_norm, self.accumulate = clip_norm, accumulate
        self.value_and_grad = ms.value_and_grad(self.scaled_loss, None, optimizer.parameters)

    def scaled_loss(self, rows: Tensor, scale: Tensor, dropout_seed: Tensor) -> Tensor:
        return self.loss(rows, dropout_seed) * scale

    def construct(
        self,
        rows: Tensor,
        predictions: Tensor,
        loss_scale: Tensor,
        dropout_seed: Tensor,
        learning_rate: Tensor,
        epsilon: Tensor,
        decay: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        scale = loss_scale / predictions
        loss, gradients = self.value_and_grad(rows[0], scale, dropout_seed)
        for micro in range(1, self.accumulate):
            more_loss, more_gradients = self.value_and_grad(rows[micro], scale, dropout_seed + micro)
            loss = loss + more_loss
            gradients = tuple(a + b for a, b in zip(gradients, more_gradients))
        norm = global_norm(gradients) / loss_scale
        finite = norm - norm == 0
        if finite:
            factor = self.clip_norm / ops.maximum(norm, Tensor(self.clip_norm, ms.float32)) / loss_scale
            clipped: tuple[Tensor, ...] = ()
            for gradient in gradients:
                clipped = (*clipped, gradient * factor)
            self.optimizer(clipped, learning_rate, epsilon, decay)
        return loss / loss_scale, norm, finite
