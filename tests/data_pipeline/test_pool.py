"""The pool: every job is done once, whatever happens to the workers."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.engine.pool import Failure, Job, Pool, WorkerReport
from pangu.foundation.errors import UserError


def double(argument: int, progress: WorkerReport) -> int:
    return 2 * argument


def die_until_marked(argument: tuple[Path, int], progress: WorkerReport) -> int:
    """Dies so many times before it succeeds."""
    folder, deaths = argument
    before = len(list(folder.iterdir()))
    if before < deaths:
        (folder / str(before)).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return before


def die_on_record(argument: list[int], progress: WorkerReport) -> list[int]:
    """Records below zero kill; returns those that were not skipped."""
    done = []
    for record in argument:
        if not progress.at(abs(record)):
            continue
        if record < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(record)
    return done


def complain(argument: str, progress: WorkerReport) -> None:
    if argument == "user":
        raise UserError("the user's mistake")
    if argument == "disk":
        raise OSError(28, "No space left on device", "/some/file")
    raise RuntimeError("a bug")


def hang(argument: None, progress: WorkerReport) -> None:
    if progress.at(7):
        time.sleep(1000)


def run(jobs: list[Job], size: int = 2, **fields: Any) -> dict[str, Any]:
    with Pool(size, **fields) as pool:
        return {job.name: value for job, value in pool.run(jobs)}


@pytest.mark.parametrize("size", [1, 3])
def test_all_jobs(size: int) -> None:
    jobs = [Job(str(number), double, number) for number in range(50)]
    assert run(jobs, size) == {str(number): 2 * number for number in range(50)}


def test_dead_worker_is_replaced(tmp_path: Path) -> None:
    jobs = [Job("deadly", die_until_marked, (tmp_path, 2)), *(Job(str(number), double, number) for number in range(5))]
    assert run(jobs)["deadly"] == 2


def test_record_that_kills_twice_is_skipped() -> None:
    assert run([Job("a", die_on_record, [1, -2, 3, -4, 5])]) == {"a": [1, 3, 5]}


def test_job_that_always_dies_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"deadly: its worker was killed 6 times"):
        run([Job("deadly", die_until_marked, (tmp_path, 100))])


def test_errors() -> None:
    with pytest.raises(UserError, match="the user's mistake"):
        run([Job("a", complain, "user")])
    with pytest.raises(UserError, match="a: /some/file: No space left on device; make room and run again"):
        run([Job("a", complain, "disk")])
    with pytest.raises(Failure, match="RuntimeError: a bug"):
        run([Job("a", complain, "bug")])


def test_hanging_record_is_skipped() -> None:
    assert run([Job("a", hang, None)], unit_seconds=0.3) == {"a": None}
