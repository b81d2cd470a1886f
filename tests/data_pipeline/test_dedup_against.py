"""New data against an old corpus: what was released is never replaced, and only what is new comes out."""

import random
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_pipeline.dedup_check import chinese_grammar
from data_pipeline.recipe import Recipe
from pangu.foundation.errors import UserError
from tests.data_pipeline.conftest import contents, run_recipe, write_jsonl

READ = {"read": {"shard_bytes": 30_000, "item_bytes": 60_000}}


def ids(out: Path, folder: str) -> dict[str, str | None]:
    return {row["id"]: row["drop_reason"] for row in pq.read_table(out / folder).to_pylist()}


@pytest.mark.parametrize("stage", ["dedup_exact", "dedup_fuzzy"])
def test_new_data_against_an_old_corpus(tmp_path: Path, recipe_at: Callable[..., Path], stage: str) -> None:
    texts = list(chinese_grammar.documents(80, seed=4, median=500))
    write_jsonl(tmp_path / "old.jsonl", [{"id": f"old{n}", "text": text} for n, text in enumerate(texts[:50])])
    old = tmp_path / "old"
    run_recipe(recipe_at([{"name": "old", "paths": "old.jsonl"}], [READ, stage]), old)
    released = ids(old, "documents").keys()
    before = contents(old)
    # copies, and reprints that are slightly longer and would replace the released ones
    more = "" if stage == "dedup_exact" else "（本文有删节）"
    rows = [{"id": f"again{n}", "text": texts[n] + more} for n in range(0, 50, 2)]
    rows += [{"id": f"new{n}", "text": text} for n, text in enumerate(texts[50:])]
    rows += [{"id": f"twin{n}", "text": texts[50 + n] + more} for n in range(5)]
    random.Random(1).shuffle(rows)
    write_jsonl(tmp_path / "new.jsonl", rows)
    sources = [{"name": "new", "paths": "new.jsonl"}]
    outs = []
    for workers in (1, 2):
        outs.append(tmp_path / f"new-{workers}")
        summary = run_recipe(recipe_at(sources, [READ, {stage: {"against": "old"}}], workers=workers), outs[-1])
        assert summary[stage].details["old_documents"] == len(released)
        if stage == "dedup_fuzzy":  # not made again
            assert summary[stage].details["old_signatures_read"] == len(released)
    assert contents(outs[0]) == contents(outs[1]) and contents(old) == before
    kept, dropped = ids(outs[0], "documents"), ids(outs[0], "rejects")
    assert not any(name.startswith("again") for name in kept)
    numbers = {str(row["doc_id"]): row["id"] for row in pq.read_table(old / "documents").to_pylist()}
    for name, reason in dropped.items():
        if name.startswith("again"):
            assert numbers[str(reason).partition(":")[2]] == f"old{name.removeprefix('again')}"
    # the twins among the new ones are one document each
    assert len(kept) == len(texts[50:])
    # an old corpus without such a stage is sketched from its texts
    run_recipe(recipe_at([{"name": "old", "paths": "old.jsonl"}], [READ]), tmp_path / "plain")
    run_recipe(recipe_at(sources, [READ, {stage: {"against": "plain"}}]), tmp_path / "new-plain")
    assert ids(tmp_path / "new-plain", "documents").keys() == kept.keys()


def test_an_old_corpus_that_is_none_is_a_mistake(tmp_path: Path, recipe_at: Callable[..., Path]) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": "文"}])
    for stage in ("dedup_exact", "dedup_fuzzy"):
        with pytest.raises(UserError, match=f"{stage}.against: .*none: not the output directory"):
            Recipe.load(recipe_at([{"name": "a", "paths": "a.jsonl"}], ["read", {stage: {"against": "none"}}]))
