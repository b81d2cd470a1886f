"""A fine-tuning in hand: the network with what is trained, its optimizer, its checkpoints and its figures."""

import contextlib
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np

from pangu.config import LearningRateConfig, ModelConfig, OptimizerConfig, TrainConfig
from pangu.distributed.execution.reduction import SumOverRanks
from pangu.distributed.process_group import ALONE, World
from pangu.distributed.strategy import rows_of_rank
from pangu.foundation.atomic_file import write_whole
from pangu.foundation.best_effort import BestEffortFile
from pangu.foundation.errors import UserError
from pangu.foundation.interrupts import Interrupts
from pangu.foundation.json_text import dumps
from pangu.foundation.progress import Progress
from pangu.model.dropout import Dropout
from pangu.model.network import build
from pangu.tokenizer import Tokenizer
from pangu.training.compiled.compiled_step import CompiledStep, StepRules
from pangu.training.data import PackedData
from pangu.training.loss import Loss
from pangu.training.objectives.instruction import Instruction
from pangu.training.optimizer import AdamW, adam_scalars
from pangu.training.schedule import schedule_of
from pangu.training.step import TrainStep
from pangu.training.step_metrics import records_with_ends
from pangu.tuning import adapter_file, soft_prompt
from pangu.tuning.aims import Aim, Answers, Batches, Distillation, Evaluation, Preferences, mean_nats
from pangu.tuning.methods import METHODS
from pangu.tuning.methods.insertion import arrays_of, load_arrays
from pangu.tuning.states import newest_state, write_state
from pangu.tuning.teacher import Teacher
from pangu.tuning.template import Template
from pangu.tuning.training_rows import Data
from pangu.tuning.tuning_settings import VIRTUAL, Settings

GENERAL_SAMPLES = 64


@dataclass(frozen=True)
class Tuned:
    """How a fine-tuning ended. Losses in nats for each learnt token of the validation records; None: there are none."""

    out: str
    step: int
    interrupted: bool
    records: int
    rejects: int
    cut: int
    trainable: int
    loss_before: float | None
    loss_after: float | None
    general_before: float | None
    general_after: float | None
    reward_margin: float | None  # of preferences: beta · margin, a mean; and how often it is above 0
    preferred: float | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return every figure by name."""
        return asdict(self)


def without_limit(config: ModelConfig) -> ModelConfig:
    """Return the network whose experts drop no token: rows of examples are short, and their padding takes places too.

    Raises UserError for experts by domain: examples have none.
    """
    if config.experts is None:
        return config
    if config.experts.by_domain:
        raise UserError(
            "experts are chosen by domain, and examples have none: cut a domain out first (convert --cut-domain)"
        )
    return config.model_copy(update={"experts": config.experts.model_copy(update={"capacity_factor": None})})


def general_rows(base: Path, length: int) -> np.ndarray | None:
    """Return validation samples of the corpus that trained a base, to see what is forgotten; None without one."""
    for folder in (base, *base.parents[:2]):
        if (folder / "train.yaml").is_file():
            break
    else:
        return None
    try:
        packed = PackedData.load(TrainConfig.load(folder / "train.yaml").data)
        split = packed.split("heldout")
    except UserError:
        return None
    chosen = np.arange(min(GENERAL_SAMPLES, split.samples))
    ids = np.concatenate(list(split.read(chosen, len(chosen))))[:, : length + 1]
    learnt = np.concatenate([np.zeros((len(ids), 1), np.int32), (ids[:, :-1] != packed.pad).astype(np.int32)], 1)
    return np.concatenate([ids.astype(np.int32), learnt], axis=1)


class Run:
    """A network with adapters, its optimizer, and where the run stands."""

    def __init__(
        self,
        config: ModelConfig,
        weights: dict[str, np.ndarray],
        tokenizer: Tokenizer,
        settings: Settings,
        data: Data,
        out: Path,
        said: dict[str, Any],
        teacher: Teacher | None = None,
        world: World = ALONE,
        general: np.ndarray | None = None,
    ) -> None:
        """general: rows by which to see what is forgotten (`general_rows`)."""
        self.config, self.settings, self.data, self.out, self.said = config, settings, data, out, said
        self.tokenizer, self.base = tokenizer, weights
        self.world, self.general = world, general
        self.network = build(without_limit(config), weights, seed=settings.seed)
        end = tokenizer.special.end_of_document
        plain = self.plain_aim(lambda batch: batch, end)
        if isinstance(plain, Preferences):
            self.hold_reference(plain)
        if settings.method in VIRTUAL and not self.before.is_file():
            # The other methods begin as the base, bit for bit; virtual tokens begin as words in front of it.
            self.note_before(self.measured(plain, Loss(self.network, Instruction(end, config.attention).in_graph())))
        self.method = METHODS[settings.method](self.network, config, settings, self.start())
        self.aim = self.aim_of(end, teacher)
        self.evaluation: Evaluation = Loss(
            self.network, self.method.batch(Instruction(end, config.attention).in_graph())
        )
        self.adam = adam = OptimizerConfig(weight_decay=0.0, bias_correction=True)
        self.trained = [*self.network.trainable_params(), *self.aim.parameters]
        self.optimizer = AdamW(self.trained, adam.beta1, adam.beta2)
        self.reduction = SumOverRanks([one.shape for one in self.trained]) if world.size > 1 else None
        for _, cell in self.network.cells_and_names():
            if isinstance(cell, Dropout):
                cell.part = world.rank
        self.step_cell = self.step_of(said["engine"])
        assert settings.rate is not None  # `Settings.checked`
        rate = LearningRateConfig(peak=settings.rate, end=settings.rate / 10, warmup_steps=max(1, settings.steps // 20))
        self.schedule = schedule_of(rate, settings.steps)
        self.step = 0

    def step_of(self, engine: str) -> TrainStep | CompiledStep:
        """Return what makes an update. Compiled steps also compute the losses of an aim's evaluation."""
        clip_norm, accumulate = self.adam.clip_norm, self.settings.accumulate
        if engine == "mindspore":
            return TrainStep(self.aim.loss, self.optimizer, clip_norm, accumulate, self.reduction)
        assert isinstance(self.aim, Answers)
        rules, objective = StepRules(accumulate, clip_norm), self.aim.loss.objective
        step = CompiledStep(self.network, objective, self.optimizer, rules, self.method.low_rank())

        def evaluate(rows: ms.Tensor, seed: ms.Tensor) -> ms.Tensor:
            return self.scalar(step.loss(objective, rows.asnumpy()))

        self.evaluation = self.aim.evaluation = evaluate
        return step

    def aim_of(self, end_of_document: int, teacher: Teacher | None) -> Aim:
        """Return what the settings ask to minimise."""
        settings, batches = self.settings, self.method.batch
        if teacher is None:
            return self.plain_aim(batches, end_of_document)
        config = teacher.config.model_copy(update={"compute_dtype": settings.precision, "dropout_rate": 0.0})
        taught = build(config, teacher.weights, seed=settings.seed)
        return Distillation(self.network, batches, end_of_document, self.config, settings, taught)

    def plain_aim(self, batches: Batches, end_of_document: int) -> Aim:
        """Return what is minimised without a teacher."""
        if self.settings.objective == "dpo":
            return Preferences(self.network, batches, end_of_document, self.settings.beta, self.config)
        return Answers(self.network, batches, end_of_document, self.config)

    def hold_reference(self, plain: Preferences) -> None:
        """Write into every pair what the base says of it: the one frozen reference."""
        self.network.set_train(False)
        parts = (self.data.train, self.data.validation)
        train, validation = (replace(part, rows=plain.reference(part.rows, self.rows_of_a_call)) for part in parts)
        self.data = replace(self.data, train=train, validation=validation)

    @property
    def rows_of_a_call(self) -> int:
        """Return how many rows are evaluated at once."""
        return self.settings.batch_size // self.settings.accumulate // self.world.size

    def start(self) -> np.ndarray | None:
        """Return what virtual tokens begin with, where the method has some: words of the records."""
        settings = self.settings
        if settings.method not in VIRTUAL:
            return None
        without = (self.tokenizer.special.pad, self.tokenizer.special.end_of_document)
        ids = soft_prompt.start_ids(self.data.train.rows, settings.virtual_tokens, settings.seed, without)
        vectors = soft_prompt.start_vectors(self.base, ids)
        if settings.method != "prefix":
            return vectors
        is_shifted = settings.position_offset > 0
        return soft_prompt.keys_values(self.config, self.base, vectors, is_shifted)

    # -- data -------------------------------------------------------------------------------------------------------

    def batch(self, step: int) -> np.ndarray:
        """Return the rows of an update: an order for each epoch, drawn by the seed."""
        rows, size = self.data.train.rows, self.settings.batch_size
        chosen = []
        for index in range(step * size, (step + 1) * size):
            epoch, place = divmod(index, len(rows))
            order = np.random.Generator(np.random.Philox(key=[self.settings.seed, epoch])).permutation(len(rows))
            chosen.append(order[place])
        return rows[chosen]

    # -- state ------------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a state; the first process does."""
        if self.world.is_first:
            moments = {one.name: one.asnumpy() for one in self.moments}
            write_state(self.out, self.step, arrays_of(self.trained), moments, self.said["base_digest"])

    @property
    def moments(self) -> tuple[ms.Parameter, ...]:
        return (*self.optimizer.first, *self.optimizer.second)

    def restore(self) -> None:
        """Go on from the newest whole state. Raises UserError where none of several can be read."""
        trained, moments = ({one.name for one in parameters} for parameters in (self.trained, self.moments))
        state = newest_state(self.out, trained, moments)
        if state is not None:
            load_arrays(self.trained, state.trained)
            load_arrays(self.moments, state.moments)
            self.step = state.step
            if isinstance(self.step_cell, CompiledStep):
                self.step_cell.look_again()

    # -- training ---------------------------------------------------------------------------------------------------

    def update(self) -> float:
        """Make one update -> its loss in nats a learnt token."""
        rows, adam = self.batch(self.step), self.adam
        scalars = adam_scalars(
            self.step, self.schedule(self.step), adam.beta1, adam.beta2, adam.epsilon, adam.weight_decay, True
        )
        self.network.set_train(True)
        scalar = self.scalar
        loss, _, finite = self.step_cell(
            ms.Tensor(rows_of_rank(rows, self.settings.accumulate, self.world.size, self.world.rank)),
            scalar(self.aim.predictions(rows)),
            scalar(1.0),
            ms.Tensor((self.settings.seed * 7_368_787 + self.step * self.settings.accumulate) % (1 << 31), ms.int32),
            scalar(scalars.learning_rate),
            scalar(scalars.epsilon),
            scalar(scalars.decay),
        )
        if not bool(finite.asnumpy()):
            raise UserError(f"step {self.step + 1}: the gradients are infinite or NaN; lower --rate")
        self.step += 1
        return float(loss.asnumpy())

    def scalar(self, value: float) -> Any:
        return ms.Tensor(value, ms.float32)

    def finish(self, template: Template, tokenizer: str) -> Tuned:
        """Train to the end or to an interrupt, measure, and write the adapter."""
        started = time.monotonic()
        if self.before.is_file():  # an earlier call of the same run has measured it
            before = adapter_file.read_json(self.before)
        else:
            before = self.note_before(self.measured(self.aim, self.evaluation))
        self.restore()
        interrupted = self.train()
        after = self.measured(self.aim, self.evaluation)
        if self.world.is_first:
            self.write_adapter(template, tokenizer)
            if self.data.rejects:
                lines = (dumps(asdict(one), ensure_ascii=False) + "\n" for one in self.data.rejects)
                write_whole(self.out / "rejects.jsonl", "".join(lines))
        return Tuned(
            out=str(self.out),
            step=self.step,
            interrupted=interrupted,
            records=self.data.train.documents + self.data.validation.documents,
            rejects=len(self.data.rejects),
            cut=self.data.train.cut + self.data.validation.cut,
            trainable=sum(int(np.prod(one.shape)) for one in self.network.trainable_params()),
            loss_before=before.get("loss"),
            loss_after=after.get("loss"),
            general_before=before.get("general"),
            general_after=after.get("general"),
            reward_margin=after.get("reward_margin"),
            preferred=after.get("preferred"),
            seconds=time.monotonic() - started,
        )

    @property
    def before(self) -> Path:
        """Return the file of the base's losses."""
        return self.out / "before.json"

    def measured(self, aim: Aim, evaluation: Evaluation) -> dict[str, float]:
        """Return the losses now. Every process computes them, so that none waits for the others longer than collectives
        allow."""
        self.network.set_train(False)
        found = aim.figures(self.data.validation.rows, self.rows_of_a_call)
        loss = mean_nats(evaluation, self.general, self.rows_of_a_call) if self.general is not None else None
        return found if loss is None else found | {"general": loss}

    def note_before(self, figures: dict[str, float]) -> dict[str, float]:
        """Write the base's losses for later calls, and return them."""
        if self.world.is_first:
            write_whole(self.before, dumps(figures))
        return figures

    def metrics_file(self) -> BestEffortFile:
        """Return what is told of each step; a full disk never costs what is trained."""
        metrics = self.out / "metrics.jsonl"
        ends = [end for record, end in records_with_ends(metrics) if record["step"] <= self.step]
        return BestEffortFile(metrics, ends[-1] if ends else 0)

    def train(self) -> bool:
        """Make the updates that are left -> whether it was interrupted."""
        settings = self.settings
        told = self.metrics_file() if self.world.is_first else None
        with (
            Interrupts() as interrupts,
            Progress("finetune", settings.steps, unit="steps", done=self.step, status="compiling") as progress,
            contextlib.closing(told) if told else contextlib.nullcontext(),
        ):
            stops = interrupts.asked
            while self.step < settings.steps and not stops:
                if self.reduction is not None:
                    self.reduction.ask(interrupts.asked)
                loss = self.update()
                record = {"step": self.step, "loss": loss, "learning_rate": self.schedule(self.step - 1)}
                if told:
                    told.append((dumps(record) + "\n").encode())
                progress.update(self.step, f"loss {loss:.4f}")
                stops = interrupts.asked if self.reduction is None else self.reduction.asked_by_any()
                if self.step == settings.steps or self.step % settings.checkpoint_every == 0 or stops:
                    self.save()
        return self.step < settings.steps

    def write_adapter(self, template: Template, tokenizer: str) -> None:
        """Write what the method leaves."""
        settings, base = self.settings, str(Path(self.said["base"]).resolve())
        self.method.write(self.out, base)
        Tokenizer.load(tokenizer).save(self.out / "tokenizer")
        adapter_file.write_tuning(
            self.out,
            {
                "method": settings.method,
                "base": base,
                "base_digest": self.said["base_digest"],
                "template": template.to_dict(),
                "settings": json.loads(dumps(asdict(settings))),
                "step": self.step,
                "position_offset": settings.position_offset,
            },
        )
