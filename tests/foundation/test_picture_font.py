"""Pictures with Chinese names: an installed font draws them, or they are written in ASCII; never empty boxes."""

import io
import warnings

import pytest

from pangu.foundation import picture_font, translation

NAMES = ["新闻 语料 $x$", "繁體與简体", "α −13", "plain", "𠮷\U0010ffff"]


def glyphs_that_are_missing(text: str) -> list[str]:
    """Draw a text; return what matplotlib says of characters without a glyph."""
    from matplotlib.figure import Figure

    with picture_font.chinese_font(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        figure = Figure(figsize=(2, 1))
        figure.suptitle(picture_font.drawable(text))
        figure.savefig(io.BytesIO(), format="png")
    return [str(one.message) for one in said if "lyph" in str(one.message)]


def test_no_character_of_a_name_is_drawn_as_an_empty_box() -> None:
    assert [missing for name in NAMES for missing in glyphs_that_are_missing(name)] == []
    if picture_font.chinese_family():
        assert picture_font.drawable("新闻") == "新闻"


def test_words_of_a_picture_are_chinese_where_a_font_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    translation.use_language("zh")
    try:
        monkeypatch.setattr(picture_font, "chinese_family", lambda: None)
        assert picture_font.caption("training, smoothed") == "training, smoothed"
        monkeypatch.undo()
        if picture_font.chinese_family() is None:
            pytest.skip("no font here has Chinese characters; Debian: apt install fonts-noto-cjk")
        assert picture_font.caption("training, smoothed") == "训练（平滑）"
        assert picture_font.caption("A: 新闻, perplexity 91.5") == "A: 新闻，困惑度 91.5"
    finally:
        translation.use_language("en")


def test_without_a_chinese_font_a_name_is_written_in_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_font, "chinese_family", lambda: None)
    assert picture_font.drawable("新闻-1 α $") == "\\u65b0\\u95fb-1 α \\$"
    assert [missing for name in NAMES for missing in glyphs_that_are_missing(name)] == []
