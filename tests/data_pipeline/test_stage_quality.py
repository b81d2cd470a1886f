"""The stage quality: models given and trained, thresholds and draws, the same bytes however it runs."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.dedup_check import chinese_grammar
from data_pipeline.engine import preview as previewing
from data_pipeline.quality.classifier import Classifier, ClassifierSettings, train
from data_pipeline.quality.ngram_model import NgramModel
from data_pipeline.recipe import Recipe
from data_pipeline.stages.quality.stage import BUCKETS, SIGNALS, Settings, drop_reasons, pareto_draws
from pangu.foundation.errors import UserError
from tests.data_pipeline.conftest import contents, run_recipe, write_jsonl
from tests.data_pipeline.test_quality_classifier import soup

SMALL_SHARDS = {"read": {"shard_bytes": 20_000, "item_bytes": 20_000}}
FROM_SOURCES = {"positives": ["source:books"], "negatives": ["source:crawl"], "bits": 12}


@pytest.fixture
def sources(tmp_path: Path) -> list[dict]:
    books = list(chinese_grammar.documents(60, seed=1, median=300))
    crawl = [soup(seed) for seed in range(60)] + list(chinese_grammar.documents(5, seed=2, median=300))
    for name, texts in (("books", books), ("crawl", crawl)):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"id": f"{name}{n}", "text": text} for n, text in enumerate(texts)])
    return [{"name": name, "paths": f"{name}.jsonl"} for name in ("books", "crawl")]


def rows_of(out: Path) -> dict[str, dict]:
    rows = [row for folder in ("documents", "rejects") for row in pq.read_table(out / folder).to_pylist()]
    return {row["id"]: row for row in rows}


def test_trained_in_the_pipeline(tmp_path: Path, sources: list[dict], recipe_at: Callable[..., Path]) -> None:
    settings = {
        "spam": FROM_SOURCES,
        "quality": FROM_SOURCES,
        "language_model": {"texts": ["source:books"], "order": 3},
        "perplexity_buckets": ["head", "middle", "tail"],
    }
    out = tmp_path / "out"
    summary = run_recipe(recipe_at(sources, [SMALL_SHARDS, {"quality": settings}], workers=2), out)["quality"]
    rows = rows_of(out)
    assert len(rows) == 125 == summary.documents_in and set(summary.dropped) == {"spam"}
    assert {name for name, row in rows.items() if row["drop_reason"] is None} >= {f"books{n}" for n in range(60)}
    assert all(rows[f"crawl{n}"]["drop_reason"].startswith("spam:0.") for n in range(60))
    # what the records say is what the published models say
    models = {name: out / "quality" / f"{name}.model" for name in ("spam", "quality", "language_model")}
    texts = pa.array([row["text"] for row in rows.values()], pa.large_string())
    spam = 1 - Classifier.load(models["spam"]).probabilities(texts)
    perplexity = NgramModel.load(models["language_model"]).perplexities(texts)
    for row, expected_spam, expected_perplexity in zip(rows.values(), spam, perplexity, strict=True):
        assert row["signals"]["spam_probability"] == expected_spam
        assert row["signals"]["perplexity"] == expected_perplexity
    buckets = Counter(row["signals"]["perplexity_bucket"] for row in rows.values())
    assert buckets == {0: 38, 1: 37, 2: 50}  # 30 %, 60 % of 125, rounded up
    heads = [row["signals"]["perplexity"] for row in rows.values() if row["signals"]["perplexity_bucket"] == 0]
    assert max(heads) <= np.sort(perplexity)[37] * 1.003

    # the same however the work is cut, and nothing again where nothing changed
    again = tmp_path / "again"
    run_recipe(recipe_at(sources, [SMALL_SHARDS, {"quality": settings}], workers=1), again)
    assert contents(again, "documents", "rejects", "quality") == contents(out, "documents", "rejects", "quality")
    whole = tmp_path / "whole"
    run_recipe(recipe_at(sources, ["read", {"quality": settings}], workers=1), whole)
    assert {name: row["drop_reason"] for name, row in rows_of(whole).items()} == {
        name: row["drop_reason"] for name, row in rows.items()
    }


def test_a_threshold_runs_the_last_steps_only(
    tmp_path: Path, sources: list[dict], recipe_at: Callable[..., Path]
) -> None:
    out = tmp_path / "out"
    first = {"quality": FROM_SOURCES, "language_model": {"texts": ["source:books"], "order": 3}}
    run_recipe(recipe_at(sources, ["read", {"quality": first}]), out)

    def stale(**changes: object) -> list[str]:
        recipe = recipe_at(sources, ["read", {"quality": {**first, **changes}}])
        return [state.name for state in previewing.preview(Recipe.load(recipe), out) if state.reasons]

    assert stale() == []
    assert stale(quality_minimum=0.4) == ["quality/records"]
    assert stale(quality_sampling="pareto", pareto_alpha=3) == ["quality/records"]
    assert "quality/measured" not in stale(perplexity_percentiles=[20, 50])
    assert "quality/cut_offs" in stale(perplexity_percentiles=[20, 50])
    assert "quality/trained" in stale(quality={**FROM_SOURCES, "epochs": 2})


def test_models_and_examples_from_files(tmp_path: Path, sources: list[dict], recipe_at: Callable[..., Path]) -> None:
    good = list(chinese_grammar.documents(40, seed=5, median=300))
    model = train(good, [soup(seed) for seed in range(100, 140)], ClassifierSettings(bits=12))
    model.save(tmp_path / "spam.model")
    write_jsonl(tmp_path / "good.jsonl", [{"text": text} for text in good])
    stage: dict = {
        "spam": {"model": "spam.model"},
        "quality": {"positives": ["good.jsonl"], "negatives": ["source:crawl"], "bits": 12},
        "quality_sampling": "off",
    }
    recipe = recipe_at(sources, ["read", {"quality": stage}])
    run_recipe(recipe, tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    for name in ("books3", "crawl3"):
        expected = 1 - model.probabilities(pa.array([rows[name]["text"]]))[0]
        assert rows[name]["signals"]["spam_probability"] == expected
        assert rows[name]["signals"]["quality_probability"] is not None
        assert rows[name]["signals"]["perplexity"] is None
    # another model in the same file is another model
    train(good, [soup(seed) for seed in range(100, 130)], ClassifierSettings(bits=12)).save(tmp_path / "spam.model")
    run_recipe(recipe, tmp_path / "out")
    assert rows_of(tmp_path / "out")["crawl3"]["signals"] != rows["crawl3"]["signals"]


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({}, "quality: no model; give at least one of spam, quality, language_model"),
        ({"spam": {"model": "none.model"}}, r"quality\.spam\.model: .*none\.model: no such file"),
        ({"spam": {"positives": ["source:books"]}}, "give either `model`, or both `positives` and `negatives`"),
        ({"spam": {**FROM_SOURCES, "negatives": ["source:book"]}}, "'source:book': the recipe has no such source"),
        ({"language_model": {}}, "give either `model` or `texts`"),
        ({"quality": FROM_SOURCES, "perplexity_percentiles": [60, 30]}, "0 < head < middle < 100 would be right"),
        ({"quality": {**FROM_SOURCES, "grams": 3}}, "grams': is unknown"),
    ],
)
def test_mistakes_of_a_recipe(sources: list[dict], recipe_at: Callable[..., Path], stage: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Recipe.load(recipe_at(sources, ["read", {"quality": stage}]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "stage", "message"),
    [
        (b"junk", {"spam": {"model": "m"}}, "quality.spam: .*m: is no quality model"),
        (b"", {"language_model": {"model": "m"}}, "quality.language_model: .*m: is no quality model"),
        (b'{"text": "a"}\n', {"spam": {"positives": ["m.jsonl"], "negatives": ["source:crawl"]}}, "positives: 1 texts"),
        (b"\n", {"spam": {"positives": ["m.jsonl"], "negatives": ["source:crawl"]}}, "no document in it"),
    ],
)
def test_mistakes_of_a_file(
    tmp_path: Path, sources: list[dict], recipe_at: Callable[..., Path], content: bytes, stage: dict, message: str
) -> None:
    for name in ("m", "m.jsonl"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        run_recipe(recipe_at(sources, ["read", {"quality": stage}]), tmp_path / "out")
    assert "\n" not in str(caught.value)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 3.0, 9.0]))
def test_the_draws_are_of_paretos_distribution(seed: int, alpha: float) -> None:
    numbers = np.random.default_rng(seed).integers(0, 2**63, 4000).astype(np.uint64)
    draws = pareto_draws(numbers, alpha, seed)
    assert (draws > 0).all() and np.isfinite(draws).all()
    # Kolmogorov and Smirnov's distance to 1 - (1 + x)^-α, far above what chance gives
    reached = np.sort(1 - (1 + draws) ** -alpha)
    assert np.abs(reached - np.arange(1, 4001) / 4000).max() < 0.05
    assert pareto_draws(numbers[::-1], alpha, seed).tolist() == draws[::-1].tolist()


MAYBE = st.one_of(st.just(float("nan")), st.floats(0, 1))


@given(st.lists(st.tuples(MAYBE, MAYBE, st.one_of(st.just(float("nan")), st.floats(1, 1e4))), max_size=8), st.data())
def test_reasons_equal_plain_ones(rows: list[tuple[float, float, float]], data: st.DataObject) -> None:
    given_models = data.draw(
        st.fixed_dictionaries({name: st.booleans() for name in ("spam", "quality", "language_model")})
    )
    model = {"model": "m"}
    settings = Settings.model_validate(
        {
            **{name: model for name, is_given in given_models.items() if is_given},
            "quality_sampling": data.draw(st.sampled_from(["threshold", "pareto", "off"])),
            "perplexity_buckets": data.draw(st.sampled_from([BUCKETS[:1], BUCKETS[:2], BUCKETS])),
            "perplexity_maximum": data.draw(st.sampled_from([None, 5000.0])),
            "seed": 1,
        }
    )
    ids = np.arange(len(rows), dtype=np.uint64)
    spam, good, perplexity = (np.array([row[place] for row in rows], float) for place in range(3))
    bucket = np.where(np.isnan(perplexity), np.nan, np.searchsorted([100, 1000], perplexity))
    found = drop_reasons(pa.array(ids), spam, good, perplexity, bucket, settings)
    draws = pareto_draws(ids, 9, 1)
    for n, reason in enumerate(found):
        expected = None
        if settings.spam is not None and spam[n] > 0.5:
            expected = "spam"
        elif settings.quality is not None and (
            (settings.quality_sampling == "threshold" and good[n] < 0.5)
            or (settings.quality_sampling == "pareto" and draws[n] <= 1 - good[n])
        ):
            expected = "quality"
        elif settings.language_model is not None and (
            np.isnan(perplexity[n])
            or (settings.perplexity_maximum is not None and perplexity[n] > 5000)
            or BUCKETS[int(bucket[n])] not in settings.perplexity_buckets
        ):
            expected = "perplexity"
        assert (reason or "").partition(":")[0] == (expected or "")


def test_the_signals_are_declared() -> None:
    assert SIGNALS == ("spam_probability", "quality_probability", "perplexity", "perplexity_bucket")
