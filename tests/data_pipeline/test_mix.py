"""Mixing: what the plan says is what is taken, whatever the shards and workers."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.cli import main
from data_pipeline.recipe import Recipe
from data_pipeline.stages import STAGES
from data_pipeline.stages.mix import stage as mix
from data_pipeline.stages.mix.stage import Settings
from pangu.foundation.errors import UserError
from tests.data_pipeline.conftest import contents, make_text, run_recipe, write_jsonl

SMALL_SHARDS = {"read": {"shard_bytes": 4000, "item_bytes": 8000}}


@pytest.fixture
def sources(tmp_path: Path) -> list[dict]:
    for name, count in (("news", 60), ("books", 200), ("web", 30)):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"id": f"{name}-{i}", "text": make_text(i)} for i in range(count)])
    return [{"name": name, "paths": f"{name}.jsonl"} for name in ("news", "books", "web")]


def rows(out: Path, folder: str = "documents") -> list[dict]:
    return [row for path in sorted((out / folder).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def totals(**sources: list[int]) -> pa.Table:
    """A table of one bucket for each number of tokens, spread over the buckets."""
    found = []
    for name, tokens in sources.items():
        step = mix.BUCKETS // len(tokens)
        found += [{"source": name, "bucket": i * step, "documents": 1, "tokens": n} for i, n in enumerate(tokens)]
    return pa.Table.from_pylist(found, schema=mix.TOTALS)


def test_epochs(tmp_path: Path, sources: list[dict], recipe_at: Callable[..., Path]) -> None:
    epochs = {"news": 2.5, "books": 0.25, "web": 0}
    out = tmp_path / "out"
    summary = run_recipe(recipe_at(sources, [SMALL_SHARDS, {"mix": {"epochs": epochs}}], workers=2), out)["mix"]
    plan = {source["name"]: source for source in json.loads((out / "mix/plan.json").read_text())["sources"]}
    taken = Counter(row["source"] for row in rows(out))
    assert taken == {name: plan[name]["documents_taken"] for name in ("news", "books")}
    for name, wanted in epochs.items():
        assert abs(plan[name]["epochs"] - wanted) < 0.02
    of_news = Counter(row["id"] for row in rows(out) if row["source"] == "news")
    assert set(of_news.values()) == {2, 3} and len(of_news) == 60
    numbers = [row["doc_id"] for row in rows(out)]
    assert len(set(numbers)) == len(numbers)
    assert {row["signals"]["copy"] for row in rows(out)} == {0, 1, 2}
    dropped = rows(out, "rejects")
    assert len(dropped) == 30 + 200 - taken["books"] and {row["id"] for row in dropped} <= {
        f"{n}-{i}" for n in ("web", "books") for i in range(200)
    }
    assert {row["drop_reason"].partition(":")[0] for row in dropped} == {"not_sampled"}
    assert summary.details["tokens_taken"] == sum(source["tokens_taken"] for source in plan.values())
    whole = tmp_path / "whole"
    run_recipe(recipe_at(sources, ["read", {"mix": {"epochs": epochs}}], workers=1), whole)
    assert contents(whole, "mix") == contents(out, "mix")
    assert sorted(rows(whole), key=lambda row: row["doc_id"]) == sorted(rows(out), key=lambda row: row["doc_id"])
    run_recipe(recipe_at(sources, [SMALL_SHARDS, {"mix": {"epochs": epochs, "seed": 9}}]), whole)
    assert {row["id"] for row in rows(whole)} != {row["id"] for row in rows(out)}


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=30),
    st.lists(st.integers(1, 50), min_size=1, max_size=30),
    st.integers(1, 2000),
    st.integers(1, 99),
)
def test_weights_are_met_as_near_as_documents_allow(a: list[int], b: list[int], budget: int, weight: int) -> None:
    settings = Settings(weights={"a": weight, "b": 100 - weight}, tokens=budget, maximum_epochs=3, seed=1)
    for source, tokens in zip(mix.make_plan(settings, totals(a=a, b=b)), (a, b), strict=True):
        wanted = min(budget * (source.weight or 0), 3 * sum(tokens))
        assert abs(source.tokens_taken - wanted) <= max(tokens) / 2 + 1e-6
        assert bool(source.note) == (budget * (source.weight or 0) > 3 * sum(tokens))
        own = totals(x=tokens)
        again = sum(row["tokens"] * (source.whole + (row["bucket"] < source.buckets)) for row in own.to_pylist())
        assert again == source.tokens_taken


def test_more_of_an_epoch_holds_what_less_of_it_held() -> None:
    numbers = np.arange(1, 1000, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    found = mix.buckets(numbers, 7)
    assert found.min() >= 0 and found.max() < mix.BUCKETS
    assert abs(float((found < mix.BUCKETS // 2).mean()) - 0.5) < 0.06
    assert (found != mix.buckets(numbers, 8)).any()


def test_a_source_that_is_too_small_is_said(
    tmp_path: Path, sources: list[dict], recipe_at: Callable[..., Path], capsys: pytest.CaptureFixture
) -> None:
    weights = {"weights": {"news": 50, "books": 25, "web": 25}, "tokens": "40K", "maximum_epochs": 2}
    path = recipe_at(sources, ["read", {"mix": weights}], workers=1)
    assert main(["plan", str(path), "--out", str(tmp_path / "out")]) == 0
    assert "news 50.00 %" in capsys.readouterr().out
    assert main(["run", str(path), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().err
    assert "news 50.00 %" in said and "web: too small for 25.0 %: 10,000 tokens wanted" in said
    assert main(["plan", str(path), "--out", str(tmp_path / "out")]) == 0
    planned = capsys.readouterr().out
    assert "takes tokens" in planned and "web: too small" in planned
    stop = recipe_at(sources, ["read", {"mix": {**weights, "too_small": "stop"}}], workers=1)
    assert main(["run", str(stop), "--out", str(tmp_path / "out")]) == 2
    assert "too small for" in capsys.readouterr().err.splitlines()[-1]


def test_a_tokenizer_counts(
    tmp_path: Path, sources: list[dict], recipe_at: Callable[..., Path], tokenizer_directory: Path
) -> None:
    from pangu.tokenizer import Tokenizer

    stage = {
        "mix": {
            "weights": {"news": 1, "books": 0, "web": 0},
            "tokenizer": str(tokenizer_directory),
            "maximum_epochs": 1,
        }
    }
    run_recipe(recipe_at(sources, ["read", stage], workers=1), tmp_path / "out")
    sources_of_plan = json.loads((tmp_path / "out/mix/plan.json").read_text())["sources"]
    plan = next(source for source in sources_of_plan if source["name"] == "news")
    encoded = Tokenizer.load(tokenizer_directory).encode_batch([make_text(i) for i in range(60)])
    assert plan["tokens_taken"] == plan["tokens"] == sum(map(len, encoded))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give `weights` or `epochs`"),
        ({"weights": {"news": 1, "boks": 1, "web": 1}}, "did you mean 'books'?"),
        ({"weights": {"news": 1, "books": 1}}, "nothing for source 'web'; 0 leaves it out"),
        ({"weights": {"news": 0, "books": 0, "web": 0}}, "all are 0"),
        ({"weights": {"news": -1, "books": 1, "web": 1}}, "nearest: 0"),
        ({"weights": {}, "epochs": {}}, "exclude each other"),
        ({"preset": "pangu-alpha-13b"}, "the preset names public, ebooks, common_crawl, news, encyclopedia"),
        ({"weights": {"news": 1, "books": 1, "web": 1}, "tokens": "many"}, "write it like 200B"),
        ({"epochs": {"news": 1, "books": 1, "web": 1}, "tokenizer": "nowhere"}, "no such file"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path,
    sources: list[dict],
    recipe_at: Callable[..., Path],
    capsys: pytest.CaptureFixture,
    settings: dict,
    message: str,
) -> None:
    path = recipe_at(sources, ["read", {"mix": settings}])
    assert main(["plan", str(path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and message in error[0]


def test_table_4_is_a_recipe(tmp_path: Path) -> None:
    weights = mix.load_preset("pangu-alpha-200b").weights
    assert weights is not None and round(sum(weights.values()), 2) == 100.0
    epochs = mix.load_preset("pangu-alpha-200b-epochs").epochs
    assert epochs == {"public": 3.65, "ebooks": 0.41, "common_crawl": 0.85, "news": 2.2, "encyclopedia": 3}
    templates = sorted((Path(mix.__file__).parents[2] / "recipes").glob("*.yaml"))
    assert [path.stem for path in templates] == ["pangu-alpha-13b", "pangu-alpha-200b"]
    for path in templates:
        stages = {stage.kind: stage.settings for stage in Recipe.load(path).stages}
        preset = mix.load_preset(path.stem)
        assert stages["mix"].weights == preset.weights


@pytest.mark.parametrize("by", ["domain", "quality_bucket"])
def test_what_label_found_is_mixed(
    tmp_path: Path, sources: list[dict], recipe_at: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    monkeypatch.setitem(STAGES, "label", "tests.data_pipeline.labelling_stage")
    epochs = {"law": 2, "news": 0} if by == "domain" else {"0-9": 0, "15": 2, 16: 2, "17-19": 2}
    expected: Counter[int] = Counter()
    for number in range(60):
        name = ("law", "news", "sports")[number % 3]
        is_high = (name == "law") if by == "domain" else number % 20 >= 15
        expected[number] = 2 * is_high if number % 7 else 0
    outs = []
    for workers in (1, 2):
        outs.append(tmp_path / f"out-{workers}")
        stages = [SMALL_SHARDS, "label", {"mix": {"by": by, "epochs": epochs}}]
        run_recipe(recipe_at(sources[:1], stages, workers=workers), outs[-1])
    assert contents(outs[0], "documents", "rejects", "mix") == contents(outs[1], "documents", "rejects", "mix")
    taken = Counter(int(row["id"].partition("-")[2]) for row in rows(outs[0]))
    assert taken == +expected
    assert any("no share for" in row["drop_reason"] for row in rows(outs[0], "rejects"))
    # `other` takes what has no name, labelled or not
    run_recipe(
        recipe_at(sources[:1], [SMALL_SHARDS, "label", {"mix": {"by": by, "epochs": {**epochs, "other": 1}}}]),
        outs[0],
    )
    taken = Counter(int(row["id"].partition("-")[2]) for row in rows(outs[0]))
    zero = {number for number in range(60) if number % 7 and (number % 3 == 1 if by == "domain" else number % 20 < 10)}
    assert taken == {number: expected[number] or 1 for number in range(60) if number not in zero}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"by": "quality_bucket", "epochs": {"good": 1}}, "epochs.good': no bucket; write 7"),
        ({"by": "quality_bucket", "epochs": {"3-9": 1, "9": 2}}, "epochs.9'?: bucket 9 is also in 3-9"),
        ({"by": "quality_bucket", "epochs": {"9-3": 1}}, "epochs.9-3'?: no bucket"),
        ({"by": "domain", "preset": "pangu-alpha-13b"}, "its names are sources"),
        ({"by": "domain"}, "give `weights` or `epochs`"),
        ({"by": "quality", "epochs": {"1": 1}}, "quality_bucket"),
    ],
)
def test_shares_that_mean_nothing_are_mistakes(
    sources: list[dict], recipe_at: Callable[..., Path], settings: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        Recipe.load(recipe_at(sources, ["read", {"mix": settings}]))
    assert "recipe-0.yaml:" in str(error.value)
