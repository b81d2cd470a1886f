"""What a worker does with one task of each kind of step. Both engines call these functions."""

import os
import platform
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipeline import record
from data_pipeline.engine.pool import Job, WorkerReport
from data_pipeline.engine.relational import query
from data_pipeline.engine.run_files import Output, checksum, commit_directory
from data_pipeline.engine.shard import ShardWriter, read_batches
from data_pipeline.engine.steps import Context, Files, Global, GroupBy, InputFile, Item, Map, Read
from pangu.foundation.errors import UserError

QUARANTINED = "quarantined:it killed its worker twice"
# rows handed to a stage's function at once: enough to keep numpy and Arrow busy, few enough to keep memory flat
BATCH_ROWS = 4096
BATCH_BYTES = 4 << 20


@dataclass(frozen=True)
class Result:
    """What a finished task leaves: its files and its counts."""

    outputs: tuple[Output, ...]
    counts: dict[str, Any]
    seconds: float


@dataclass(frozen=True)
class ReadTask:
    step: Read
    settings: Any
    item: Item
    root: Path
    folder: str
    shard_bytes: int


@dataclass(frozen=True)
class MapTask:
    step: Map
    settings: Any
    shard: Path
    name: str
    inputs: tuple[tuple[Path, ...], ...]
    """For each name in `step.needs[1:]`: the files that belong to this shard."""
    schema: pa.Schema
    root: Path
    folder: str


@dataclass(frozen=True)
class GroupByTask:
    step: GroupBy
    settings: Any
    tables: dict[str, tuple[tuple[Path, ...], pa.Schema]]
    shards: tuple[str, ...]
    root: Path
    folder: str
    memory_bytes: int
    threads: int

    @property
    def file_names(self) -> tuple[str, ...]:
        """Return the files of its result, in order: one for each shard, or a single one."""
        return tuple(sorted(self.shards)) if "shard" in self.step.table.names else ("all",)


@dataclass(frozen=True)
class FilesTask:
    """A `Global` step, or one item of a `Files` step (then `item` is set)."""

    step: Global | Files
    settings: Any
    item: Item | None
    inputs: dict[str, list[InputFile]]
    root: Path
    folder: str
    memory_bytes: int
    threads: int


def job(name: str, task: ReadTask | MapTask | GroupByTask | FilesTask) -> Job:
    """Return the job that runs a task in a pool."""
    functions: dict[type, Callable[[Any, WorkerReport], Result]] = {
        ReadTask: run_read,
        MapTask: run_map,
        GroupByTask: run_group_by,
        FilesTask: run_files,
    }
    may_hang = isinstance(task, ReadTask | MapTask)
    return Job(name, functions[type(task)], task, is_watched=may_hang)


def run_read(task: ReadTask, progress: WorkerReport) -> Result:
    """Write records with a reason to the rejects, the others to shards of about `shard_bytes` of text."""
    start = time.perf_counter()
    schema = record.schema(task.step.signals)
    writers = _Split(task.root, task.folder, task.item.name, schema, task.shard_bytes)
    with writers:
        for batch in task.step.read(task.item.payload, task.settings, progress):
            writers.write(batch)
        result = writers.result(task.item.bytes, start)
        result.counts["files"] = task.item.files
        return result


def run_map(task: MapTask, progress: WorkerReport) -> Result:
    """Return one shard through a pure function, as records or as rows of a table."""
    start = time.perf_counter()
    extra = [_side_input(files) for files in task.inputs]
    seen_rows = seen_bytes = 0
    writers: _Split | _Table
    if task.step.table is None:
        writers = _Split(task.root, task.folder, task.name, task.schema, None)
    else:
        writers = _Table(task.root, task.folder, task.name, task.schema)
    with writers:
        for group in read_batches(task.shard):
            for batch in _small_batches(group):
                size = _text_bytes(batch)
                writers.write(_guarded(task, batch, extra, progress))
                seen_rows += batch.num_rows
                seen_bytes += size
                progress.done(batch.num_rows, size)
        result = writers.result(seen_bytes, start)
    result.counts["documents_in"] = seen_rows
    return result


def run_group_by(task: GroupByTask, progress: WorkerReport) -> Result:
    """Return one query. Rows with a column `shard`, sorted by it, go to a file for each shard (an empty one where a
    shard has none); others to one file.
    """
    spill = task.root / "tmp" / f"spill-{task.folder.replace('/', '-')}"
    try:
        progress.unit()
        rows = query(task.step.sql(task.settings), task.tables, task.memory_bytes, task.threads, spill)
        return write_groups(task, rows, task.file_names)
    finally:
        shutil.rmtree(spill, ignore_errors=True)


def write_groups(task: GroupByTask, rows: Iterable[pa.RecordBatch], names: Sequence[str]) -> Result:
    """Return the sorted `rows` of a query, whatever engine it ran on, as the files `names` (sorted)."""
    start = time.perf_counter()
    columns = task.step.table.names
    writer = _ByShard(task, names)
    count = 0
    with writer:
        for batch in rows:
            batch = batch.select(columns).cast(task.step.table)
            for part in _runs(batch, "shard") if "shard" in columns else [batch]:
                writer.write(part.column("shard")[0].as_py() if "shard" in columns else "all", part)
            count += batch.num_rows
        outputs = writer.close()
    return Result(tuple(outputs), {"rows": count}, time.perf_counter() - start)


def run_files(task: FilesTask, progress: WorkerReport) -> Result:
    """Return a function that writes files into an empty folder, which then takes its place whole."""
    start = time.perf_counter()
    name = task.folder if task.item is None else f"{task.folder}/{task.item.name}"
    own = f"{platform.node()}-{os.getpid()}-{name.replace('/', '-')}"
    temporary = task.root / "tmp" / own
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    scratch = task.root / "tmp" / f"scratch-{own}"
    context = Context(task.settings, task.inputs, temporary, scratch, task.threads, task.memory_bytes, progress.done)
    progress.unit()
    try:
        if task.item is None:
            assert isinstance(task.step, Global)
            counts = task.step.run(context)
        else:
            assert isinstance(task.step, Files)
            counts = task.step.write(task.item.payload, context)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    files = sorted(path.relative_to(temporary) for path in temporary.rglob("*") if path.is_file())
    outputs = [
        Output(f"{name}/{file.as_posix()}", (temporary / file).stat().st_size, checksum(temporary / file), role="file")
        for file in files
    ]
    commit_directory(temporary, task.root / name)
    return Result(tuple(outputs), counts, time.perf_counter() - start)


class _Split:
    """Two writers, for the kept and the dropped records, and the counts of both."""

    def __init__(self, root: Path, folder: str, name: str, schema: pa.Schema, shard_bytes: int | None):
        self.kept = ShardWriter(root, f"{folder}/kept/{name}", schema, "kept", shard_bytes)
        self.dropped = ShardWriter(root, f"{folder}/dropped/{name}", schema, "dropped")
        self.schema = schema
        self.reasons: Counter[str] = Counter()
        self.dropped_bytes: Counter[str] = Counter()
        self.documents_of: Counter[str] = Counter()
        self.dropped_of: dict[str, Counter[str]] = {}
        self.kept_rows = self.kept_bytes = 0

    def __enter__(self) -> "_Split":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self.kept.abandon()
            self.dropped.abandon()

    def write(self, batch: pa.RecordBatch) -> None:
        if not batch.schema.equals(self.schema):
            batch = batch.cast(self.schema)
        reasons = batch.column("drop_reason")
        keep = pc.is_null(reasons)
        kept = batch.filter(keep) if reasons.null_count < batch.num_rows else batch
        self.kept.write(kept)
        self.kept_rows += kept.num_rows
        self.kept_bytes += _text_bytes(kept)
        if reasons.null_count < batch.num_rows:
            dropped = batch.filter(pc.invert(keep))
            rules = [record.reason_class(reason) for reason in dropped.column("drop_reason").to_pylist()]
            self.reasons.update(rules)
            self._count_sources(dropped.column("source"), rules)
            self.dropped.write(dropped)
        for pair in pc.value_counts(batch.column("source")).to_pylist():
            self.documents_of[pair["values"]] += pair["counts"]

    def _count_sources(self, sources: pa.Array, rules: list[str]) -> None:
        for source, rule in zip(sources.to_pylist(), rules, strict=True):
            self.dropped_of.setdefault(source, Counter())[rule] += 1

    def result(self, bytes_in: int, start: float) -> Result:
        outputs = (*self.kept.close(), *self.dropped.close())
        counts = {
            "documents_in": self.kept_rows + self.reasons.total(),
            "documents": self.kept_rows,
            "bytes_in": bytes_in,
            "bytes": self.kept_bytes,
            "dropped": dict(sorted(self.reasons.items())),
            "by_source": {
                source: {
                    "documents_in": count,
                    "dropped": dict(sorted(self.dropped_of.get(source, Counter()).items())),
                }
                for source, count in sorted(self.documents_of.items())
            },
        }
        return Result(outputs, counts, time.perf_counter() - start)


class _Table:
    """The writer of a Map step that makes table rows; adds the column `shard`."""

    def __init__(self, root: Path, folder: str, name: str, schema: pa.Schema):
        self.writer = ShardWriter(root, f"{folder}/{name}", schema, "table", keep_empty=True)
        self.schema, self.name, self.rows = schema, name, 0

    def __enter__(self) -> "_Table":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self.writer.abandon()

    def write(self, batch: pa.RecordBatch) -> None:
        shard = pa.repeat(self.name, batch.num_rows)
        arrays = [shard, *(batch.column(name) for name in self.schema.names[1:])]
        self.writer.write(pa.RecordBatch.from_arrays(arrays, names=self.schema.names).cast(self.schema))
        self.rows += batch.num_rows

    def result(self, bytes_in: int, start: float) -> Result:
        outputs = self.writer.close()
        return Result(tuple(outputs), {"rows": self.rows, "bytes_in": bytes_in}, time.perf_counter() - start)


class _ByShard:
    """Writers for the files of a sorted table, one open at a time, and none left out."""

    def __init__(self, task: GroupByTask, names: Sequence[str]):
        self.task = task
        self.names = names
        self.place = {name: index for index, name in enumerate(self.names)}
        self.position = -1
        self.writer: ShardWriter | None = None
        self.outputs: list[Output] = []

    def __enter__(self) -> "_ByShard":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None and self.writer is not None:
            self.writer.abandon()

    def write(self, name: str, rows: pa.RecordBatch) -> None:
        self._advance(self.place[name])
        assert self.writer is not None
        self.writer.write(rows)

    def close(self) -> list[Output]:
        self._advance(len(self.names))
        return self.outputs

    def _advance(self, to: int) -> None:
        """Close the file at hand, write the (empty) ones before number `to`, open that one."""
        while self.position < to:
            if self.writer is not None:
                self.outputs.extend(self.writer.close())
                self.writer = None
            self.position += 1
            if self.position < len(self.names):
                path = f"{self.task.folder}/{self.names[self.position]}"
                self.writer = ShardWriter(self.task.root, path, self.task.step.table, "table", keep_empty=True)


def table_schema(step: Map) -> pa.Schema:
    """Return the schema on disk of a Map step that makes table rows."""
    assert step.table is not None
    return pa.schema([pa.field("shard", pa.string()), *step.table])


def _guarded(task: MapTask, batch: pa.RecordBatch, extra: list[Any], progress: WorkerReport) -> pa.RecordBatch:
    """Return `process(batch)`; where it raises, or killed a worker before, row by row, so that one bad record costs
    only itself.
    """
    if not progress.careful:
        progress.unit()
        try:
            return task.step.process(batch, task.settings, *extra)
        except (UserError, MemoryError, OSError):
            raise
        except Exception:  # which row it was is found below
            pass
    rows = [_one_row(task, batch.slice(index, 1), extra, progress) for index in range(batch.num_rows)]
    schema = task.schema if task.step.table is None else task.step.table
    table = pa.Table.from_batches([row.cast(schema) for row in rows if row is not None], schema)
    return next(iter(table.combine_chunks().to_batches()), pa.RecordBatch.from_pylist([], schema))


def _one_row(task: MapTask, row: pa.RecordBatch, extra: list[Any], progress: WorkerReport) -> pa.RecordBatch | None:
    """Return one record through the function. One that fails is dropped with its reason; a table simply has no row
    for it."""
    reason = QUARANTINED
    if progress.at(row.column("doc_id")[0].as_py() >> 1):
        try:
            return task.step.process(row, task.settings, *extra)
        except (UserError, MemoryError, OSError):
            raise
        except Exception as error:
            reason = f"failed:{type(error).__name__} {error}"[:500]
    if task.step.table is not None:
        return None
    missing = {name: pa.nulls(1, pa.float64()) for name in task.step.signals}
    return record.replace(row, columns={"drop_reason": pa.array([reason], pa.string())}, signals=missing)


def _small_batches(group: pa.RecordBatch) -> list[pa.RecordBatch]:
    if group.num_rows <= 1:
        return [group]
    rows = max(1, min(BATCH_ROWS, int(group.num_rows * BATCH_BYTES / max(_text_bytes(group), 1))))
    return [group.slice(start, rows) for start in range(0, group.num_rows, rows)]


def _text_bytes(batch: pa.RecordBatch) -> int:
    index = batch.schema.get_field_index("text")
    return 0 if index < 0 else pc.sum(pc.binary_length(batch.column(index))).as_py() or 0


def _side_input(files: tuple[Path, ...]) -> Any:
    """Return the rows of a table, or the paths of files that are not Parquet."""
    if files and all(file.suffix == ".parquet" for file in files):
        return pa.concat_tables([pq.read_table(file) for file in files])
    return files


def _runs(batch: pa.RecordBatch, column: str) -> list[pa.RecordBatch]:
    """Return `batch`, sorted by `column`, cut where the value changes."""
    if not batch.num_rows:
        return []
    ends = pc.run_end_encode(batch.column(column)).run_ends.to_pylist()
    return [batch.slice(start, end - start) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
