"""Layouts as a user names them for `pangu reshard`: a strategy.yaml, or MindSpore's strategy files."""

from collections.abc import Sequence
from pathlib import Path

from pangu.checkpoint.open import MOMENTS, with_moments
from pangu.checkpoint.reshard import Stages
from pangu.config import ModelConfig
from pangu.distributed.strategy import load_strategy
from pangu.formats.source import Source
from pangu.formats.strategy_checkpoint import read_stages
from pangu.foundation.errors import UserError


def stages_of(paths: Sequence[Path], model: ModelConfig | None) -> Stages:
    """Return the layouts that the files give, with those of Adam's moments.

    model: what a strategy.yaml must be for.
    """
    yaml = [path for path in paths if path.suffix in (".yaml", ".yml")]
    if yaml and len(paths) > 1:
        raise UserError(f"{yaml[0]}: a strategy.yaml says everything: give it alone")
    stages = load_strategy(yaml[0], model).stage_layouts if yaml else read_stages(paths)
    return {
        first: held if any(name.startswith(MOMENTS) for name in held) else with_moments(held)
        for first, held in stages.items()
    }


def check_shapes(source: Source, paths: Sequence[Path], model: ModelConfig | None) -> None:
    """Raise UserError where parameters have other shapes than the model of a strategy.yaml gives them."""
    if [path.suffix for path in paths] not in ([".yaml"], [".yml"]):
        return
    for name, shape in load_strategy(paths[0], model).shapes.items():
        info = source.tensors.get(name)
        if info is not None and info.shape != shape:
            raise UserError(
                f"{source.path}: {name!r} has shape {list(info.shape)}; by {paths[0]} it must have {list(shape)}"
            )
