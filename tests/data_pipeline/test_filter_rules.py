"""Rules over signals, the presets, and sensitive words."""

import gzip
import json
from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from data_pipeline.dedup_check import chinese_grammar
from data_pipeline.kernels.keywords import MODES, Keywords
from data_pipeline.kernels.text_signals import NAMES, text_signals
from data_pipeline.stages.filter.rules import Rule, drop_reasons, load_preset, preset_names
from data_pipeline.stages.filter.stage import FilterPreset
from pangu.foundation.errors import UserError
from tests.data_pipeline.references import text_signals_reference

TEXT = st.text(alphabet="的了是在年好，。… \n烫锟aかナ한-", max_size=60)
POEM = "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。"


def drop_reasons_reference(signals: Mapping[str, float], rules: Sequence[Rule]) -> str | None:
    """Return the same for one document, plainly."""
    for rule in rules:
        characters, value = signals["characters"], signals[rule.signal]
        if characters < rule.at_least_characters:
            continue
        if rule.below_characters is not None and characters >= rule.below_characters:
            continue
        if (rule.minimum is not None and value < rule.minimum) or (rule.maximum is not None and value > rule.maximum):
            return rule.name
    return None


def reasons(texts: list[str], preset: str) -> list[str | None]:
    return drop_reasons(text_signals(pa.array(texts)), load_preset(preset).rules).to_pylist()


@given(st.lists(TEXT, max_size=4), st.sampled_from(preset_names()))
@settings(max_examples=60, deadline=None)
def test_equals_the_reference(texts, preset):
    rules = load_preset(preset).rules
    expected = [drop_reasons_reference(text_signals_reference(text), rules) for text in texts]
    assert reasons(texts, preset) == expected


def test_the_presets():
    assert preset_names() == sorted(get_args(FilterPreset))
    with pytest.raises(ValueError, match="no preset 'gopher'; there are chinesewebtext"):
        load_preset("gopher")


@pytest.mark.parametrize("preset", preset_names())
def test_ordinary_prose_stays_and_junk_goes(preset):
    prose = list(chinese_grammar.documents(20, seed=3, median=3000))
    prose = [text for text in prose if len(text) > 400]
    assert reasons(prose, preset) == [None] * len(prose)
    assert None not in reasons(["", "12345 $$$ ----", "Lorem ipsum dolor sit amet. " * 40], preset)


def test_what_each_preset_is_for():
    assert reasons([POEM], "poetry-safe") == [None]
    assert reasons([POEM], "strict") == ["short"]
    keywords = "、".join(["上海搬家", "北京搬家", "搬家公司", "长途搬家", "搬家价格", "搬家电话", "的士"] * 12)
    assert reasons([keywords], "strict")[0] is not None
    assert reasons(["とうきょうはにほんのしゅとです。人口は約千四百万人。" * 20], "strict") == ["kana"]
    assert reasons(["标题只有一行" * 30], "pangu-alpha") == ["only_a_title"]


@pytest.mark.parametrize("source", ["law_md", "medical_qa", "lctt_it_news", "classical_modern"])
def test_real_documents_mostly_stay(shared, source):
    """The English defaults of other tools drop 99 % of good Chinese documents; ours must not."""
    texts = []
    with gzip.open(shared / "corpus" / f"{source}.jsonl.gz", "rb") as lines:
        for line, _ in zip(lines, range(400), strict=False):
            texts.append(json.loads(line)["text"])
    kept = [reason is None for reason in reasons([text for text in texts if len(text) > 100], "fineweb2-zh")]
    assert np.mean(kept) > 0.9


@given(st.dictionaries(st.sampled_from(NAMES), st.floats(0, 1), min_size=1))
def test_a_rule_at_its_bound_keeps(values):
    signals = {name: np.array([values.get(name, 0.5)]) for name in NAMES}
    for name, value in values.items():
        assert not Rule(name="x", signal=name, minimum=value, maximum=value).drops(signals).any()


@pytest.mark.parametrize(
    "mistake", [{"signal": "beauty", "minimum": 1}, {"signal": "lines"}, {"signal": "lines", "minimum": 1, "colour": 2}]
)
def test_a_rule_with_a_mistake_is_refused(mistake):
    with pytest.raises(ValidationError):
        Rule(name="x", **mistake)


@given(
    st.lists(st.text(alphabet="ab甲", min_size=1, max_size=3), max_size=4), st.text(alphabet="abAB甲\n ", max_size=30)
)
def test_sensitive_words_in_every_mode(words, text):
    keywords = Keywords(words)
    lowered = text.lower()
    found = [word for word in set(words) for start in range(len(text)) if lowered.startswith(word, start)]
    assert sorted(keywords.hits(text)) == sorted(found)
    lines = max(1, sum(bool(line.strip()) for line in text.split("\n")))
    solid = max(1, sum(not character.isspace() for character in text))
    expected = (len(found), len(set(found)), 1000 * len(found) / solid, len(set(found)) / lines)
    for mode, value in zip(MODES, expected, strict=True):
        assert keywords.measure(pa.array([text, None]), mode).tolist() == pytest.approx([value, 0])


def test_a_list_of_words_from_a_file(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("\ufeff# 注释\n甲乙\n\n 丙 \n", encoding="utf-8")
    assert sorted(Keywords.load(path).hits("甲乙丙")) == ["丙", "甲乙"]
    path.write_bytes("甲乙".encode("gbk"))
    with pytest.raises(UserError, match="not UTF-8 at byte 0"):
        Keywords.load(path)
    with pytest.raises(UserError, match="No such file"):
        Keywords.load(tmp_path / "none.txt")
