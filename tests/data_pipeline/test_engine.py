"""The local engine: the same bytes whatever the workers and shards, only what is stale runs again, failures cost one
record.
"""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_pipeline import stages
from data_pipeline.engine import pool
from data_pipeline.engine import preview as previewing
from data_pipeline.engine.run_files import locked
from data_pipeline.engine.run_recipe import summarise
from data_pipeline.recipe import Recipe
from pangu.foundation.errors import UserError
from tests.data_pipeline.conftest import contents, make_text, run_recipe, write_jsonl


@pytest.fixture
def corpus(tmp_path: Path) -> list[dict]:
    """Two sources; one in three documents is there twice."""
    for name in ("a", "b"):
        rows = [
            {"id": f"{name}{number}", "text": make_text(number % 30, 7)} for number in range(0, 60, 1 + (name == "b"))
        ]
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    return [{"name": name, "paths": f"{name}.jsonl"} for name in ("a", "b")]


STAGES = [{"read": {"shard_bytes": 4000, "item_bytes": 9000}}, {"clean": {"minimum_characters": 100}}, "dedup_exact"]


def states(recipe: Path, out: Path) -> dict[str, str]:
    return {state.name: state.in_words() for state in previewing.preview(Recipe.load(recipe), out)}


def test_workers_do_not_matter(tmp_path: Path, corpus: list[dict], recipe_at: Callable[..., Path]) -> None:
    outcomes = []
    for workers in (1, 3):
        out = tmp_path / f"out-{workers}"
        run_recipe(recipe_at(corpus, STAGES, workers=workers), out)
        outcomes.append(contents(out))
    assert outcomes[0] == outcomes[1]
    assert len([name for name in outcomes[0] if name.startswith("documents/")]) > 4


def test_only_what_is_stale_runs(tmp_path: Path, corpus: list[dict], recipe_at: Callable[..., Path]) -> None:
    out = tmp_path / "out"
    recipe = recipe_at(corpus, STAGES)
    assert set(states(recipe, out).values()) > {"runs, if read/records comes out differently"}
    first = run_recipe(recipe, out)
    assert all(summary.reused == 0 for summary in first.values())
    before = contents(out)
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("stages/**/*.parquet")}
    second = run_recipe(recipe, out)
    assert all(summary.reused == summary.tasks for summary in second.values())
    assert contents(out) == before
    assert {path: path.stat().st_mtime_ns for path in out.glob("stages/**/*.parquet")} == stamps

    # another threshold: reading stays, cleaning and what follows it run
    stricter = recipe_at(corpus, [STAGES[0], {"clean": {"minimum_characters": 205}}, STAGES[2]])
    assert [state.reasons for state in previewing.preview(Recipe.load(stricter), out)][1] == (
        "setting minimum_characters: 100 → 205",
    )
    third = run_recipe(stricter, out)
    assert third["read"].reused == third["read"].tasks
    assert third["clean"].reused == 0
    assert third["clean"].documents < first["clean"].documents

    # back again: the same bytes as at first
    run_recipe(recipe, out)
    assert contents(out) == before

    # a setting that changes nothing stops at the stage that it belongs to
    same = recipe_at(corpus, [STAGES[0], {"clean": {"minimum_characters": 99}}, STAGES[2]])
    fourth = run_recipe(same, out)
    assert fourth["clean"].reused == 0
    assert fourth["dedup_exact"].reused == fourth["dedup_exact"].tasks


def test_changed_and_missing_files(tmp_path: Path, corpus: list[dict], recipe_at: Callable[..., Path]) -> None:
    out = tmp_path / "out"
    recipe = recipe_at(corpus, STAGES)
    run_recipe(recipe, out)
    before = contents(out)
    victim = sorted(out.glob("stages/clean/kept/*.parquet"))[0]
    victim.write_bytes(victim.read_bytes()[:100])
    (reasons,) = [state.reasons for state in previewing.preview(Recipe.load(recipe), out) if state.stage == "clean"]
    assert reasons == (
        f"output missing or cut: 1 of {len(list(out.glob('stages/read/kept/*')))} tasks ({victim.stem})",
    )
    run_recipe(recipe, out)
    assert contents(out) == before
    # fewer input: what belonged to the rest goes
    (tmp_path / "b.jsonl").write_text("")
    run_recipe(recipe, out)
    rows = pq.read_table(out / "documents").to_pylist()
    assert {row["source"] for row in rows} == {"a"}
    fresh = tmp_path / "fresh"
    run_recipe(recipe, fresh)
    assert contents(fresh) == contents(out)
    names = [sorted(path.relative_to(root) for path in root.glob("stages/**/*")) for root in (out, fresh)]
    assert names[0] == names[1]


def test_stage_that_left_the_recipe(tmp_path: Path, corpus: list[dict], recipe_at: Callable[..., Path]) -> None:
    out = tmp_path / "out"
    run_recipe(recipe_at(corpus, STAGES), out)
    run_recipe(recipe_at(corpus, STAGES[:2]), out)
    assert sorted(path.name for path in (out / "stages").iterdir()) == ["clean", "read"]
    assert [summary.name for summary in summarise(out)] == ["read", "clean"]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(stages.STAGES, "failing", "tests.data_pipeline.failing_stage")


@pytest.mark.usefixtures("failing")
def test_bad_records_cost_only_themselves(
    tmp_path: Path, recipe_at: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "UNIT_SECONDS", 1.0)
    (tmp_path / "marks").mkdir()
    texts = ["good 1", "raise 2", "good 3", "kill 4", "kill-once 5", "hang 6", "good 7"]
    write_jsonl(tmp_path / "a.jsonl", [{"id": text.split()[1], "text": text} for text in texts])
    recipe = recipe_at(
        [{"name": "a", "paths": "a.jsonl"}], ["read", {"failing": {"marks": str(tmp_path / "marks")}}], workers=2
    )
    out = tmp_path / "out"
    run_recipe(recipe, out)
    assert pq.read_table(out / "documents").column("id").to_pylist() == ["1", "3", "5", "7"]
    rejects = {row["id"]: row["drop_reason"] for row in pq.read_table(out / "rejects").to_pylist()}
    assert rejects["2"] == "failed:ValueError as the text says"
    assert rejects["4"].startswith("quarantined:") and rejects["6"].startswith("quarantined:")
    assert len(rejects) == 3


def test_second_run_is_refused(tmp_path: Path, corpus: list[dict], recipe_at: Callable[..., Path]) -> None:
    out = tmp_path / "out"
    with locked(out), pytest.raises(UserError, match=rf"process {os.getpid()} (on \S+ )?is already running here"):
        run_recipe(recipe_at(corpus, STAGES), out)
    run_recipe(recipe_at(corpus, STAGES), out)


def test_output_that_cannot_be_written(tmp_path: Path, corpus: list[dict], recipe_at: Callable[..., Path]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        run_recipe(recipe_at(corpus, STAGES), tmp_path / "file" / "out")


def test_full_disk_is_one_line(tmp_path: Path, corpus: list[dict], recipe_at: Callable[..., Path]) -> None:
    """A limit on the size of files stands in for a full disk: the same error, at the same calls."""
    rows = [{"id": str(number), "text": make_text(number, 40) + str(hash(str(number)))} for number in range(3000)]
    write_jsonl(tmp_path / "a.jsonl", rows)
    recipe, out = recipe_at(corpus, ["read"]), tmp_path / "out"
    command = [sys.executable, "-m", "data_pipeline", "run", str(recipe), "--out", str(out)]
    limit = 100_000
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1 and "File too large" in done.stderr
    assert not list(out.glob("documents/*")) and not list(out.glob("tmp/*"))
    assert subprocess.run(command, capture_output=True).returncode == 0
