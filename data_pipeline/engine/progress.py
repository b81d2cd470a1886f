"""Shows a run: one live table on a terminal; elsewhere what stages announce, and a line every 10 seconds."""

import sys
import time
from collections.abc import Iterable
from typing import Any

from data_pipeline.engine.plan import PlannedStep
from data_pipeline.engine.run_recipe import StageSummary
from data_pipeline.engine.tasks import Result
from data_pipeline.recipe import Recipe
from pangu.foundation.best_effort import print_translated, warn
from pangu.foundation.progress import LINE_SECONDS, STEADY_SECONDS, STEADY_SHARE, duration, is_terminal
from pangu.foundation.translation import translated

REFRESH_SECONDS = 0.25


class Quiet:
    """Shows nothing."""

    def step_started(self, plan: PlannedStep) -> None: ...

    def tick(self, documents: int, size: int) -> None: ...

    def task_done(self, plan: PlannedStep, result: Result) -> None: ...

    def stage_finished(self, summary: StageSummary) -> None: ...

    def say(self, lines: Iterable[str]) -> None: ...


class Announcer(Quiet):
    """Prints to stderr what a stage wants said before it goes on, and every 10 seconds how far a step is."""

    def step_started(self, plan: PlannedStep) -> None:
        self.plan, self.progress = plan, StepProgress(sum(task.size for task in plan.to_run), time.monotonic())
        self.sizes = {task.name: task.size for task in plan.to_run}
        self.told = time.monotonic()

    def tick(self, documents: int, size: int) -> None:
        self.progress.tick(documents, size)
        now = time.monotonic()
        if now - self.told > LINE_SECONDS:
            self.told = now
            documents_done, rate, kept, left = self.progress.cells(now, _is_counted_in_rows(self.plan))
            share = self.progress.share(_is_counted_in_rows(self.plan))
            parts = [f"{share:.0%}", documents_done and f"{documents_done} documents", rate and f"{rate} MB/s"]
            parts += [kept and f"{kept} kept", left and f"{left} left"]
            warn(f"{self.plan.stage.name} {self.plan.step.name}: {', '.join(part for part in parts if part)}")

    def task_done(self, plan: PlannedStep, result: Result) -> None:
        self.progress.task_done(size_of(self.sizes, result), result.counts)
        self.say(result.counts.get("announcement", ()))

    def say(self, lines: Iterable[str]) -> None:
        """Print lines, each at once."""
        for line in lines:
            warn(line)


class StepProgress:
    """How far a step is, and when it will be done. `size` is the step's own measure of work: rows of a Map, bytes of
    anything else."""

    def __init__(self, total_size: int, now: float):
        self.total_size, self.started = total_size, now
        self.done_size = self.documents = self.bytes = self.kept = self.seen = 0
        self.running_documents = self.running_bytes = 0

    def task_done(self, size: int, counts: dict[str, Any]) -> None:
        self.done_size += size
        self.documents += counts.get("documents_in", counts.get("rows", counts.get("documents", 0)))
        self.bytes += counts.get("bytes_in", counts.get("bytes", 0))
        if "dropped" in counts:
            self.kept += counts["documents"]
            self.seen += counts["documents_in"]

    def tick(self, documents: int, size: int) -> None:
        """Show what the tasks that are running have done so far."""
        self.running_documents, self.running_bytes = documents, size

    def share(self, is_counted_in_rows: bool) -> float:
        """Return how much of the work is done, 0 to 1."""
        running = self.running_documents if is_counted_in_rows else self.running_bytes
        return min(1.0, (self.done_size + running) / self.total_size) if self.total_size else 0.0

    def cells(self, now: float, is_counted_in_rows: bool) -> list[str]:
        """Return documents, MB/s, kept and time left."""
        seconds = max(now - self.started, 1e-3)
        documents, size = self.documents + self.running_documents, self.bytes + self.running_bytes
        share = self.share(is_counted_in_rows)
        left = ""
        if seconds > STEADY_SECONDS and STEADY_SHARE < share < 1:
            left = duration(seconds * (1 - share) / share)
        kept = f"{100 * self.kept / self.seen:.1f} %" if self.seen else ""
        return [f"{documents:,}" if documents else "", f"{size / 1e6 / seconds:.1f}" if size else "", kept, left]


def size_of(sizes: dict[str, int], result: Result) -> int:
    """Return the size of the task that left `result`: its files are called like it."""
    if len(sizes) == 1:
        return next(iter(sizes.values()))
    for output in result.outputs:
        stem = output.path.rpartition("/")[2].partition(".")[0]
        # a reader's files carry the number of the shard behind the name of the task
        for name in (stem, stem.rpartition("-")[0]):
            if name in sizes:
                return sizes[name]
    return 0


class LiveTable:
    """A row for each stage: documents, MB/s, kept %, time left. Drawn by the thread that calls it, so workers may be
    forked.
    """

    def __init__(self, recipe: Recipe):
        from rich.console import Console
        from rich.live import Live

        self.names = [stage.name for stage in recipe.stages]
        # as wide as it will get, so that the columns stay where they are
        self.width = max(len(f"{stage.name} {step.name}") for stage in recipe.stages for step in stage.steps)
        self.finished: dict[str, StageSummary] = {}
        self.current: PlannedStep | None = None
        self.progress = StepProgress(0, time.monotonic())
        self.drawn = 0.0
        self.live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)

    def __enter__(self) -> "LiveTable":
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def say(self, lines: Iterable[str]) -> None:
        """Print lines above the table."""
        for line in lines:
            self.live.console.print(translated(line), markup=False, highlight=False, soft_wrap=True)

    def step_started(self, plan: PlannedStep) -> None:
        self.current = plan
        self.progress = StepProgress(sum(task.size for task in plan.to_run), time.monotonic())
        self.sizes = {task.name: task.size for task in plan.to_run}
        self._draw()

    def tick(self, documents: int, size: int) -> None:
        self.progress.tick(documents, size)
        if time.monotonic() - self.drawn > REFRESH_SECONDS:
            self._draw()

    def task_done(self, plan: PlannedStep, result: Result) -> None:
        self.progress.task_done(size_of(self.sizes, result), result.counts)
        self.say(result.counts.get("announcement", ()))

    def stage_finished(self, summary: StageSummary) -> None:
        self.finished[summary.name] = summary
        self.current = None
        self._draw()

    def _draw(self) -> None:
        from rich.table import Table

        self.drawn = time.monotonic()
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column(translated("stage"), min_width=self.width)
        for title in ("documents", "MB/s", "kept", "time left"):
            table.add_column(translated(title), justify="right", min_width=10)
        for name in self.names:
            if name in self.finished:
                table.add_row(name, *summary_cells(self.finished[name]))
            elif self.current is not None and self.current.stage.name == name:
                cells = self.progress.cells(self.drawn, _is_counted_in_rows(self.current))
                table.add_row(f"[cyan]{name}[/] {self.current.step.name}", *cells)
            else:
                table.add_row(f"[dim]{name}[/]", "", "", "", "")
        self.live.update(table, refresh=True)


def _is_counted_in_rows(plan: PlannedStep) -> bool:
    from data_pipeline.engine.steps import Map

    return isinstance(plan.step, Map)


def summary_cells(summary: StageSummary) -> list[str]:
    """Return documents, MB/s, kept and a note, for a stage that is done."""
    note = summary.state if summary.state != "finished" else "up to date" if summary.tasks == summary.reused else ""
    if not summary.documents_in:
        return [
            f"{summary.details.get('train_samples', 0):,} samples" if "train_samples" in summary.details else "",
            "",
            "",
            note,
        ]
    rate = f"{summary.bytes_in / 1e6 / summary.seconds:.1f}" if summary.seconds else ""
    return [f"{summary.documents:,}", rate, f"{100 * summary.documents / summary.documents_in:.1f} %", note]


def files_in_words(recipe: Recipe) -> list[str]:
    """Return a line for each source: how many files of which kind it has."""
    from data_pipeline.stages.read.source_files import count_kinds, kinds_in_words

    kinds = count_kinds(recipe.sources, recipe.path.parent)
    return [f"source {name}: {sum(found.values()):,} files: {kinds_in_words(found)}" for name, found in kinds.items()]


def reporter(recipe: Recipe) -> Any:
    """Return a live table where a person looks, else only what is announced; a context manager. What stages forecast
    is said first."""
    import contextlib

    from data_pipeline.engine.forecast import forecast

    unread = [line for line in files_in_words(recipe) if "not read" in line]
    for line in (*unread, *forecast(recipe, recipe.path.parent)):
        print_translated(line, to=sys.stderr)
    return LiveTable(recipe) if is_terminal() else contextlib.nullcontext(Announcer())
