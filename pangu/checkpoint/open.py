"""Checkpoints as they are read: everything needed to go on, checked before use. `save` writes them.

    RUN/model.yaml, train.yaml, tokenizer/, metrics.jsonl
    RUN/checkpoints/step-00000100/model.safetensors      weights fp32, released names
                                  optimizer.safetensors  adam_m.<name>, adam_v.<name>
                                  state.json             TrainingState, configuration, sha256 of both files

Where ranks share out the optimizer's states, each writes what it holds, and what each holds is said as MindSpore does:

                                  rank_0/checkpoint.safetensors, rank_1/…, strategy.ckpt, state.json

What a user calls a checkpoint may be a run (its newest whole checkpoint), a step of a run, or a file of weights:
`meant_by` decides, for every verb.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from pangu.config import ModelConfig, load_size
from pangu.formats.names import canonical_names
from pangu.formats.parameter_layout import ParameterLayout
from pangu.foundation.errors import UserError

STEP_NAME = re.compile(r"step-(\d{8,})")
WEIGHTS, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
SHARD, LAYOUTS = "checkpoint.safetensors", "strategy.ckpt"
MOMENTS = ("adam_m.", "adam_v.")


def rank_folder(rank: int) -> str:
    """Return where a rank's shard lies in a checkpoint."""
    return f"rank_{rank}"


def with_moments(layouts: Mapping[str, ParameterLayout]) -> dict[str, ParameterLayout]:
    """Return the layouts of weights, and the same ones of their moments."""
    return {prefix + name: layout for prefix in ("", *MOMENTS) for name, layout in layouts.items()}


@dataclass(frozen=True)
class TrainingState:
    """What a run remembers beside its tensors. Random bits and data order are functions of the seed and the step."""

    step: int  # updates so far, the skipped ones counted; the next batch has this index
    loss_scale: float
    good_steps: int  # since the scale changed
    overflows: int  # in a row
    tokens: int  # predictions counted in the loss so far
    heldout_loss: float | None  # of the evaluation at this step


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint directory whose files have been found whole."""

    directory: Path
    state: TrainingState
    model: ModelConfig
    train: dict

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


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checkpoints_directory(run: Path) -> Path:
    return run / "checkpoints"


def step_directory(run: Path, step: int) -> Path:
    return checkpoints_directory(run) / f"step-{step:08d}"


def step_directories(run: Path) -> list[Path]:
    """Checkpoint directories of a run, newest first, whole or not."""
    parent = checkpoints_directory(run)
    if not parent.is_dir():
        return []
    found = [path for path in parent.iterdir() if path.is_dir() and STEP_NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def open_checkpoint(directory: Path, verify: bool = True) -> Checkpoint:
    """Check every file against its checksum. Raises UserError that names all that are damaged or missing.

    verify: False where another process has just done so.
    """
    path = directory / STATE
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
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
    return Checkpoint(directory, state, model, train)


def damage(file: Path, expected: str) -> str | None:
    """What is wrong with a file of a checkpoint."""
    if not file.is_file():
        return f"{file}: is missing"
    if file_digest(file) != expected:
        return f"{file}: is damaged: its sha256 is not the one in {STATE}"
    return None


def whole_checkpoints(run: Path) -> Iterator[Checkpoint]:
    """The whole checkpoints of a run, newest first; a damaged one is named on standard error and skipped."""
    for directory in step_directories(run):
        try:
            yield open_checkpoint(directory)
        except UserError as error:
            print(f"warning: {error}; using the checkpoint before it", file=sys.stderr)


def newest_checkpoint(run: Path) -> Checkpoint | None:
    """The newest whole checkpoint of a run."""
    return next(whole_checkpoints(run), None)


def stored_heldout_loss(directory: Path) -> float:
    """The evaluation stored with a checkpoint; infinite where there is none."""
    try:
        value = json.loads((directory / STATE).read_text(encoding="utf-8"))["state"]["heldout_loss"]
        return float("inf") if value is None else float(value)
    except (OSError, ValueError, KeyError, TypeError):
        return float("inf")


def best_checkpoint(run: Path) -> Path | None:
    """The checkpoint directory with the lowest held-out loss."""
    directories = [path for path in step_directories(run) if stored_heldout_loss(path) < float("inf")]
    return min(directories, key=stored_heldout_loss, default=None)


def load_weights(path: Path) -> dict[str, np.ndarray]:
    """A .safetensors file, under the released names whichever spelling it has."""
    try:
        tensors = load_file(path)
        return {ours: tensors[name] for name, ours in canonical_names(tensors).items()}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as safetensors: {error}") from None


def none_whole(path: Path) -> UserError:
    """What to raise of a directory that is neither a whole checkpoint nor a run that has one."""
    return UserError(f"{path}: holds no whole checkpoint (a run directory, step-* directory or .safetensors file)")


def meant_by(path: Path, verify: bool = True) -> Checkpoint | Path:
    """Return what a user means by a path: a whole checkpoint, of a run the newest; or a file of weights.

    verify: False where a checkpoint that is named itself need not be compared with its checksums.
    Raises UserError where there is none.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        lost = "is neither a run or checkpoint directory nor a .safetensors file"
        raise UserError(f"{path}: {lost}" if path.exists() else f"{path}: {lost}: no such file or directory")
    saved = open_checkpoint(path, verify) if (path / STATE).is_file() else newest_checkpoint(path)
    if saved is None:
        raise none_whole(path)
    return saved


def load_for_inference(
    path: Path | str, model: Path | str | None = None, tokenizer: Path | str | None = None
) -> tuple[ModelConfig, dict[str, np.ndarray], Path | None]:
    """Return configuration, weights by released name, and the tokenizer's place (None where none is known).

    path: as `meant_by` takes it. A file needs `model` (a model.yaml or the name of a size) unless a model.yaml lies
    beside it.
    """
    saved = meant_by(Path(path))
    if isinstance(saved, Checkpoint):
        config = load_size(str(model)) if model else saved.model
        weights, beside = saved.weights(), saved.directory.parent.parent
    else:
        beside = saved.parent
        if model is None and not (beside / "model.yaml").is_file():
            raise UserError(f"{path}: give --model: a model.yaml or the name of a size")
        config = load_size(str(model or beside / "model.yaml"))
        weights = load_weights(saved)
    found = Path(tokenizer) if tokenizer else beside / "tokenizer"
    return config, weights, found if found.exists() else None
