"""What has to be done: the tasks of each step with their keys, compared with the manifest.

Both engines walk a recipe the same way: `plan_step`, run the tasks that are stale, `Inventory.advance`. A step's
tasks depend on the files that earlier steps left, so a plan reaches as far as the earlier steps are up to date."""

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_pipeline import record
from data_pipeline.engine import tasks
from data_pipeline.engine.code_digest import code_digests
from data_pipeline.engine.manifest import Finished, Key, Manifest, digest
from data_pipeline.engine.steps import Context, Files, Global, GroupBy, InputFile, Map, Read, Step
from data_pipeline.recipe import Recipe, Stage
from pangu.foundation.yaml_document import shown


@dataclass
class Inventory:
    """What exists at a place of the recipe: the record shards, the tables of the stage, the files that stages left."""

    documents: list[InputFile] = field(default_factory=list)
    signals: tuple[str, ...] = ()
    files: dict[str, list[InputFile]] = field(default_factory=dict)
    tables: dict[str, list[InputFile]] = field(default_factory=dict)
    schemas: dict[str, pa.Schema] = field(default_factory=dict)

    def begin_stage(self) -> None:
        self.tables, self.schemas = {}, {}

    def advance(self, plan: "PlannedStep", rows: Sequence[Finished], root: Path) -> None:
        """Take in a step that is done; `rows` are its tasks, in order."""
        step = plan.step
        outputs = [output for row in rows for output in row.outputs]
        found = [
            InputFile(root / output.path, output.checksum, output.rows)
            for output in outputs
            if output.role != "dropped"
        ]
        if plan.makes_records:
            self.documents, self.signals = found, plan.signals
        else:
            self.tables[step.name] = found
            if isinstance(step, Map):
                self.schemas[step.name] = tasks.table_schema(step)
            elif isinstance(step, GroupBy):
                self.schemas[step.name] = step.table
            else:
                self.files[plan.stage.kind] = found

    def find(self, need: str) -> list[InputFile]:
        if need == "documents":
            return self.documents
        return self.tables[need] if need in self.tables else self.files[need]


@dataclass(frozen=True)
class PlannedTask:
    """A task, the key that decides whether it is up to date, and how to build what a worker needs."""

    name: str
    key: Key
    build: Callable[[], Any]
    size: int
    """How much work it is, for the time left: rows of a Map, bytes of anything else."""


@dataclass
class PlannedStep:
    """A step with all its tasks; `done` holds the rows of those that are up to date."""

    stage: Stage
    step: Step
    folder: str
    settings: dict[str, Any]
    code: dict[str, str]
    signals: tuple[str, ...]
    tasks: list[PlannedTask]
    done: dict[str, Finished]
    before: dict[str, Finished]
    """All rows of the manifest for this step, whatever their keys."""

    @property
    def name(self) -> str:
        return f"{self.stage.name}/{self.step.name}"

    @property
    def makes_records(self) -> bool:
        """Return whether its files are records, kept and dropped ones, rather than a table or files of another kind."""
        return _makes_records(self.step)

    @property
    def to_run(self) -> list[PlannedTask]:
        return [task for task in self.tasks if task.name not in self.done]


def check_libraries(stages: Sequence[Stage]) -> None:
    """Raise ModuleNotFoundError for a library that a step needs, before the first one runs."""
    for stage in stages:
        for step in stage.steps:
            code_digests(step, stage.settings)


def plan_step(recipe: Recipe, stage: Stage, step: Step, inventory: Inventory, manifest: Manifest) -> PlannedStep:
    """Return the tasks of one step, given what the earlier steps left."""
    root = manifest.root
    folder = f"stages/{stage.name}" if _makes_records(step) else f"stages/{stage.name}/{step.name}"
    dumped = stage.settings.model_dump(mode="json")
    settings = dumped if step.reads is None else {name: dumped[name] for name in step.reads}
    code = code_digests(step, stage.settings)
    signals = inventory.signals
    if isinstance(step, Read | Map):
        signals = tuple(dict.fromkeys((*inventory.signals, *step.signals)))
    settings_digest = digest(json.dumps(settings, sort_keys=True))
    code_digest = digest(json.dumps(code, sort_keys=True))
    place = _Place(recipe, stage, inventory, root, folder, signals)
    listed = [
        PlannedTask(task.name, Key(settings_digest, code_digest, digest(*task.inputs)), task.build, task.size)
        for task in _LISTERS[type(step)](step, place)
    ]
    before = manifest.finished(f"{stage.name}/{step.name}")
    done = {}
    for task in listed:
        row = before.get(task.name)
        if row is not None and row.key == task.key and manifest.is_present(row):
            done[task.name] = row
    return PlannedStep(stage, step, folder, settings, code, signals, listed, done, before)


def _makes_records(step: Step) -> bool:
    return isinstance(step, Read) or (isinstance(step, Map) and step.table is None)


@dataclass(frozen=True)
class _Listed:
    """A task before its key is made: what the key holds besides settings and code, how to build it, how much it is."""

    name: str
    inputs: list[str]
    build: Callable[[], Any]
    size: int


@dataclass(frozen=True)
class _Place:
    """Where the tasks of a step are being listed for."""

    recipe: Recipe
    stage: Stage
    inventory: Inventory
    root: Path
    folder: str
    signals: tuple[str, ...]

    @property
    def memory(self) -> int:
        """Return what one task may use that runs alone: a quarter stays for the parent and for what no limit covers."""
        return self.recipe.memory * 3 // 4


def _read_tasks(step: Read, place: _Place) -> list[_Listed]:
    settings: Any = place.stage.settings
    build = functools.partial(tasks.ReadTask, step, settings)
    return [
        _Listed(
            item.name,
            [item.identity],
            functools.partial(build, item, place.root, place.folder, item.shard_bytes),
            item.bytes,
        )
        for item in step.items(place.recipe.sources, settings, place.recipe.path.parent)
    ]


def _map_tasks(step: Map, place: _Place) -> list[_Listed]:
    shards = place.inventory.find(step.needs[0])
    sides = [_by_shard(place.inventory.find(need), shards) for need in step.needs[1:]]
    schema = record.schema(place.signals) if step.table is None else tasks.table_schema(step)
    listed = []
    for shard in shards:
        side = [find(shard.stem) for find in sides]
        paths = tuple(tuple(file.path for file in files) for files in side)
        task = functools.partial(tasks.MapTask, step, place.stage.settings, shard.path, shard.stem, paths, schema)
        inputs = [shard.checksum, ",".join(place.signals), *(file.checksum for files in side for file in files)]
        listed.append(_Listed(shard.stem, inputs, functools.partial(task, place.root, place.folder), shard.rows))
    return listed


def _group_by_tasks(step: GroupBy, place: _Place) -> list[_Listed]:
    inputs = {need: place.inventory.find(need) for need in step.needs}
    tables = {
        need: (tuple(file.path for file in files), place.inventory.schemas[need])
        for need, files in inputs.items()
        if need in place.inventory.schemas
    }
    shards = tuple(file.stem for file in place.inventory.documents)
    task = functools.partial(tasks.GroupByTask, step, place.stage.settings, tables, shards, place.root, place.folder)
    build = functools.partial(task, place.memory, place.recipe.workers)
    return [_Listed("all", [*_checksums(inputs), *shards], build, 0)]


def _global_tasks(step: Global, place: _Place) -> list[_Listed]:
    settings = place.stage.settings
    inputs = {need: place.inventory.find(need) for need in step.needs}
    task = functools.partial(tasks.FilesTask, step, settings, None, inputs, place.root, place.folder)
    build = functools.partial(task, place.memory, place.recipe.workers)
    return [_Listed("all", [*_checksums(inputs), step.identity(settings)], build, 0)]


def _files_tasks(step: Files, place: _Place) -> list[_Listed]:
    settings = place.stage.settings
    inputs = {need: place.inventory.find(need) for need in step.needs}
    memory = place.memory // place.recipe.workers
    context = Context(settings, inputs, place.root, place.root / "tmp", 1, memory, lambda documents, size: None)
    listed = []
    for item in step.items(context):
        task = functools.partial(tasks.FilesTask, step, settings, item, inputs, place.root, place.folder, memory, 1)
        listed.append(_Listed(item.name, [item.identity], task, item.bytes))
    return listed


_LISTERS: dict[type[Step], Callable[[Any, _Place], list[_Listed]]] = {
    Read: _read_tasks,
    Map: _map_tasks,
    GroupBy: _group_by_tasks,
    Global: _global_tasks,
    Files: _files_tasks,
}


def _checksums(inputs: dict[str, list[InputFile]]) -> list[str]:
    return [text for need, files in inputs.items() for text in (need, *(file.checksum for file in files))]


def _by_shard(files: list[InputFile], shards: Sequence[InputFile]) -> Callable[[str], list[InputFile]]:
    """Return which of `files` a shard gets: the one named like it where the files are named like shards, else all of
    them.
    """
    by_stem = {file.stem: [file] for file in files}
    if any(shard.stem in by_stem for shard in shards):
        return lambda shard: by_stem.get(shard, [])
    return lambda shard: files


def explain(plan: PlannedStep, manifest: Manifest) -> list[str]:
    """Return why the tasks of a step are stale, in words; empty when it is up to date."""
    if not plan.to_run:
        return []
    recorded = manifest.step_settings(plan.name)
    if recorded is None or not plan.before:
        return ["has not been run here yet"]
    old_settings, old_code, _ = recorded
    old, new = dict(_flat(old_settings)), dict(_flat(plan.settings))
    reasons = [
        f"setting {name}: {shown(old.get(name))} → {shown(new.get(name))}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    reasons += [
        f"{'code of' if '.' in name else 'version of'} {name} changed"
        for name in sorted({*old_code, *plan.code})
        if old_code.get(name) != plan.code.get(name)
    ]
    fresh, changed, gone = [], [], []
    for task in plan.to_run:
        row = plan.before.get(task.name)
        if row is None:
            fresh.append(task.name)
        elif row.key.inputs != task.key.inputs:
            changed.append(task.name)
        elif row.key == task.key:
            gone.append(task.name)
    for names, words in ((fresh, "not done yet"), (changed, "input changed"), (gone, "output missing or cut")):
        if names:
            named = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
            reasons.append(f"{words}: {len(names)} of {len(plan.tasks)} tasks ({named})")
    return reasons or [f"{len(plan.to_run)} of {len(plan.tasks)} tasks were made with other settings or code"]


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield settings inside settings by dotted names, so that only what changed is named."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
