"""Charset detection on sentences of the project's own, in every encoding, with every lie."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.stages.read.charset import decode

SIMPLIFIED = "语言模型读的是文字，而文字在网页里有许多种写法。这个项目先认出编码，再取出正文，最后去掉重复的内容。"
TRADITIONAL = "語言模型讀的是文字，而文字在網頁裡有許多種寫法。這個項目先認出編碼，再取出正文，最後去掉重複的內容。"
JAPANESE = (
    "この文章は日本語で書かれています。漢字とひらがなとカタカナが混ざっているので、中国語と間違えてはいけません。"
)
KOREAN = "이 글은 한국어로 쓰여 있습니다. 사람들이 읽을 수 있는 내용이 여러 가지 있으며 중국어로 읽으면 안 됩니다."
CASES = [
    (SIMPLIFIED, "utf-8", "utf-8"),
    (SIMPLIFIED, "gbk", "gb18030"),
    (SIMPLIFIED + "𠮷㐀", "gb18030", "gb18030"),
    (SIMPLIFIED, "utf-16-le", "utf-16le"),
    (SIMPLIFIED, "utf-16-be", "utf-16be"),
    (TRADITIONAL, "utf-8", "utf-8"),
    (TRADITIONAL, "big5", "big5"),
    (TRADITIONAL, "gbk", "gb18030"),
    (JAPANESE, "euc_jp", "euc-jp"),
    (JAPANESE, "shift_jis", "shift_jis"),
    (JAPANESE, "iso2022_jp", "iso-2022-jp"),
    (KOREAN, "euc_kr", "euc-kr"),
]
LIES = [
    None,
    "utf-8",
    "gb2312",
    "big5",
    "shift_jis",
    "euc-kr",
    "iso-8859-1",
    "no-such-charset",
    "text/html; charset=GBK",
]


@pytest.mark.parametrize(("text", "codec", "name"), CASES)
@pytest.mark.parametrize("lie", LIES)
def test_the_header_never_overrules_the_bytes(text: str, codec: str, name: str, lie: str | None) -> None:
    html = f"<html><title>题</title><p>{text}</p>" if codec.startswith(("gb", "utf")) else f"<p>{text}</p>"
    found = decode(html.encode(codec), lie)
    assert (found.charset, found.text, found.replaced, found.doubtful) == (name, html, 0, False)


@pytest.mark.parametrize(("text", "codec", "name"), CASES[:8])
@pytest.mark.parametrize("lie", ["utf-8", "gb2312", "big5", "iso-8859-1"])
def test_a_lying_meta_never_overrules_the_bytes(text: str, codec: str, name: str, lie: str) -> None:
    html = f'<meta http-equiv="Content-Type" content="text/html; charset={lie}"><p>{text}</p>'
    found = decode(html.encode(codec))
    assert (found.charset, found.text) == (name, html)


def test_a_label_decides_where_the_bytes_do_not() -> None:
    assert decode("联通".encode("gbk"), "gbk").text == "联通"  # these four bytes are valid UTF-8 too
    assert decode("Москва стоит на реке, и город этот велик.".encode("cp1251"), "windows-1251").text.startswith(
        "Москва"
    )
    assert decode(b"plain ascii", "gb2312").charset == "utf-8"


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks(codec: str) -> None:
    found = decode(SIMPLIFIED.encode(codec), "big5")
    assert (found.text, found.evidence) == (SIMPLIFIED, "mark")


def test_a_byte_order_mark_before_other_bytes_is_a_lie() -> None:
    found = decode(b"\xef\xbb\xbf" + (SIMPLIFIED * 3).encode("gbk"))
    assert found.charset == "gb18030" and SIMPLIFIED in found.text


@pytest.mark.parametrize("codec", ["utf-8", "gb18030", "big5"])
def test_a_few_bad_bytes_cost_themselves_only(codec: str) -> None:
    text = SIMPLIFIED if codec != "big5" else TRADITIONAL
    data = (text + "<br>").encode(codec) * 20
    place = len(data) // 2
    while data[place : place + 4] != b"<br>":
        place += 1
    found = decode(data[:place] + b"\xff\xff" + data[place:])
    assert found.replaced == found.text.count("\ufffd") >= 1
    assert found.text.count(text) >= 19 and found.text.replace("\ufffd", "") == (text + "<br>") * 20


def test_big5_of_hong_kong_and_taiwan() -> None:
    assert decode((TRADITIONAL + "碁銹裏").encode("cp950")).text == TRADITIONAL + "碁銹裏"
    assert decode((TRADITIONAL + "嘅咗").encode("big5hkscs")).text == TRADITIONAL + "嘅咗"


def test_what_is_no_text_is_doubtful() -> None:
    import random

    assert decode(random.Random(2).randbytes(5000)).doubtful
    assert decode(b"\x89PNG\r\n\x1a\n" + random.Random(4).randbytes(3000)).doubtful


@given(
    st.binary(max_size=2000), st.sampled_from([None, "gbk", "utf-8", "big5", "utf-16", "rot13", "idna", "zlib", "\0"])
)
@settings(max_examples=300, deadline=None)
def test_any_bytes_decode(data: bytes, header: str | None) -> None:
    decode(data, header).text.encode("utf-8")


@given(st.text(alphabet=SIMPLIFIED + "，。abc <>", min_size=60, max_size=400))
@settings(max_examples=200, deadline=None)
def test_shuffled_chinese_is_still_chinese(text: str) -> None:
    assert decode(text.encode("utf-8")).text == text
    assert decode(text.encode("gb18030")).text == text


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", [SIMPLIFIED, TRADITIONAL, JAPANESE, SIMPLIFIED[:12]])
def test_utf16_without_a_mark_and_without_one_ascii_character(encoding: str, text: str) -> None:
    assert not any(ord(character) < 0x80 for character in text)
    found = decode(text.encode(encoding), markup=False)
    assert (found.text, found.doubtful) == (text, False)


def test_private_places_of_older_gb18030_are_the_characters_of_2022() -> None:
    data = SIMPLIFIED.encode("gb18030") + bytes.fromhex("a6d9a6edfe59fea0fe51fe91a8bc8431823695328236")
    assert (
        decode(data, markup=False).text
        == SIMPLIFIED + "\ufe10\ufe18\u9fb4\u9fbb\U00020087\U000241fe\u1e3f\ufe10\U00020000"
    )


@pytest.mark.parametrize("others", [["gb18030"], ["gb18030"] * 3])
def test_lines_in_another_encoding_cost_nothing(others: list[str]) -> None:
    sentences = ["老桥修好以后，镇上的人每天都从桥上走过。", "桥头有一棵老槐树，如今要三个人才能合抱。"]
    parts = [(sentence, "utf-8") for sentence in sentences * 4]
    for place, encoding in enumerate(others):
        parts[2 * place] = (parts[2 * place][0], encoding)
    found = decode(b"\n".join(f"<p>{text}</p>".encode(encoding) for text, encoding in parts))
    assert found.text == "\n".join(f"<p>{text}</p>" for text, _ in parts)
    assert (found.charset, found.replaced, found.doubtful) == ("utf-8", 0, False)
