"""Checkpoints as they are read: everything needed to go on, checked before use. `save` writes them.

    RUN/model.yaml, train.yaml, tokenizer/, metrics.jsonl
    RUN/checkpoints/step-00000100/model.safetensors      weights fp32, released names
                                  optimizer.safetensors  adam_m.<name>, adam_v.<name>
                                  state.json             TrainingState, configuration, sha256 of all three

Where ranks share out the optimizer's states, each writes what it holds, and what each holds is said as MindSpore does:

                                  rank_0/checkpoint.safetensors, rank_1/…, strategy.ckpt, state.json

What a user calls a checkpoint may be a run (its newest whole checkpoint), a step of a run, or a file of weights:
`meant_checkpoint` decides, for every verb.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pangu.checkpoint.description import unsealed
from pangu.config import ModelConfig
from pangu.formats.parameter_layout import ParameterLayout
from pangu.foundation.best_effort import reason_of, warn
from pangu.foundation.errors import UserError

STEP_NAME = re.compile(r"step-(\d{8,})")
WEIGHTS, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
MODEL_FILE = "model.yaml"  # beside weights: the network
SHARD, LAYOUTS = "checkpoint.safetensors", "strategy.ckpt"
MOMENTS = ("adam_m.", "adam_v.")
VERSION = 1
BEST = "best"  # RUN/best: a name for the checkpoint with the lowest validation loss


def rank_folder(rank: int) -> str:
    """Return where a rank's shard lies in a checkpoint."""
    return f"rank_{rank}"


def with_moments(layouts: Mapping[str, ParameterLayout]) -> dict[str, ParameterLayout]:
    """Return the layouts of weights, and the same ones of their moments."""
    return {prefix + name: layout for prefix in ("", *MOMENTS) for name, layout in layouts.items()}


class LaterVersion(UserError):
    """A checkpoint that a later version of this project wrote: it is whole, and cannot be read here."""


@dataclass(frozen=True)
class TrainingState:
    """What a run remembers beside its tensors. Random bits and data order are functions of the seed and the step."""

    step: int  # updates so far, the skipped ones counted; the next batch has this index
    loss_scale: float
    good_steps: int  # since the scale changed
    overflows: int  # in a row
    tokens: int  # predictions counted in the loss so far
    heldout_loss: float | None  # of the evaluation at this step
    skipped: int = 0  # updates that were not made: the schedule does not count them


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint directory whose files have been found whole."""

    directory: Path
    state: TrainingState
    model: ModelConfig
    train: dict
    digests: dict[str, str]  # sha256 of each file

    @property
    def tokenizer(self) -> str | None:
        """Return the fingerprint of the tokenizer that its ids come from; None where an earlier version wrote it."""
        return self.train.get("tokenizer")

    @property
    def is_sharded(self) -> bool:
        return not (self.directory / WEIGHTS).is_file()

    def weights(self) -> dict[str, np.ndarray]:
        if self.is_sharded:
            return read_shards(self.directory, moments=False)
        return _load(self.directory / WEIGHTS)

    def optimizer(self) -> dict[str, np.ndarray]:
        if self.is_sharded:
            return read_shards(self.directory, moments=True)
        return _load(self.directory / OPTIMIZER)


def _load(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file  # the help of verbs does without

    return load_file(path)


def read_shards(directory: Path, moments: bool) -> dict[str, np.ndarray]:
    """Return the weights or the moments of a checkpoint that ranks wrote in parts, put together."""
    from pangu.formats.shards import WholeShards

    with WholeShards(directory, [directory / LAYOUTS]) as shards:
        chosen = [name for name in shards.tensors if name.startswith(MOMENTS) == moments]
        return {name: shards.read(name) for name in chosen}


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checkpoints_directory(run: Path) -> Path:
    return run / "checkpoints"


def step_directory(run: Path, step: int) -> Path:
    return checkpoints_directory(run) / f"step-{step:08d}"


def step_directories(run: Path) -> list[Path]:
    """Return checkpoint directories of a run, newest first, whole or not."""
    parent = checkpoints_directory(run)
    if not parent.is_dir():
        return []
    found = [path for path in parent.iterdir() if path.is_dir() and STEP_NAME.fullmatch(path.name)]
    return sorted(found, key=step_of, reverse=True)


def step_of(directory: Path) -> int:
    """Return the step that a checkpoint directory is named after."""
    return int(directory.name.removeprefix("step-"))


def open_checkpoint(directory: Path, verify: bool = True) -> Checkpoint:
    """Check every file against its checksum. Raises UserError that names all that are damaged or missing.

    verify: False where another process has just done so.
    """
    path = directory / STATE
    try:
        description = unsealed(path)
        version = description["version"]
        if isinstance(version, int) and version > VERSION:
            raise LaterVersion(
                f"{path}: was written by a later version of this project (form {version}, this one reads {VERSION}): "
                "go on with that one"
            )
        state = TrainingState(**description["state"])
        model = ModelConfig.from_fields(description["model"], str(path))
        train, digests = dict(description["train"]), dict(description["sha256"])
        if not digests or not all(isinstance(name, str) and ".." not in name for name in digests):
            raise ValueError("its list of files is wrong")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is damaged or missing: {reason_of(error)}") from None
    if verify:
        with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as pool:
            problems = [p for p in pool.map(lambda item: damage(directory / item[0], item[1]), digests.items()) if p]
        if problems:
            raise UserError("; ".join(problems))
    return Checkpoint(directory, state, model, train, digests)


def damage(file: Path, expected: str) -> str | None:
    """Return what is wrong with a file of a checkpoint."""
    if not file.is_file():
        return f"{file}: is missing"
    if file_digest(file) != expected:
        return f"{file}: is damaged: its sha256 is not the one in {STATE}"
    return None


def newest_checkpoint(run: Path) -> Checkpoint | None:
    """Return the newest whole checkpoint of a run; None where there is no checkpoint at all.

    A damaged one is named on standard error and skipped. Raises UserError where all are damaged, and for one that a
    later version wrote: neither is a reason to begin anew.
    """
    problems = []
    directories = step_directories(run)
    for directory in directories:
        try:
            saved = open_checkpoint(directory)
        except LaterVersion:
            raise
        except UserError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            warn(f"warning: {problem}; using {directory.name}, which is whole")
        return saved
    if problems:
        raise UserError(
            f"{run}: holds {len(problems)} checkpoint{'s' * (len(problems) > 1)}, none of which is whole: "
            f"{'; '.join(problems)}; nothing was changed: repair one, or give another `out`, or --start-anew"
        )
    return None


def stored_heldout_loss(directory: Path) -> float:
    """Return the evaluation stored with a checkpoint; infinite where there is none."""
    try:
        value = unsealed(directory / STATE)["state"]["heldout_loss"]
        return float("inf") if value is None else float(value)
    except (OSError, ValueError, KeyError, TypeError):
        return float("inf")


def best_checkpoint(run: Path) -> Path | None:
    """Return the checkpoint directory with the lowest validation loss."""
    directories = [path for path in step_directories(run) if stored_heldout_loss(path) < float("inf")]
    return min(directories, key=stored_heldout_loss, default=None)


def none_whole(path: Path) -> UserError:
    """Return what to raise of a directory that is neither a whole checkpoint nor a run that has one."""
    return UserError(f"{path}: holds no whole checkpoint (a run directory, step-* directory or .safetensors file)")


def meant_checkpoint(path: Path) -> Path:
    """Return what a user means by a path: of a run its newest whole checkpoint, anything else as it is.

    `RUN/best` is the one with the lowest validation loss. Raises UserError where there is nothing, or a run without a
    whole checkpoint.
    """
    if path.name == BEST and not path.exists() and checkpoints_directory(path.parent).is_dir():
        best = best_checkpoint(path.parent)
        if best is None:
            raise UserError(f"{path.parent}: no checkpoint has a validation loss: there is no best one")
        return best
    if not path.exists():
        raise UserError(f"{path}: no such file or directory")
    if path.is_file() or (path / STATE).is_file() or not checkpoints_directory(path).is_dir():
        return path
    found = newest_checkpoint(path)
    if found is None:
        raise none_whole(path)
    return found.directory
