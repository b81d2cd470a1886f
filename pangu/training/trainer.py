"""One update after the other: the network on a device, its optimizer, and the state that a checkpoint keeps."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pangu.checkpoint import directory as checkpoint
from pangu.checkpoint.directory import TrainingState
from pangu.config import ModelConfig, TrainConfig
from pangu.distributed.process_group import ALONE, World
from pangu.distributed.strategy import RunStrategy, rows_of_rank
from pangu.foundation.best_effort import warn
from pangu.foundation.errors import UserError
from pangu.training.data import PackedData, samples_of_batch
from pangu.training.run_directory import decided_fields
from pangu.training.schedule import schedule_of

if TYPE_CHECKING:
    from mindspore import Tensor

    from pangu.distributed.applied import AppliedStep
    from pangu.distributed.reduction import SumOverRanks
    from pangu.distributed.sharded_optimizer import ShardedAdamW
    from pangu.training.optimizer import AdamW
    from pangu.training.step import TrainStep


# Steps in a row without an update, by `skip_above_norm`, after which the run ends.
MOST_BAD_STEPS = 20


class Trainer:
    """The network with its optimizer on a device, the state of the run, and the compiled steps.

    world: the processes that train together, each with its share of every batch. strategy: what each of them does; None
    is data parallelism.
    """

    def __init__(
        self,
        model: ModelConfig,
        config: TrainConfig,
        data: PackedData,
        world: World = ALONE,
        strategy: RunStrategy | None = None,
    ) -> None:
        import mindspore as ms

        from pangu.model.network import build
        from pangu.training.loss import Loss
        from pangu.training.objectives.causal import Causal
        from pangu.training.step import TrainStep

        self.ms, self.model, self.config, self.data, self.world = ms, model, config, data, world
        self.shares = strategy.data_parallel if strategy else world.size
        self.share = strategy.data_rank(world.rank) if strategy else world.rank
        self.strategy = strategy
        self.layouts = strategy.layouts if strategy else {}
        self.network = build(model, seed=config.seed)
        if config.recompute:
            for block in self.network.backbone.blocks:
                block.recompute()
        self.optimizer = self.make_optimizer()
        self.reduction = self.make_reduction()
        end_of_document = data.end_of_document if config.document_reset else None
        self.objective = Causal(end_of_document, data.pad)
        loss = Loss(self.network, self.objective.in_graph())
        clip_norm = config.optimizer.clip_norm
        step = TrainStep(loss, self.optimizer, clip_norm, config.accumulate, self.reduction, config.skip_above_norm)
        self.applied = self.apply(step)
        self.train_step = self.applied or step
        self.evaluation = Loss(self.network, Causal(end_of_document, data.pad).in_graph())
        self.schedule = schedule_of(config.learning_rate, config.steps)
        scale = config.loss_scale.initial if model.compute_dtype == "fp16" else 1.0
        self.state = TrainingState(0, scale, 0, 0, 0, None)

    @property
    def is_sharded(self) -> bool:
        """Whether ranks hold different parts of the moments."""
        return any(layout.num_parts > 1 for layout in self.layouts.values())

    @property
    def is_applied(self) -> bool:
        """Whether MindSpore's compiler splits the step, and not `pangu.distributed`."""
        return self.strategy is not None and self.world.size > 1 and self.config.device == "Ascend"

    def apply(self, step: "TrainStep") -> "AppliedStep | None":
        if not self.is_applied:
            return None
        from pangu.distributed.applied import AppliedStep

        assert self.strategy
        rows = self.config.batch_size // self.shares
        return AppliedStep(self.strategy, step, self.world.rank, rows, self.data.seq_length + 1)

    def make_optimizer(self) -> "AdamW | ShardedAdamW":
        weights = self.network.trainable_params()
        betas = self.config.optimizer.beta1, self.config.optimizer.beta2
        if self.is_sharded and not self.is_applied:
            from pangu.distributed.sharded_optimizer import ShardedAdamW

            return ShardedAdamW(weights, *betas, self.layouts, self.world.rank)
        from pangu.training.optimizer import AdamW

        return AdamW(weights, *betas)

    def make_reduction(self) -> "SumOverRanks | None":
        if self.world.size == 1 or self.is_applied:
            return None
        from pangu.distributed.reduction import SumOverRanks
        from pangu.model.dropout import Dropout

        for _, cell in self.network.cells_and_names():
            if isinstance(cell, Dropout):
                cell.part = self.share
        return SumOverRanks([weight.shape for weight in self.network.trainable_params()])

    def scalar(self, value: float) -> "Tensor":
        return self.ms.Tensor(value, self.ms.float32)

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Begin with these weights (released names)."""
        from pangu.distributed.sharded_optimizer import ShardedAdamW
        from pangu.model.network import load_weights

        if self.applied:
            self.applied.load(weights)
            return
        load_weights(self.network, weights)
        if isinstance(self.optimizer, ShardedAdamW):
            self.optimizer.load_parts()

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Weights, moments and state of a checkpoint, whatever layout it was written under; of what ranks share out,
        only this rank's parts are read."""
        from pangu.distributed.sharded_optimizer import ShardedAdamW
        from pangu.distributed.stored import StoredCheckpoint

        with StoredCheckpoint(saved, self.world.rank) as stored:
            self.load_weights(stored.weights)
            if self.applied:
                self.applied.load(stored.moments)
            elif isinstance(self.optimizer, ShardedAdamW):
                self.optimizer.load_states(stored.moments)
            else:
                for parameter in (*self.optimizer.first, *self.optimizer.second):
                    parameter.set_data(self.ms.Tensor(np.asarray(stored.moments[parameter.name])))
        self.state = saved.state

    def save(self, run: Path) -> Path:
        """Write a checkpoint: one process whole, several that share the moments each its part."""
        from pangu.model.network import read_weights

        decided = decided_fields(self.config, self.data, self.model.compute_dtype == "fp16")
        if self.strategy and (self.applied or self.is_sharded):
            from pangu.distributed import shards

            stages = self.strategy.stage_layouts.values()
            path = shards.save(run, self.state, self.held(), stages, self.model, decided, self.world)
        else:
            path = checkpoint.step_directory(run, self.state.step)
            if self.world.is_first:
                moments = {p.name: p.asnumpy().copy() for p in (*self.optimizer.first, *self.optimizer.second)}
                checkpoint.save(run, self.state, read_weights(self.network), moments, self.model, decided)
        if self.world.is_first:
            checkpoint.prune(run, self.config.keep_last, self.state.step)
        self.world.wait()
        return path

    def held(self) -> dict[str, np.ndarray]:
        """This rank's parts of weights and moments."""
        from pangu.distributed import shards
        from pangu.distributed.sharded_optimizer import ShardedAdamW
        from pangu.model.network import read_weights

        if self.applied:
            return self.applied.held()
        assert isinstance(self.optimizer, ShardedAdamW)
        rank, weights = self.world.rank, read_weights(self.network)
        parts = {name: shards.part_of(self.layouts[name], rank, weight) for name, weight in weights.items()}
        return parts | self.optimizer.states()

    def asked_by_any(self, asked: bool) -> bool:
        """Whether some rank was asked to stop, the same on all; `SumOverRanks` has told in the last step."""
        if self.reduction is not None:
            return self.reduction.asked_by_any()
        return self.world.sum(float(asked)) > 0

    def update(self, rows: np.ndarray) -> dict:
        """One update from rows int32 [batch_size, S+1], the same on every rank; returns its metrics."""
        from pangu.training.optimizer import adam_scalars

        config, state = self.config, self.state
        updates = state.step - state.skipped
        rate = self.schedule(updates)
        adam = config.optimizer
        scalars = adam_scalars(
            updates, rate, adam.beta1, adam.beta2, adam.epsilon, adam.weight_decay, adam.bias_correction
        )
        prepared = self.objective.prepare(rows, state.step * config.batch_size)
        predictions = self.objective.predictions(prepared)
        mine = rows_of_rank(prepared, config.accumulate, self.shares, self.share)
        self.network.set_train(True)
        seed = (config.seed * 7_368_787 + state.step * config.accumulate) % (1 << 31)
        loss, norm, finite = self.train_step(
            self.ms.Tensor(mine),
            self.scalar(predictions),
            self.scalar(state.loss_scale),
            self.ms.Tensor(seed, self.ms.int32),
            self.scalar(scalars.learning_rate),
            self.scalar(scalars.epsilon),
            self.scalar(scalars.decay),
        )
        updated = bool(finite.asnumpy())
        metrics = {
            "step": state.step + 1,
            "loss": float(loss.asnumpy()),
            "learning_rate": rate,
            "global_norm": float(norm.asnumpy()),
            "loss_scale": state.loss_scale,
            "updated": updated,
        }
        self.state = self.next_state(updated, round(predictions), metrics["global_norm"])
        return metrics

    def next_state(self, updated: bool, tokens: int, norm: float) -> TrainingState:
        """Return the state after an update or none: the scale doubles after enough good steps in a row.

        norm: of the gradient, which decides why an update was not made.
        """
        state, rules = self.state, self.config.loss_scale
        skipped = state.skipped + (not updated)
        state = replace(state, step=state.step + 1, tokens=state.tokens + tokens, heldout_loss=None, skipped=skipped)
        is_fp16 = self.model.compute_dtype == "fp16"
        if not updated and (math.isfinite(norm) or not is_fp16):
            return self.skip(state, norm)
        if not is_fp16:
            return replace(state, overflows=0)
        if updated:
            good = (state.good_steps + 1) % rules.growth_steps
            scale = state.loss_scale * (1 if good else 2)
            return replace(state, loss_scale=scale, good_steps=good, overflows=0)
        if state.overflows + 1 >= rules.give_up_after:
            raise UserError(
                f"step {state.step}: {rules.give_up_after} overflows in a row (loss scale {state.loss_scale:g}): "
                "lower learning_rate.peak, or use softmax_dtype: fp32 or precision: fp32"
            )
        return replace(state, loss_scale=max(1.0, state.loss_scale / 2), good_steps=0, overflows=state.overflows + 1)

    def skip(self, state: TrainingState, norm: float) -> TrainingState:
        """Return the state after a bad step, which is said with its samples. Raises UserError where it ends the run."""
        limit = self.config.skip_above_norm
        samples = samples_of_batch(self.data.split("train").samples, self.config, state.step - 1)
        named = f"samples of the training split: {', '.join(map(str, samples))}"
        if limit is None:
            raise UserError(
                f"step {state.step}: the gradients are infinite or NaN; the weights are unchanged. Lower "
                f"learning_rate.peak, set skip_above_norm, or look at the {named}"
            )
        if state.overflows + 1 >= MOST_BAD_STEPS:
            raise UserError(
                f"step {state.step}: {MOST_BAD_STEPS} bad steps in a row (gradient norm {norm:g}, skip_above_norm "
                f"{limit:g}); the weights are unchanged. Lower learning_rate.peak, or raise skip_above_norm"
            )
        if self.world.is_first:
            warn(f"step {state.step}: skipped: gradient norm {norm:g} is above {limit:g}; {named}")
        return replace(state, overflows=state.overflows + 1)

    def evaluate(self) -> float:
        """Held-out loss in nats a token over the first `evaluate_samples` samples, which the ranks share out."""
        split = self.data.split("heldout")
        self.network.set_train(False)
        total, predictions = 0.0, 0
        size = max(1, self.config.batch_size // self.config.accumulate // self.shares)
        samples = min(self.config.evaluate_samples, split.samples)
        for index, rows in enumerate(split.read(np.arange(samples), size)):
            predictions += int((rows[:, :-1] != self.data.pad).sum())
            if index % self.shares != self.share:
                continue
            if len(rows) < size:  # one compiled shape: fill up with padding, which counts for nothing
                filler = np.full((size - len(rows), rows.shape[1]), self.data.pad, np.int32)
                rows = np.concatenate([rows, filler])
            total += float(self.evaluation(self.ms.Tensor(rows), self.ms.Tensor(0, self.ms.int32)).asnumpy())
        return self.world.sum(total) / max(predictions, 1)
