"""A model of random weights with a tokenizer of its own, for tests that need one and not a good one."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save_file

from data_pipeline.dedup_check.chinese_grammar import documents
from data_pipeline.stages.tokenizer.training_process import train_tokenizer
from pangu import parameters
from pangu.config import ModelConfig

if TYPE_CHECKING:
    from pangu.model import PanguAlpha


def network_of(config: ModelConfig) -> "tuple[dict[str, np.ndarray], PanguAlpha]":
    """Return random weights, far enough from zero that nothing is lost in symmetry, and the network with them."""
    from pangu.model.network import build, read_weights

    random = np.random.default_rng(5)
    weights = {
        name: (value + random.normal(size=value.shape) * 0.2).astype(np.float32)
        for name, value in read_weights(build(config)).items()
    }
    return weights, build(config, weights).set_train(False)


def random_weights(config: ModelConfig, seed: int = 1, spread: float = 0.1) -> dict[str, np.ndarray]:
    """Every bias and norm is some number, as after training."""
    random = np.random.default_rng(seed)
    return {
        name: (name.endswith("gamma") + random.normal(0, spread, shape)).astype(np.float32)
        for name, shape in parameters.shapes(config).items()
    }


def write(folder: Path, seed: int = 1, **changes: object) -> Path:
    """Write weights.safetensors, model.yaml and tokenizer/ into a folder -> the weights' path."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(list(documents(seed=4, count=60)), folder / "tokenizer", vocab_size=600)
    sizes = {"num_layers": 2, "hidden_size": 32, "num_heads": 2, "ffn_hidden_size": 64, "seq_length": 128}
    fields = {**sizes, "vocab_size": tokenizer.vocab_size, "compute_dtype": "fp32", **changes}
    config = ModelConfig.from_fields(fields, "test")
    (folder / "model.yaml").write_text(config.dump(), encoding="utf-8")
    save_file(random_weights(config, seed), folder / "weights.safetensors")
    return folder / "weights.safetensors"
