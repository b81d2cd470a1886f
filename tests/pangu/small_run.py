"""A run of a tiny network on the packed corpus, for tests of training."""

from pathlib import Path

from pangu.checkpoint.open import OPTIMIZER, WEIGHTS, step_directories
from pangu.config import TrainConfig
from tests.pangu import packed_corpus

STEPS = 24
LONG = 1000  # of a run that is to be met at work


def configuration(corpus: Path, out: Path, **changes: object) -> TrainConfig:
    model = corpus.parent / "model.yaml"
    model.write_text(packed_corpus.MODEL)
    fields = {
        "data": str(corpus),
        "out": str(out),
        "model": str(model),
        "steps": STEPS,
        "batch_size": 4,
        "evaluate_every": 8,
        "checkpoint_every": 6,
        "learning_rate": {"peak": 1e-2, "end": 1e-3, "warmup_steps": 3, "decay_steps": STEPS},
    }
    return TrainConfig.from_fields(fields | changes, "test")


def assert_same_end(run: Path, expected: Path) -> None:
    """Same metrics, weights and moments, byte for byte."""
    assert (run / "metrics.jsonl").read_bytes() == (expected / "metrics.jsonl").read_bytes()
    newest = step_directories(expected)[0].name
    for name in (WEIGHTS, OPTIMIZER):
        last = f"checkpoints/{newest}/{name}"
        assert (run / last).read_bytes() == (expected / last).read_bytes(), name


def long_configuration(corpus: Path, out: Path) -> TrainConfig:
    """Return the configuration of a run that takes long enough to be interrupted."""
    return configuration(corpus, out, steps=LONG, evaluate_every=250, checkpoint_every=250)
