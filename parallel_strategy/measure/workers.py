"""Starts the processes that measure together, with msrun, and reads what they found."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pangu.foundation.errors import UserError
from pangu.foundation.processes import Child, free_port
from parallel_strategy.measure.choose import ASCEND_DRIVER
from parallel_strategy.measure.timed_kernels import Collected, Crowded

# Seconds that starting the processes, compiling, and ending them may take beside the measuring.
STARTING = 180


def msrun() -> str:
    """Return MindSpore's launcher. Raises UserError where there is none."""
    beside = Path(sys.executable).with_name("msrun")
    found = str(beside) if beside.exists() else shutil.which("msrun")
    if found is None:
        raise UserError("--workers: msrun is not on the PATH; activate the environment that has MindSpore")
    return found


def check_workers(workers: list[int], backend: str) -> None:
    """Raise UserError where one file cannot describe so many processes: one share of the cores for all of them."""
    if not workers:
        return
    if workers[0] < 2:
        raise UserError(f"--workers {workers[0]}: several processes are measured; nearest: 2")
    if backend in ("torch", "numpy"):
        raise UserError(f"--workers: collectives are MindSpore's; nearest: --backend mindspore, not {backend}")
    msrun()
    cores = len(os.sched_getaffinity(0))
    shares = {count: max(1, cores // count) for count in workers}
    if len(set(shares.values())) > 1 and not ASCEND_DRIVER.exists():
        told = ", ".join(f"{count} have {share}" for count, share in shares.items())
        raise UserError(f"--workers: of {cores} cores, {told} each; nearest: a file for each of these")


def cores_of(process: int, processes: int) -> list[int]:
    """Return the cores of one of several processes that train on a CPU: its share, or one that it has in turns.

    `pangu.distributed.process_group.share_cores` gives training the same ones."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[process % len(cores) :: processes]


@contextlib.contextmanager
def keep_to_share(workers: list[int]) -> Iterator[None]:
    """Keep this process on the cores that the first of `workers` processes has in training."""
    cores = os.sched_getaffinity(0)
    if workers and not ASCEND_DRIVER.exists():
        os.sched_setaffinity(0, cores_of(0, workers[0]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def measure_workers(
    workers: int, target: str, seconds: float, clock: str = "wall"
) -> tuple[list[Collected], list[Crowded]]:
    """Start `workers` processes, each with its share of the cores as in training, and measure for about
    `seconds`.

    clock: wall, or processor where others use the machine too.
    """
    launcher = msrun()
    with tempfile.TemporaryDirectory(prefix="measure-") as name:
        folder = Path(name)
        out = folder / "found.json"
        words = [
            launcher,
            f"--worker_num={workers}",
            f"--local_worker_num={workers}",
            "--master_addr=127.0.0.1",
            f"--master_port={free_port()}",
            f"--log_dir={folder / 'logs'}",
            "--join=True",
            "--cluster_time_out=120",
            "python",
            "-m",
            "parallel_strategy.measure.worker",
            str(out),
            target,
            str(seconds),
            clock,
        ]
        package = Path(__file__).resolve().parents[2]
        environment = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONPATH": f"{package}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
            "GLOG_v": "3",
        }
        log = folder / "launcher.log"
        with (
            Child(words, folder=folder, environment=environment, log=log) as process,
            contextlib.suppress(subprocess.TimeoutExpired),
        ):
            process.wait(STARTING + 3 * seconds)
        if not out.exists():
            raise UserError(f"--workers {workers}: the processes did not finish: {_last_words(folder / 'logs')}")
        found = json.loads(out.read_text(encoding="utf-8"))
    return [Collected(**one) for one in found["collectives"]], [Crowded(**one) for one in found["crowded"]]


def _last_words(logs: Path) -> str:
    """Return the last line of an error in the logs."""
    for log in sorted(logs.glob("worker_*.log")):
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
        errors = [line for line in lines if "Error" in line and not line.startswith("[")]
        if errors:
            return errors[-1][:200]
    return "no error in their logs; is another run using both cores?"
