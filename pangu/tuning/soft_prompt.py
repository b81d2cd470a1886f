"""Virtual tokens: prefix, prompt and P-tuning in files as PEFT writes them, and as keys and values.

    OUT/adapter_config.json        peft_type PREFIX_TUNING, PROMPT_TUNING or P_TUNING, and num_virtual_tokens n
    OUT/adapter_model.safetensors  prompt_embeddings [n, 2·L·d] (a layer's keys, then its values), or [n, d]

A prompt's vectors see themselves alone, so that what every layer keeps of them never changes: for decoding, a prompt is
a prefix. PEFT lets a text stand n positions later, because the network counts what it has kept; our own runs do not,
and keep the positions that the base was trained with, unless `shift_positions` asks for it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pangu import parameters
from pangu.config import ModelConfig
from pangu.foundation.atomic_file import write_whole
from pangu.foundation.errors import UserError
from pangu.tuning.adapter_file import CONFIG, MATRICES, read_json, read_tensors, save_tensors

KEY = "prompt_embeddings"
PREFIX, PROMPTS = "PREFIX_TUNING", ("PROMPT_TUNING", "P_TUNING")


def start_ids(rows: np.ndarray, count: int, seed: int, without: tuple[int, ...]) -> np.ndarray:
    """Draw words of the records, int64 [count]. rows int32 [N, 2 (S+1)]; without: ids that are no words."""
    ids = rows[:, : rows.shape[1] // 2]
    words = ids[~np.isin(ids, without)]
    random = np.random.Generator(np.random.Philox(key=[seed, 0x76697274]))
    return random.choice(words, count).astype(np.int64)


def start_vectors(weights: Mapping[str, np.ndarray], ids: np.ndarray) -> np.ndarray:
    """Return the embeddings of ids, fp32 [n, d]."""
    return np.asarray(weights[parameters.WORD_TABLE][ids], np.float32)


def keys_values(
    config: ModelConfig, weights: Mapping[str, np.ndarray], vectors: np.ndarray, is_shifted: bool
) -> np.ndarray:
    """Return what every layer keeps of input vectors [n, d]: unscaled keys and values, fp32 [layers, 2, n, d].

    is_shifted: the vectors stand at the first n positions; else they have none.
    """
    from pangu.generation.compiled.compiled_network import CompiledNetwork
    from pangu.generation.decoding_batch import SLOTS, RowTokens

    count = len(vectors)
    positions = np.asarray(weights[parameters.POSITION_TABLE], np.float32) * float(is_shifted)
    tables = {parameters.WORD_TABLE: np.asarray(vectors, np.float32), parameters.POSITION_TABLE: positions}
    plain = {"vocab_size": count, "softmax_dtype": "fp32", "target_in_trunk": False}
    kept = {name: weight for name, weight in weights.items() if name != parameters.TARGET_TABLE}
    network = CompiledNetwork(config.model_copy(update=plain), {**kept, **tables}, threads=1)
    batch = network.open(1, -(-count // SLOTS) * SLOTS)
    batch.read([RowTokens(0, range(count))])
    return batch.kept(0)


def write_prefix(folder: Path, config: ModelConfig, prefix: np.ndarray, base: str) -> None:
    """Write keys and values [layers, 2, n, d] as PEFT's prefix tuning does."""
    count = prefix.shape[2]
    rows = np.ascontiguousarray(prefix.transpose(2, 0, 1, 3).reshape(count, -1))
    fields = {"prefix_projection": False, "encoder_hidden_size": config.hidden_size}
    _write(folder, config, rows, base, PREFIX, fields)


def write_prompt(folder: Path, config: ModelConfig, vectors: np.ndarray, base: str, peft_type: str) -> None:
    """Write input vectors [n, d] as PEFT's prompt tuning or P-tuning does."""
    hidden = config.hidden_size
    fields: dict[str, Any] = {"encoder_reparameterization_type": "MLP", "encoder_hidden_size": hidden}
    if peft_type == "PROMPT_TUNING":
        fields = {"prompt_tuning_init": "RANDOM", "prompt_tuning_init_text": None, "tokenizer_name_or_path": None}
    _write(folder, config, vectors, base, peft_type, fields)


def _write(
    folder: Path, config: ModelConfig, rows: np.ndarray, base: str, peft_type: str, fields: dict[str, Any]
) -> None:
    save_tensors(folder / MATRICES, {KEY: rows}, {"format": "pt"})
    settings = {
        "peft_type": peft_type,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "num_virtual_tokens": len(rows),
        "token_dim": config.hidden_size,
        "num_transformer_submodules": 1,
        "num_attention_heads": config.num_heads,
        "num_layers": config.num_layers,
        **fields,
        "inference_mode": True,
    }
    write_whole(folder / CONFIG, json.dumps(settings, indent=2) + "\n")


def read_virtual(folder: Path, config: ModelConfig) -> np.ndarray:
    """Read a prefix, fp32 [layers, 2, n, d], or a prompt's vectors, fp32 [n, d]. Raises UserError."""
    settings = read_json(folder / CONFIG)
    count, kind = settings.get("num_virtual_tokens"), settings.get("peft_type")
    found = read_tensors(folder / MATRICES)
    if set(found) != {KEY}:
        raise UserError(f"{folder / MATRICES}: must hold {KEY!r} alone; holds {', '.join(sorted(found)) or 'nothing'}")
    rows, layers, hidden = found[KEY], config.num_layers, config.hidden_size
    wanted = (count, 2 * layers * hidden if kind == PREFIX else hidden)
    if not isinstance(count, int) or count < 1 or rows.shape != wanted:
        raise UserError(f"{folder / MATRICES}: {KEY} must be {list(wanted)} for this model, is {list(rows.shape)}")
    if count >= config.seq_length:
        raise UserError(f"{folder / CONFIG}: num_virtual_tokens {count}: the context holds {config.seq_length}")
    rows = rows.astype(np.float32)
    return rows.reshape(count, layers, 2, hidden).transpose(1, 2, 0, 3) if kind == PREFIX else rows


def shifted_tables(
    config: ModelConfig, weights: Mapping[str, np.ndarray], offset: int
) -> tuple[ModelConfig, dict[str, np.ndarray]]:
    """Return a network whose texts begin at position `offset`, and whose context is so much shorter."""
    tables = (parameters.POSITION_TABLE, parameters.QUERY_TABLE, parameters.TARGET_TABLE)
    moved = {name: np.ascontiguousarray(weights[name][offset:]) for name in tables if name in weights}
    return config.model_copy(update={"seq_length": config.seq_length - offset}), {**weights, **moved}
