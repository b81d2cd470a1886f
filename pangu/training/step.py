"""One update of the weights as one compiled graph: loss, gradients, loss scale, clip, overflow check, AdamW."""

from collections.abc import Callable

import mindspore as ms
from mindspore import Tensor, nn, ops

from pangu.training.loss import Loss, StagedLoss, ToldLoss
from pangu.training.optimizer import AdamW, global_norm


class ScaledLoss(nn.Cell):
    """What the loss takes, scale fp32 and dropout seed int32, both scalar or [1] -> loss times scale, scalar; from a
    `ToldLoss` also what it tells."""

    def __init__(self, loss: Loss) -> None:
        super().__init__(auto_prefix=False)
        self.network = loss
        self.scale, self.reshape = ops.Mul(), ops.Reshape()
        self.tells, self.is_staged = isinstance(loss, ToldLoss), isinstance(loss, StagedLoss)

    def construct(self, rows: Tensor, scale: Tensor, dropout_seed: Tensor) -> Tensor:
        scale, dropout_seed = self.reshape(scale, ()), self.reshape(dropout_seed, ())
        if self.tells:
            loss, told = self.network(rows, dropout_seed)
            return self.scale(loss, scale), told
        if self.is_staged:
            return self.scale(self.network(rows, dropout_seed, scale), scale)
        return self.scale(self.network(rows, dropout_seed), scale)


class TrainStep(nn.Cell):
    """Prepared rows int32 [N, ...] -> (loss, global norm of the unclipped gradient, whether the update was made).

    Of a `ToldLoss` a fourth result is what it tells, summed over all rows.

    The loss and its gradient are those of all rows at once, computed in `accumulate` parts: sums over these, divided
    by `predictions`, the objective's count of all of them (`Objective.predictions`).

    reduction: where other processes have other rows of the same batch, what adds up (gradients, loss) over all of them
    (`distributed.execution.reduction`); `predictions` then counts the rows of all, and what is returned is the whole
    batch's.

    The update is skipped when any gradient is infinite or NaN, or the norm reaches `largest_norm`. That is read from
    the global norm, which needs no operator that only some devices have.
    """

    def __init__(
        self,
        loss: Loss,
        optimizer: AdamW | nn.Cell,
        clip_norm: float,
        accumulate: int,
        reduction: nn.Cell | None = None,
        largest_norm: float | None = None,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.largest_norm = largest_norm
        self.loss, self.optimizer, self.reduction = ScaledLoss(loss), optimizer, reduction
        self.clip_norm, self.accumulate = clip_norm, accumulate
        self.map = ops.HyperMap()
        self.cuts_rows_itself = False
        self.holders: tuple[int, ...] | None = None  # see `global_norm`
        self.tells = self.loss.tells
        self.value_and_grad = ms.value_and_grad(self.loss, None, optimizer.parameters, has_aux=self.tells)

    def accumulate_inside(self, wrap: Callable[[nn.Cell], nn.Cell]) -> None:
        """Differentiate `wrap(loss)` once: it cuts its inputs into the parts along axis 0 and adds up their losses.

        Such are MindSpore's `Pipeline` and `GradAccumulation`, which a compiler for many devices takes apart.
        """
        self.cuts_rows_itself = True
        self.value_and_grad = ms.value_and_grad(wrap(self.loss), None, self.optimizer.parameters)

    def loss_and_gradients(
        self, rows: Tensor, scale: Tensor, dropout_seed: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return sums over all parts of the rows, scaled. Scale and seed: scalars, or one of each for every part.

        The loss is (loss, what is told) where something is.
        """
        if self.cuts_rows_itself or self.accumulate == 1:
            return self.value_and_grad(rows, scale, dropout_seed)
        size = rows.shape[0] // self.accumulate
        loss, gradients = self.value_and_grad(rows[:size], scale, dropout_seed)
        for part in range(1, self.accumulate):
            more_rows = rows[part * size : (part + 1) * size]
            more_loss, more_gradients = self.value_and_grad(more_rows, scale, dropout_seed + part)
            loss = (loss[0] + more_loss[0], loss[1] + more_loss[1]) if self.tells else loss + more_loss
            gradients = self.map(ops.add, gradients, more_gradients)
        return loss, gradients

    def update(
        self,
        rows: Tensor,
        scale: Tensor,
        dropout_seed: Tensor,
        loss_scale: Tensor,
        learning_rate: Tensor,
        epsilon: Tensor,
        decay: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return what `construct` does, with what `loss_and_gradients` takes."""
        loss, gradients = self.loss_and_gradients(rows, scale, dropout_seed)
        told = loss
        if self.tells:
            loss, told = loss
            if self.reduction is not None:
                gradients, both = self.reduction(gradients, ops.concat((loss.reshape((1,)), told)))
                loss, told = both[0], both[1:]
        elif self.reduction is not None:
            gradients, loss = self.reduction(gradients, loss)
        norm = global_norm(gradients, self.holders) / loss_scale
        finite = norm - norm == 0
        if self.largest_norm is not None:
            finite = norm < Tensor(self.largest_norm, ms.float32)  # neither NaN nor infinity is
        if finite:
            factor = self.clip_norm / ops.maximum(norm, Tensor(self.clip_norm, ms.float32)) / loss_scale
            self.optimizer(self.map(ops.partial(ops.mul, factor), gradients), learning_rate, epsilon, decay)
        if self.tells:
            return loss / loss_scale, norm, finite, told
        return loss / loss_scale, norm, finite

    def construct(
        self,
        rows: Tensor,
        predictions: Tensor,
        loss_scale: Tensor,
        dropout_seed: Tensor,
        learning_rate: Tensor,
        epsilon: Tensor,
        decay: Tensor,
    ) -> tuple[Tensor, ...]:
        scale = loss_scale / predictions
        return self.update(rows, scale, dropout_seed, loss_scale, learning_rate, epsilon, decay)
