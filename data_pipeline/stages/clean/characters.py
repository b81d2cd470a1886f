"""The characters of a text in one form: NFKC where it unifies, and not where it destroys.

NFKC as a whole turns ，。！？（） into ASCII, which is how Chinese sentences lose their ends, and ² into 2.
Taken from it are:

* full-width letters and digits: Ａ１ → A1 (their punctuation stays full-width)
* half-width kana, hangul and Chinese punctuation: ｶﾞ → ガ, ｡｢｣､ → 。「」、
* compatibility and radical forms of characters: 金 (U+F90A) → 金, ⼀ (Kangxi radical) → 一
* letters of mathematics and ligatures: 𝐀𝟏 → A1, ﬁ → fi
* numbers that advertisements hide behind: ➀❶➊ → 1, ⒈ → 1. (①②③ number paragraphs and stay)
* presentation forms of punctuation, to the full-width mark and not to ASCII: ︐﹐ → ，
* spaces of all widths → space, and NFC: e + ◌́ → é

Then symbols: controls, zero-width characters, marks of direction, private use and emoji go, and by the paper's letter
box drawing, geometric shapes, stars and dingbats too. Where these stay, rows of ornament go: a line of nothing else,
or one mark (or two in turn) six times and more."""

import re
import sys
import unicodedata
from functools import cache
from typing import Literal

import numpy as np

# ○ (U+25CB) is the zero of 二○○八年; arrows are words in manuals; ①②③ number paragraphs. They stay.
SYMBOLS = re.compile(
    "[\0-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\ufe00-\ufe0f\ufeff\ufff0-\uffff\ue000-\uf8ff\u2500-\u25ca\u25cc-\u27bf\u2b00-\u2bff"
    "\U0001f000-\U0001faff\U000e0000-\U000e0fff\U000f0000-\U0010ffff]+"
)
# ■ ♀ ★ ✓ ❌ │ ├ ─ are words in lists, tables and trees of files
_TEXT_SYMBOLS = "\u2500-\u25ca\u25cc-\u27bf\u2b00-\u2bff"
_OTHER_SYMBOLS = re.compile(SYMBOLS.pattern.replace(_TEXT_SYMBOLS, ""))
_ROW_MARKS = "─━═┄┅┈┉╌╍▬■●◆◇★☆▲△▼▽♥♡♠♣♦♪♫✦✧✿❀❤"
_ORNAMENT = "[■●◆◇★☆▲△▼▽♥♡♠♣♦♪♫✦✧✿❀❤]"
_ORNAMENTS = re.compile(
    "^[ \t]*([─━═┄┅┈┉╌╍▬■●◆◇★☆▲▼✦✧])\\1{5,}[ \t]*$" + f"|({_ORNAMENT}{{1,2}}?)\\2{{5,}}", re.MULTILINE
)
LINE_BREAKS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")

_UNIFIED_BLOCKS = (
    (0xFF10, 0xFF1A), (0xFF21, 0xFF3B), (0xFF41, 0xFF5B),  # full-width digits and letters
    (0xFF61, 0xFFDD),  # half-width kana, hangul and Chinese punctuation
    (0xF900, 0xFB07), (0x2F800, 0x2FA20),  # compatibility ideographs, Latin ligatures
    (0x2E80, 0x2FD6),  # radicals
    (0x1D400, 0x1D800),  # mathematical letters and digits
)  # fmt: skip
_CIRCLED_DIGITS = (0x2776, 0x2780, 0x278A)  # ❶, ➀, ➊: ten of each
_NUMBERS_WITH_FULL_STOP = 0x2488  # ⒈ to ⒛
# vertical and small forms of punctuation
_PRESENTATION = dict(zip("︐︑︒︓︔︕︖︗︘︙", "，、。：；！？〖〗…", strict=True)) | dict(
    zip("︵︶︷︸︹︺︻︼︽︾︿﹀﹁﹂﹃﹄", "（）｛｝〔〕【】《》〈〉「」『』", strict=True)
) | dict(zip("﹐﹑﹒﹔﹕﹖﹗﹙﹚﹛﹜﹝﹞", "，、．；：？！（）｛｝〔〕", strict=True))  # fmt: skip
_MAXIMUM_MARKS = 30
_SPACES = "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f"


def unify(text: str) -> str:
    """Return the text with its characters in one form."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    is_translated = _is_translated()
    places = np.flatnonzero(is_translated[np.minimum(points, len(is_translated) - 1)]).tolist()
    if places:
        table, end = _translation(), 0
        parts: list[str] = []
        for place in places:
            parts += (text[end:place], table[ord(text[place])])
            end = place + 1
        text = "".join([*parts, text[end:]])
    return to_normal_form("NFC", text)


def to_normal_form(form: Literal["NFC", "NFKC"], text: str) -> str:
    """Return a normal form of Unicode. Of marks upon marks the first 30 stay (the limit of UAX 15's stream-safe text):
    no language has more, and normalising takes time that grows with the square of their number.
    """
    if unicodedata.is_normalized(form, text):
        return text
    long_run = _long_runs_of_marks(max(text) > "\uffff")
    return unicodedata.normalize(form, long_run.sub(lambda match: match[0][:_MAXIMUM_MARKS], text))


def remove_symbols(text: str, keep_text_symbols: bool = False) -> tuple[str, int]:
    """Return (text, number of runs removed)."""
    if not keep_text_symbols:
        return SYMBOLS.subn("", text)
    text, count = _OTHER_SYMBOLS.subn("", text)
    text, ornaments = _ORNAMENTS.subn("", text)
    return text, count + ornaments


@cache
def _translation() -> dict[int, str]:
    table = {
        point: folded
        for first, end in _UNIFIED_BLOCKS
        for point in range(first, end)
        if (folded := unicodedata.normalize("NFKC", chr(point))) != chr(point)
    }
    for first in _CIRCLED_DIGITS:
        table.update({first + number: str(number + 1) for number in range(10)})
    table.update({_NUMBERS_WITH_FULL_STOP + number: f"{number + 1}." for number in range(20)})
    table.update({ord(mark): full for mark, full in _PRESENTATION.items()})
    table.update({ord(space): " " for space in _SPACES})
    # half-width forms of marks and arrows have ordinary ones; what NFKC makes white space stays as it is
    return {point: folded for point, folded in table.items() if folded.strip() or point in map(ord, _SPACES)}


@cache
def _is_translated() -> np.ndarray:
    """Return bool: which characters `unify` translates; False for the last one and all above it."""
    points = list(_translation())
    changed = np.zeros(max(points) + 2, bool)
    changed[points] = True
    return changed


@cache
def _long_runs_of_marks(with_high: bool) -> re.Pattern[str]:
    """Return a pattern of more marks (combining class) in a row than may be; `with_high`: those above U+FFFF too."""
    end = sys.maxunicode + 1 if with_high else 0x10000
    marks = "".join(chr(point) for point in range(0x300, end) if unicodedata.combining(chr(point)))
    return re.compile(f"[{marks}]{{{_MAXIMUM_MARKS + 1},}}")


@cache
def unified_points() -> np.ndarray:
    """Return bool[262144]: which characters `unify` may change, alone or with the one before."""
    from data_pipeline.kernels.normal_form import TABLE_SIZE

    changed = np.zeros(TABLE_SIZE, bool)
    changed[[point for point in _translation() if point < TABLE_SIZE]] = True
    for first, end in ((0x300, 0x3400), (0xA66F, 0xAC00), (0x1160, 0x1200), (0x10A00, 0x1F000)):
        for point in range(first, end):
            character = chr(point)
            if unicodedata.combining(character) or unicodedata.normalize("NFC", character) != character:
                changed[point] = True
    changed[0x1160:0x1200] = True
    return changed


@cache
def symbol_points(keep_text_symbols: bool = False) -> np.ndarray:
    """Return bool[262144]: which characters `remove_symbols` may remove; all above these are."""
    from data_pipeline.kernels.normal_form import TABLE_SIZE

    text = "".join(chr(point) for point in range(0xD800)) + "\0" * 0x800
    text += "".join(chr(point) for point in range(0xE000, 0x20000))
    is_symbol = np.zeros(TABLE_SIZE, bool)
    for match in SYMBOLS.finditer(text):
        is_symbol[match.start() : match.end()] = True
    is_symbol[0xD800:0xE000] = False
    if keep_text_symbols:
        for point in np.flatnonzero(is_symbol[0x2500:0x2C00]).tolist():
            character = chr(0x2500 + point)
            is_symbol[0x2500 + point] = character in _ROW_MARKS or _OTHER_SYMBOLS.match(character) is not None
    return is_symbol
