"""Training: a run begins, goes on from its newest whole checkpoint, and ends with the same bits either way.

Everything random is a function of the seed and of the step, so a checkpoint and the configuration decide all that
follows. An interrupt (SIGINT, SIGTERM) ends the step in hand and saves a checkpoint.
"""

import fcntl
import math
import shutil
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TextIO

import numpy as np

from pangu import checkpoint
from pangu.checkpoint import TrainingState
from pangu.config import ModelConfig, TrainConfig, load_size
from pangu.data import PackedData, training_batches, unigram_nats
from pangu.errors import UserError
from pangu.metrics import MetricsWriter, draw_losses, read_metrics
from pangu.progress import TrainingProgress
from pangu.schedule import WarmupCosine
from pangu.whole_file import write_whole

if TYPE_CHECKING:
    from mindspore import Tensor

# Fields that may change when a run goes on: they decide when it stops and what it writes, not what it computes.
FREE_FIELDS = {"out", "data", "steps", "evaluate_every", "evaluate_samples", "checkpoint_every", "keep_last", "device"}


@dataclass(frozen=True)
class Summary:
    """How a run ended. Losses in nats a token."""

    run: str
    step: int
    interrupted: bool
    loss: float
    heldout_loss: float
    heldout_perplexity: float
    heldout_bits_per_byte: float
    unigram_perplexity: float
    tokens: int
    tokens_per_second: float
    mfu: float
    picture: str
    checkpoint: str


class Interrupts:
    """While entered, SIGINT and SIGTERM only set `asked`; a second one ends the process as usual."""

    def __init__(self) -> None:
        self.asked = False

    def ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self.restore()

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def __enter__(self) -> "Interrupts":
        self.before = {number: signal.signal(number, self.ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()


def model_of(config: TrainConfig, data: PackedData) -> ModelConfig:
    """The model's configuration for this run. Raises UserError where model and corpus do not fit each other."""
    model = load_size(config.model)
    changes: dict[str, object] = {}
    if config.fit_vocabulary:
        changes["vocab_size"] = data.vocab_size
    if config.precision:
        changes["compute_dtype"] = config.precision
    model = model.model_copy(update=changes)
    if data.vocab_size > model.vocab_size:
        raise UserError(
            f"{data.directory}: its tokenizer has {data.vocab_size} ids, the model {config.model!r} only "
            f"{model.vocab_size}: use another model.yaml, or fit_vocabulary: true"
        )
    if data.seq_length > model.seq_length:
        raise UserError(
            f"{data.directory}: samples have {data.seq_length} tokens; "
            f"the model {config.model!r} takes {model.seq_length} at most"
        )
    return model


def decided_fields(config: TrainConfig, data: PackedData) -> dict:
    """What decides the computation: of train.yaml, with the length of the cosine written out, and the corpus."""
    fields = config.model_dump(mode="json", exclude=FREE_FIELDS)
    fields["learning_rate"]["decay_steps"] = config.learning_rate.decay_steps or config.steps
    return fields | {"corpus": data.fingerprint}


def check_same_run(run: Path, saved: dict, config: TrainConfig, data: PackedData) -> None:
    """A run goes on only with what it began with. Raises UserError that names the first difference."""
    for name, value in decided_fields(config, data).items():
        if saved.get(name) != value:
            raise UserError(
                f"{run}: this run began with {name} = {saved.get(name)!r}, now it is {value!r}: "
                "give another `out` (and start_from, to begin with this run's weights)"
            )


def lock(run: Path) -> TextIO:
    """Keep other processes out of a run directory, until the returned file is closed or this process ends."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        file = (run / ".lock").open("w")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{run}: another process is training in this directory") from None
    except OSError as error:
        raise UserError(f"{run}: cannot be written: {error}") from None
    return file


def write_run_files(run: Path, model: ModelConfig, config: TrainConfig, data: PackedData) -> None:
    """model.yaml, train.yaml and the tokenizer, so that the run directory says everything."""
    write_whole(run / "model.yaml", model.dump().encode())
    write_whole(run / "train.yaml", config.dump().encode())
    if data.tokenizer_directory.is_dir():
        temporary = run / ".tokenizer.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(data.tokenizer_directory, temporary)
        shutil.rmtree(run / "tokenizer", ignore_errors=True)
        temporary.rename(run / "tokenizer")


class Trainer:
    """The network with its optimizer on a device, the state of the run, and the compiled steps."""

    def __init__(self, model: ModelConfig, config: TrainConfig, data: PackedData) -> None:
        import mindspore as ms

        from pangu.loss import PretrainLoss
        from pangu.network import build
        from pangu.optimizer import AdamW
        from pangu.train_step import TrainStep

        self.ms, self.model, self.config, self.data = ms, model, config, data
        self.network = build(model, seed=config.seed)
        if config.recompute:
            for block in self.network.backbone.blocks:
                block.recompute()
        self.optimizer = AdamW(self.network.trainable_params(), config.optimizer.beta1, config.optimizer.beta2)
        end_of_document = data.end_of_document if config.document_reset else None
        loss = PretrainLoss(self.network, end_of_document, data.pad)
        self.train_step = TrainStep(loss, self.optimizer, config.optimizer.clip_norm, config.accumulate)
        self.evaluation = PretrainLoss(self.network, end_of_document, data.pad)
        rate = config.learning_rate
        self.schedule = WarmupCosine(rate.peak, rate.end, rate.warmup_steps, rate.decay_steps or config.steps)
        scale = config.loss_scale.initial if model.compute_dtype == "fp16" else 1.0
        self.state = TrainingState(0, scale, 0, 0, 0, None)

    def scalar(self, value: float) -> "Tensor":
        return self.ms.Tensor(value, self.ms.float32)

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Weights, moments and state of a checkpoint."""
        from pangu.network import load_weights

        load_weights(self.network, saved.weights())
        moments = saved.optimizer()
        for parameter in (*self.optimizer.first, *self.optimizer.second):
            parameter.set_data(self.ms.Tensor(moments[parameter.name]))
        self.state = saved.state

    def save(self, run: Path) -> Path:
        from pangu.network import read_weights

        moments = {p.name: p.asnumpy().copy() for p in (*self.optimizer.first, *self.optimizer.second)}
        saved = decided_fields(self.config, self.data)
        path = checkpoint.save(run, self.state, read_weights(self.network), moments, self.model, saved)
        checkpoint.prune(run, self.config.keep_last)
        return path

    def update(self, rows: np.ndarray) -> dict:
        """One update from rows int32 [batch_size, S+1]; returns its metrics."""
        from pangu.loss import counted_predictions
        from pangu.optimizer import adam_scalars

        config, state = self.config, self.state
        rate = self.schedule(state.step)
        adam = config.optimizer
        scalars = adam_scalars(
            state.step, rate, adam.beta1, adam.beta2, adam.epsilon, adam.weight_decay, adam.bias_correction
        )
        predictions = counted_predictions(rows, self.data.pad)
        micro_batches = rows.reshape(config.accumulate, config.batch_size // config.accumulate, -1)
        self.network.set_train(True)
        seed = (config.seed * 7_368_787 + state.step * config.accumulate) % (1 << 31)
        loss, norm, finite = self.train_step(
            self.ms.Tensor(np.ascontiguousarray(micro_batches)),
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
        self.state = self.next_state(updated, round(predictions))
        return metrics

    def next_state(self, updated: bool, tokens: int) -> TrainingState:
        """The state after an update or an overflow: the scale doubles after enough good steps in a row."""
        state, rules = self.state, self.config.loss_scale
        state = replace(state, step=state.step + 1, tokens=state.tokens + tokens, heldout_loss=None)
        if self.model.compute_dtype != "fp16":
            if not updated:
                raise UserError(
                    f"step {state.step}: the gradients are infinite or NaN; the weights are unchanged. "
                    "Lower learning_rate.peak, or look at the samples of this step"
                )
            return state
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

    def evaluate(self) -> float:
        """Held-out loss in nats a token over the first `evaluate_samples` samples."""
        split = self.data.split("heldout")
        self.network.set_train(False)
        total, predictions = 0.0, 0
        size = min(self.config.batch_size // self.config.accumulate, split.samples)
        samples = min(self.config.evaluate_samples, split.samples)
        for rows in split.read(np.arange(samples), size):
            counted = int((rows[:, :-1] != self.data.pad).sum())
            if len(rows) < size:  # one compiled shape: fill up with padding, which counts for nothing
                filler = np.full((size - len(rows), rows.shape[1]), self.data.pad, np.int32)
                rows = np.concatenate([rows, filler])
            total += float(self.evaluation(self.ms.Tensor(rows), self.ms.Tensor(0, self.ms.int32)).asnumpy())
            predictions += counted
        return total / max(predictions, 1)


def matmul_peak(size: int = 1024) -> float:
    """FLOP/s of this device's fp32 matrix product at 1024³, the best of several: what MFU is measured against."""
    import mindspore as ms
    from mindspore import ops

    matrix = ms.Tensor(np.ones((size, size), np.float32))
    best = math.inf
    for _ in range(6):
        start = time.perf_counter()
        ops.matmul(matrix, matrix).asnumpy()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def train(config: TrainConfig) -> Summary:
    """Run, or go on with, the training that `config` describes.

    Raises UserError for whatever the user can mend; the run directory is then as it was at its newest checkpoint.
    """
    data = PackedData.load(config.data)
    for name in ("train", "heldout"):
        data.split(name)  # an empty one is a mistake to name before anything is made
    model = model_of(config, data)
    run = Path(config.out)
    held_lock = lock(run)
    try:
        checkpoint.remove_leftovers(run)
        saved = checkpoint.newest(run)
        if saved:
            check_same_run(run, saved.train, config, data)
            if saved.model != model:
                raise UserError(f"{run}: this run began with another model ({run / 'model.yaml'}): give another `out`")
        from pangu.network import load_weights, use_device

        use_device(config.device)
        trainer = Trainer(model, config, data)
        if saved:
            trainer.restore(saved)
        elif config.start_from:
            # A bare .safetensors file says no sizes: it must be of this run's.
            size = config.model if config.start_from.endswith(".safetensors") else None
            load_weights(trainer.network, checkpoint.load_for_inference(config.start_from, size)[1])
        write_run_files(run, model, config, data)
        return loop(trainer, run)
    finally:
        held_lock.close()


def loop(trainer: Trainer, run: Path) -> Summary:
    """Steps, evaluations and checkpoints until the end or an interrupt."""
    config, data = trainer.config, trainer.data
    first = trainer.state.step
    writer = MetricsWriter(run, first)
    progress = TrainingProgress(config.steps, first, trainer.model.training_flops_per_token, matmul_peak())
    path = None
    try:
        with Interrupts() as interrupts, progress:
            batches = training_batches(data.split("train"), config.batch_size, config.seed, first)
            while trainer.state.step < config.steps and not interrupts.asked:
                metrics = trainer.update(next(batches))
                step = metrics["step"]
                progress.step(step, metrics["loss"], config.batch_size * data.seq_length)
                writer.write(metrics)
                last = step == config.steps
                if last or step % config.evaluate_every == 0 or step % config.checkpoint_every == 0:
                    evaluate(trainer, writer, progress)
                    writer.speed(step, progress.tokens_per_second)
                if last or step % config.checkpoint_every == 0 or interrupts.asked:
                    path = trainer.save(run)
                    progress.resume_clock()
            interrupted = interrupts.asked and trainer.state.step < config.steps
    finally:
        writer.close()
    unigram = unigram_nats(data.split("train"), data.split("heldout"), data.vocab_size, data.pad)
    picture = draw_losses(run, unigram)
    path = path or checkpoint.best(run)
    heldout = checkpoint.heldout_loss(path) if path else math.nan
    losses = [record["loss"] for record in read_metrics(run) if "loss" in record]
    split = data.split("heldout")
    return Summary(
        run=str(run),
        step=trainer.state.step,
        interrupted=interrupted,
        loss=losses[-1] if losses else math.nan,
        heldout_loss=heldout,
        heldout_perplexity=math.exp(min(heldout, 700)),
        heldout_bits_per_byte=heldout * split.tokens / max(split.bytes_of_text, 1) / math.log(2),
        unigram_perplexity=math.exp(unigram),
        tokens=trainer.state.tokens,
        tokens_per_second=progress.tokens_per_second,
        mfu=progress.mfu,
        picture=str(picture),
        checkpoint=str(path or ""),
    )


def evaluate(trainer: Trainer, writer: MetricsWriter, progress: TrainingProgress) -> None:
    """Evaluate now, and write it down in the state and in the metrics."""
    heldout = trainer.evaluate()
    trainer.state = replace(trainer.state, heldout_loss=heldout)
    perplexity = math.exp(min(heldout, 700))
    writer.write({"step": trainer.state.step, "heldout_loss": heldout, "heldout_perplexity": perplexity})
    progress.evaluated(heldout)
    progress.resume_clock()
