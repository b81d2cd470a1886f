"""The engine for a cluster: the tasks of a recipe in Spark's executors, its queries in Spark SQL.

It takes the place of the pool of processes and of nothing else. The plan, the manifest, the shards and the functions
that make them are those of one machine, so the bytes are the same, a run that was begun on one engine goes on with the
other, and a new stage needs nothing for Spark:

* `Read`, `Map` and `Files` tasks run in executors, a Spark task each. An executor runs them in a pool of one process
  (engine/pool.py), so that a record that kills or hangs its process is found and quarantined as on one machine, and
  does not fail the job.
* `GroupBy` steps run as the same SQL in Spark, over the Parquet tables that the Map steps left. Its sorted result is
  cut into the files of the shards by executors.
* `Global` steps run on the driver.

The output directory must lie on a file system that the driver and all executors see at the same path."""

import contextlib
import functools
import itertools
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.engine import tasks
from data_pipeline.engine.pool import Failure, Job, Pool, WorkerReport
from data_pipeline.engine.spark_session import check_spark, start_session
from data_pipeline.engine.steps import Global
from pangu.foundation.errors import UserError

# tasks for each core in one Spark job: enough that no core waits for the last one, few enough that little is lost
# when the driver dies (tasks are in the manifest once their job is done)
TASKS_A_CORE = 4
# Spark jobs at a time, so that the cores that one has no more work for are taken by the next
JOBS_AT_A_TIME = 2
# characters that Hadoop's paths take for a pattern
_PATTERN = re.compile(r"[\[\]{}*?\\]")


class SparkEngine:
    """`with SparkEngine(root, 4, 4 << 30) as engine: for job, result in engine.run(jobs): ...`, as a `Pool`."""

    def __init__(self, root: Path, workers: int, memory_bytes: int):
        self.root, self.workers, self.memory_bytes = root.absolute(), workers, memory_bytes
        self._driver_pool = Pool(1)
        self._session: Any = None

    def __enter__(self) -> "SparkEngine":
        check_spark()
        if _PATTERN.search(str(self.root)):
            raise UserError(f"{self.root}: Spark reads []{{}}*?\\ in a path as a pattern; give another --out")
        self._driver_pool.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._driver_pool.__exit__()
        if self._session is not None:
            with contextlib.suppress(Exception):  # a JVM that died needs no goodbye, and its error has been told
                self._session.sparkContext.cancelAllJobs()
                self._session.stop()

    @property
    def session(self) -> Any:
        """Return Spark's session, started when the first task needs it: a run that is up to date starts no Spark."""
        if self._session is None:
            with _told_in_one_line("Spark does not start"):
                self._session = start_session(self.root / "tmp" / "spark", self.workers, self.memory_bytes)
        return self._session

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Any]]:
        """Run all jobs, each where it belongs. A UserError of a task, or an unexpected exception as Failure, ends the
        run.
        """
        for place, group in itertools.groupby(jobs, _place):
            if place == "driver":
                yield from self._driver_pool.run(group)
            elif place == "query":
                for job in group:
                    yield job, self._run_group_by(job.argument)
            else:
                yield from self._run_in_executors(group)

    def _run_in_executors(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Any]]:
        context = self.session.sparkContext
        waiting = iter(jobs)
        size = TASKS_A_CORE * context.defaultParallelism
        running: dict[Future[list[tuple[str, Any]]], list[Job]] = {}
        with ThreadPoolExecutor(JOBS_AT_A_TIME) as threads:
            try:
                while True:
                    while len(running) < JOBS_AT_A_TIME and (wave := list(itertools.islice(waiting, size))):
                        running[threads.submit(_run_wave, context, run_supervised, wave)] = wave
                    if not running:
                        return
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        wave = running.pop(future)
                        for job, outcome in zip(wave, future.result(), strict=True):
                            yield job, _result(job, outcome)
            finally:
                if running:
                    with contextlib.suppress(Exception):
                        context.cancelAllJobs()

    def _run_group_by(self, task: tasks.GroupByTask) -> tasks.Result:
        """Return the query in Spark, its result as sorted files, and from these the files of the step."""
        start = time.perf_counter()
        sorted_rows = self.root / "tmp" / f"sorted-{task.folder.replace('/', '-')}"
        for name, (files, schema) in task.tables.items():
            self._name_table(name, files or (_empty_table(self.root / "tmp" / f"empty-{name}.parquet", schema),))
        self._write_query(task.step.sql(task.settings), sorted_rows)
        parts = tuple(sorted(sorted_rows.glob("part-*.parquet")))
        jobs = [
            Job(f"{task.folder}/{names[0]}", write_sorted, (task, parts, names)) for names in _portions(task.file_names)
        ]
        done = {job.name: result for job, result in self._run_in_executors(jobs)}
        results = [done[job.name] for job in jobs]
        shutil.rmtree(sorted_rows, ignore_errors=True)
        counts = {"rows": sum(result.counts["rows"] for result in results)}
        outputs = tuple(output for result in results for output in result.outputs)
        return tasks.Result(outputs, counts, time.perf_counter() - start)

    def _name_table(self, name: str, files: tuple[Path, ...]) -> None:
        with _told_in_one_line(f"table {name}"):
            self.session.read.parquet(*(f"file://{path.absolute()}" for path in files)).createOrReplaceTempView(name)

    def _write_query(self, sql: str, target: Path) -> None:
        with _told_in_one_line("a query"):
            self.session.sql(sql).write.mode("overwrite").option("compression", "zstd").parquet(f"file://{target}")


@contextlib.contextmanager
def _told_in_one_line(what: str) -> Iterator[None]:
    """Raise exceptions of Spark, or of a JVM that died, as a UserError."""
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        yield
    except (Py4JError, PySparkException, ConnectionError, EOFError) as error:
        raise UserError(f"spark: {what}: {_first_lines(error)}; run again, what is done is kept") from error


def _place(job: Job) -> str:
    if isinstance(job.argument, tasks.GroupByTask):
        return "query"
    is_global = isinstance(job.argument, tasks.FilesTask) and isinstance(job.argument.step, Global)
    return "driver" if is_global else "executor"


def _run_wave(context: Any, function: Any, jobs: list[Job]) -> list[tuple[str, Any]]:
    """Return one Spark job with a task for each of `jobs`; their outcomes in order."""
    with _told_in_one_line(f"{jobs[0].name} and {len(jobs) - 1} other tasks"):
        return context.parallelize(jobs, len(jobs)).map(function).collect()


def _result(job: Job, outcome: tuple[str, Any]) -> Any:
    kind, value = outcome
    if kind == "user error":
        raise UserError(value)
    if kind == "failure":
        raise Failure(value)
    return value


def run_supervised(job: Job) -> tuple[str, Any]:
    """Run the job in a process of its own (in an executor), which is replaced when it dies. Errors are told, not
    raised: Spark would try the task again and hide the message in a stack of its own."""
    try:
        for _, result in _executor_pool().run([job]):
            return "done", result
        raise Failure(f"{job.name}: no result")
    except UserError as error:
        return "user error", str(error)
    except Failure as error:
        return "failure", str(error)


@functools.cache
def _executor_pool() -> Pool:
    """Return the pool of this executor's Python worker; it ends with the worker."""
    return Pool(1).__enter__()


def write_sorted(argument: tuple[tasks.GroupByTask, tuple[Path, ...], tuple[str, ...]], progress: WorkerReport) -> Any:
    """Return the files `names` of a GroupBy step out of the sorted files that Spark wrote."""
    task, parts, names = argument
    progress.unit()
    return tasks.write_groups(task, _sorted_rows(parts, names, "shard" in task.step.table.names), names)


def _sorted_rows(parts: tuple[Path, ...], names: tuple[str, ...], is_by_shard: bool) -> Iterator[pa.RecordBatch]:
    """Yield the rows of the shards `names` (all where there are no shards), in order; row groups of others stay
    unread.
    """
    for part in parts:
        file = pq.ParquetFile(part)
        for group in range(file.num_row_groups):
            if is_by_shard and not _may_hold(file, group, names):
                continue
            for batch in file.iter_batches(1 << 16, row_groups=[group], use_threads=False):
                if is_by_shard:
                    batch = batch.filter(pa.compute.is_in(batch.column("shard"), value_set=pa.array(names)))
                yield batch


def _may_hold(file: pq.ParquetFile, group: int, names: tuple[str, ...]) -> bool:
    """Return whether a row group may hold one of the sorted `names`, by its statistics."""
    index = file.schema_arrow.get_field_index("shard")
    statistics = file.metadata.row_group(group).column(index).statistics
    if statistics is None or not statistics.has_min_max:
        return True
    return statistics.min <= names[-1] and names[0] <= statistics.max


def _portions(names: tuple[str, ...], size: int = 64) -> list[tuple[str, ...]]:
    return [names[start : start + size] for start in range(0, len(names), size)]


def _empty_table(path: Path, schema: pa.Schema) -> Path:
    pq.write_table(schema.empty_table(), path)
    return path


def _first_lines(error: BaseException) -> str:
    """Return what a Java exception says, without its stack."""
    exception = getattr(error, "java_exception", None)
    text = str(exception.toString()) if exception is not None else str(error)
    causes = re.findall(r"(?:Caused by: |Lost task[^\n]*?: )([^\n]+)", str(error))
    return " / ".join(dict.fromkeys(line.strip()[:300] for line in [text.strip().split("\n")[0], *causes[-1:]]))
