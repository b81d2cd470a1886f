"""Fine-tune a model: read records, train what the method says, and leave an adapter.

The same command goes on where an interrupted one stopped, and ends with the same bits: what is drawn is a function of
the seed and the step, and a checkpoint holds what is trained, its moments and the state. The base is never written to.

    OUT/states/step-00000050/       trained.safetensors  moments.safetensors  state.json
    OUT/rejects.jsonl               records that could not be used, with their reasons
    OUT/metrics.jsonl               a line a step
"""

import contextlib
import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pangu.checkpoint.weights import load_for_inference
from pangu.config import LearningRateConfig, ModelConfig, OptimizerConfig
from pangu.foundation.atomic_file import write_whole
from pangu.foundation.best_effort import BestEffortFile
from pangu.foundation.directory import commit_directory, hidden_directory, remove_directory
from pangu.foundation.errors import UserError
from pangu.foundation.interrupts import Interrupts
from pangu.foundation.json_text import dumps
from pangu.foundation.lock import Lock
from pangu.foundation.progress import Progress
from pangu.foundation.settings import nearest_name
from pangu.training.schedule import schedule_of
from pangu.training.step_metrics import records_with_ends
from pangu.tuning import adapter_file
from pangu.tuning.record_rows import Samples, samples_of
from pangu.tuning.records import Record, Reject, read_records
from pangu.tuning.template import Template, load_template

if TYPE_CHECKING:
    from pangu.tokenizer import Tokenizer

Method = Literal["full", "lora", "bitfit"]
METHODS: tuple[Method, ...] = ("full", "lora", "bitfit")
USUAL_RATE = {"full": 1e-4, "lora": 1e-3, "bitfit": 1e-3}
GENERAL_SAMPLES = 64


@dataclass(frozen=True)
class Settings:
    """How to fine-tune. rate None: what is usual for the method. length None: the model's context."""

    method: Method = "lora"
    template: str = "qa"
    steps: int = 200
    batch_size: int = 8
    accumulate: int = 1
    rate: float | None = None
    rank: int = 8
    alpha: float = 16.0
    modules: tuple[str, ...] = adapter_file.DEFAULT_MODULES
    length: int | None = None
    validation: float = 0.05
    dropout: float = 0.0
    seed: int = 1
    checkpoint_every: int = 50
    precision: str = "fp32"

    def checked(self, config: ModelConfig) -> "Settings":
        """Return the settings with everything written out. Raises UserError that names a wrong one."""
        rules = (
            ("method", self.method in METHODS, f"must be one of {', '.join(METHODS)}"),
            ("steps", self.steps >= 1, "must be at least 1"),
            ("batch_size", self.batch_size >= 1, "must be at least 1"),
            ("accumulate", self.accumulate >= 1 and self.batch_size % self.accumulate == 0, "must divide batch_size"),
            ("rate", self.rate is None or 0 < self.rate < math.inf, "must be above 0"),
            ("rank", 1 <= self.rank <= config.hidden_size, f"must be 1 to {config.hidden_size}, the hidden size"),
            ("alpha", 0 < self.alpha < math.inf, "must be above 0"),
            (
                "length",
                self.length is None or 2 <= self.length <= config.seq_length,
                f"2 to {config.seq_length}, the context",
            ),
            ("validation", 0 <= self.validation <= 0.5, "must be 0 to 0.5"),
            ("dropout", 0 <= self.dropout < 1, "must be 0 to 1"),
            ("checkpoint_every", self.checkpoint_every >= 1, "must be at least 1"),
        )
        for name, holds, rule in rules:
            if not holds:
                raise UserError(f"{name} = {getattr(self, name)!r}: {rule}")
        modules = adapter_file.module_names(self.modules)
        rate = self.rate if self.rate is not None else USUAL_RATE[self.method]
        length = self.length or config.seq_length
        return Settings(**{**asdict(self), "modules": modules, "rate": rate, "length": length})


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
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return every figure by name."""
        return asdict(self)


@dataclass
class Data:
    """Rows to learn and to validate with."""

    train: Samples
    validation: Samples
    rejects: list[Reject] = field(default_factory=list)


def finetune(
    base: Path | str,
    data: Sequence[Path | str] | Path | str,
    out: Path | str,
    settings: Settings | None = None,
    *,
    tokenizer: Path | str | None = None,
    device: str = "CPU",
    **changes: Any,
) -> Tuned:
    """Fine-tune `base` on records into the directory `out`. Raises UserError in one line.

    changes: fields of `Settings` to set otherwise, e.g. steps=100.
    """
    from pangu.device import use_device
    from pangu.tokenizer import Tokenizer

    out = Path(out)
    files = [Path(path) for path in ([data] if isinstance(data, str | Path) else data)]
    config, weights, place = load_for_inference(base, None, tokenizer)
    if place is None:
        raise UserError(f"{base}: no tokenizer lies beside it; give --tokenizer")
    known = Tokenizer.load(place)
    for name in changes:
        if name not in Settings.__dataclass_fields__:
            raise UserError(f"setting {name!r} is unknown{nearest_name(name, list(Settings.__dataclass_fields__))}")
    chosen = replace(settings or Settings(), **changes).checked(config)
    config = config.model_copy(update={"compute_dtype": chosen.precision, "dropout_rate": chosen.dropout})
    template = load_template(chosen.template)
    read = read_data(files, template, known, chosen)
    out.mkdir(parents=True, exist_ok=True)
    with Lock(out / "lock", f"{out}: another process fine-tunes here; wait for it, or give another --out"):
        said = {
            "base": str(base),
            "base_digest": adapter_file.digest_of(weights),
            "settings": asdict(chosen),
            "template": template.to_dict(),
            "data": [path.name for path in files],
            "rows": digest_of_rows(read),
        }
        check_same(out, said)
        use_device(device)
        run = Run(config, weights, known, chosen, read, out, said)
        return run.finish(files, template, str(place), base)


def read_data(files: Sequence[Path], template: Template, tokenizer: "Tokenizer", settings: Settings) -> Data:
    """Read records and set some aside to validate with. Raises UserError where none is left."""
    records: list[Record] = []
    rejects: list[Reject] = []
    for path in files:
        for found in read_records(path):
            if isinstance(found, Reject):
                rejects.append(found)
            else:
                records.append(found)
    if not records:
        first = f"; the first: {rejects[0].place}: {rejects[0].reason}" if rejects else ""
        raise UserError(f"{files[0]}: holds no record that can be used{first}")
    order = random.Random(f"{settings.seed} records").sample(range(len(records)), len(records))
    count = round(len(records) * settings.validation)
    held = set(order[:count])
    assert settings.length is not None
    pad = tokenizer.special.pad
    parts = []
    for chosen in ([one for one in order if one not in held], order[:count]):
        samples, left = samples_of([records[one] for one in chosen], template, tokenizer, settings.length, pad)
        rejects += left
        parts.append(samples)
    if not len(parts[0].rows):
        raise UserError(f"{files[0]}: none of its {len(records)} records fits a context of {settings.length} tokens")
    return Data(*parts, rejects)


def digest_of_rows(data: Data) -> str:
    """Return a digest of what is learnt and validated."""
    import hashlib

    return hashlib.sha256(data.train.rows.tobytes() + data.validation.rows.tobytes()).hexdigest()


def check_same(out: Path, said: dict[str, Any]) -> None:
    """Note what a directory is for; raise UserError where it is for something else. `steps` may differ."""
    path = out / "finetune.json"
    if not path.is_file():
        write_whole(path, dumps(said, ensure_ascii=False, indent=1) + "\n")
        return
    before = adapter_file.read_json(path)
    for name in ("base_digest", "template", "rows"):
        if before.get(name) != said[name]:
            raise UserError(
                f"{out}: holds a fine-tuning with another {name.replace('_digest', '')}; give another --out"
            )
    theirs, ours = before.get("settings", {}), json.loads(dumps(said["settings"]))
    for name in ours:
        if name not in ("steps", "checkpoint_every", "validation") and theirs.get(name) != ours[name]:
            raise UserError(
                f"{out}: was begun with {name} {theirs.get(name)!r}, not {ours[name]!r}; give another --out"
            )


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


class Run:
    """A network with adapters, its optimizer, and where the run stands."""

    def __init__(
        self,
        config: ModelConfig,
        weights: dict[str, np.ndarray],
        tokenizer: "Tokenizer",
        settings: Settings,
        data: Data,
        out: Path,
        said: dict[str, Any],
    ) -> None:
        import mindspore as ms

        from pangu.model.network import build
        from pangu.training.loss import Loss
        from pangu.training.objectives.instruction import Instruction
        from pangu.training.optimizer import AdamW
        from pangu.training.step import TrainStep
        from pangu.tuning import methods

        self.ms, self.config, self.settings, self.data, self.out, self.said = ms, config, settings, data, out, said
        self.tokenizer, self.base = tokenizer, weights
        self.network = build(without_limit(config), weights, seed=settings.seed)
        self.adapters: dict[str, methods.LoraLinear] = {}
        if settings.method == "lora":
            self.adapters = methods.insert_lora(
                self.network, config, settings.modules, settings.rank, settings.alpha, settings.seed
            )
        elif settings.method == "bitfit":
            methods.freeze_but_biases(self.network)
        optimizer = OptimizerConfig(weight_decay=0.0, bias_correction=True)
        self.adam = optimizer
        self.optimizer = AdamW(self.network.trainable_params(), optimizer.beta1, optimizer.beta2)
        self.objective = Instruction(tokenizer.special.end_of_document, config.attention)
        loss = Loss(self.network, self.objective.in_graph())
        self.step_cell = TrainStep(loss, self.optimizer, optimizer.clip_norm, settings.accumulate)
        self.evaluation = Loss(self.network, self.objective.in_graph())
        assert settings.rate is not None
        rate = LearningRateConfig(peak=settings.rate, end=settings.rate / 10, warmup_steps=max(1, settings.steps // 20))
        self.schedule = schedule_of(rate, settings.steps)
        self.step = 0

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

    def places(self) -> list[Path]:
        """Return the checkpoints, oldest first."""
        return sorted((self.out / "states").glob("step-*"))

    def save(self) -> None:
        """Write a checkpoint, whole or not at all, and keep the two newest."""
        from pangu.tuning import methods

        final = self.out / f"states/step-{self.step:08d}"
        final.parent.mkdir(exist_ok=True)
        moments = {one.name: one.asnumpy() for one in (*self.optimizer.first, *self.optimizer.second)}
        with hidden_directory(final) as hidden:
            adapter_file.save_tensors(hidden / "trained.safetensors", methods.trained(self.network), {})
            adapter_file.save_tensors(hidden / "moments.safetensors", moments, {})
            write_whole(hidden / "state.json", dumps({"step": self.step, "base": self.said["base_digest"]}))
            commit_directory(hidden, final)
        for old in self.places()[:-2]:
            remove_directory(old)

    def restore(self) -> bool:
        """Go on from the newest checkpoint. Raises UserError for one that cannot be read."""
        from pangu.tuning import methods

        places = self.places()
        if not places:
            return False
        state = adapter_file.read_json(places[-1] / "state.json")
        methods.load_trained(self.network, adapter_file.read_tensors(places[-1] / "trained.safetensors"))
        moments = adapter_file.read_tensors(places[-1] / "moments.safetensors")
        for one in (*self.optimizer.first, *self.optimizer.second):
            one.set_data(self.ms.Tensor(moments[one.name]))
        self.step = int(state["step"])
        return True

    # -- training ---------------------------------------------------------------------------------------------------

    def update(self) -> float:
        """Make one update -> its loss in nats a learnt token."""
        from pangu.training.optimizer import adam_scalars

        rows, adam = self.batch(self.step), self.adam
        scalars = adam_scalars(
            self.step, self.schedule(self.step), adam.beta1, adam.beta2, adam.epsilon, adam.weight_decay, True
        )
        self.network.set_train(True)
        scalar = self.scalar
        loss, _, finite = self.step_cell(
            self.ms.Tensor(rows),
            scalar(self.objective.predictions(rows)),
            scalar(1.0),
            self.ms.Tensor((self.settings.seed * 7_368_787 + self.step) % (1 << 31), self.ms.int32),
            scalar(scalars.learning_rate),
            scalar(scalars.epsilon),
            scalar(scalars.decay),
        )
        if not bool(finite.asnumpy()):
            raise UserError(f"step {self.step + 1}: the gradients are infinite or NaN; lower --rate")
        self.step += 1
        return float(loss.asnumpy())

    def scalar(self, value: float) -> Any:
        return self.ms.Tensor(value, self.ms.float32)

    def mean_loss(self, rows: np.ndarray) -> float | None:
        """Return nats a learnt token over rows; None where nothing is learnt."""
        half, size = rows.shape[1] // 2, self.settings.batch_size // self.settings.accumulate
        count = int(rows[:, half + 1 :].sum())
        if not count:
            return None
        self.network.set_train(False)
        total = 0.0
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            if len(part) < size:  # one compiled shape: rows of weight 0 count for nothing
                part = np.concatenate([part, np.zeros((size - len(part), rows.shape[1]), np.int32)])
            total += float(self.evaluation(self.ms.Tensor(part), self.ms.Tensor(0, self.ms.int32)).asnumpy())
        return total / count

    def general_rows(self, base: Path) -> np.ndarray | None:
        """Return held-out samples of the corpus that trained the base, to see what is forgotten; None without one."""
        from pangu.config import TrainConfig
        from pangu.training.data import PackedData

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
        ids = np.concatenate(list(split.read(chosen, len(chosen))))[:, : (self.settings.length or 0) + 1]
        learnt = np.concatenate([np.zeros((len(ids), 1), np.int32), (ids[:, :-1] != packed.pad).astype(np.int32)], 1)
        return np.concatenate([ids.astype(np.int32), learnt], axis=1)

    def finish(self, files: Sequence[Path], template: Template, tokenizer: str, base: Path | str) -> Tuned:
        """Train to the end or to an interrupt, measure, and write the adapter."""
        started = time.monotonic()
        general = self.general_rows(Path(base))
        validation = self.data.validation.rows
        before = self.figures(validation, general)
        self.restore()
        interrupted = self.train()
        after = self.figures(validation, general, is_after=True)
        trainable = sum(int(np.prod(one.shape)) for one in self.network.trainable_params())
        self.write_adapter(template, tokenizer)
        if self.data.rejects:
            lines = (dumps(asdict(one), ensure_ascii=False) + "\n" for one in self.data.rejects)
            write_whole(self.out / "rejects.jsonl", "".join(lines))
        records = self.data.train.documents + self.data.validation.documents
        return Tuned(
            str(self.out),
            self.step,
            interrupted,
            records,
            len(self.data.rejects),
            self.data.train.cut + self.data.validation.cut,
            trainable,
            before["loss"],
            after["loss"],
            before["general"],
            after["general"],
            time.monotonic() - started,
        )

    def figures(
        self, validation: np.ndarray, general: np.ndarray | None, is_after: bool = False
    ) -> dict[str, float | None]:
        """Return the losses now; before training they are read from an earlier call of the same run."""
        path = self.out / "before.json"
        if not is_after and path.is_file():
            return adapter_file.read_json(path)
        found = {
            "loss": self.mean_loss(validation) if len(validation) else None,
            "general": self.mean_loss(general) if general is not None else None,
        }
        if not is_after:
            write_whole(path, dumps(found))
        return found

    def train(self) -> bool:
        """Make the updates that are left -> whether it was interrupted."""
        settings = self.settings
        metrics = self.out / "metrics.jsonl"
        ends = [end for record, end in records_with_ends(metrics) if record["step"] <= self.step]
        told = BestEffortFile(metrics, ends[-1] if ends else 0)  # a full disk never costs what is trained
        with (
            Interrupts() as interrupts,
            Progress("finetune", settings.steps, unit="steps", done=self.step, status="compiling") as progress,
            contextlib.closing(told),
        ):
            while self.step < settings.steps and not interrupts.asked:
                loss = self.update()
                record = {"step": self.step, "loss": loss, "learning_rate": self.schedule(self.step - 1)}
                told.append((dumps(record) + "\n").encode())
                progress.update(self.step, f"loss {loss:.4f}")
                if self.step == settings.steps or self.step % settings.checkpoint_every == 0 or interrupts.asked:
                    self.save()
        return self.step < settings.steps

    def write_adapter(self, template: Template, tokenizer: str) -> None:
        """Write what the method leaves."""
        from pangu.tokenizer import Tokenizer
        from pangu.tuning import methods

        settings, base = self.settings, str(Path(self.said["base"]).resolve())
        if self.adapters:
            lora = methods.matrices_of(self.adapters, settings.rank, settings.alpha)
            adapter_file.write_lora(self.out, self.config, lora, base, settings.modules)
        else:
            adapter_file.save_tensors(self.out / adapter_file.TRAINED, methods.trained(self.network), {})
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
                "position_offset": 0,
            },
        )
