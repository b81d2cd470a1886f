"""Shows a run: one live table on a terminal, nothing elsewhere."""

import sys
import time
from typing import Any

from data_pipeline.engine.local import StageSummary
from data_pipeline.engine.plan import PlannedStep
from data_pipeline.engine.tasks import Result
from data_pipeline.recipe import Recipe

REFRESH_SECONDS = 0.25


class Quiet:
    """Shows nothing."""

    def step_started(self, plan: PlannedStep) -> None: ...

    def tick(self, documents: int, size: int) -> None: ...

    def task_done(self, plan: PlannedStep, result: Result) -> None: ...

    def stage_finished(self, summary: StageSummary) -> None: ...


class LiveTable:
    """A row for each stage: documents, MB/s, kept %, time left. Drawn by the thread that calls it, so workers may be
    forked.
    """

    def __init__(self, recipe: Recipe):
        from rich.console import Console
        from rich.live import Live

        self.names = [stage.name for stage in recipe.stages]
        self.finished: dict[str, StageSummary] = {}
        self.current: PlannedStep | None = None
        self.started = self.drawn = 0.0
        self.done_size = self.done_documents = self.done_bytes = self.running_documents = self.running_bytes = 0
        self.live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)

    def __enter__(self) -> "LiveTable":
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def step_started(self, plan: PlannedStep) -> None:
        self.current = plan
        self.started = time.monotonic()
        self.done_size = self.done_documents = self.done_bytes = self.running_documents = self.running_bytes = 0
        self._draw()

    def tick(self, documents: int, size: int) -> None:
        self.running_documents, self.running_bytes = documents, size
        if time.monotonic() - self.drawn > REFRESH_SECONDS:
            self._draw()

    def task_done(self, plan: PlannedStep, result: Result) -> None:
        self.done_documents += result.counts.get(
            "documents_in", result.counts.get("rows", result.counts.get("documents", 0))
        )
        self.done_bytes += result.counts.get("bytes_in", result.counts.get("bytes", 0))
        self.done_size += next(
            (task.size for task in plan.to_run if result.outputs and task.name in result.outputs[0].path), 0
        )

    def stage_finished(self, summary: StageSummary) -> None:
        self.finished[summary.name] = summary
        self._draw()

    def _draw(self) -> None:
        from rich.table import Table

        self.drawn = time.monotonic()
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("stage")
        for title in ("documents", "MB/s", "kept", "time left"):
            table.add_column(title, justify="right")
        for name in self.names:
            if name in self.finished:
                table.add_row(name, *summary_cells(self.finished[name]))
            elif self.current is not None and self.current.stage.name == name:
                table.add_row(f"[cyan]{name}[/] {self.current.step.name}", *self._running_cells())
            else:
                table.add_row(f"[dim]{name}[/]", "", "", "", "")
        self.live.update(table, refresh=True)

    def _running_cells(self) -> list[str]:
        assert self.current is not None
        seconds = max(time.monotonic() - self.started, 1e-3)
        documents = self.done_documents + self.running_documents
        size = self.done_bytes + self.running_bytes
        total = sum(task.size for task in self.current.to_run)
        done = self.done_size + (self.running_documents if documents else 0)
        left = ""
        if 0 < done < total and seconds > 1:
            left = duration(seconds * (total - done) / done)
        return [f"{documents:,}", f"{size / 1e6 / seconds:.1f}", "", left]


def summary_cells(summary: StageSummary) -> list[str]:
    """documents, MB/s, kept and a note, for a stage that is done."""
    note = "up to date" if summary.tasks == summary.reused else ""
    if not summary.documents_in:
        return [
            f"{summary.details.get('train_samples', 0):,} samples" if "train_samples" in summary.details else "",
            "",
            "",
            note,
        ]
    rate = f"{summary.bytes_in / 1e6 / summary.seconds:.1f}" if summary.seconds else ""
    return [f"{summary.documents:,}", rate, f"{100 * summary.documents / summary.documents_in:.1f} %", note]


def duration(seconds: float) -> str:
    """`3:07` or `1:02:03`."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def reporter(recipe: Recipe) -> Any:
    """A live table where a person looks, else nothing; a context manager."""
    import contextlib

    return LiveTable(recipe) if sys.stderr.isatty() else contextlib.nullcontext(Quiet())
