"""The structure of a text: which of its lines are code, tables, verse or dialogue, where every character counts.

| kind | what | what the rules of `clean` leave alone |
|---|---|---|
| code | fences of Markdown, `<pre>`, indented blocks that read as code, `$$` blocks | everything |
| table | rows of Markdown, grids, reST tables, lines with the same number of tabs | indents, repeats, links |
| verse | texts or blocks of short lines of Chinese, most of them different | repeats |
| dialogue | lines of speakers who speak more than once, lines in quotation marks | repeats |
| mark | headings, rules and underlines of marks, lines that hold inline code | repeats |

Fences follow CommonMark 0.31, tables GitHub's extension of it. A fence that nothing closes counts only if it names
its language: a bare one is as likely the end of a block whose beginning was cut off."""

import functools
import re
from collections import Counter
from collections.abc import Callable, Sequence

PROSE, CODE, TABLE, VERSE, DIALOGUE, MARK = range(6)

# a text without any of these has neither code nor tables
_FENCE_MARKS = ("```", "~~~", "$$", "<pre", "<PRE")
_TABLE_MARKS = ("|", "+-", "+=", "==", "│", "─", "━", "║", "═", "┃")
_MARKS = (*_FENCE_MARKS, *_TABLE_MARKS)
_FENCE = re.compile(r"^[ \t>]*(?:(?:[-*+]|\d+[.)])[ \t]+)?(`{3,}|~{3,})[ \t]*([^`]*)$")
_PRE_BEGIN = re.compile(r"<pre\b", re.IGNORECASE)
_PRE_END = re.compile(r"</pre>", re.IGNORECASE)
_INDENTS = ("\t", "    ")
_HAN = re.compile("[\u3400-\u9fff]")
_LATIN = re.compile("[A-Za-z]")
_PROSE_MARKS = re.compile("[，。！？；：、]")
_CODE_LINE = re.compile(r"^\s*(?:#|//|/\*|\*|--|\$ |>>>|<!--)|[{}\[\]();=<>|\\]|::|->|^\s*[\w.-]+:(?:\s|$)")
_LIST_ITEM = re.compile(r"^\s+(?:[-*+]|\d+[.)])\s+\S")
_SEPARATOR_ROW = re.compile(r"^[ \t>]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)+\|?[ \t]*$")
_ONE_COLUMN_SEPARATOR = re.compile(r"^[ \t>]*\|[ \t]*:?-+:?[ \t]*\|[ \t]*$")
_PIPE_ROW = re.compile(r"^[ \t>]*\|.*\|[ \t]*$")
_GRID_BORDER = re.compile(
    r"^[ \t]*(?:\+(?:[-=]+\+)+|={2,}(?:[ ]+={2,})+|[├└┌┬┴┼│─━┃┏┗┣╔╚╠═║┐┘┤┓┛┫╗╝╣╬╦╩ \t]{3,})[ \t]*$"
)
_BOX_ROW = re.compile(r"^[ \t]*[│┃║].*[│┃║][ \t]*$")
# what a border or a row of a box begins with
_BORDER_BEGINS = frozenset("+=├└┌┬┴┼│─━┃┏┗┣╔╚╠═║┐┘┤┓┛┫╗╝╣╬╦╩")
_INNER_TABS = re.compile(r"(?<=[^\s])[ ]*\t")
_WITHOUT_WORDS = re.compile(r"^[\W_]*$")
_HEADING = re.compile(r"^\s{0,3}#{1,6}\s")
_SPEAKER = re.compile(r"^\s*(?:\*\*)?([^\s：:，。；！？|]{1,10})(?:\*\*)?[：:]")
_QUOTED = re.compile(r"^[ \t\u3000]*(?:[“「『\"].*[”」』\"]|——?.*)[ \t]*$")

# longer lines are judged anew each time; of longer texts few are remembered
_KEPT_LINE, _KEPT_TEXT = 200, 1 << 14

VERSE_LINE = 24
_VERSE_LINES = 4
_VERSE_SHARE = 0.8
# a refrain comes back; a text of which most lines are the same line is none
_DIFFERENT_LINES = 0.6
_DIALOGUE_SHARE = 0.5


@functools.lru_cache(maxsize=4)
def has_structure(text: str) -> bool:
    """Return whether a text may have code or tables; False is certain."""
    if "\t" in text or "    " in text:
        return True
    for mark in _MARKS:  # noqa: SIM110 (a generator takes twice as long)
        if mark in text:
            return True
    return False


def line_kinds(lines: Sequence[str]) -> list[int]:
    """Return CODE, TABLE or PROSE for each line."""
    return list(lines_of("\n".join(lines))[1])


def lines_of(text: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the lines of a text and the kind of each; one rule after the other asks for the same text."""
    return _lines_of_short(text) if len(text) <= _KEPT_TEXT else _lines_of_long(text)


def _lines_of(text: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    lines = text.split("\n")
    kinds = [PROSE] * len(lines)
    if any(mark in text for mark in _FENCE_MARKS):
        _mark_fences(text, lines, kinds)
    if text.startswith(_INDENTS) or "\n\t" in text or "\n    " in text:
        _mark_indented(lines, kinds)
    if any(mark in text for mark in _TABLE_MARKS):
        _mark_tables(lines, kinds)
    if "\t" in text:
        _mark_tabs(lines, kinds)
    return tuple(lines), tuple(kinds)


# the texts of a batch pass the rules one rule after the other; a few long ones would take much memory
_lines_of_short = functools.lru_cache(maxsize=512)(_lines_of)
_lines_of_long = functools.lru_cache(maxsize=8)(_lines_of)


def kept_lines(lines: Sequence[str], places: Sequence[int] | None = None) -> list[bool]:
    """Return for each line whether it may stand in a text more than once: everything but plain prose may.

    `places` are the lines that are asked for; True for all others."""
    is_kept = [True] * len(lines)
    asked = [place for place in (range(len(lines)) if places is None else places) if not _may_repeat(lines[place])]
    if asked:
        kinds = line_kinds(lines)
        asked = [place for place in asked if kinds[place] == PROSE]
    if not asked:
        return is_kept
    for place in asked:
        is_kept[place] = False
    for place in _dialogue(lines):
        is_kept[place] = True
    for first, last in _verse(lines):
        is_kept[first:last] = [True] * (last - first)
    return is_kept


def _may_repeat(line: str) -> bool:
    """Return whether a line is a heading, a mark without words, a quotation, or holds inline code."""
    return (
        "`" in line
        or _HEADING.match(line) is not None
        or _WITHOUT_WORDS.match(line) is not None
        or _QUOTED.match(line) is not None
    )


def change_outside_code(text: str, change: Callable[[str], str]) -> str:
    """Return the text with `change` applied to what stands between its blocks of code."""
    if not has_structure(text):
        return change(text)
    lines, kinds = lines_of(text)
    if CODE not in kinds:
        return change(text)
    return "\n".join(
        part if is_code else change(part) for is_code, part in runs(lines, [kind == CODE for kind in kinds])
    )


def runs(lines: Sequence[str], is_code: list[bool]) -> list[tuple[bool, str]]:
    """Return the text in parts, each of lines of one kind: (whether it is code, the part)."""
    parts: list[tuple[bool, str]] = []
    begin, count = 0, len(lines)
    while begin < count:
        kind = is_code[begin]
        try:
            end = is_code.index(not kind, begin)
        except ValueError:
            end = count
        parts.append((kind, "\n".join(lines[begin:end])))
        begin = end
    return parts


def _mark_fences(text: str, lines: Sequence[str], kinds: list[int]) -> None:
    """Mark what fences, `<pre>` and `$$` enclose, with the lines that enclose it."""
    place = 0
    marks = ("<", *(mark for mark in ("```", "~~~", "$$") if mark in text))
    for begin in [number for number, line in enumerate(lines) for mark in marks if mark in line]:
        if begin < place:
            continue
        place = begin
        line = lines[place]
        end = None
        if "```" in line or "~~~" in line:
            fence = _FENCE.match(line)
            if fence:
                end = _closing_fence(lines, place, fence[1])
                if end is None and fence[2].strip():
                    end = len(lines) - 1
        elif "$$" in line and line.strip().startswith("$$") and line.count("$$") % 2:
            end = next((later for later in range(place + 1, len(lines)) if "$$" in lines[later]), None)
        elif "<" in line and (start := _PRE_BEGIN.search(line)) is not None:
            if _PRE_END.search(line, start.end()):
                end = place
            else:
                end = next((later for later in range(place + 1, len(lines)) if _PRE_END.search(lines[later])), None)
        if end is None:
            place += 1
            continue
        kinds[place : end + 1] = [CODE] * (end + 1 - place)
        place = end + 1


def _closing_fence(lines: Sequence[str], begin: int, fence: str) -> int | None:
    for place in range(begin + 1, len(lines)):
        stripped = lines[place].strip(" \t>")
        if stripped.startswith(fence) and not stripped.strip(fence[0]):
            return place
    return None


def _mark_indented(lines: Sequence[str], kinds: list[int]) -> None:
    """Mark blocks of indented lines of which at least half read as code and not as prose."""
    count, end = len(lines), 0
    for place in [number for number, line in enumerate(lines) if line.startswith(_INDENTS)]:
        if place < end or kinds[place] != PROSE or not lines[place].strip():
            continue
        end = last = place
        while end < count and kinds[end] == PROSE and (lines[end].startswith(_INDENTS) or not lines[end].strip()):
            if lines[end].strip():
                last = end
            end += 1
        block = [line for line in lines[place : last + 1] if line.strip()]
        if 2 * sum(map(_reads_as_code, block)) >= len(block):
            kinds[place : last + 1] = [CODE] * (last + 1 - place)


def _reads_as_code(line: str) -> bool:
    """Return whether a line has marks of code, or more Latin letters than Chinese; a sentence of Chinese, or an
    item of a list, is none.
    """
    return _short_reads_as_code(line) if len(line) <= _KEPT_LINE else _line_reads_as_code(line)


@functools.lru_cache(maxsize=1 << 14)
def _short_reads_as_code(line: str) -> bool:
    """Return the same; the lines of a text are asked for after each rule that changed it."""
    return _line_reads_as_code(line)


def _line_reads_as_code(line: str) -> bool:
    if _LIST_ITEM.match(line):
        return False
    han = 0 if line.isascii() else len(_HAN.findall(line))
    if not han:
        return _LATIN.search(line) is not None or _CODE_LINE.search(line) is not None
    if _PROSE_MARKS.search(line) and 2 * han > len(line.strip()):
        return False
    return _CODE_LINE.search(line) is not None or len(_LATIN.findall(line)) > han


def _mark_tables(lines: Sequence[str], kinds: list[int]) -> None:
    """Mark tables of pipes with their row of dashes, grids and boxes."""
    pipes = [kind == PROSE and "|" in line for kind, line in zip(kinds, lines, strict=True)]
    begins = _BORDER_BEGINS
    for place in [n for n, line in enumerate(lines) if pipes[n] or line.lstrip(" \t")[:1] in begins]:
        line = lines[place]
        if kinds[place] != PROSE:
            continue
        if pipes[place] and (_SEPARATOR_ROW.match(line) or _ONE_COLUMN_SEPARATOR.match(line)):
            _mark_around(place, pipes, kinds)
        elif _GRID_BORDER.match(line):
            kinds[place] = TABLE
        elif pipes[place] and _PIPE_ROW.match(line):
            before = place and kinds[place - 1] == TABLE
            after = place + 1 < len(lines) and (
                _PIPE_ROW.match(lines[place + 1]) or _GRID_BORDER.match(lines[place + 1])
            )
            if before or after:
                kinds[place] = TABLE
        elif _BOX_ROW.match(line):
            kinds[place] = TABLE


def _mark_tabs(lines: Sequence[str], kinds: list[int]) -> None:
    """Mark lines that have as many tabs inside as the line before or behind them."""
    tabs = [len(_INNER_TABS.findall(line)) if kind == PROSE else 0 for kind, line in zip(kinds, lines, strict=True)]
    for place in range(1, len(lines)):
        if tabs[place] and tabs[place] == tabs[place - 1]:
            kinds[place - 1] = kinds[place] = TABLE


def _mark_around(place: int, pipes: Sequence[bool], kinds: list[int]) -> None:
    """Mark the header above a row of dashes and the rows below."""
    kinds[place] = TABLE
    if place and pipes[place - 1]:
        kinds[place - 1] = TABLE
    while place + 1 < len(kinds) and pipes[place + 1]:
        place += 1
        kinds[place] = TABLE


def _dialogue(lines: Sequence[str]) -> list[int]:
    """Return the places of lines that speakers speak, where these are at least half of the lines."""
    speakers = [(place, match[1]) for place, line in enumerate(lines) if (match := _SPEAKER.match(line))]
    if len(speakers) < _VERSE_LINES or len(speakers) < _DIALOGUE_SHARE * sum(1 for line in lines if line.strip()):
        return []
    counts = Counter(name for _, name in speakers)
    return [place for place, name in speakers if counts[name] > 1]


def _verse(lines: Sequence[str]) -> list[tuple[int, int]]:
    """Return the ranges of lines that are verse: the whole text, or blocks between blank lines."""
    if _is_verse(lines):
        return [(0, len(lines))]
    found = []
    begin = 0
    for place in range(len(lines) + 1):
        if place == len(lines) or not lines[place].strip():
            if _is_verse(lines[begin:place]):
                found.append((begin, place))
            begin = place + 1
    return found


def _is_verse(lines: Sequence[str]) -> bool:
    solid = [stripped for line in lines if (stripped := line.strip(" \t\u3000"))]
    short = [line for line in solid if len(line) <= VERSE_LINE]
    if len(solid) < _VERSE_LINES or len(short) < _VERSE_SHARE * len(solid):
        return False
    if len(set(solid)) < _DIFFERENT_LINES * len(solid):
        return False
    of_han = sum(2 * len(_HAN.findall(line)) >= len(line) for line in short)
    return of_han >= _VERSE_SHARE * len(solid)
