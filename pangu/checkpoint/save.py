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
from safetensors.numpy import save_file

from pangu.checkpoint.open import (
    OPTIMIZER,
    STATE,
    WEIGHTS,
    TrainingState,
    best_checkpoint,
    checkpoints_directory,
    file_digest,
    step_directories,
    step_directory,
)
from pangu.config import ModelConfig
from pangu.foundation.atomic_file import sync_directory, write_whole
from pangu.foundation.errors import UserError
from pangu.foundation.json_text import dumps


def hidden_place(directory: Path) -> Path:
    """Where a checkpoint is while it is written."""
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
            name: write_tensors(hidden_place(final) / name, tensors)
            for name, tensors in ((WEIGHTS, weights), (OPTIMIZER, moments))
        }
        finish_checkpoint(final, state, model, train, digests)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(hidden_place(final), ignore_errors=True)
        raise not_written(final, error) from None
    return final


def not_written(final: Path, error: Exception) -> UserError:
    return UserError(f"{final}: the checkpoint cannot be written: {error}; earlier checkpoints are untouched")


def begin_checkpoint(final: Path) -> None:
    """Make the empty hidden directory of a checkpoint."""
    shutil.rmtree(hidden_place(final), ignore_errors=True)
    hidden_place(final).mkdir(parents=True)


def write_tensors(path: Path, tensors: dict[str, np.ndarray]) -> str:
    """A file that is on the disk when this returns; its sha256."""
    save_file(tensors, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return file_digest(path)


def finish_checkpoint(
    final: Path, state: TrainingState, model: ModelConfig, train: dict, digests: dict[str, str]
) -> None:
    """Give a checkpoint, all of whose tensors are on the disk, its description and its name."""
    description = {
        "version": 1,
        "state": asdict(state),
        "model": model.model_dump(mode="json"),
        "train": train,
        "sha256": digests,
    }
    write_whole(hidden_place(final) / STATE, dumps(description, indent=1).encode())
    shutil.rmtree(final, ignore_errors=True)  # a damaged one of the same step
    hidden_place(final).rename(final)
    sync_directory(final.parent)


def remove_leftovers(run: Path) -> None:
    """Remove what an interrupted `save_checkpoint` left."""
    for path in checkpoints_directory(run).glob(".step-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def prune_checkpoints(run: Path, keep_last: int) -> None:
    """Remove all but the newest `keep_last` checkpoints and the best."""
    keep = {*step_directories(run)[:keep_last], best_checkpoint(run)}
    for directory in step_directories(run):
        if directory not in keep:
            # Renamed first, so that a crash in the middle leaves a leftover and not half a checkpoint.
            leftover = directory.with_name(f".{directory.name}.tmp")
            shutil.rmtree(leftover, ignore_errors=True)
            directory.rename(leftover)
            shutil.rmtree(leftover, ignore_errors=True)
