"""What a run shows: how far it is, when it will be done, and what stages announce."""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.engine.progress import StepProgress, duration
from tests.conftest import REPOSITORY
from tests.data_pipeline.conftest import make_text, write_jsonl


def test_duration() -> None:
    assert [duration(seconds) for seconds in (0, 59.4, 61, 3725)] == ["0:00", "0:59", "1:01", "1:02:05"]


def test_time_left_is_that_of_the_work_left() -> None:
    progress = StepProgress(total_size=1000, now=0.0)
    assert progress.cells(5.0, True) == ["", "", "", ""]
    progress.task_done(200, {"documents_in": 200, "documents": 150, "bytes_in": 4_000_000, "dropped": {"short": 50}})
    progress.tick(50, 1_000_000)
    assert progress.share(True) == 0.25
    assert progress.cells(10.0, True) == ["250", "0.5", "75.0 %", "0:30"]
    # another step counts bytes
    assert StepProgress(1_000, 0.0).cells(10.0, False)[3] == ""
    # nothing is said of the time left before there is something to go by, or when all is done
    assert progress.cells(0.5, True)[3] == ""
    progress.task_done(800, {"documents_in": 800, "documents": 800, "bytes_in": 1, "dropped": {}})
    assert progress.cells(40.0, True)[2:] == ["95.0 %", ""]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=20), st.integers(0, 200))
def test_the_share_only_grows(tasks: list[tuple[int, int]], running: int) -> None:
    progress = StepProgress(sum(size for size, _ in tasks), 0.0)
    before = 0.0
    for size, documents in tasks:
        progress.task_done(size, {"rows": documents})
        assert before <= progress.share(True) <= 1
        before = progress.share(True)
    progress.tick(running, running)
    assert before <= progress.share(True) <= 1


def run_in_terminal(command: list[str]) -> str:
    """What a terminal would have been sent."""
    parent, child = pty.openpty()
    environment = {**os.environ, "COLUMNS": "120", "LINES": "40", "TERM": "xterm"}
    process = subprocess.Popen(command, stdout=child, stderr=child, cwd=REPOSITORY, env=environment)
    os.close(child)
    parts = []
    while True:
        try:
            block = os.read(parent, 1 << 16)
        except OSError:  # the other end was closed
            break
        if not block:
            break
        parts.append(block)
    os.close(parent)
    assert process.wait(timeout=60) == 0
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", b"".join(parts).decode(errors="replace"))


def test_a_terminal_sees_the_table_and_announcements(tmp_path: Path, recipe_at: Callable[..., Path]) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"id": str(i), "text": make_text(i)} for i in range(30)])
    recipe = recipe_at([{"name": "a", "paths": "a.jsonl"}], ["read", {"mix": {"epochs": {"a": 2}}}], workers=1)
    command = [sys.executable, "-m", "data_pipeline", "run", str(recipe), "--out", str(tmp_path / "out")]
    seen = run_in_terminal(command)
    for title in ("stage", "documents", "MB/s", "kept", "time left"):
        assert title in seen
    assert "mix records" in seen and "takes tokens" in seen and "× " in seen.replace("×;", "× ")
    # elsewhere only announcements, on stderr
    done = subprocess.run([*command[:-1], str(tmp_path / "plain")], capture_output=True, text=True, cwd=REPOSITORY)
    assert "takes tokens" in done.stderr and "time left" not in done.stderr
