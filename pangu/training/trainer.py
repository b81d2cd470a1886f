"""One update after the other: the network on a device, its optimizer, and the state that a checkpoint keeps."""

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pangu.checkpoint.open import Checkpoint, TrainingState
from pangu.checkpoint.save import prune_checkpoints
from pangu.config import ModelConfig, TrainConfig
from pangu.distributed.execution.one_device import Execution, Job
from pangu.distributed.process_group import ALONE, World
from pangu.distributed.strategy import RunStrategy
from pangu.foundation.best_effort import warn
from pangu.foundation.errors import UserError
from pangu.parameters import EXPERT_TABLE
from pangu.training.data import PackedData, Split, samples_of_batch
from pangu.training.domains import with_domains
from pangu.training.expert_table import expert_table
from pangu.training.run_directory import decided_fields
from pangu.training.schedule import schedule_of
from pangu.training.step_metrics import routing_metrics

if TYPE_CHECKING:
    from mindspore import Tensor


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
        from pangu.training.loss import Loss, training_loss
        from pangu.training.objectives.causal import Causal, DomainCausal
        from pangu.training.objectives.choice import objective_of

        self.ms, self.model, self.config, self.data, self.world = ms, model, config, data, world
        self.by_domain = model.experts is not None and model.experts.by_domain
        self.network = build(model, seed=config.seed)
        end_of_document = data.end_of_document if config.document_reset else None
        self.objective = objective_of(model, config, data)
        kind = execution_of(config, world, strategy)
        stages = strategy.setup.strategy.mesh.pp if strategy and kind.is_split else None
        loss = training_loss(self.network, self.objective.in_graph(), stages)
        width = (data.seq_length + 1) * (2 if self.by_domain else 1)
        example = self.objective.prepare(np.zeros((config.batch_size, width), np.int32), 0)
        self.execution = kind(Job(config, self.network, loss, world, strategy, example))
        causal = (DomainCausal if self.by_domain else Causal)(end_of_document, data.pad, model.attention)
        self.causal, self.evaluation = causal, Loss(self.network, causal.in_graph())
        self.schedule = schedule_of(config.learning_rate, config.steps)
        scale = config.loss_scale.initial if model.compute_dtype == "fp16" else 1.0
        self.state = TrainingState(0, scale, 0, 0, 0, None)

    def split(self, name: str) -> Split:
        """Return a split of the corpus, whose rows say domains where experts are chosen by these."""
        split = self.data.split(name)
        return with_domains(split, self.model.experts.domains) if self.by_domain and self.model.experts else split

    def begin(self) -> None:
        """Give a run that starts from nothing its table of experts, by how often the corpus has each token."""
        if self.model.expert_shape and self.model.expert_shape.table_rows:
            weights = {EXPERT_TABLE: expert_table(self.model, self.config.seed, self.data.split("train"))}
            self.execution.load_table(weights[EXPERT_TABLE])

    def scalar(self, value: float) -> "Tensor":
        return self.ms.Tensor(value, self.ms.float32)

    def restore(self, saved: Checkpoint) -> None:
        """Take weights, moments and state of a checkpoint."""
        self.execution.restore(saved)
        self.state = saved.state

    def save(self, run: Path) -> Path:
        """Write a checkpoint, called by all ranks together."""
        decided = decided_fields(self.config, self.data, self.model.compute_dtype == "fp16")
        path = self.execution.save(run, self.state, decided | {"engine": self.execution.engine})
        if self.world.is_first:
            prune_checkpoints(run, self.config.keep_last, self.state.step)
        self.world.wait()
        return path

    def update(self, rows: np.ndarray) -> dict:
        """Return one update from rows int32 [batch_size, S+1], the same on every rank; returns its metrics."""
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
        self.network.set_train(True)
        seed = (config.seed * 7_368_787 + state.step * config.accumulate) % (1 << 31)
        loss, norm, finite, *told = self.execution.step(
            self.ms.Tensor(self.execution.rows_here(prepared)),
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
        if told and self.model.expert_shape:
            metrics |= routing_metrics(told[0].asnumpy(), predictions, self.model.expert_shape)
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
        """Return validation loss in nats a token over the first `evaluate_samples` samples, which the ranks share."""
        split = self.split("heldout")
        self.network.set_train(False)
        total, predictions = 0.0, 0
        shares, share = self.execution.shares, self.execution.share
        size = max(1, self.config.batch_size // self.config.accumulate // shares)
        samples = min(self.config.evaluate_samples, split.samples)
        for index, rows in enumerate(split.read(np.arange(samples), size)):
            predictions += round(self.causal.predictions(rows))
            if index % shares != share:
                continue
            if len(rows) < size:  # one compiled shape: fill up with padding, which counts for nothing
                filler = np.full((size - len(rows), rows.shape[1]), self.data.pad, np.int32)
                filler[:, self.data.seq_length + 1 :] = 0  # domains
                rows = np.concatenate([rows, filler])
            total += self.execution.loss(self.evaluation, rows)
        return self.world.sum(total) / max(predictions, 1)


def execution_of(config: TrainConfig, world: World, strategy: RunStrategy | None) -> type[Execution]:
    """Return how a run is executed, by the engine, the number of processes, the strategy and the device."""
    if config.engine == "compiled":
        from pangu.distributed.execution.one_cpu import OneCpu

        return OneCpu
    if world.size == 1:
        return Execution
    if strategy is not None and config.device == "Ascend":
        from pangu.distributed.execution.semi_auto import SemiAuto

        return SemiAuto
    from pangu.distributed.execution.data_parallel import DataParallel

    return DataParallel
