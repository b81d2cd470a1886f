"""A small packed corpus for the training tests: sentences of a tiny language, so that there is something to learn."""

import json
from pathlib import Path

import numpy as np

END, PAD, SEQ_LENGTH, VOCAB = 9, 6, 16, 64


def write_split(directory: Path, name: str, rows: np.ndarray) -> dict:
    from mindspore.mindrecord import FileWriter

    file = f"{name}-00000.mindrecord"
    writer = FileWriter(str(directory / file), 1, overwrite=True)
    writer.add_schema({"input_ids": {"type": "int32", "shape": [-1]}}, "packed samples")
    writer.write_raw_data([{"input_ids": row} for row in rows])
    writer.commit()
    tokens = int((rows != PAD).sum())
    return {
        "files": [file],
        "samples": len(rows),
        "tokens": tokens,
        "documents": len(rows),
        "bytes_of_text": 3 * tokens,
    }


def write(directory: Path, samples: int = 40, vocab_size: int = VOCAB, tokenizer: str | None = "0" * 64) -> Path:
    """A packed corpus whose rows count upwards from a random start, document after document."""
    directory.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(7)
    rows = np.empty((samples + 8, SEQ_LENGTH + 1), np.int32)
    for row in rows:
        ids: list[int] = []
        while len(ids) <= SEQ_LENGTH:
            start, length = random.integers(10, 40), random.integers(3, 9)
            ids += [*range(start, start + length), END]
        row[:] = ids[: SEQ_LENGTH + 1]
    rows[-1, 10:] = PAD
    splits = {
        "train": write_split(directory, "train", rows[:samples]),
        "heldout": write_split(directory, "heldout", rows[samples:]),
    }
    description = {
        "version": 1,
        "seq_length": SEQ_LENGTH,
        "vocab_size": vocab_size,
        "end_of_document_id": END,
        "pad_id": PAD,
        "tokenizer_fingerprint": tokenizer,
        "splits": splits,
    }
    (directory / "packed.json").write_text(json.dumps(description))
    return directory


MODEL = """
num_layers: 2
hidden_size: 16
num_heads: 2
ffn_hidden_size: 32
seq_length: 16
vocab_size: 64
compute_dtype: fp32
dropout_rate: 0.1
"""
