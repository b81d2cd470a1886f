"""The strategy that tests of exports begin with."""

from pathlib import Path

from parallel_strategy.spec.strategy import Setup, StrategySpec

SMALL = {
    "model": {"preset": "pangu-alpha-2.6b"},
    "cluster": {"preset": "atlas-800-910a"},
    "batch": {"global": 16, "micro": 1},
    "mesh": {"pp": 2, "dp": 2, "tp": 2},
    "zero": {"optimizer_shard": True},
    "recompute": {"mode": "full"},
}


def setup_of(**changes: object) -> Setup:
    return Setup.resolve(StrategySpec.from_fields(SMALL | changes, "test"), Path())
