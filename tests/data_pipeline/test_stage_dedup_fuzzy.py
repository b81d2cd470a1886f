"""The stage dedup_fuzzy: over tables and shards it gives what the arrays give; nothing else has a say in the result."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline import record
from data_pipeline.dedup_check import chinese_grammar
from data_pipeline.dedup_check.planted_duplicates import plant
from data_pipeline.stages.dedup import near_duplicates
from data_pipeline.stages.dedup.signatures import FuzzySettings, deduplicate
from pangu.foundation.errors import UserError
from tests.data_pipeline.conftest import contents, run_recipe, write_jsonl

SMALL_SHARDS = {"read": {"shard_bytes": 20_000, "item_bytes": 60_000}}


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """150 generated documents and 6 planted ones of each kind, two of them empty of letters."""
    documents = list(chinese_grammar.documents(150, seed=5, median=300))
    return documents + [item.text for item in plant(documents, 6, seed=6)] + ["……", "。。。"]


@pytest.fixture
def sources(tmp_path: Path, texts: list[str]) -> list[dict]:
    """The documents in turn in two sources."""
    for name, first in (("a", 0), ("b", 1)):
        rows = [{"id": str(number), "text": texts[number]} for number in range(first, len(texts), 2)]
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    return [{"name": name, "paths": f"{name}.jsonl"} for name in ("a", "b")]


def rows_of(out: Path, folder: str) -> list[dict]:
    return [row for path in sorted((out / folder).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_equals_the_arrays(
    tmp_path: Path, sources: list[dict], texts: list[str], recipe_at: Callable[..., Path], monkeypatch
) -> None:
    # borderline pairs are compared in many portions
    monkeypatch.setattr(near_duplicates, "_COMPARED_BYTES", 3000)
    out = tmp_path / "out"
    summary = run_recipe(recipe_at(sources, [SMALL_SHARDS, "dedup_fuzzy"], workers=2), out)["dedup_fuzzy"]
    kept, dropped = rows_of(out, "documents"), rows_of(out, "rejects")
    number_of = {row["id"]: row["doc_id"] for row in kept + dropped}
    ids = np.array([number_of[str(number)] for number in range(len(texts))], np.uint64)
    clusters = deduplicate(pa.array(texts), ids, FuzzySettings())
    expected = {
        int(ids[row]): int(ids[best]) for row, best in enumerate(clusters.representative.tolist()) if row != best
    }
    reasons = {row["doc_id"]: row["drop_reason"] for row in dropped}
    assert reasons == {row: f"near_duplicate_of:{best}" for row, best in expected.items()}
    assert len(expected) > 40
    assert summary.dropped == {"near_duplicate_of": len(expected)}
    assert summary.details["edges"] == clusters.edges.left.size


def test_workers_shards_and_interruptions_do_not_matter(
    tmp_path: Path, sources: list[dict], recipe_at: Callable[..., Path]
) -> None:
    stages = [SMALL_SHARDS, "dedup_fuzzy"]
    for workers in (1, 3):
        run_recipe(recipe_at(sources, stages, workers=workers), tmp_path / f"out-{workers}")
    expected = contents(tmp_path / "out-1")
    assert contents(tmp_path / "out-3") == expected
    assert len([name for name in expected if name.startswith("documents/")]) > 4

    whole = tmp_path / "whole"
    run_recipe(recipe_at(sources, ["read", "dedup_fuzzy"]), whole)
    for folder in ("documents", "rejects"):
        assert rows_of(whole, folder) == rows_of(tmp_path / "out-1", folder)

    # what a kill leaves: any file missing, or a step that was not reached
    out = tmp_path / "out-3"
    for lost in ("sketches/*", "exact/*", "band_keys/*", "candidates/*", "clusters/*", "kept/*"):
        sorted((out / "stages/dedup_fuzzy").glob(lost))[0].unlink()
        run_recipe(recipe_at(sources, stages), out)
        assert contents(out) == expected


def test_killed_at_any_time(tmp_path: Path, sources: list[dict], recipe_at: Callable[..., Path]) -> None:
    """kill -9 of the whole run in the midst of these stages; the next one goes on."""
    stages = [SMALL_SHARDS, "dedup_fuzzy", "dedup_substring"]
    recipe = recipe_at(sources, stages, workers=2)
    run_recipe(recipe, tmp_path / "undisturbed")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "data_pipeline", "run", str(recipe), "--out", str(out)]
    for folder in ("dedup_fuzzy/band_keys", "dedup_substring/windows"):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not list((out / "stages" / folder).glob("*.parquet")):
            time.sleep(0.05)
        process.kill()
        process.wait()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert contents(out) == contents(tmp_path / "undisturbed")


def test_only_what_depends_on_the_similarity_runs_again(
    tmp_path: Path, sources: list[dict], recipe_at: Callable[..., Path]
) -> None:
    out = tmp_path / "out"
    first = run_recipe(recipe_at(sources, [SMALL_SHARDS, "dedup_fuzzy"]), out)["dedup_fuzzy"]
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("stages/dedup_fuzzy/[sb]*/*.parquet")}
    second = run_recipe(recipe_at(sources, [SMALL_SHARDS, {"dedup_fuzzy": {"similarity": 0.9}}]), out)["dedup_fuzzy"]
    assert second.documents > first.documents
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_the_document_with_the_greatest_signal_stays(tmp_path: Path, recipe_at: Callable[..., Path]) -> None:
    text = "".join(chinese_grammar.documents(1, seed=9, median=600))
    rows = [
        {"id": "plain", "text": text},
        {"id": "marked", "text": text + "\ue000。\ue001"},
        {"id": "long", "text": text + "另"},
    ]
    write_jsonl(tmp_path / "a.jsonl", rows)
    source = [{"name": "a", "paths": "a.jsonl"}]
    for settings, stays in (({}, "long"), ({"quality": "symbols_removed"}, "marked")):
        out = tmp_path / stays
        run_recipe(recipe_at(source, ["read", {"clean": {"minimum_characters": 1}}, {"dedup_fuzzy": settings}]), out)
        assert [row["id"] for row in rows_of(out, "documents")] == [stays]
    with pytest.raises(UserError, match="no stage before it gives a signal 'beauty'; there are bytes"):
        run_recipe(recipe_at(source, ["read", {"dedup_fuzzy": {"quality": "beauty"}}]), tmp_path / "wrong")


def test_nothing_to_compare(tmp_path: Path, recipe_at: Callable[..., Path]) -> None:
    for rows in ([], [{"text": "只有一篇。"}], [{"text": "……"}, {"text": "——"}]):
        write_jsonl(tmp_path / "a.jsonl", rows)
        recipe = recipe_at([{"name": "a", "paths": "a.jsonl"}], ["read", "dedup_fuzzy"])
        run_recipe(recipe, tmp_path / "out")
        assert len(rows_of(tmp_path / "out", "documents")) == len(rows)
        again = run_recipe(recipe, tmp_path / "out")["dedup_fuzzy"]
        assert again.reused == again.tasks


def test_signed_numbers_keep_the_order() -> None:
    numbers = np.array([0, 1, 2**63 - 1, 2**63, 2**64 - 1], np.uint64)
    signed = record.signed_numbers(pa.array(numbers))
    assert (signed[1:] > signed[:-1]).all()
    assert record.unsigned_numbers(signed).tolist() == numbers.tolist()
