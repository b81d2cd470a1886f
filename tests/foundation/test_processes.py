"""Processes that end with everything that they started."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pangu.foundation.processes import Child, last_error

FAMILY = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); {}"


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    "body", ["time.sleep(600)", "import signal; signal.signal(15, signal.SIG_IGN); time.sleep(600)"]
)
def test_a_process_ends_with_its_descendants_even_if_it_does_not_want_to(body: str, tmp_path: Path) -> None:
    with Child([sys.executable, "-c", FAMILY.format(body)], log=tmp_path / "log") as child:
        family = psutil.Process(child.pid)
        end = time.monotonic() + 60
        while not family.children() and time.monotonic() < end:
            time.sleep(0.05)
        members = [family, *family.children()]
        assert len(members) == 2
        child.end(seconds=0.2)
    end = time.monotonic() + 60  # a killed process takes a moment to go
    while any(alive(member) for member in members) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(alive(member) for member in members) and child.returncode is not None


def test_what_a_process_leaves_behind_ends_too(tmp_path: Path) -> None:
    with Child([sys.executable, "-c", FAMILY.format("print('gone', flush=True)")], log=tmp_path / "log") as child:
        end = time.monotonic() + 60
        while child.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
    assert child.returncode == 0 and (tmp_path / "log").read_text() == "gone\n"


def test_output_errors_environment_and_folder_go_where_they_should(tmp_path: Path) -> None:
    program = "import os, sys; print(os.environ['COLOUR'], os.getcwd()); sys.exit('error: no such thing')"
    log, output = tmp_path / "log", tmp_path / "out"
    child = Child(
        [sys.executable, "-c", program], log=log, output=output, environment={"COLOUR": "green"}, folder=tmp_path
    )
    assert child.wait(60) == 1 and output.read_text() == f"green {tmp_path}\n"
    assert last_error(log) == "no such thing" and last_error(output) is None and last_error(tmp_path / "none") is None
    with (
        pytest.raises(subprocess.TimeoutExpired),
        Child([sys.executable, "-c", FAMILY.format("time.sleep(9)")]) as slow,
    ):
        slow.wait(0.1)
