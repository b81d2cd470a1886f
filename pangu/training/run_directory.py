"""The directory of a training run: who may write in it, what the run began with, and the files that describe it."""

import shutil
from pathlib import Path
from typing import Any

from pangu.checkpoint.open import Checkpoint, checkpoints_directory
from pangu.config import LearningRateConfig, ModelConfig, TrainConfig
from pangu.foundation.atomic_file import write_whole
from pangu.foundation.best_effort import first_line_of, warn
from pangu.foundation.directory import commit_directory, make_directory
from pangu.foundation.errors import UserError
from pangu.foundation.lock import Lock
from pangu.foundation.yaml_document import shown
from pangu.training.data import PackedData
from pangu.training.schedule import complete, continued, first_difference, schedule_of
from pangu.training.step_metrics import METRICS, read_metrics

# Fields that may change when a run goes on: they decide when it stops, what it writes and how it computes, not what.
FREE_FIELDS = {
    *("out", "data", "steps", "evaluate_every", "evaluate_samples", "checkpoint_every", "keep_last", "device"),
    *("accumulate", "recompute", "engine", "sample_prompts", "sample_tokens", "track"),
    # `engine` is compared as it was chosen (`training.choose_engine`).
    # What they name is compared by its contents (`check_same_run`), or is of no matter once a checkpoint is there.
    *("model", "fit_vocabulary", "precision", "start_from"),
}
# Of the model: what only decides how a run begins.
BEGINNING_FIELDS = {"initializer"}


def decided_fields(config: TrainConfig, data: PackedData, is_fp16: bool) -> dict:
    """Return what decides the computation: of train.yaml, with the length of the cosine written out, and the corpus."""
    fields = config.model_dump(mode="json", exclude=FREE_FIELDS)
    fields["learning_rate"] = complete(config.learning_rate, config.steps).model_dump(mode="json")
    if not is_fp16:
        del fields["loss_scale"]
    return {"tokenizer": data.tokenizer} | fields | {"corpus": data.fingerprint}


def with_schedule_of(run: Path, saved: Checkpoint, config: TrainConfig) -> TrainConfig:
    """Return `config` for a run that has begun: what the learning rate leaves out is as it was.

    Raises UserError where the rate of an update that was made would be another one now.
    """
    began = LearningRateConfig(**saved.train["learning_rate"])
    done = saved.state.step - saved.state.skipped
    rate = continued(config.learning_rate, began, config.steps, done)
    if rate.begin_step > done:
        raise UserError(
            f"{run}: field 'learning_rate.begin_step' = {rate.begin_step}: the run has made {done} updates: let the "
            f"new schedule begin there, or train to {rate.begin_step} with the old one first"
        )
    step = first_difference(rate, began, config.steps, done)
    if step is not None:
        before, now = (schedule_of(one, config.steps)(step) for one in (began, rate))
        raise UserError(
            f"{run}: field 'learning_rate': update {step + 1} was made with the rate {before:g}, by this schedule it "
            f"would be {now:g}: what was trained cannot change; to go on with the moments under a new schedule set "
            f"learning_rate.begin_step: {done}"
        )
    return config.model_copy(update={"learning_rate": rate})


def objectives_meant(fields: dict[str, Any] | None) -> dict[str, Any]:
    """Return what of the objectives decides a row: those that have a share; nothing where every row is causal."""
    parts = {name: part for name, part in (fields or {}).items() if isinstance(part, dict) and part["share"]}
    return parts | {"mask_id": (fields or {})["mask_id"]} if parts else {}


def check_same_run(run: Path, saved: Checkpoint, config: TrainConfig, model: ModelConfig, data: PackedData) -> None:
    """Raise UserError that names the first thing that decides the computation and is not as the run began.

    What counts is what is computed, not how it is written: no path is compared.
    """
    before = {f"model.{name}": value for name, value in saved.model.model_dump(exclude=BEGINNING_FIELDS).items()}
    now = {f"model.{name}": value for name, value in model.model_dump(exclude=BEGINNING_FIELDS).items()}
    decided = decided_fields(config, data, model.compute_dtype == "fp16")
    del decided["learning_rate"]  # `with_schedule_of` has compared what it does
    if "skip_above_norm" not in saved.train and decided["skip_above_norm"] is None:
        del decided["skip_above_norm"]
    # An earlier version wrote it.
    if "tokenizer" not in saved.train:
        del decided["tokenizer"]
    if objectives_meant(saved.train.get("objectives")) == objectives_meant(decided["objectives"]):
        del decided["objectives"]
    for name, value in (now | decided).items():
        began = before[name] if name in before else saved.train.get(name)
        if began != value:
            raise UserError(
                f"{run}: this run began with {name} = {shown(began)}, now it is {shown(value)}: "
                "give another `out` (and start_from, to begin with this run's weights)"
            )


# What a run leaves in its directory and another one must not go on with.
RUN_FILES = ("checkpoints", "metrics.jsonl", "speed.jsonl", "tensorboard", "loss.png", "samples.jsonl")


def put_aside(run: Path) -> None:
    """Move what an earlier run left into `RUN/earlier-NNN`; nothing is removed. Raises UserError."""
    present = [run / name for name in RUN_FILES if (run / name).exists()]
    if not present:
        return
    number = 1
    while (run / f"earlier-{number:03d}").exists():
        number += 1
    aside = run / f"earlier-{number:03d}"
    try:
        aside.mkdir()
        for path in present:
            path.rename(aside / path.name)
    except OSError as error:
        raise UserError(f"{aside}: cannot be written: {error.strerror}") from None
    warn(f"{run}: begins anew; what was there is in {aside.name}/")


def check_begins_here(run: Path) -> None:
    """Raise UserError where a run without any checkpoint once had one: its steps would be done and told again.

    The metrics tell of more steps than there are to the first checkpoint, which is written before the next step.
    """
    try:
        every = TrainConfig.load(run / "train.yaml").checkpoint_every
    except UserError:
        return
    steps = max((record["step"] for record in read_metrics(run)), default=0)
    if steps > every:
        raise UserError(
            f"{checkpoints_directory(run)}: holds no checkpoint, but {METRICS} tells of {steps} steps: bring the "
            "checkpoints back, or give another `out`, or --start-anew"
        )


def lock(run: Path) -> Lock:
    """Keep other processes out of a run directory, until the lock is closed or this process ends."""
    make_directory(run)
    return Lock(run / ".lock", f"{run}: another process is training in this directory")


def write_run_files(run: Path, model: ModelConfig, config: TrainConfig, data: PackedData) -> None:
    """Write model.yaml, train.yaml and the tokenizer, so that the run directory says everything.

    What is there already is not written again: a run on a full disk still starts. Raises UserError.
    """
    for name, text in (("model.yaml", model.dump()), ("train.yaml", config.dump())):
        if content_of(run / name) != text.encode():
            write_whole(run / name, text)
    source, target = data.tokenizer_directory, run / "tokenizer"
    files = sorted(path.name for path in source.iterdir() if path.is_file()) if source.is_dir() else []
    if any(content_of(target / name) != content_of(source / name) for name in files):
        temporary = run / ".tokenizer.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            shutil.copytree(source, temporary)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise UserError(f"{target}: cannot be written: {first_line_of(error)}") from None
        commit_directory(temporary, target)


def content_of(path: Path) -> bytes | None:
    """Return what a file holds; None where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None
