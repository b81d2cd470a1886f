"""What stages have to say before they do it, such as how much a mixture takes of each source.

A stage module that has something to say holds `forecast(settings, tables) -> lines`, where `tables` are the files of
those of its tables that are up to date."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from data_pipeline.engine.manifest import Manifest
from data_pipeline.engine.preview import StepState
from data_pipeline.recipe import Recipe
from data_pipeline.stages import load_stage


def forecast(recipe: Recipe, root: Path, states: Sequence[StepState] = ()) -> Iterator[str]:
    """Yield the lines of all stages. Without `states` nothing counts as up to date."""
    for stage in recipe.stages:
        speak = getattr(load_stage(stage.kind), "forecast", None)
        if speak is not None:
            yield from speak(stage.settings, _tables(stage.name, root, states))


def _tables(stage: str, root: Path, states: Sequence[StepState]) -> dict[str, list[Path]]:
    current = [state for state in states if state.stage == stage and state.tasks and state.up_to_date == state.tasks]
    if not current:
        return {}
    manifest = Manifest(root, read_only=True)
    try:
        return {
            state.step: [root / output.path for row in manifest.finished(state.name).values() for output in row.outputs]
            for state in current
        }
    finally:
        manifest.close()
