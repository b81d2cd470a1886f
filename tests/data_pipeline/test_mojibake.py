"""Mojibake: made by the charsets themselves and taken back; ordinary text stays."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.dedup_check import chinese_grammar
from data_pipeline.stages.clean.mojibake import lost, repair


def windows_1252(data: bytes) -> str:
    """As browsers read it: the five bytes that it lacks become controls."""
    return "".join(
        chr(byte) if byte in (0x81, 0x8D, 0x8F, 0x90, 0x9D) else bytes([byte]).decode("cp1252") for byte in data
    )


SENTENCES = ["中文", "今天的天气很好，我们去公园。", "他说：“你好！”（小声地）", "第12条 本法自2008年起施行。"]


@pytest.mark.parametrize("text", SENTENCES)
def test_what_was_read_in_the_wrong_charset_comes_back(text: str) -> None:
    for broken in (
        text.encode().decode("latin-1"),
        windows_1252(text.encode()),
        text.encode("gbk").decode("latin-1"),
        windows_1252(text.encode("gbk")),
        windows_1252(windows_1252(text.encode()).encode()),
    ):
        assert repair(broken)[0] == text and repair(broken)[1] > 0


def test_known_examples() -> None:
    assert repair("ä¸\xadæ–‡")[0] == "中文"
    assert repair("ÖÐÎÄ")[0] == "中文"
    assert repair("浣犲ソ")[0] == "你好"
    assert repair("标题：ä¸\xadæ–‡ (ok)")[0] == "标题：中文 (ok)"


def test_utf8_read_as_gbk_loses_at_most_the_end() -> None:
    for text in chinese_grammar.documents(20, seed=3, median=60):
        for line in text.split("\n"):
            broken = line.encode().decode("gb18030", "replace")
            found = repair(broken)[0]
            if "\ufffd" not in broken and all(ord(c) > 127 for c in line) and len(line) > 2:
                assert found == line
    assert repair("浣犲ソ锛岃阿璋�")[0].startswith("你好，谢")


def test_three_bytes_of_gbk_that_look_like_utf8_do_not_hide_the_rest() -> None:
    text = "老桥在这里，很老了。"  # 里， is C0 EF A3 AC, of which EF A3 AC could be UTF-8
    assert repair(text.encode("gbk").decode("latin-1"))[0] == text


def test_what_is_lost_is_only_counted() -> None:
    assert lost("锟斤拷锟斤拷，烫烫烫烫\ufffd\ufffd屯屯屯") == 5
    assert repair("锟斤拷锟斤拷") == ("锟斤拷锟斤拷", 0)
    assert lost("水很烫，屯兵三千") == 0


@pytest.mark.parametrize(
    "text",
    ["××××年××月", "café naïve ÀÉÎ", "5°±3°", "«»“”……", "釜山浦项", "浣熊与浣溪沙", "Ünïcödé ÄÖÜ", "锛的斧头", "¥£€§"],
)
def test_ordinary_text_stays(text: str) -> None:
    assert repair(text) == (text, 0)


@given(st.text(st.characters(codec="utf-8") | st.sampled_from("äå¸­æ–‡ÖÐÎÄ涓浣犲ソ\ue15f\ufffd?"), max_size=40))
def test_repairing_twice_is_repairing_once(text: str) -> None:
    found, count = repair(text)
    assert repair(found) == (found, 0)
    assert (count > 0) == (found != text) and len(found) <= len(text)


@given(st.lists(st.sampled_from(list(chinese_grammar.documents(30, seed=1, median=80))), max_size=4))
def test_chinese_prose_stays(texts: list[str]) -> None:
    assert repair("\n".join(texts))[1] == 0
