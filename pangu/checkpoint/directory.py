"""Checkpoints: everything needed to go on, written whole or not at all, and checked before use.

    RUN/model.yaml, train.yaml, tokenizer/, metrics.jsonl
    RUN/checkpoints/step-00000100/model.safetensors      weights fp32, released names
                                  optimizer.safetensors  adam_m.<name>, adam_v.<name>
                                  state.json             TrainingState, configuration, sha256 of both files

Where ranks share out the optimizer's states, each writes what it holds, and what each holds is said as MindSpore does:

                                  rank_0/checkpoint.safetensors, rank_1/…, strategy.ckpt, state.json

A checkpoint is written into a hidden directory beside its place, every file is synced, and then it is renamed. What a
crash leaves behind is a hidden directory that the next run removes.
"""

import hashlib
import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from pangu.config import ModelConfig
from pangu.formats.model_metadata import metadata_of
from pangu.formats.safetensors_file import save_file
from pangu.foundation.atomic_file import write_whole
from pangu.foundation.best_effort import warn
from pangu.foundation.directory import commit_directory, remove_directory
from pangu.foundation.errors import UserError
from pangu.foundation.json_text import dumps

STEP_NAME = re.compile(r"step-(\d{8,})")
WEIGHTS, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
MODEL_FILE = "model.yaml"  # beside weights: the network
SHARD, LAYOUTS = "checkpoint.safetensors", "strategy.ckpt"
MOMENTS = ("adam_m.", "adam_v.")
VERSION = 1


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
        """The fingerprint of the tokenizer that its ids come from; None where an earlier version wrote it."""
        return self.train.get("tokenizer")

    @property
    def is_sharded(self) -> bool:
        return not (self.directory / WEIGHTS).is_file()

    def weights(self) -> dict[str, np.ndarray]:
        if self.is_sharded:
            return read_shards(self.directory, moments=False)
        return load_file(self.directory / WEIGHTS)

    def optimizer(self) -> dict[str, np.ndarray]:
        if self.is_sharded:
            return read_shards(self.directory, moments=True)
        return load_file(self.directory / OPTIMIZER)


def read_shards(directory: Path, moments: bool) -> dict[str, np.ndarray]:
    """The weights or the moments of a checkpoint that ranks wrote in parts, put together."""
    from pangu.formats.shards import WholeShards

    with WholeShards(directory, [directory / LAYOUTS]) as shards:
        chosen = [name for name in shards.tensors if name.startswith(MOMENTS) == moments]
        return {name: shards.read(name) for name in chosen}


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checkpoints_directory(run: Path) -> Path:
    return run / "checkpoints"


def step_directory(run: Path, step: int) -> Path:
    return checkpoints_directory(run) / f"step-{step:08d}"


def hidden(directory: Path) -> Path:
    """Where a checkpoint is while it is written."""
    return directory.with_name(f".{directory.name}.tmp")


def save(
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
        begin(final)
        digests = {
            name: write_tensors(hidden(final) / name, tensors, metadata_of(model, train.get("tokenizer")))
            for name, tensors in ((WEIGHTS, weights), (OPTIMIZER, moments))
        }
        finish(final, state, model, train, digests)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(hidden(final), ignore_errors=True)
        raise not_written(final, error) from None
    return final


def not_written(final: Path, error: Exception) -> UserError:
    return UserError(f"{final}: the checkpoint cannot be written: {error}; earlier checkpoints are untouched")


def begin(final: Path) -> None:
    """Make the empty hidden directory of a checkpoint."""
    shutil.rmtree(hidden(final), ignore_errors=True)
    hidden(final).mkdir(parents=True)


def write_tensors(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> str:
    """A file that is on the disk when this returns; its sha256."""
    save_file(tensors, path, metadata)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return digest(path)


def finish(final: Path, state: TrainingState, model: ModelConfig, train: dict, digests: dict[str, str]) -> None:
    """Give a checkpoint, all of whose tensors are on the disk, its description and its name."""
    description = {
        "version": VERSION,
        "state": asdict(state),
        "model": model.model_dump(mode="json"),
        "train": train,
        "sha256": digests,
    }
    write_whole(hidden(final) / STATE, dumps(description, indent=1).encode())
    commit_directory(hidden(final), final)  # in place of a damaged one of the same step


def step_directories(run: Path) -> list[Path]:
    """Checkpoint directories of a run, newest first, whole or not."""
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
        description = json.loads(path.read_text(encoding="utf-8"))
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
        raise UserError(f"{path}: is damaged or missing: {error}") from None
    if verify:
        with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as pool:
            problems = [p for p in pool.map(lambda item: damage(directory / item[0], item[1]), digests.items()) if p]
        if problems:
            raise UserError("; ".join(problems))
    return Checkpoint(directory, state, model, train, digests)


def damage(file: Path, expected: str) -> str | None:
    """What is wrong with a file of a checkpoint."""
    if not file.is_file():
        return f"{file}: is missing"
    if digest(file) != expected:
        return f"{file}: is damaged: its sha256 is not the one in {STATE}"
    return None


def newest(run: Path) -> Checkpoint | None:
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


def remove_leftovers(run: Path) -> None:
    """Remove what an interrupted `save` left."""
    for path in checkpoints_directory(run).glob(".step-*.tmp*"):
        shutil.rmtree(path, ignore_errors=True)


def heldout_loss(directory: Path) -> float:
    """The evaluation stored with a checkpoint; infinite where there is none."""
    try:
        value = json.loads((directory / STATE).read_text(encoding="utf-8"))["state"]["heldout_loss"]
        return float("inf") if value is None else float(value)
    except (OSError, ValueError, KeyError, TypeError):
        return float("inf")


def best(run: Path) -> Path | None:
    """The checkpoint directory with the lowest held-out loss."""
    directories = [path for path in step_directories(run) if heldout_loss(path) < float("inf")]
    return min(directories, key=heldout_loss, default=None)


def prune(run: Path, keep_last: int, step: int) -> None:
    """Remove all but the newest `keep_last` checkpoints up to this step, and the best.

    Later ones are damaged, or the run would have gone on from there; they are overwritten when it reaches them.
    """
    reached = [path for path in step_directories(run) if step_of(path) <= step]
    keep = {*reached[:keep_last], best(run)}
    for directory in reached:
        if directory not in keep:
            remove_directory(directory)


def none_whole(path: Path) -> UserError:
    """What to raise of a directory that is neither a whole checkpoint nor a run that has one."""
    return UserError(f"{path}: holds no whole checkpoint (a run directory, step-* directory or .safetensors file)")


def meant_checkpoint(path: Path) -> Path:
    """Return what a user means by a path: of a run its newest whole checkpoint, anything else as it is.

    Raises UserError where there is nothing, or a run without a whole checkpoint.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or directory")
    if path.is_file() or (path / STATE).is_file() or not checkpoints_directory(path).is_dir():
        return path
    found = newest(path)
    if found is None:
        raise none_whole(path)
    return found.directory
