"""Checkpoints as they are written: whole or not at all.

A checkpoint is written into a hidden directory beside its place, every file is synced, and then it is renamed. What a
crash leaves behind is a hidden directory that the next run removes.
"""

import os
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from pangu.checkpoint.description import sealed
from pangu.checkpoint.open import (
    OPTIMIZER,
    STATE,
    VERSION,
    WEIGHTS,
    TrainingState,
    best_checkpoint,
    checkpoints_directory,
    file_digest,
    step_directories,
    step_directory,
    step_of,
)
from pangu.config import ModelConfig
from pangu.formats.model_metadata import metadata_of
from pangu.formats.safetensors_file import save_file
from pangu.foundation.atomic_file import write_whole
from pangu.foundation.best_effort import reason_of
from pangu.foundation.directory import commit_directory, remove_directory
from pangu.foundation.errors import UserError


def hidden_place(directory: Path) -> Path:
    """Return where a checkpoint is while it is written."""
    return directory.with_name(f".{directory.name}.tmp")


def save_checkpoint(
    run: Path,
    state: TrainingState,
    weights: dict[str, np.ndarray],
    moments: dict[str, np.ndarray],
    model: ModelConfig,
    train: dict,
) -> Path:
    """Write `step-N` whole. Raises UserError when the disk is full or cannot be written; nothing is left then."""
    final = step_directory(run, state.step)
    try:
        begin_checkpoint(final)
        digests = {
            name: write_tensors(hidden_place(final) / name, tensors, metadata_of(model, train.get("tokenizer")))
            for name, tensors in ((WEIGHTS, weights), (OPTIMIZER, moments))
        }
        finish_checkpoint(final, state, model, train, digests)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(hidden_place(final), ignore_errors=True)
        raise not_written(final, error) from None
    return final


def not_written(final: Path, error: Exception) -> UserError:
    return UserError(
        f"{final}: the checkpoint cannot be written: {reason_of(error)}; earlier checkpoints are untouched"
    )


def begin_checkpoint(final: Path) -> None:
    """Make the empty hidden directory of a checkpoint."""
    shutil.rmtree(hidden_place(final), ignore_errors=True)
    hidden_place(final).mkdir(parents=True)


def write_tensors(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> str:
    """Return a file that is on the disk when this returns; its sha256."""
    save_file(tensors, path, metadata)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return file_digest(path)


def finish_checkpoint(
    final: Path, state: TrainingState, model: ModelConfig, train: dict, digests: dict[str, str]
) -> None:
    """Give a checkpoint, all of whose tensors are on the disk, its description and its name."""
    description = {
        "version": VERSION,
        "state": asdict(state),
        "model": model.model_dump(mode="json"),
        "train": train,
        "sha256": digests,
    }
    write_whole(hidden_place(final) / STATE, sealed(STATE, description))
    commit_directory(hidden_place(final), final)  # in place of a damaged one of the same step


def remove_leftovers(run: Path) -> None:
    """Remove what an interrupted `save_checkpoint` left."""
    for path in checkpoints_directory(run).glob(".step-*.tmp*"):
        shutil.rmtree(path, ignore_errors=True)


def prune_checkpoints(run: Path, keep_last: int, step: int) -> None:
    """Remove all but the newest `keep_last` checkpoints up to this step, and the best.

    Later ones are damaged, or the run would have gone on from there; they are overwritten when it reaches them.
    """
    reached = [path for path in step_directories(run) if step_of(path) <= step]
    keep = {*reached[:keep_last], best_checkpoint(run)}
    for directory in reached:
        if directory not in keep:
            remove_directory(directory)
