"""The stage filter: presets and changes of them, sensitive words, signals that are measured once."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline.dedup_check import chinese_grammar
from data_pipeline.engine import preview as previewing
from data_pipeline.kernels.keywords import MODES, Keywords
from data_pipeline.kernels.text_signals import text_signals
from data_pipeline.recipe import Recipe
from data_pipeline.stages.filter.rules import SENSITIVE_SIGNALS, SensitiveRule, load_preset, preset_names
from data_pipeline.stages.filter.stage import CHINESE_PROBABILITY, SIGNALS, Settings, chosen_rules
from pangu.foundation.errors import UserError
from tests.data_pipeline.conftest import contents, run_recipe, write_jsonl

SMALL_SHARDS = {"read": {"shard_bytes": 5000, "item_bytes": 20_000}}
POEM = "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。"
JUNK = "上海搬家、北京搬家、搬家公司、长途搬家、搬家价格、搬家电话" * 12


@pytest.fixture
def sources(tmp_path: Path) -> list[dict]:
    prose = [text for text in chinese_grammar.documents(30, seed=3, median=800) if len(text) > 250]
    texts = {f"prose-{number}": text for number, text in enumerate(prose)}
    texts |= {"poem": POEM, "junk": JUNK, "latin": "Lorem ipsum dolor sit amet. " * 40}
    write_jsonl(tmp_path / "a.jsonl", [{"id": name, "text": text} for name, text in texts.items()])
    return [{"name": "a", "paths": "a.jsonl"}]


def reasons(out: Path) -> dict[str, str | None]:
    rows = [row for folder in ("documents", "rejects") for row in pq.read_table(out / folder).to_pylist()]
    return {row["id"]: row["drop_reason"] for row in rows}


def test_presets_and_changes(tmp_path: Path, sources: list[dict], recipe_at: Callable[..., Path]) -> None:
    def outcome(settings: dict) -> dict[str, str | None]:
        out = tmp_path / "out"
        run_recipe(recipe_at(sources, [SMALL_SHARDS, {"filter": settings}], workers=2), out)
        return reasons(out)

    strict = outcome({})
    assert {name for name, reason in strict.items() if reason} == {"poem", "junk", "latin"}
    assert strict["poem"] == "short:characters 24"
    assert strict["latin"] == "not_chinese:han_share 0"
    assert outcome({"preset": "poetry-safe"})["poem"] is None
    relaxed = outcome({"rules": {"short": {"minimum": 10}, "not_chinese": False}})
    assert relaxed["poem"] is None
    assert relaxed["latin"] is not None and not relaxed["latin"].startswith("not_chinese")
    own = outcome({"preset": None, "rules": {"latin": {"signal": "latin_share", "maximum": 0.5}}})
    assert {name: reason for name, reason in own.items() if reason} == {"latin": "latin:latin_share 0.9565"}


def test_the_stage_offers_the_presets_there_are() -> None:
    literal, _ = get_args(Settings.model_fields["preset"].annotation)
    assert sorted(get_args(literal)) == preset_names()
    assert chosen_rules(Settings(preset="pangu-alpha")) == load_preset("pangu-alpha").rules


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "strickt"}, "did you mean 'strict'"),
        ({"rules": {"shrt": {"minimum": 1}}}, "rules.shrt': the preset has no such rule, did you mean 'short'?"),
        (
            {"rules": {"own": {"signal": "beauty", "minimum": 1}}},
            "rules.own': no signal 'beauty'; there are",
        ),
        ({"rules": {"own": {"signal": "lines"}}}, "rules.own': a rule needs a minimum or a maximum"),
        ({"rules": {"short": {"minimun": 1}}}, "rules.short.minimun': is unknown; did you mean 'minimum'"),
        ({"sensitive_words": "none.txt"}, "filter.sensitive_words: .*none.txt: no such file"),
        ({"sensitive_mode": "counts"}, "did you mean 'count'"),
    ],
)
def test_mistakes(sources: list[dict], recipe_at: Callable[..., Path], settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Recipe.load(recipe_at(sources, ["read", {"filter": settings}]))
    assert "\n" not in str(caught.value)


def test_a_threshold_does_not_measure_again(
    tmp_path: Path, sources: list[dict], recipe_at: Callable[..., Path]
) -> None:
    out = tmp_path / "out"
    words = tmp_path / "words.txt"
    words.write_text("搬家\n", encoding="utf-8")
    run_recipe(recipe_at(sources, [SMALL_SHARDS, {"filter": {"sensitive_words": "words.txt"}}]), out)
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("stages/filter/measured/*")}
    assert len(stamps) > 2
    other = {
        "rules": {"short": {"minimum": 10}},
        "sensitive_words": "words.txt",
        "sensitive_mode": "per_1000_characters",
    }
    recipe = recipe_at(sources, [SMALL_SHARDS, {"filter": other}])
    state = next(state for state in previewing.preview(Recipe.load(recipe), out) if state.name == "filter/records")
    assert "setting rules.short.minimum: 150.0 → 10.0" in state.reasons
    run_recipe(recipe, out)
    assert reasons(out)["poem"] is None
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    # other words in the same file are another measure
    words.write_text("明月\n", encoding="utf-8")
    run_recipe(recipe, out)
    assert reasons(out)["poem"] == "sensitive:per_1000_characters 83.33"


def test_workers_shards_and_interruptions_do_not_matter(
    tmp_path: Path, sources: list[dict], recipe_at: Callable[..., Path]
) -> None:
    for workers in (1, 3):
        run_recipe(recipe_at(sources, [SMALL_SHARDS, "filter"], workers=workers), tmp_path / f"out-{workers}")
    expected = contents(tmp_path / "out-1")
    assert contents(tmp_path / "out-3") == expected and len(expected) > 3
    for path in sorted((tmp_path / "out-3/stages/filter").rglob("*.parquet"))[::2]:
        path.unlink()
    run_recipe(recipe_at(sources, [SMALL_SHARDS, "filter"]), tmp_path / "out-3")
    assert contents(tmp_path / "out-3") == expected
    rows = pq.read_table(tmp_path / "out-1/documents").to_pylist()
    measured = text_signals(pa.array([row["text"] for row in rows]))
    for name in SIGNALS:
        values = [row["signals"][name] for row in rows]
        is_optional = name in (*SENSITIVE_SIGNALS, CHINESE_PROBABILITY)
        assert values == ([None] * len(rows) if is_optional else measured[name].tolist())


def test_every_way_of_counting_sensitive_words() -> None:
    keywords = Keywords(["花", "花园", "月"])
    texts = pa.array(["花园里的花 都开了。\n\n好看\n", "明月", "", "没有"])
    signals = {**text_signals(texts), **dict(zip(SENSITIVE_SIGNALS, keywords.counts(texts).T, strict=True))}
    for mode in MODES:
        rule = SensitiveRule.model_validate({"mode": mode})
        assert np.array_equal(rule.values(signals), keywords.measure(texts, mode))


def test_list_entries_end_without_a_full_stop_and_little_prose_lacks_no_words() -> None:
    """Release notes are lists of statements; a reference page is a line of prose among code."""
    from data_pipeline.stages.filter.rules import drop_reasons
    from data_pipeline.stages.filter.stage import _signals

    entry = "修复当日志文件轮转时可能发生的数据丢失的问题，提升第 {} 个组件的性能"
    notes = "# 说明\n\n" + "\n".join(f"- {entry.format(n)}" for n in range(12))
    links = "# 新闻\n\n" + "\n".join(f"- [{entry.format(n)}](/news/{n}.html)" for n in range(12))
    short = "# 导航\n\n" + "\n".join(f"- 第{n}个栏目的名称" for n in range(40))
    plain = "\n".join(entry.format(n) for n in range(12))
    code = "```python\n" + "\n".join(f"value_{n} = compute({n})" for n in range(40)) + "\n```\n"
    page = code + "返回给定设备上分配给张量的显存峰值统计。" * 4
    texts = pa.array([notes, links, short, plain, page], pa.string())
    settings = Settings(preset="web", measured_on="prose")
    signals = _signals(texts, pa.array(["a"] * 5), settings)
    assert (signals["punctuated_line_share"] > 0.9).tolist() == [True, False, False, False, True]
    assert (
        drop_reasons(signals, [rule for rule in load_preset("web").rules if rule.name == "no_stop_words"])[4].as_py()
        is None
    )
    assert np.isnan(signals["stop_word_kinds"][4]) and signals["characters"][4] > 300


def test_names_of_programs_are_not_the_language_of_a_text() -> None:
    from data_pipeline.stages.filter.stage import _signals

    name = "paddle.distributed.fleet.Layer(need_transpose=True, in_channels=3)"
    page = "# 说明\n\n" + "\n".join(f"- {name} 返回第 {n} 个张量的分布。" for n in range(9))
    english = "# Notes\n\n" + "\n".join(f"- The optimizer updates the weights of step {n} 次。" for n in range(9))
    signals = _signals(pa.array([page, english], pa.string()), pa.array(["a"] * 2), Settings(measured_on="prose"))
    assert signals["han_share"][0] > 0.5 and signals["han_share"][1] < 0.1
