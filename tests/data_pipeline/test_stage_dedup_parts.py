"""The stages dedup_paragraph and dedup_substring: what the arrays give, whatever the shards and workers."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_pipeline.dedup_check import chinese_grammar
from tests.data_pipeline.conftest import contents, run_recipe, write_jsonl
from tests.data_pipeline.test_dedup_substring import deduplicate_substrings_reference

FOOTER = "版权所有：某某新闻网，未经书面授权不得转载、摘编或利用其它方式使用上述作品，违者必究。"
SMALL_SHARDS = {"read": {"shard_bytes": 5000, "item_bytes": 20_000}}


@pytest.fixture
def source(tmp_path: Path) -> Callable[[list[str]], list[dict]]:
    def write(texts: list[str]) -> list[dict]:
        write_jsonl(tmp_path / "a.jsonl", [{"id": str(number), "text": text} for number, text in enumerate(texts)])
        return [{"name": "a", "paths": "a.jsonl"}]

    return write


def by_id(out: Path, folder: str) -> dict[int, dict]:
    tables = [pq.read_table(path) for path in sorted((out / folder).glob("*.parquet"))]
    return {int(row["id"]): row for table in tables for row in table.to_pylist()}


@pytest.mark.parametrize("stage", ["dedup_paragraph", "dedup_substring"])
def test_workers_shards_and_interruptions_do_not_matter(
    tmp_path: Path, source: Callable[[list[str]], list[dict]], recipe_at: Callable[..., Path], stage: str
) -> None:
    sources = source([f"{body}\n{FOOTER}" for body in chinese_grammar.documents(40, seed=2, median=300)])
    for workers in (1, 3):
        run_recipe(recipe_at(sources, [SMALL_SHARDS, stage], workers=workers), tmp_path / f"out-{workers}")
    expected = contents(tmp_path / "out-1")
    assert contents(tmp_path / "out-3") == expected and len(expected) > 3
    whole = tmp_path / "whole"
    run_recipe(recipe_at(sources, ["read", stage]), whole)
    assert by_id(whole, "documents") == by_id(tmp_path / "out-1", "documents")
    for path in sorted((tmp_path / "out-3/stages" / stage).rglob("*.parquet"))[::3]:
        path.unlink()
    run_recipe(recipe_at(sources, [SMALL_SHARDS, stage]), tmp_path / "out-3")
    assert contents(tmp_path / "out-3") == expected


def test_boilerplate_goes(
    tmp_path: Path, source: Callable[[list[str]], list[dict]], recipe_at: Callable[..., Path]
) -> None:
    bodies = list(chinese_grammar.documents(12, seed=3, median=300))
    texts = [f"{body}\n\n{FOOTER}\n\n完{number}" for number, body in enumerate(bodies)]
    texts += [FOOTER + "\n" + FOOTER, "没有别的。\n\n\n\n空行不动。"]
    out = tmp_path / "out"
    summary = run_recipe(recipe_at(source(texts), [SMALL_SHARDS, "dedup_paragraph"]), out)["dedup_paragraph"]
    kept, dropped = by_id(out, "documents"), by_id(out, "rejects")
    assert [kept[number]["text"] for number in range(12)] == [f"{body}\n\n完{i}" for i, body in enumerate(bodies)]
    assert kept[13]["text"] == texts[13]
    assert kept[0]["signals"]["boilerplate_paragraphs"] == 1 and kept[13]["signals"]["boilerplate_paragraphs"] == 0
    assert dropped[12]["drop_reason"] == "only_boilerplate:2 paragraphs" and dropped[12]["text"] == texts[12]
    assert summary.dropped == {"only_boilerplate": 1}
    # a higher threshold keeps everything
    run_recipe(recipe_at(source(texts), [SMALL_SHARDS, {"dedup_paragraph": {"documents": 13}}]), out)
    assert {number: row["text"] for number, row in by_id(out, "documents").items()} == dict(enumerate(texts))


def test_later_repeats_are_cut(
    tmp_path: Path, source: Callable[[list[str]], list[dict]], recipe_at: Callable[..., Path]
) -> None:
    bodies = list(chinese_grammar.documents(20, seed=4, median=300))
    texts = [body + bodies[(number + 7) % 20][:120] for number, body in enumerate(bodies)]
    texts += [texts[0][10:90]]
    out = tmp_path / "out"
    run_recipe(recipe_at(source(texts), [SMALL_SHARDS, "dedup_substring"]), out)
    rows = by_id(out, "documents") | by_id(out, "rejects")
    order = sorted(rows, key=lambda number: rows[number]["doc_id"])  # the first document is the one of least number
    expected = dict(zip(order, deduplicate_substrings_reference([texts[number] for number in order], 50), strict=True))
    for number, row in rows.items():
        assert row["text"] == (expected[number] if row["drop_reason"] is None else texts[number])
        assert (row["drop_reason"] is not None) == (not expected[number].strip())
        assert row["signals"]["repeated_characters"] == len(texts[number]) - len(expected[number])
