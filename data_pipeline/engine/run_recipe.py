"""Runs a recipe: step by step what is not up to date, then the output folders.

The tasks themselves are done by an engine: a pool of processes on this machine, with DuckDB for what belongs together,
or Spark (engine/spark.py)."""

import gc
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from data_pipeline.engine import tasks
from data_pipeline.engine.heavy_rules import HeavyRules
from data_pipeline.engine.manifest import Finished, Manifest
from data_pipeline.engine.plan import Inventory, PlannedStep, check_libraries, plan_step
from data_pipeline.engine.pool import START_METHOD, Job, Pool, describe_system_error
from data_pipeline.engine.relational import load_engine
from data_pipeline.engine.run_files import checksum, commit_directory, link, locked
from data_pipeline.engine.steps import GroupBy
from data_pipeline.kernels.first_use import use_python
from data_pipeline.recipe import Recipe, Stage
from pangu.foundation.errors import UserError

if TYPE_CHECKING:
    from data_pipeline.engine.spark import SparkEngine

MINIMUM_FREE_BYTES = 64 << 20
# stages whose work is as large as the sources: a little of it is done without compiled kernels
PLAIN_STAGES = frozenset(
    (
        *("read", "clean", "filter", "dedup_exact", "dedup_fuzzy", "dedup_paragraph", "dedup_substring"),
        *("tokenizer", "mix", "pack", "export"),
    )
)


class Reporter(Protocol):
    """Whoever shows what a run is doing."""

    def step_started(self, plan: PlannedStep) -> None: ...

    def tick(self, documents: int, size: int) -> None: ...

    def task_done(self, plan: PlannedStep, result: tasks.Result) -> None: ...

    def stage_finished(self, summary: "StageSummary") -> None: ...

    def say(self, lines: Iterable[str]) -> None: ...


class Engine(Protocol):
    """Whoever does the tasks; results come in the order in which they finish."""

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, tasks.Result]]: ...


@dataclass
class StageSummary:
    """What a stage did, over all its tasks, also those of earlier runs."""

    name: str
    kind: str
    documents_in: int = 0
    documents: int = 0
    bytes_in: int = 0
    bytes: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    tasks: int = 0
    reused: int = 0
    files: dict[str, int] = field(default_factory=dict)
    state: str = "finished"
    """`finished`, `not run`, or how far it is."""


def run(
    recipe: Recipe, root: Path, reporter: Reporter, *, until: str | None = None, verify: bool = False
) -> list[StageSummary]:
    """Run what is not up to date; return a summary for each stage. Every failure of the user's is a UserError."""
    for stage in recipe.stages:
        stage.settings.check_output(stage.name, root)
    from data_pipeline.stages.read.source_files import check_apart  # what it needs is slow to import

    check_apart(recipe.sources, recipe.path.parent, root)
    with locked(root):
        root = root.absolute()  # workers may have working directories of their own
        temporary = root / "tmp"
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(exist_ok=True)
            manifest = Manifest(root)
        except OSError as error:
            raise UserError(f"{root}: the output directory cannot be written: {error.strerror}") from error
        try:
            if verify:
                _forget_damaged(manifest, recipe)
            with _engine(recipe, root, reporter) as engine:
                return _run_stages(recipe, manifest, engine, reporter, until)
        except sqlite3.Error as error:
            raise UserError(f"{root}/manifest.sqlite: cannot be written: {error}") from error
        except OSError as error:
            raise UserError(describe_system_error(error) or str(error)) from error
        finally:
            gc.unfreeze()  # what `_load` froze is collected again, if the caller goes on
            use_python(False)
            manifest.close()
            shutil.rmtree(temporary, ignore_errors=True)


def _engine(recipe: Recipe, root: Path, reporter: Reporter) -> "Pool | SparkEngine":
    if recipe.engine == "spark":
        from data_pipeline.engine.spark import SparkEngine

        return SparkEngine(root, recipe.workers, recipe.memory)
    return Pool(recipe.workers, on_tick=reporter.tick)


def _run_stages(
    recipe: Recipe, manifest: Manifest, engine: Engine, reporter: Reporter, until: str | None
) -> list[StageSummary]:
    wanted = next((number for number, stage in enumerate(recipe.stages, 1) if stage.name == until), None)
    check_libraries(recipe.stages[:wanted])
    manifest.record_stages([(stage.name, stage.kind) for stage in recipe.stages])
    manifest.begin_stages()
    inventory = Inventory()
    summaries: list[StageSummary] = []
    published: dict[str, dict[str, Path]] = {"documents": {}, "rejects": {}}
    is_prepared = False
    for stage in recipe.stages:
        inventory.begin_stage()
        summary = StageSummary(stage.name, stage.kind)
        for step in stage.steps:
            plan = plan_step(recipe, stage, step, inventory, manifest)
            if plan.to_run and not is_prepared:
                is_prepared = True
                reporter.say(_prepare_kernels(recipe))
                _load(recipe, stage)
            rows = _run_step(plan, manifest, engine, reporter)
            inventory.advance(plan, rows, manifest.root)
            _add(summary, rows, len(plan.tasks), len(plan.done))
            _collect(published, plan, rows, manifest.root)
        summaries.append(summary)
        manifest.finish_stage(stage.name)
        reporter.stage_finished(summary)
        if stage.name == until:
            return summaries
    _forget_old_stages(recipe, manifest)
    published["documents"] = {f"{file.stem}.parquet": file.path for file in inventory.documents}
    for folder, files in published.items():
        publish(manifest.root, folder, files)
    return summaries


def _prepare_kernels(recipe: Recipe) -> list[str]:
    """Choose how kernels run where there is no machine code yet; return what a user should know of it."""
    from data_pipeline.kernels import first_use
    from data_pipeline.stages.read.source_files import text_size  # what it needs is slow to import

    size, has_pages = text_size(recipe.sources, recipe.path.parent, first_use.PLAIN_BYTES)
    is_simple = all(
        stage.kind in PLAIN_STAGES and getattr(stage.settings, "against", None) is None for stage in recipe.stages
    )
    told = first_use.prepare(
        [stage.kind for stage in recipe.stages],
        size,
        has_pages=has_pages,
        is_small_enough=is_simple and recipe.engine == "local",
    )
    return [told] if told else []


def _load(recipe: Recipe, first: Stage) -> None:
    """Load what the stages from `first` on need, once: the workers, which are forked afterwards, inherit it."""
    if recipe.engine != "local" or START_METHOD != "fork":
        return
    for stage in recipe.stages[recipe.stages.index(first) :]:
        for step in stage.steps:
            if step.prepare is not None:
                step.prepare(stage.settings)
            elif isinstance(step, GroupBy):
                load_engine()
    gc.freeze()  # else the collector of each worker looks at, and so copies, all that it inherits


def _run_step(plan: PlannedStep, manifest: Manifest, engine: Engine, reporter: Reporter) -> list[Finished]:
    """Run the stale tasks of a step; the rows of all its tasks, in their order."""
    reporter.step_started(plan)
    rows = dict(plan.done)
    if plan.to_run:
        manifest.record_step(plan.name, plan.settings, plan.code, len(plan.tasks))
    by_name = {f"{plan.name}/{task.name}": task for task in plan.to_run}

    def jobs():
        for name, task in by_name.items():
            _check_space(manifest.root)
            yield tasks.job(name, task.build())

    heavy = HeavyRules(plan.stage.name, plan.stage.kind, manifest.root)
    for row in plan.done.values() if plan.to_run else ():
        heavy.add(row.counts)
    for job, result in engine.run(jobs()):
        task = by_name[job.name]
        row = Finished(task.name, task.key, result.outputs, result.counts, result.seconds)
        manifest.record(plan.name, row)
        rows[task.name] = row
        reporter.task_done(plan, result)
        reporter.say(heavy.add(result.counts))
    reporter.say(heavy.finish())
    _remove_orphans(plan, rows, manifest)
    return [rows[task.name] for task in plan.tasks]


def _check_space(root: Path) -> None:
    state = os.statvfs(root)
    if state.f_bavail * state.f_frsize < MINIMUM_FREE_BYTES:
        raise UserError(
            f"{root}: the disk is full (less than 64 MiB left); make room and run again, what is done is kept"
        )


def _remove_orphans(plan: PlannedStep, rows: dict[str, Finished], manifest: Manifest) -> None:
    """Forget tasks that the step no longer has, and delete files that no task claims."""
    gone = [name for name in plan.before if name not in rows]
    if gone:
        manifest.forget(plan.name, gone)
    claimed = {output.path for row in rows.values() for output in row.outputs}
    folder = manifest.root / plan.folder
    # beside the records of a stage lie the tables of its earlier steps
    for part in (folder / "kept", folder / "dropped") if plan.makes_records else (folder,):
        for path in sorted(part.rglob("*")) if part.exists() else []:
            if path.is_file() and path.relative_to(manifest.root).as_posix() not in claimed:
                path.unlink()


def _forget_old_stages(recipe: Recipe, manifest: Manifest) -> None:
    """Delete what stages that the recipe no longer has left behind."""
    names = {stage.name for stage in recipe.stages}
    steps = {f"{stage.name}/{step.name}" for stage in recipe.stages for step in stage.steps}
    for step in manifest.steps():
        if step not in steps:
            manifest.forget_step(step)
    folder = manifest.root / "stages"
    for path in folder.iterdir() if folder.exists() else []:
        if path.name not in names:
            shutil.rmtree(path, ignore_errors=True)


def _forget_damaged(manifest: Manifest, recipe: Recipe) -> None:
    """Read every file again (`--verify`) and forget the tasks whose bytes are not those that were written."""
    for stage in recipe.stages:
        for step in stage.steps:
            name = f"{stage.name}/{step.name}"
            damaged = [
                task
                for task, row in manifest.finished(name).items()
                if manifest.is_present(row)
                and any(checksum(manifest.root / output.path) != output.checksum for output in row.outputs)
            ]
            manifest.forget(name, damaged)


def summarise(root: Path) -> list[StageSummary]:
    """Return the summaries of an earlier run, from its manifest."""
    manifest = open_manifest(root)
    finished = manifest.finished_stages()
    summaries = []
    for name, kind in manifest.stages():
        summary = StageSummary(name, kind)
        planned = 0
        for step in manifest.steps_of(name):
            rows = list(manifest.finished(step).values())
            recorded = manifest.step_settings(step)
            planned += len(rows) if recorded is None else max(recorded[2], len(rows))
            _add(summary, rows, len(rows), len(rows))
        if name not in finished:
            summary.state = f"unfinished: {summary.tasks} tasks of {planned} or more" if planned else "not run"
        summaries.append(summary)
    return summaries


def unfinished_in_words(summaries: list[StageSummary]) -> str | None:
    """Return what a reader of figures has to know of a run that did not come to its end; None where it did."""
    first = next((summary for summary in summaries if summary.state != "finished"), None)
    if first is None:
        return None
    return f"this run is not finished: stage {first.name} is {first.state}; the same `run` goes on"


def open_manifest(root: Path) -> Manifest:
    """Return the manifest of an output directory, to be read only."""
    if not (root / "manifest.sqlite").exists():
        raise UserError(f"{root}: not the output directory of a run (no manifest.sqlite there)")
    return Manifest(root, read_only=True)


def _add(summary: StageSummary, rows: list[Finished], tasks: int, reused: int) -> None:
    """Add the counts of a step to its stage's summary."""
    dropped: Counter[str] = Counter(summary.dropped)
    makes_records = any("dropped" in row.counts for row in rows)
    for row in rows:
        if makes_records:
            for name in ("documents_in", "documents", "bytes_in", "bytes"):
                setattr(summary, name, getattr(summary, name) + row.counts[name])
            dropped.update(row.counts["dropped"])
        elif row.task == "all":
            # the rows of a table say nothing to a reader of the summary
            summary.details.update({name: value for name, value in row.counts.items() if name != "rows"})
        for kind, number in row.counts.get("files", {}).items():
            summary.files[kind] = summary.files.get(kind, 0) + number
        summary.seconds += row.seconds
    summary.dropped = dict(dropped.most_common())
    summary.tasks += tasks
    summary.reused += reused


def _collect(published: dict[str, dict[str, Path]], plan: PlannedStep, rows: list[Finished], root: Path) -> None:
    """Note which files of a step are to be found in the output directory itself."""
    for row in rows:
        for output in row.outputs:
            if output.role == "dropped":
                published["rejects"][f"{plan.stage.name}-{Path(output.path).name}"] = root / output.path
            elif plan.step.publish is not None:
                relative = Path(output.path).relative_to(plan.folder)
                if row.task != "all":
                    relative = relative.relative_to(row.task)
                published.setdefault(plan.step.publish, {})[relative.as_posix()] = root / output.path


def publish(root: Path, folder: str, files: dict[str, Path]) -> None:
    """Make `folder` hold exactly `files` (name → file), as hard links; untouched when it does already."""
    target = root / folder
    present = (
        {path.relative_to(target).as_posix(): path for path in target.rglob("*") if path.is_file()}
        if target.exists()
        else {}
    )
    if (
        target.exists()
        and present.keys() == files.keys()
        and all(path.samefile(files[name]) for name, path in present.items())
    ):
        return
    temporary = root / "tmp" / f"publish-{folder}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, path in files.items():
        link(path, temporary / name)
    commit_directory(temporary, target)
