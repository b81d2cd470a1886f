"""What a run would do, without doing it: the plan as far as it can be known."""

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_pipeline.engine.manifest import Manifest
from data_pipeline.engine.plan import Inventory, check_libraries, explain, plan_step
from data_pipeline.recipe import Recipe
from data_pipeline.stages.read.source_files import check_apart


@dataclass(frozen=True)
class StepState:
    """A step of a stage. `tasks` is None where it depends on a step that has to run first."""

    stage: str
    step: str
    tasks: int | None
    up_to_date: int
    reasons: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.stage}/{self.step}"

    def in_words(self) -> str:
        """Return `up to date`, or what has to be done."""
        if self.tasks is None:
            return self.reasons[0]
        if self.up_to_date == self.tasks:
            return f"up to date ({self.tasks} tasks)" if self.tasks != 1 else "up to date"
        return f"{self.tasks - self.up_to_date} of {self.tasks} tasks to run"

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "state": self.in_words()}


def preview(recipe: Recipe, root: Path) -> list[StepState]:
    """Return the state of every step of a recipe in an output directory (which need not exist)."""
    check_apart(recipe.sources, recipe.path.parent, root)
    if (root / "manifest.sqlite").exists():
        manifest = Manifest(root, read_only=True)
        try:
            return _states(recipe, manifest)
        finally:
            manifest.close()
    with tempfile.TemporaryDirectory() as empty:
        manifest = Manifest(Path(empty))
        try:
            return _states(recipe, manifest)
        finally:
            manifest.close()


def _states(recipe: Recipe, manifest: Manifest) -> list[StepState]:
    check_libraries(recipe.stages)
    inventory = Inventory()
    states: list[StepState] = []
    waits_for: str | None = None
    for stage in recipe.stages:
        inventory.begin_stage()
        for step in stage.steps:
            name = f"{stage.name}/{step.name}"
            if waits_for is not None:
                states.append(
                    StepState(stage.name, step.name, None, 0, (f"runs, if {waits_for} comes out differently",))
                )
                continue
            plan = plan_step(recipe, stage, step, inventory, manifest)
            states.append(
                StepState(stage.name, step.name, len(plan.tasks), len(plan.done), tuple(explain(plan, manifest)))
            )
            if plan.to_run:
                waits_for = name
            else:
                inventory.advance(plan, [plan.done[task.name] for task in plan.tasks], manifest.root)
    return states
