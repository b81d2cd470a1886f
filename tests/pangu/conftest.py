"""What several tests of the model share: a corpus, a finished run, a run of random weights."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.pangu import packed_corpus, small_run

TEXTS = ["今天天气很好，我们去公园。", "北京是中国的首都。", "人工智能正在改变世界。", "他说：“你好！”"] * 20


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed corpus; nobody changes it."""
    return packed_corpus.write(tmp_path_factory.mktemp("corpus") / "packed")


@pytest.fixture(scope="session")
def uninterrupted(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that others are compared with; nobody changes it."""
    from pangu.training.run import train

    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    summary = train(small_run.configuration(corpus, out))
    assert summary.step == small_run.STEPS and not summary.interrupted
    return out


@pytest.fixture(scope="session")
def long_run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of `small_run.long_configuration`."""
    from pangu.training.run import train

    out = tmp_path_factory.mktemp("long") / "run"
    assert train(small_run.long_configuration(corpus, out)).step == small_run.LONG
    return out


@pytest.fixture(scope="session")
def random_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one checkpoint of random weights, and beside it the weights alone."""
    from data_pipeline.stages.tokenizer.training_process import train_tokenizer
    from pangu.checkpoint.open import TrainingState
    from pangu.checkpoint.save import save_checkpoint
    from pangu.config import ModelConfig
    from pangu.model.network import build, read_weights
    from pangu.tokenizer import Tokenizer

    run = tmp_path_factory.mktemp("generate") / "run"
    train_tokenizer(TEXTS, run / "tokenizer", vocab_size=320)
    vocab_size = Tokenizer.load(run / "tokenizer").vocab_size
    config = ModelConfig(
        num_layers=2,
        hidden_size=16,
        num_heads=2,
        ffn_hidden_size=32,
        seq_length=64,
        vocab_size=vocab_size,
        compute_dtype="fp32",
    )
    weights = read_weights(build(config))
    state = TrainingState(3, 1.0, 0, 0, 0, None)
    moments = {f"adam_{moment}.{name}": np.zeros_like(value) for name, value in weights.items() for moment in "mv"}
    save_checkpoint(run, state, weights, moments, config, {})
    save_file(weights, run.parent / "weights.safetensors")
    (run.parent / "small.yaml").write_text(config.dump())
    return run


@pytest.fixture(scope="module")
def run_directory(random_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for the tests of a file, which may write into it."""
    folder = tmp_path_factory.mktemp("generate") / "copy"
    shutil.copytree(random_run.parent, folder)
    return folder / "run"
