"""The paper's rules, one by one, and what no rule may do."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline import record
from data_pipeline.stages import clean
from data_pipeline.stages.clean import Settings, clean_document
from tests.data_pipeline.conftest import make_text

ANY_LENGTH = Settings(minimum_characters=0, minimum_han_share=0)


def batch_of(texts: list[str]) -> pa.RecordBatch:
    schema = record.schema(["bytes"])
    rows = [
        dict.fromkeys(schema.names)
        | {"doc_id": number, "source": "s", "path": "p", "offset": 0, "text": text, "signals": {"bytes": 1.0}}
        for number, text in enumerate(texts)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=schema)


@pytest.mark.parametrize(
    ("text", "characters", "share"),
    [
        ("", 0, 0.0),
        ("中文ab", 4, 0.5),
        ("中 文\n\u3000", 2, 1.0),
        ("𠮷〇㐀豈", 4, 1.0),
        ("。，、！", 4, 0.0),
        ("カナ한글", 4, 0.0),
    ],
)
def test_measure(text: str, characters: int, share: float) -> None:
    assert clean.measure(text) == (characters, share)


def test_rule_1() -> None:
    good = make_text(1)
    assert clean_document(good * 2, None, Settings()).drop_reason is None
    assert (clean_document("短文。", None, Settings()).drop_reason or "").startswith("too_short:3 ")
    english = "The quick brown fox jumps over the lazy dog. " * 8
    assert (clean_document(good + english, None, Settings()).drop_reason or "").startswith("han_share:0.")
    assert clean_document(good + english, None, Settings(minimum_han_share=0.2)).drop_reason is None
    assert clean_document("某网站 标题", "某网站标题", ANY_LENGTH).drop_reason == "title_only"


def test_rule_2_symbols() -> None:
    assert clean.remove_symbols("★热★卖\u200b商\ue000品\U0001f600！") == ("热卖商品！", 5)
    for text in ("二○○八年，①②→③；“引号”（括号）《书》……——", "℃ ㎡ ≤ × ÷ α"):
        assert clean.remove_symbols(text) == (text, 0)


def test_rule_2_paragraphs() -> None:
    text = "这是一个会重复出现的段落。\n是。\n这是一个会重复出现的段落。\n是。"
    assert clean.remove_repeated_paragraphs(text, 10) == ("这是一个会重复出现的段落。\n是。\n是。", 1)
    assert clean.remove_repeated_paragraphs(text, 100) == (text, 0)


def test_rule_3() -> None:
    text = make_text(3) + "需要的朋友请加微信。"
    assert clean_document(text, None, ANY_LENGTH).drop_reason == "advertisement:加微信"
    assert clean_document(text, None, ANY_LENGTH.model_copy(update={"maximum_advertisements": 1})).drop_reason is None
    assert clean_document(text, None, ANY_LENGTH.model_copy(update={"advertisement_words": ()})).drop_reason is None


def test_rule_4() -> None:
    assert clean.simplify("漢語，乾坤。") == ("汉语，乾坤。", True)
    assert clean.simplify("汉语，已经是简体。") == ("汉语，已经是简体。", False)


@pytest.mark.parametrize(
    "row",
    [
        "首页 | 新闻 | 论坛 | 联系我们",
        "首页 > 财经 > 股票 > 正文",
        "上一篇 下一篇",
        "返回顶部",
        "【首页】 【论坛】 【登录】",
    ],
)
def test_rule_5(row: str) -> None:
    assert clean.is_navigation(row)


@pytest.mark.parametrize(
    "row",
    [
        "春眠不觉晓 处处闻啼鸟 夜来风雨声 花落知多少",
        "首页改版以后，读者更多了。",
        "| 名称 | 数量 | 单价 | 合计 |",
        "新闻",
        "第一章 总则",
        "",
    ],
)
def test_rule_5_spares_text(row: str) -> None:
    assert not clean.is_navigation(row)


def test_full_width_punctuation_stays() -> None:
    text = "他说：“你好！”（小声地）；然后，走了？……是的——真的。１２３％"
    assert clean_document(text, None, ANY_LENGTH).text == text


@given(st.text(st.characters(codec="utf-8") | st.sampled_from("中文，。\n 首页|\u3000漢★"), max_size=80))
def test_any_text(text: str) -> None:
    found = clean_document(text, None, ANY_LENGTH)
    assert found.drop_reason is None or found.drop_reason.startswith("advertisement")
    assert not clean._SYMBOLS.search(found.text)
    assert "\r" not in found.text
    assert len(found.signals) == len(clean.SIGNALS)


@given(st.lists(st.sampled_from([make_text(1), "短", "漢字" * 40, ""]), min_size=1, max_size=6), st.integers(1, 6))
def test_batches_do_not_matter(texts: list[str], cut: int) -> None:
    batch = batch_of(texts)
    whole = clean.clean(batch, Settings())
    parts = [clean.clean(batch.slice(start, cut), Settings()) for start in range(0, len(texts), cut)]
    assert pa.Table.from_batches(parts).to_pylist() == whole.to_pylist()
    assert [field.name for field in whole.schema.field("signals").type] == ["bytes", *clean.SIGNALS]
