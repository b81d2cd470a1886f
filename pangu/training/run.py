"""Training: a run begins, goes on from its newest whole checkpoint, and ends with the same bits either way.

Everything random is a function of the seed and of the step, so a checkpoint and the configuration decide all that
follows. An interrupt (SIGINT, SIGTERM, SIGHUP) ends the step in hand and saves a checkpoint.

Where a launcher started several processes, all of them run this; a strategy says what each does, and the first one
writes what is written once.
"""

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pangu.checkpoint.open import (
    STATE,
    Checkpoint,
    TrainingState,
    best_checkpoint,
    checkpoints_directory,
    meant_checkpoint,
    newest_checkpoint,
    step_directories,
    stored_heldout_loss,
)
from pangu.checkpoint.save import remove_leftovers
from pangu.checkpoint.weights import check_finite, open_weights, read_weights, tokenizer_fingerprint, tokenizer_of
from pangu.checkpoint.weights import model_of as network_of
from pangu.config import ModelConfig, TrainConfig, load_size
from pangu.distributed.process_group import World, join, share_cores
from pangu.distributed.stored import on_all_ranks, stored_checkpoint
from pangu.distributed.strategy import RunStrategy, applied, load_strategy
from pangu.foundation.best_effort import warn
from pangu.foundation.errors import UserError
from pangu.foundation.interrupts import Interrupts
from pangu.foundation.yaml_document import shown
from pangu.quantization.convert_quantized import DequantizedSource
from pangu.training.choose_engine import engine_of
from pangu.training.data import PackedData, training_batches, unigram_nats
from pangu.training.overview import described
from pangu.training.progress import TrainingProgress
from pangu.training.run_directory import (
    check_begins_here,
    check_same_run,
    lock,
    put_aside,
    with_schedule_of,
    write_run_files,
)
from pangu.training.sample_texts import SamplesWriter
from pangu.training.step_metrics import MetricsWriter, draw_losses, is_number, read_metrics
from pangu.training.step_profile import StepProfile
from pangu.training.tracker import Tracker
from pangu.training.trainer import Trainer


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
    skipped: int
    tokens_per_second: float
    mfu: float
    picture: str
    checkpoint: str


def load_model(config: TrainConfig) -> ModelConfig:
    """Return the model that is named; of a run that has begun its own, where what is named is no longer there."""
    try:
        return load_size(config.model)
    except UserError:
        own = Path(config.out) / "model.yaml"
        is_a_file = Path(config.model).suffix in (".yaml", ".yml")  # a wrong name is a mistake, a moved file is none
        is_gone = is_a_file and not Path(config.model).exists()
        if not is_gone or not own.is_file() or not step_directories(Path(config.out)):
            raise
        warn(f"model {shown(config.model, 200)} is not there: going on with the run's own, {own}")
        return ModelConfig.load(own)


# Two networks that differ in one of these compute different things from the same weights.
ARCHITECTURE = ("num_heads", "query_layer", "final_norm", "activation")
OF_EXPERTS = ("routing", "choices", "domains", "unit_gate")


def check_start(start: Path, model: ModelConfig, data: PackedData) -> None:
    """Raise UserError where weights to begin with are of another network, or of another tokenizer than the data."""
    path = meant_checkpoint(start)
    source = None if (path / STATE).is_file() else open_weights(path)
    theirs = network_of(path, source)
    if isinstance(source, DequantizedSource):
        warn(f"warning: start_from {start}: is quantised: the run begins with rounded weights")
    for name in ARCHITECTURE if theirs else ():
        if getattr(theirs, name) != getattr(model, name):
            raise UserError(
                f"start_from {start}: its network has {name} {getattr(theirs, name)}, this run's model has "
                f"{getattr(model, name)}: the weights mean something else there; set `model` to theirs"
            )
    their_experts = theirs and theirs.experts
    for name in OF_EXPERTS if their_experts and model.experts else ():
        before, now = getattr(their_experts, name), getattr(model.experts, name)
        if before != now:
            raise UserError(
                f"start_from {start}: its network has experts.{name} {before}, this run's model has {now}: the weights "
                "mean something else there; set `model` to theirs"
            )
    if theirs and theirs.attention != model.attention:
        before, now = theirs.attention.pattern, model.attention.pattern
        warn(f"warning: start_from {start}: was trained with attention.pattern {before}, this run's model has {now}")
    told = tokenizer_fingerprint(path)
    if told is None or data.tokenizer is None:
        silent = start if told is None else data.directory
        warn(f"warning: {silent}: does not say its tokenizer; the weights and {data.directory} must be of the same one")
    elif told != data.tokenizer:
        place = tokenizer_of(path) or "the tokenizer of the weights"
        raise UserError(
            f"start_from {start}: its weights were trained with another tokenizer (fingerprint {told[:12]}) than "
            f"{data.directory} was packed with ({data.tokenizer[:12]}): pack it with `tokenizer: use: {place}`"
        )


def load_start(trainer: Trainer, start: Path) -> None:
    """Begin with the weights of a run, a checkpoint, or a file or directory of any form. Raises UserError."""
    path = start if checkpoints_directory(start).is_dir() else meant_checkpoint(start)
    if (path / STATE).is_file() or checkpoints_directory(path).is_dir():
        # The first rank compares it with its checksums, for all.
        with stored_checkpoint(path, trainer.world) as stored:
            if trainer.world.is_first:
                check_finite(stored.weights, str(start))
            trainer.execution.load_weights(stored.weights)
        return
    weights = read_weights(open_weights(path))
    check_finite(weights, str(path))
    trainer.execution.load_weights(weights)


def model_of(config: TrainConfig, data: PackedData) -> ModelConfig:
    """Return the model's configuration for this run. Raises UserError where model and corpus do not fit each other."""
    model = load_model(config)
    changes: dict[str, object] = {}
    if config.fit_vocabulary:
        changes["vocab_size"] = data.vocab_size
    if config.precision:
        changes["compute_dtype"] = config.precision
    model = model.model_copy(update=changes)
    if data.vocab_size > model.vocab_size:
        raise UserError(
            f"{data.directory}: its tokenizer has {data.vocab_size} ids, the model {shown(config.model, 200)} only "
            f"{model.vocab_size}: use another model.yaml, or fit_vocabulary: true"
        )
    if data.seq_length > model.seq_length:
        raise UserError(
            f"{data.directory}: samples have {data.seq_length} tokens; "
            f"the model {shown(config.model, 200)} takes {model.seq_length} at most"
        )
    return model


def matmul_peak(size: int = 1024) -> float:
    """Return FLOP/s of this device's fp32 matrix product at 1024³, the best of several: what MFU is measured
    against."""
    import mindspore as ms
    from mindspore import ops

    matrix = ms.Tensor(np.ones((size, size), np.float32))
    best = math.inf
    for _ in range(6):
        start = time.perf_counter()
        ops.matmul(matrix, matrix).asnumpy()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def train(config: TrainConfig, strategy_file: str | None = None, anew: bool = False, profile: int = 0) -> Summary:
    """Run, or go on with, the training that `config` describes, under a strategy if one is given.

    anew: begin at step 0, with what an earlier run left in the directory put aside. profile: updates to profile.
    Raises UserError for whatever the user can mend; the run directory is then as it was at its newest checkpoint.
    """
    data = PackedData.load(config.data)
    for name in ("train", "heldout"):
        data.split(name)  # an empty one is a mistake to name before anything is made
    model = model_of(config, data)
    strategy = load_strategy(strategy_file, model) if strategy_file else None
    if strategy:
        config = applied(strategy, config)
    if config.device == "CPU":
        share_cores()
    from pangu.device import use_device

    use_device(config.device)
    world = join()
    check_world(world, config, strategy)
    run = Path(config.out)
    held_lock = lock(run) if world.is_first else None
    try:
        if world.is_first:
            data.verify(run / ".compared-samples.json")
        if anew and world.is_first:
            put_aside(run)
        saved = find_checkpoint(run, world)
        if saved:
            config = with_schedule_of(run, saved, config)
            check_same_run(run, saved, config, model, data)
        elif config.learning_rate.begin_step:
            raise UserError(
                f"field 'learning_rate.begin_step' = {config.learning_rate.begin_step}: {run} begins with update 1: "
                "leave it out; a run that goes on takes it"
            )
        elif config.start_from and world.is_first:
            check_start(Path(config.start_from), model, data)
        engine = engine_of(run, saved, model, config, world.size)
        trainer = Trainer(model, config.model_copy(update={"engine": engine}), data, world, strategy)
        if saved:
            trainer.restore(saved)
        elif config.start_from:
            load_start(trainer, Path(config.start_from))
        else:
            trainer.begin()
        if world.is_first:
            write_run_files(run, model, config, data)
            for line in described(model, trainer.config, data, trainer.state):
                warn(line)
        return loop(trainer, run, profile if world.is_first else 0)
    finally:
        if held_lock:
            held_lock.close()


def check_world(world: World, config: TrainConfig, strategy: RunStrategy | None) -> None:
    """Raise UserError where the processes that were started cannot do what the strategy says."""
    if strategy and strategy.devices != world.size:
        raise UserError(
            f"{strategy.path}: is for {strategy.devices} devices, {world.size} started: "
            "bash run_scripts/run_distributed_train.sh starts as many as it says"
        )
    if strategy and config.device != "Ascend" and not strategy.splits_only_the_batch:
        raise UserError(
            f"{strategy.path}: pipeline, tensor and sequence parallelism and overrides need Ascend; on {config.device} "
            "only mesh.dp may be larger than 1"
        )
    shares = strategy.data_parallel if strategy else world.size
    if config.batch_size % (config.accumulate * shares):
        raise UserError(
            f"batch_size {config.batch_size} must be a multiple of accumulate {config.accumulate} x "
            f"{shares} data-parallel processes"
        )


def find_checkpoint(run: Path, world: World) -> Checkpoint | None:
    """Return the newest whole checkpoint of the run, the same one on every rank; the first rank checks it for all."""
    saved = None
    if world.is_first:
        saved = newest_checkpoint(run)
        if saved is None:
            check_begins_here(run)
        remove_leftovers(run)
    return on_all_ranks(saved, run, world)


def loop(trainer: Trainer, run: Path, profile: int = 0) -> Summary:
    """Train until the end or an interrupt, with evaluations and checkpoints. profile: updates to profile."""
    config, data, world = trainer.config, trainer.data, trainer.world
    first = trainer.state.step
    tracker = Tracker(config.track, run, config.model_dump(mode="json")) if config.track and world.is_first else None
    writer = MetricsWriter(run, first, tracker) if world.is_first else None
    peak = matmul_peak() * world.size
    progress = TrainingProgress(
        config.steps, first, trainer.model.training_flops_per_token, peak, is_shown=world.is_first
    )
    path, asked = None, False
    profiled = StepProfile(run, profile, config.device, trainer.execution.times())
    samples = SamplesWriter(run, first) if world.is_first and config.sample_prompts else None
    try:
        with Interrupts() as interrupts, progress:
            batches = training_batches(trainer.split("train"), config.batch_size, config.seed, first)
            while trainer.state.step < config.steps and not asked:
                trainer.execution.ask(interrupts.asked)
                rows = next(batches)
                with profiled.around():
                    metrics = trainer.update(rows)
                asked = trainer.execution.asked_by_any(interrupts.asked)
                step = metrics["step"]
                progress.step(step, metrics["loss"], config.batch_size * data.seq_length)
                if writer:
                    writer.write(metrics)
                    writer.speed(step, progress.step_seconds, progress.tokens_per_second)
                last = step == config.steps
                if last or step % config.evaluate_every == 0 or step % config.checkpoint_every == 0:
                    evaluate(trainer, writer, progress)
                    if samples and trainer.execution.can_evaluate:
                        samples.write(trainer)
                        progress.resume_clock()
                    if world.size > 1 or not progress.is_shown:
                        report(metrics, trainer.state, progress)
                if last or step % config.checkpoint_every == 0 or asked:
                    if writer:
                        writer.flush()  # what is behind a checkpoint is complete, if it can be written at all
                    path = trainer.save(run)
                    progress.resume_clock()
            interrupted = asked and trainer.state.step < config.steps
    finally:
        if writer:
            writer.close()
        if samples:
            samples.close()
    summary = summarise(trainer, run, path, progress, interrupted)
    # The launcher stops all processes when one ends: none ends before the first has drawn the picture.
    world.wait()
    return summary


def summarise(trainer: Trainer, run: Path, path: Path | None, progress: TrainingProgress, interrupted: bool) -> Summary:
    """Return how the run stands; the first rank draws the picture."""
    data, first = trainer.data, trainer.world.is_first
    unigram = unigram_nats(data.split("train"), data.split("heldout"), data.vocab_size, data.pad) if first else math.nan
    picture = draw_losses(run, unigram) if first else run / "loss.png"
    path = path or best_checkpoint(run)
    heldout = stored_heldout_loss(path) if path else math.nan
    losses = [record["loss"] for record in read_metrics(run) if is_number(record.get("loss"))]
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
        skipped=trainer.state.skipped,
        tokens_per_second=progress.tokens_per_second,
        mfu=progress.mfu,
        picture=str(picture or ""),
        checkpoint=str(path or ""),
    )


def report(metrics: dict, state: TrainingState, progress: TrainingProgress) -> None:
    """Write one line in this rank's log."""
    warn(
        f"step {state.step}: loss {metrics['loss']:.4f}, validation {state.heldout_loss or math.nan:.4f}, "
        f"{progress.tokens_per_second:,.0f} tokens/s"
    )


def evaluate(trainer: Trainer, writer: MetricsWriter | None, progress: TrainingProgress) -> None:
    """Evaluate now, and write it down in the state and in the metrics.

    Not where MindSpore's compiler has split the weights, for the evaluation is compiled whole.
    """
    if not trainer.execution.can_evaluate:
        return
    heldout = trainer.evaluate()
    trainer.state = replace(trainer.state, heldout_loss=heldout)
    perplexity = math.exp(min(heldout, 700))
    if writer:
        writer.write({"step": trainer.state.step, "heldout_loss": heldout, "heldout_perplexity": perplexity})
    progress.evaluated(heldout)
    progress.resume_clock()
