"""A checkpoint that all ranks write together: each its shard, the first one the description, and then the name."""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from pangu.checkpoint.open import (
    LAYOUTS,
    SHARD,
    TrainingState,
    file_digest,
    rank_folder,
    step_directory,
    with_moments,
)
from pangu.checkpoint.save import begin_checkpoint, finish_checkpoint, hidden_place, not_written, write_tensors
from pangu.config import ModelConfig
from pangu.distributed.process_group import World
from pangu.formats.model_metadata import metadata_of
from pangu.formats.parameter_layout import ParameterLayout, region
from pangu.formats.strategy_checkpoint import encode_strategy
from pangu.foundation.atomic_file import write_whole
from pangu.foundation.errors import UserError

DIGEST = "sha256.json"


def save_shards(
    run: Path,
    state: TrainingState,
    held: dict[str, np.ndarray],
    layouts: Iterable[Mapping[str, ParameterLayout]],
    model: ModelConfig,
    train: dict,
    world: World,
) -> Path:
    """Write `step-N`, called by all ranks together; all return when it has its name.

    held: what this rank holds of every weight and moment. layouts: of the weights of each pipeline stage. The run
    directory is one that all ranks see. A rank that cannot write raises UserError; what is left is hidden, and the next
    start removes it.
    """
    final = step_directory(run, state.step)
    hidden = hidden_place(final)
    try:
        if world.is_first:
            begin_checkpoint(final)
        world.wait()
        folder = hidden / rank_folder(world.rank)
        folder.mkdir()
        digest = write_tensors(folder / SHARD, held, metadata_of(model, train.get("tokenizer")))
        write_whole(folder / DIGEST, json.dumps(digest).encode())
        world.wait()
        if world.is_first:
            entries = (entry for stage in layouts for entry in with_moments(stage).items())
            write_whole(hidden / LAYOUTS, encode_strategy(entries))
            digests = {LAYOUTS: file_digest(hidden / LAYOUTS)}
            for rank in range(world.size):
                said = hidden / rank_folder(rank) / DIGEST
                digests[f"{rank_folder(rank)}/{SHARD}"] = json.loads(said.read_text(encoding="utf-8"))
                said.unlink()
            finish_checkpoint(final, state, model, train, digests)
    except (OSError, ValueError, SafetensorError) as error:
        if isinstance(error, OSError) and world.is_first:
            shutil.rmtree(hidden, ignore_errors=True)
        raise not_written(final, error) from None
    world.wait()
    return final


def part_of(layout: ParameterLayout, rank: int, whole: np.ndarray) -> np.ndarray:
    """Return what a rank holds of a parameter; of one on the disk it alone is read."""
    try:
        return np.ascontiguousarray(whole[region(layout.cell(rank), layout.part_shape(whole.shape))])
    except ValueError as error:
        raise UserError(f"the strategy does not fit the model: {error}") from None
