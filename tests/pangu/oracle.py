"""The oracle files as the tests use them."""

import json
from pathlib import Path

import numpy as np

from pangu.config import ModelConfig
from pangu.formats.names import canonical_names

ACTIVATIONS = {"gelu": "gelu_tanh", "fast_gelu": "fast_gelu"}


def load(path: Path) -> tuple[ModelConfig, dict[str, np.ndarray], dict[str, np.ndarray], dict]:
    """(model configuration, weights by released name, all arrays, the file's own description)."""
    arrays = dict(np.load(path))
    meta = json.loads(arrays["meta_json"].tobytes())
    config = ModelConfig(
        num_layers=meta["layers"],
        hidden_size=meta["hidden"],
        num_heads=meta["heads"],
        ffn_hidden_size=meta["ffn"],
        seq_length=meta["seq"],
        vocab_size=meta["vocab"],
        activation=ACTIVATIONS[meta["act"]],
        final_norm="before_query" if meta["pipeline"] == 1 else "after_query",
        compute_dtype=meta["precision"],
        softmax_dtype=meta["softmax"],
    )
    names = [key.removeprefix("param/") for key in arrays if key.startswith("param/")]
    weights = {ours: arrays[f"param/{name}"] for name, ours in canonical_names(names).items()}
    return config, weights, arrays, meta
