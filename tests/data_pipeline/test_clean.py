"""The paper's rules, one by one, and what no rule may do."""

import gzip
import json
import unicodedata
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline import record
from data_pipeline.stages.clean import boilerplate_lines, characters
from data_pipeline.stages.clean import stage as clean
from data_pipeline.stages.clean.stage import Settings, clean_document
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
    paper = Settings(preset="pangu-alpha")
    assert clean_document(good * 2, None, paper).drop_reason is None
    assert (clean_document("短文。", None, paper).drop_reason or "").startswith("too_short:3 ")
    english = "The quick brown fox jumps over the lazy dog. " * 8
    assert (clean_document(good + english, None, paper).drop_reason or "").startswith("han_share:0.")
    assert (
        clean_document(good + english, None, Settings(preset="pangu-alpha", minimum_han_share=0.2)).drop_reason is None
    )
    assert clean_document("某网站 标题", "某网站标题", ANY_LENGTH).drop_reason == "title_only"


def test_symbols_go() -> None:
    assert characters.remove_symbols("★热★卖\u200b商\ue000品\U0001f600！\u202e") == ("热卖商品！", 6)
    for text in ("二○○八年，①②→③；“引号”（括号）《书》……——", "℃ ㎡ ≤ × ÷ α"):
        assert characters.remove_symbols(text) == (text, 0)
        assert characters.unify(text) == text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("ＡＢＣ１２３，％！", "ABC123，％！"),
        ("ｶﾞｷﾞ｡｢漢｣､", "ガギ。「漢」、"),
        ("\uf90a\u2f00\U0002f804", "金一你"),
        ("𝐀𝟏ﬁ", "A1fi"),
        ("➀➋❸⒋①", "1234.①"),
        ("︐﹐﹙﹚︵︶", "，，（）（）"),
        ("a\u00a0b\u2003c", "a b c"),
        ("e\u0301", "é"),
        ("２０㎡ x² ½ ℃", "20㎡ x² ½ ℃"),
    ],
)
def test_characters_in_one_form(before: str, after: str) -> None:
    assert characters.unify(before) == after


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_one_form_is_nfc_and_keeps_full_width_punctuation(text: str) -> None:
    found = characters.unify(text)
    assert characters.unify(found) == found and unicodedata.is_normalized("NFC", found)
    for mark in "，。：；！？（）“”‘’《》、…—":
        assert found.count(mark) >= text.count(mark)


def test_marks_without_end_take_linear_time() -> None:
    """Normalising them takes time that grows with the square of their number, so thirty of them stay."""
    zalgo = "a" + "\u0316\u0301" * 200_000 + "b"
    assert len(characters.unify(zalgo)) <= 32
    assert len(characters.unify("e\u0301\U0001e944" + "\u0316\U0001e944" * 200_000)) <= 33
    few = "e" + "\u0301" * 20
    assert characters.unify(few) == unicodedata.normalize("NFC", few)


def test_repeated_paragraphs_go() -> None:
    text = "这是一个会重复出现的段落。\n是。\n这是一个会重复出现的段落。\n是。"
    expected = "这是一个会重复出现的段落。\n是。\n是。"
    assert boilerplate_lines.remove_repeated_paragraphs(text, 10) == (expected, 1)
    assert boilerplate_lines.remove_repeated_paragraphs(text, 100) == (text, 0)


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
    assert boilerplate_lines.is_navigation(row)


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
    assert not boilerplate_lines.is_navigation(row)


@pytest.mark.parametrize(
    "row",
    [
        "联系电话：010-62345678",
        "地址：北京市海淀区某某路1号 邮编：100080",
        "QQ：12345678 微信号：abc_def1",
        "扫描二维码关注我们",
        "投稿邮箱：tougao@example.com",
        "欢迎关注微信公众号：某某新闻",
        "电话：13800138000 传真：010-62345679 联系人：张三",
    ],
)
def test_contact_lines(row: str) -> None:
    assert boilerplate_lines.is_contact(row)
    assert boilerplate_lines.remove_contact_lines(f"前文。\n{row}\n后文。") == ("前文。\n后文。", 1)


@pytest.mark.parametrize(
    "row",
    [
        "他拿起电话，拨了一个号码：13800138000，可是没有人接，于是他决定亲自去一趟医院看看究竟发生了什么事情。",
        "点击【确定】按钮，系统会保存设置。",
        "微信是一款社交软件。",
        "地址：内存单元的编号。",
        "本协议的电话会议条款自签署之日起生效。",
    ],
)
def test_contact_lines_spare_text(row: str) -> None:
    assert not boilerplate_lines.is_contact(row)


def test_a_document_of_contact_lines_is_dropped() -> None:
    contact = [f"联系电话：010-6234567{number}" for number in range(4)]
    found = clean_document("\n".join([make_text(1, 3), *contact]), None, Settings())
    assert found.drop_reason == "contact_lines:4 of 7" and "010" not in found.text
    assert clean_document("\n".join([make_text(1, 30), *contact]), None, Settings()).drop_reason is None


def test_private_data_by_the_recipe() -> None:
    text = make_text(4) + "我的手机是13800138000，请记住这个号码，以后有什么事情都可以直接来找我商量解决。"
    assert "是[电话]，" in clean_document(text, None, Settings()).text
    assert "是，请" in clean_document(text, None, Settings(privacy="remove")).text
    assert clean_document(text, None, Settings(privacy="keep")).text == text
    assert clean_document(text, None, Settings(privacy_kinds=("mail",))).text == text
    assert clean_document(text, None, Settings()).changes.private_items == 1


def test_full_width_punctuation_stays() -> None:
    text = "他说：“你好！”（小声地）；然后，走了？……是的——真的。１２３％"
    assert clean_document(text, None, ANY_LENGTH).text == text.replace("１２３", "123")
    assert clean_document(text, None, ANY_LENGTH.model_copy(update={"unify_characters": False})).text == text


_PIECES = (
    "中 文 ， 。 漢 首页 | 新闻 \n \r\n \u3000 \u200b ★ \ue15f 涓枃 ä¸­ ÖÐÎÄ 锟斤拷 １ 138 0013 8000 a@b.cn 电话： QQ： "
    "微信： e\u0301 ﬁ 关注公众号 \u2028 \x85 \xa0 这是一个会重复出现的段落。\n 乾 這裡 加V abc_12 110105 19491231002X"
)
_STRUCTURE = (
    *("```\n", "```py\n", "\n    x = [1]\n", "\n\tx;\n", "| a | b |\n|---|---|\n", "a\tb\n", "# 题\n", "甲：好\n"),
    *("<br>", "<div>", "</p>", "&nbsp;", "&lt;", "&amp;", "<pre>", "</pre>\n", "$$\n", "├──", "■■■■■■", "★★★★★★"),
    *("首页 > 新闻 > 正文\n", "责任编辑：王", "版权所有", "看著", "ä½ å¥½"),
)
PIECES = st.sampled_from([*_PIECES.split(" "), *_STRUCTURE])
ANY_TEXT = st.lists(PIECES | st.text(st.characters(codec="utf-8"), max_size=3), max_size=30).map("".join)
PRESETS = st.sampled_from(["web", "technical", "pangu-alpha"])
MODES = st.sampled_from(["mask", "remove", "keep"])


@given(ANY_TEXT, MODES, PRESETS)
def test_cleaning_twice_is_cleaning_once(text: str, privacy: str, preset: str) -> None:
    settings = Settings(preset=preset, privacy=privacy, minimum_characters=0, minimum_han_share=0)
    found = clean_document(text, None, settings)
    assert found.drop_reason is None or found.drop_reason.startswith(("advertisement", "contact_lines"))
    assert "\r" not in found.text and (preset != "pangu-alpha" or not characters.SYMBOLS.search(found.text))
    assert clean_document(found.text, None, settings).text == found.text


@given(st.lists(ANY_TEXT, min_size=1, max_size=6), MODES, PRESETS)
def test_the_column_gives_what_the_plain_rules_give(texts: list[str], privacy: str, preset: str) -> None:
    settings = Settings(preset=preset, privacy=privacy, minimum_characters=0, minimum_han_share=0)
    rows = clean.clean(batch_of(texts), settings).to_pylist()
    for text, row in zip(texts, rows, strict=True):
        expected = clean_document(text, None, settings)
        assert row["text"] == expected.text and row["drop_reason"] == expected.drop_reason
        signals = {name: row["signals"][name] for name in clean.SIGNALS}
        assert signals["characters"] == expected.characters and signals["han_share"] == expected.han_share
        assert signals["advertisements"] == len(expected.advertisements)
        for name, value in vars(expected.changes).items():
            assert signals[name] == value, name


def test_real_documents_come_out_as_by_the_plain_rules(shared: Path) -> None:
    for path in sorted((shared / "corpus").glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            texts = [json.loads(line)["text"][:4000] for _, line in zip(range(12), file, strict=False)]
        changes = clean.clean_texts(cleaned := list(texts), Settings())
        for text, found, change in zip(texts, cleaned, changes, strict=True):
            assert (found, change) == clean.clean_text(text, Settings())


@given(st.lists(st.sampled_from([make_text(1), "短", "漢字" * 40, ""]), min_size=1, max_size=6), st.integers(1, 6))
def test_batches_do_not_matter(texts: list[str], cut: int) -> None:
    batch = batch_of(texts)
    whole = clean.clean(batch, Settings())
    parts = [clean.clean(batch.slice(start, cut), Settings()) for start in range(0, len(texts), cut)]
    assert pa.Table.from_batches(parts).to_pylist() == whole.to_pylist()
    assert [field.name for field in whole.schema.field("signals").type] == ["bytes", *clean.SIGNALS]
