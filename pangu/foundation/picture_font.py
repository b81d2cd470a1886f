"""Chinese in pictures that matplotlib draws: an installed font that has the characters, else their names in ASCII.

matplotlib's own fonts have no Chinese: without this a name would be a row of empty boxes.
"""

import contextlib
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from pangu.foundation.translation import translated

PREFERRED = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN", "Microsoft YaHei", "PingFang SC",
    "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "SimHei", "Droid Sans Fallback",
)  # fmt: skip
# Names of families that may have Chinese characters; whether one has, its table of characters says.
LIKELY = re.compile(r"CJK|Han|Hei|Song|Ming|Kai|YaHei|PingFang|Fallback|AR PL|Unifont|Noto Sans (SC|TC|JP)", re.I)
SAMPLE = "中文字体"


@cache
def chinese_family() -> str | None:
    """Return the name of an installed family with Chinese characters; None where there is none."""
    from matplotlib import font_manager

    entries = [one for one in font_manager.fontManager.ttflist if LIKELY.search(one.name)]
    order = {name: place for place, name in enumerate(PREFERRED)}
    for entry in sorted(entries, key=lambda one: (order.get(one.name, len(order)), "Serif" in one.name, one.name)):
        with contextlib.suppress(OSError, RuntimeError):
            if characters_of(entry.fname).issuperset(map(ord, SAMPLE)):
                return entry.name
    return None


@cache
def characters_of(path: str) -> frozenset[int]:
    """Return the characters that a font file has."""
    from matplotlib import font_manager

    return frozenset(font_manager.get_font(path).get_charmap())


def families() -> list[str]:
    """Return the families that pictures are drawn with, each for what the ones before it lack."""
    chinese = chinese_family()
    return ["DejaVu Sans", *([chinese] if chinese else [])]


@contextlib.contextmanager
def chinese_font() -> Iterator[None]:
    """Draw with a font that has Chinese characters, where there is one. Also a decorator."""
    import matplotlib

    settings: dict[Any, Any] = {"font.family": families()}
    with matplotlib.rc_context(settings):
        yield


def caption(text: str) -> str:
    """Return the words of a picture in the language of the process; in English where no font has the characters."""
    said = translated(text)
    return drawable(said if chinese_family() else text)


def drawable(text: str) -> str:
    """Return a text whose every character can be drawn: one that no font has is written as `\\u4e2d`."""
    text = text.replace("$", r"\$")  # no formula
    if text.isascii():
        return text
    from matplotlib import font_manager

    paths = [font_manager.findfont(name, fallback_to_default=False) for name in families()]
    known = frozenset().union(*map(characters_of, paths))
    return "".join(c if ord(c) in known else c.encode("ascii", "backslashreplace").decode() for c in text)
