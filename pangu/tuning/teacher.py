"""A teacher for distillation, and a student made of one."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pangu import parameters
from pangu.checkpoint.weights import load_for_inference
from pangu.config import ModelConfig
from pangu.foundation.errors import UserError

if TYPE_CHECKING:
    from pangu.tokenizer import Tokenizer


@dataclass(frozen=True)
class Teacher:
    config: ModelConfig
    weights: dict[str, np.ndarray]


def load_teacher(path: Path | str, student: ModelConfig, tokenizer: "Tokenizer", length: int) -> Teacher:
    """Load a teacher. Raises UserError for one that speaks of other tokens than the student, or of fewer positions."""
    from pangu.tokenizer import Tokenizer

    config, weights, place = load_for_inference(path)
    if place is not None and Tokenizer.load(place).fingerprint != tokenizer.fingerprint:
        raise UserError(f"{path}: has another tokenizer than the student; take a teacher with the student's own")
    if config.experts:
        raise UserError(f"{path}: has experts; take a teacher without")
    if config.vocab_size != student.vocab_size:
        raise UserError(
            f"{path}: knows {config.vocab_size} ids, the student {student.vocab_size}: they must be as many"
        )
    if config.seq_length < length:
        raise UserError(f"{path}: has a context of {config.seq_length}; rows have {length}: give --length")
    return Teacher(config, weights)


def student_of(
    config: ModelConfig, weights: dict[str, np.ndarray], layers: int
) -> tuple[ModelConfig, dict[str, np.ndarray]]:
    """Return a network of some of a network's layers, evenly spaced, with its tables and its query layer.

    As DistilBERT begins (Sanh et al. 2019, arXiv 1910.01108). layers: with the query layer. Raises UserError.
    """
    least = 1 + int(config.query_layer)
    if not least <= layers <= config.num_layers:
        raise UserError(f"a student of {layers} layers: must have {least} to {config.num_layers}")
    kept = np.linspace(0, config.num_blocks - 1, layers - int(config.query_layer)).round().astype(int)
    moved = {parameters.BLOCK.format(old): parameters.BLOCK.format(new) for new, old in enumerate(kept)}
    blocks = parameters.BLOCK.partition("{}")[0]
    chosen = {}
    for name, weight in weights.items():
        prefix = next((one for one in moved if name.startswith(one)), None)
        if prefix or not name.startswith(blocks):
            chosen[moved[prefix] + name.removeprefix(prefix) if prefix else name] = weight
    return config.model_copy(update={"num_layers": layers}), chosen
