"""Start training from Python."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pangu.config import TrainConfig
    from pangu.training.run import Summary


def train(config: "TrainConfig | Path | str", **changes: Any) -> "Summary":
    """Train, or go on with, the run that a train.yaml or a `TrainConfig` describes, and return how it ended.

    changes: fields to set otherwise, e.g. steps=100. Raises UserError in one line.
    """
    from pangu.config import TrainConfig
    from pangu.training.run import train as run

    if not isinstance(config, TrainConfig):
        config = TrainConfig.load(config)
    if changes:
        config = TrainConfig.from_fields(config.model_dump(mode="json") | changes, "train()")
    return run(config)
