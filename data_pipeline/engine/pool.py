"""A pool of worker processes that notices when one of them dies or hangs, replaces it and gives its task to another.

`concurrent.futures` breaks the whole pool when a worker is killed, and `multiprocessing.Pool` waits for ever. Here
every worker has its own pipe and a few numbers in shared memory where it says what it is doing (`WorkerReport`), so
that the parent knows which record a worker died on. A record that was in progress at two deaths is quarantined: the
task is tried again and told to skip it."""

import ctypes
import errno
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from pangu.foundation.errors import UserError

# fork starts a worker in milliseconds, with the stage modules already imported
START_METHOD = "fork" if sys.platform == "linux" else "spawn"
MAXIMUM_DEATHS = 6
# how long one unit of work (a record; a batch, before the record is known) may take before its worker is killed
UNIT_SECONDS = 300.0

_DOCUMENTS, _BYTES, _UNIT, _RECORD, _KNOWN = range(5)
_SLOTS = 5


@dataclass(frozen=True)
class Job:
    """`function(argument, progress)` run in a worker. `skip` holds the records that are quarantined."""

    name: str
    function: Callable[[Any, "WorkerReport"], Any]
    argument: Any
    is_watched: bool = True
    """Whether it says what it is at, so that a long silence means that it hangs."""
    deaths: int = 0
    suspects: tuple[int, ...] = ()
    skip: frozenset[int] = frozenset()


class WorkerReport:
    """What a worker says about itself: documents and bytes done, and the record it is at.

    `careful` is true when this task has killed a worker before: then it must name each record with `at` before it
    touches it."""

    def __init__(self, slots: Any, job: Job):
        self._slots = slots
        self.skip = job.skip
        self.careful = job.deaths > 0
        slots[_DOCUMENTS] = slots[_BYTES] = slots[_RECORD] = slots[_KNOWN] = 0
        slots[_UNIT] += 1

    def at(self, record: int) -> bool:
        """Note that a record (its offset or number, below 2^63) is about to be looked at; False: do not, it is
        quarantined.
        """
        slots = self._slots
        slots[_RECORD] = record
        slots[_KNOWN] = 1
        slots[_UNIT] += 1
        return record not in self.skip

    def unit(self) -> None:
        """Begin a unit of work whose record is not named."""
        self._slots[_KNOWN] = 0
        self._slots[_UNIT] += 1

    def done(self, documents: int, size: int) -> None:
        """Count documents, and bytes of input, that are done."""
        self._slots[_DOCUMENTS] += documents
        self._slots[_BYTES] += size


@dataclass
class _Worker:
    process: Any
    pipe: multiprocessing.connection.Connection
    slots: Any
    job: Job | None = None
    seen_unit: int = -1
    seen_at: float = 0.0


class Failure(Exception):
    """A task failed for a reason that is not the user's; the message holds the traceback of the worker."""


@dataclass
class Pool:
    """`with Pool(4) as pool: for job, result in pool.run(jobs): ...`. Results come in the order in which they
    finish.
    """

    size: int
    unit_seconds: float = field(default_factory=lambda: UNIT_SECONDS)
    on_tick: Callable[[int, int], None] | None = None
    """Called a few times a second with the documents and bytes of the tasks in progress."""
    replaced: int = 0
    _workers: list[_Worker] = field(default_factory=list)
    _on_closed_pipe: Any = None

    def __enter__(self) -> "Pool":
        if threading.current_thread() is threading.main_thread():
            # the command line dies quietly of a closed pipe; here a worker's pipe that closes is an event to handle
            self._on_closed_pipe = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        return self

    def __exit__(self, *_: object) -> None:
        if self._on_closed_pipe is not None:
            signal.signal(signal.SIGPIPE, self._on_closed_pipe)
        for worker in self._workers:
            if worker.job is None:
                worker.pipe.close()  # the worker sees the end of its pipe and leaves
            else:
                worker.process.kill()
        for worker in self._workers:
            worker.process.join()
        self._workers.clear()

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Any]]:
        """Run all jobs. A UserError of a worker, or an unexpected exception as Failure, ends the run."""
        waiting = iter(jobs)
        again: deque[Job] = deque()
        exhausted = False
        while True:
            while (
                len(idle := [worker for worker in self._workers if worker.job is None])
                or len(self._workers) < self.size
            ):
                job = again.popleft() if again else next(waiting, None)
                if job is None:
                    exhausted = True
                    break
                self._give(idle[0] if idle else self._start(), job)
            busy = [worker for worker in self._workers if worker.job is not None]
            if not busy and exhausted and not again:
                return
            handles: list[Any] = [worker.pipe for worker in busy]
            ready = multiprocessing.connection.wait(handles, timeout=0.2)
            for worker in busy:
                if worker.pipe in ready:
                    job = worker.job
                    assert job is not None
                    try:
                        kind, value = worker.pipe.recv()
                    except (EOFError, OSError):
                        again.append(self._bury(worker, "was killed"))
                        continue
                    worker.job = None
                    if kind == "user error":
                        raise UserError(value)
                    if kind == "failure":
                        raise Failure(f"task {job.name} failed in its worker:\n{value}")
                    yield job, value
                elif self._hangs(worker):
                    worker.process.kill()
                    again.append(self._bury(worker, f"made no progress for {self.unit_seconds:.0f} s"))
            if self.on_tick:
                slots = [worker.slots for worker in self._workers if worker.job is not None]
                self.on_tick(sum(slot[_DOCUMENTS] for slot in slots), sum(slot[_BYTES] for slot in slots))

    def _start(self) -> _Worker:
        context: Any = multiprocessing.get_context(START_METHOD)
        ours, theirs = context.Pipe()
        slots = context.RawArray("q", _SLOTS)
        # a forked worker inherits the parent's ends of all pipes and must close them, or it never sees its own end
        inherited = [ours, *(worker.pipe for worker in self._workers)] if START_METHOD == "fork" else []
        process = context.Process(target=_work, args=(theirs, inherited, slots, os.getpid()))
        process.daemon = True
        process.start()
        theirs.close()
        worker = _Worker(process, ours, slots)
        self._workers.append(worker)
        return worker

    @staticmethod
    def _give(worker: _Worker, job: Job) -> None:
        worker.job = job
        worker.seen_at = time.monotonic()
        try:
            worker.pipe.send(job)
        except OSError:
            return  # it is dead; reading from its pipe will say so

    def _hangs(self, worker: _Worker) -> bool:
        if worker.job is None or not worker.job.is_watched:
            return False
        unit = worker.slots[_UNIT]
        if unit != worker.seen_unit:
            worker.seen_unit, worker.seen_at = unit, time.monotonic()
        return time.monotonic() - worker.seen_at > self.unit_seconds

    def _bury(self, worker: _Worker, what: str) -> Job:
        """Take away a dead worker; its job, to be tried again, knows the record that it died on."""
        worker.process.join()
        worker.pipe.close()
        self._workers.remove(worker)
        self.replaced += 1
        job = worker.job
        assert job is not None
        suspects, skip = job.suspects, job.skip
        if worker.slots[_KNOWN]:
            record = worker.slots[_RECORD]
            if record in suspects:
                skip = skip | {record}
            suspects = (*suspects, record)
        if job.deaths + 1 >= MAXIMUM_DEATHS + 2 * len(skip):
            raise UserError(
                f"{job.name}: its worker {what} {job.deaths + 1} times; is there enough memory? Try fewer --workers"
            )
        return replace(job, deaths=job.deaths + 1, suspects=suspects, skip=skip)


def _work(pipe: multiprocessing.connection.Connection, inherited: list[Any], slots: Any, parent: int) -> None:
    """Live as a worker: jobs in, results out, until the pipe ends. It dies with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for other in inherited:
        other.close()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(
            1, signal.SIGKILL
        )  # PR_SET_PDEATHSIG: no orphan goes on writing after a kill -9 of the parent
        if os.getppid() != parent:
            os._exit(1)
    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            # not sys.exit: libraries that were loaded for a task (MindSpore) may hang in their exit handlers
            os._exit(0)
        try:
            message = ("done", job.function(job.argument, WorkerReport(slots, job)))
        except UserError as error:
            message = ("user error", str(error))
        except Exception as error:
            described = describe_system_error(error)
            message = ("user error", f"{job.name}: {described}") if described else ("failure", traceback.format_exc())
        pipe.send(message)


def describe_system_error(error: Exception) -> str | None:
    """Return one line for what the machine, not the program, refused: a full disk, a read-only folder, no memory."""
    if isinstance(error, MemoryError):
        return "out of memory; give a larger --memory with fewer --workers"
    if isinstance(error, OSError) and error.errno:
        where = f"{error.filename}: " if error.filename else ""
        hint = "; make room and run again, what is done is kept" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        return f"{where}{os.strerror(error.errno)}{hint}"
    text = str(error)
    if "No space left" in text:
        return f"{os.strerror(errno.ENOSPC)}; make room and run again, what is done is kept"
    if type(error).__module__.partition(".")[0] in ("duckdb", "_duckdb") and "Out of Memory" in text:
        return f"DuckDB is out of memory ({text.splitlines()[0]}); give a larger --memory"
    return None
