"""kill -9 of any process at any time: the next run goes on and ends with the same bytes."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.data_pipeline.conftest import contents, make_text, run_recipe, write_jsonl

SECONDS = 20


def test_killed_at_any_time(tmp_path: Path, recipe_at: Callable[..., Path], tokenizer_directory: Path) -> None:
    write_jsonl(
        tmp_path / "a.jsonl", [{"id": str(number), "text": make_text(number % 500, 9)} for number in range(800)]
    )
    stages = [
        {"read": {"shard_bytes": 20_000, "item_bytes": 60_000}},
        {"clean": {"minimum_characters": 200}},
        "dedup_exact",
        {"tokenizer": {"use": str(tokenizer_directory)}},
        {"pack": {"seq_length": 64, "outputs": ["parquet"], "samples_per_file": 100}},
    ]
    recipe = recipe_at([{"name": "a", "paths": "a.jsonl"}], stages, workers=2)
    run_recipe(recipe, tmp_path / "undisturbed")
    expected = contents(tmp_path / "undisturbed")
    assert any(name.startswith("packed/train-00001") for name in expected)

    out = tmp_path / "out"
    command = [sys.executable, "-m", "data_pipeline", "run", str(recipe), "--out", str(out)]
    generator = random.Random(0)
    end = time.monotonic() + SECONDS
    kills = finished = 0
    while time.monotonic() < end or not kills:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        time.sleep(generator.uniform(0.3, 3.0))
        victims = [psutil.Process(process.pid)] if process.poll() is None else []
        with contextlib.suppress(psutil.NoSuchProcess):
            if victims and generator.random() < 0.4:
                victims = victims[0].children() or victims
        for victim in victims[-1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim.pid, signal.SIGKILL)
                kills += 1
        _, errors = process.communicate()
        if process.returncode == 0:
            assert contents(out) == expected
            finished += 1
            if generator.random() < 0.7:
                # begin anew, or with a stage lost
                for path in sorted(out.glob(generator.choice(["stages/read/kept/*", "stages/clean/*/*", "packed/*"]))):
                    if path.is_file():
                        path.unlink()
        else:
            assert process.returncode == -signal.SIGKILL, errors
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert contents(out) == expected
    assert kills
    assert not list(out.glob("tmp/*"))
