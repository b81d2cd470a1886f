"""New data against an old corpus: what was released is never replaced, and only what is new comes out."""

import random
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_pipeline.dedup_check import chinese_grammar
from data_pipeline.engine.progress import Announcer, Quiet
from data_pipeline.engine.run_recipe import run as run_local
from data_pipeline.recipe import Recipe
from pangu.foundation.errors import UserError
from tests.data_pipeline.conftest import contents, run_recipe, write_jsonl

STAGES = ("dedup_exact", "dedup_fuzzy", "dedup_paragraph", "dedup_substring")
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
    for stage in STAGES:
        with pytest.raises(UserError, match=rf"yaml:\d+: field 'stages.1.{stage}.against': .*none: not the output"):
            Recipe.load(recipe_at([{"name": "a", "paths": "a.jsonl"}], ["read", {stage: {"against": "none"}}]))


def test_parts_of_an_old_corpus_are_known_again(tmp_path: Path, recipe_at: Callable[..., Path]) -> None:
    """Paragraphs count over both corpora, also those that the old run took out. A stretch that the old one has is
    cut.
    """
    texts = list(chinese_grammar.documents(24, seed=5, median=300))
    footer = "版权所有某某新闻网未经书面授权不得转载摘编或利用其它方式使用上述作品违者必究"
    write_jsonl(
        tmp_path / "old.jsonl", [{"id": f"old{n}", "text": f"{text}\n{footer}"} for n, text in enumerate(texts[:12])]
    )
    paragraph, substring = {"documents": 10}, {"length": 40}
    old = tmp_path / "old"
    run_recipe(recipe_at([{"name": "old", "paths": "old.jsonl"}], [READ, {"dedup_paragraph": paragraph}]), old)
    assert not any(footer in row["text"] for row in pq.read_table(old / "documents").to_pylist())
    quoted = texts[3][20:90]
    new = [f"{text}\n{footer}" for text in texts[12:16]] + [texts[16] + quoted + "。完", quoted, "短。\n短。"]
    write_jsonl(tmp_path / "new.jsonl", [{"id": f"new{n}", "text": text} for n, text in enumerate(new)])
    sources = [{"name": "new", "paths": "new.jsonl"}]
    before = contents(old)
    outs = [tmp_path / "new-1", tmp_path / "new-2"]
    for workers, out in enumerate(outs, 1):
        stages = [
            READ,
            {"dedup_paragraph": paragraph | {"against": "old"}},
            {"dedup_substring": substring | {"against": "old"}},
        ]
        summary = run_recipe(recipe_at(sources, stages, workers=workers), out)
        assert summary["dedup_paragraph"].details["old_documents"] == 12
    assert contents(outs[0]) == contents(outs[1]) and contents(old) == before
    kept = {row["id"]: row["text"] for row in pq.read_table(outs[0] / "documents").to_pylist()}
    assert kept == {f"new{n}": text for n, text in enumerate(texts[12:16])} | {
        "new4": texts[16] + "。完",
        "new6": new[6],
    }
    assert ids(outs[0], "rejects") == {"new5": "only_repeats:70 characters"}
    # new documents alone: a footer of four documents stays, and what is quoted once stays in one of two
    run_recipe(
        recipe_at(sources, [READ, {"dedup_paragraph": paragraph}, {"dedup_substring": {"length": 80}}]),
        tmp_path / "alone",
    )
    alone = {row["id"]: row["text"] for row in pq.read_table(tmp_path / "alone/documents").to_pylist()}
    assert alone == {f"new{n}": text for n, text in enumerate(new)}


def test_old_runs_that_are_moved_other_empty_unfinished_or_ones_own(
    tmp_path: Path, recipe_at: Callable[..., Path], capsys: pytest.CaptureFixture
) -> None:
    texts = list(chinese_grammar.documents(20, seed=6, median=300))
    write_jsonl(tmp_path / "a.jsonl", [{"id": f"{n}", "text": text} for n, text in enumerate(texts)])
    sources = [{"name": "a", "paths": "a.jsonl"}]
    run_recipe(recipe_at(sources, [READ, {"dedup_fuzzy": {"bands": 10}}]), tmp_path / "made")
    (tmp_path / "made").rename(tmp_path / "moved")
    every = [READ, *({stage: {"against": "moved"}} for stage in STAGES)]
    recipe = Recipe.load(recipe_at(sources, every))
    run_local(recipe, tmp_path / "again", Announcer())
    assert capsys.readouterr().err.count("signatures are made again from its texts (bands 10 there, 20 here)\n") == 1
    assert not ids(tmp_path / "again", "documents")
    # an old corpus without a document, and one whose texts are empty, take nothing away
    for name, rows in (("none", [{"title": "x"}]), ("blank", [{"text": "。"}])):
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
        run_recipe(recipe_at([{"name": "b", "paths": f"{name}.jsonl"}], [READ]), tmp_path / name)
        out = tmp_path / f"against-{name}"
        run_recipe(recipe_at(sources, [READ, *({stage: {"against": name}} for stage in STAGES)]), out)
        assert len(ids(out, "documents")) == len(texts)
    # a run that stopped early
    first = Recipe.load(recipe_at(sources, [READ, "dedup_exact"]))
    run_local(first, tmp_path / "early", Quiet(), until="read")
    for stage in STAGES:
        with pytest.raises(UserError, match=r"yaml:\d+: .*early: this run is not finished \(stage dedup_exact"):
            Recipe.load(recipe_at(sources, [READ, {stage: {"against": "early"}}]))
    with pytest.raises(UserError, match=r"--out .*moved: it is also dedup_exact.against; new data need"):
        run_local(recipe, tmp_path / "moved", Quiet())
    assert len(ids(tmp_path / "moved", "documents")) == len(texts)
