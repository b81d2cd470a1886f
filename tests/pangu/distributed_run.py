"""A tiny run for the tests of distributed training: corpus, train.yaml and a strategy of n data-parallel devices."""

from pathlib import Path

import yaml

from tests.pangu import packed_corpus

MACHINE = {
    "name": "this-machine",
    "device": {"name": "cpu", "peak_tflops": {"fp32": 0.1}, "hbm": {"gb": 16, "usable_gb": 14, "gbps": 10}},
    "topology": [{"level": "server", "size": 8, "kind": "shared_memory", "gbps": 1}],
}


def write(folder: Path, devices: int = 2, **changes: object) -> tuple[Path, Path]:
    """train.yaml and strategy.yaml (optimizer sharding, every parameter) in a folder."""
    corpus = packed_corpus.write(folder / "packed")
    (folder / "model.yaml").write_text(packed_corpus.MODEL)
    (folder / "machine.yaml").write_text(yaml.safe_dump(MACHINE))
    train = {
        "data": str(corpus),
        "out": str(folder / "run"),
        "model": str(folder / "model.yaml"),
        "steps": 9,
        "batch_size": 4,
        "evaluate_every": 5,
        "checkpoint_every": 3,
        "learning_rate": {"peak": 1e-2, "end": 1e-3, "warmup_steps": 2, "decay_steps": 9},
    }
    (folder / "train.yaml").write_text(yaml.safe_dump(train | changes))
    strategy = {
        "model": {"file": "model.yaml"},
        "cluster": {"file": "machine.yaml"},
        "batch": {"global": 4, "micro": 4 // devices},
        "mesh": {"dp": devices},
        "zero": {"optimizer_shard": True, "threshold_kb": 0},
    }
    (folder / "strategy.yaml").write_text(yaml.safe_dump(strategy))
    return folder / "train.yaml", folder / "strategy.yaml"
