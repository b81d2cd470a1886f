"""The directory of a training run: who may write in it, what the run began with, and the files that describe it."""

import shutil
from pathlib import Path

from pangu.config import ModelConfig, TrainConfig
from pangu.foundation.atomic_file import write_whole
from pangu.foundation.directory import commit_directory, make_directory
from pangu.foundation.errors import UserError
from pangu.foundation.lock import Lock
from pangu.training.data import PackedData

# Fields that may change when a run goes on: they decide when it stops, what it writes and how it computes, not what.
FREE_FIELDS = {
    *("out", "data", "steps", "evaluate_every", "evaluate_samples", "checkpoint_every", "keep_last", "device"),
    *("accumulate", "recompute"),
}


def decided_fields(config: TrainConfig, data: PackedData) -> dict:
    """What decides the computation: of train.yaml, with the length of the cosine written out, and the corpus."""
    fields = config.model_dump(mode="json", exclude=FREE_FIELDS)
    fields["learning_rate"]["decay_steps"] = config.learning_rate.decay_steps or config.steps
    return fields | {"corpus": data.fingerprint}


def with_the_cosine_of(saved: dict, config: TrainConfig) -> TrainConfig:
    """`config` for a run that has begun: a cosine of no stated length stays as long as it was, so that `steps` alone
    makes a run longer; behind it the rate is `end`.
    """
    if config.learning_rate.decay_steps is not None:
        return config
    rate = config.learning_rate.model_copy(update={"decay_steps": saved["learning_rate"]["decay_steps"]})
    return config.model_copy(update={"learning_rate": rate})


def check_same_run(run: Path, saved: dict, config: TrainConfig, data: PackedData) -> None:
    """A run goes on only with what it began with. Raises UserError that names the first difference."""
    for name, value in decided_fields(config, data).items():
        if saved.get(name) != value:
            raise UserError(
                f"{run}: this run began with {name} = {saved.get(name)!r}, now it is {value!r}: "
                "give another `out` (and start_from, to begin with this run's weights)"
            )


def lock(run: Path) -> Lock:
    """Keep other processes out of a run directory, until the lock is closed or this process ends."""
    make_directory(run)
    return Lock(run / ".lock", f"{run}: another process is training in this directory")


def write_run_files(run: Path, model: ModelConfig, config: TrainConfig, data: PackedData) -> None:
    """model.yaml, train.yaml and the tokenizer, so that the run directory says everything."""
    write_whole(run / "model.yaml", model.dump())
    write_whole(run / "train.yaml", config.dump())
    if data.tokenizer_directory.is_dir():
        temporary = run / ".tokenizer.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(data.tokenizer_directory, temporary)
        commit_directory(temporary, run / "tokenizer")
