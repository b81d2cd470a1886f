"""Pictures with Chinese names: an installed font draws them, or they are written in ASCII; never empty boxes."""

import io
import warnings

import pytest

from pangu.foundation import picture_font

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


def test_without_a_chinese_font_a_name_is_written_in_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_font, "chinese_family", lambda: None)
    assert picture_font.drawable("新闻-1 α $") == "\\u65b0\\u95fb-1 α \\$"
    assert [missing for name in NAMES for missing in glyphs_that_are_missing(name)] == []
