"""The main text of Chinese web pages: title, date, article or posts; no navigation, advertisements or copyright
lines.

Three steps, each linear in the page: `charset.decode`, one pass over the markup (`extraction/page.py`) that gives the
lines of the page with what stands around them (`extraction/measures.py`), and a fitted model that says for each line
how probably it is main text (`extraction/line_model.py`). There is no tree of objects, so nothing in a page can make it
slow or deep."""

import re
from dataclasses import dataclass

import numpy as np

from data_pipeline.extraction.line_model import expected_best, line_model, shared_among_kinds
from data_pipeline.extraction.measures import measure_lines
from data_pipeline.extraction.page import CHARACTERS, LINKED, TAG, FlatPage, read_page
from data_pipeline.stages.read.charset import decode

MAX_PAGE_BYTES = 32 << 20  # what lies behind is not read
MAX_CELL_CHARACTERS = 40  # longer table cells are paragraphs of an old layout, not cells
_HEAD_BYTES = 1 << 17  # `<meta>` is looked for this far
_TITLE_SEPARATORS = re.compile(r"\s*[_|｜]+\s*|\s+[-–—·«»>]+\s+|\s*(?:--+|——|::)\s*|-(?=[^-]{2,12}$)")
_META = re.compile(
    r"""<meta\b(?=[^>]{0,400}?\b(?:name|property|itemprop)\s*=\s*["']?(?:[\w]*:)?(?:article:)?
    (?:published_time|pubdate|publishdate|publish_time|publish-date|datepublished|create_at|date|dc\.date)\b)
    [^>]{0,400}?\bcontent\s*=\s*["']?([^"'>]{8,40})""",
    re.I | re.X,
)
_DATE = re.compile(r"((?:19|20)\d\d)\s?[-./年]\s?(1[0-2]|0?[1-9])\s?[-./月]\s?(3[01]|[12]\d|0?[1-9])(?!\d)")
_URL_DATE = re.compile(r"/((?:19|20)\d\d)[-/]?(1[0-2]|0[1-9])[-/]?(3[01]|[12]\d|0[1-9])(?!\d)")


@dataclass(frozen=True, slots=True)
class Extraction:
    """What a page says. `text` has one paragraph (heading, list entry, table row, line of code) a line."""

    title: str
    text: str
    charset: str
    date: str | None  # the day of publication, YYYY-MM-DD, where the page tells it
    reason: (
        str | None
    )  # why there is no text: "empty", "not_text" (binary data), "no_text" (scripts, frames, pictures only)
    confidence: float  # the mean probability of the characters kept; pages of links and pictures are near 0.5
    characters: int  # visible on the page, white space apart
    kept: int  # of these, in `text`
    linked: int  # of those kept, in links
    replaced: int  # bytes that belong to no character (U+FFFD)
    truncated: bool  # the page was too large to be read whole


def extract(html: bytes, url: str | None = None, content_type: str | None = None) -> Extraction:
    """The main text of one page. Never raises; a page without text has `text == ""` and a `reason`.

    `content_type` is the HTTP header's value, `url` is only looked at for a date.
    """
    cut = html[:MAX_PAGE_BYTES]
    decoded = decode(cut, content_type)
    markup = decoded.text.replace("\0", "")
    if not markup.strip() or decoded.doubtful:
        return _nothing(decoded.charset, decoded.replaced, "not_text" if markup.strip() else "empty")
    page = read_page(markup.encode("utf-8", "replace"))
    lines = _Lines(page)
    rows = measure_lines(page)
    probability = shared_among_kinds(page, line_model().probabilities(rows))
    kept = expected_best(page, probability)
    text = _paragraphs(page, lines, kept)
    counts = page.line_counts
    characters = int(counts[kept, CHARACTERS].sum())
    certain = float((probability * counts[:, CHARACTERS])[kept].sum()) / characters if characters else 0.0
    return Extraction(
        title=_title(page, lines),
        text=text,
        charset=decoded.charset,
        date=_date(page, lines, kept, markup, url),
        reason=None if text else "no_text",
        confidence=round(certain, 4),
        characters=int(counts[:, CHARACTERS].sum()),
        kept=characters,
        linked=int(counts[kept, LINKED].sum()),
        replaced=decoded.replaced,
        truncated=page.truncated or len(html) > MAX_PAGE_BYTES,
    )


def _nothing(charset: str, replaced: int, reason: str) -> Extraction:
    return Extraction("", "", charset, None, reason, 0.0, 0, 0, 0, replaced, False)


class _Lines:
    """The lines of a page as strings, made when asked for."""

    def __init__(self, page: FlatPage):
        self._text = page.text.tobytes()
        self._start, self._end = page.line_start.tolist(), page.line_end.tolist()

    def __getitem__(self, number: int) -> str:
        return self._text[self._start[number] : self._end[number]].decode("utf-8", "replace")


def _title(page: FlatPage, lines: _Lines) -> str:
    """The page's `<title>` without the names of site and channel; where a heading repeats a part of it, that
    heading."""
    tags = page.node_tag[page.line_node]
    titles = np.flatnonzero(tags == TAG["title"])
    headings = [lines[int(number)] for number in np.flatnonzero((tags == TAG["h1"]) | (tags == TAG["h2"]))[:12]]
    if not len(titles):
        return next(iter(headings), "")[:200]
    title = lines[int(titles[0])]
    for heading in headings:
        if len(heading) >= 4 and heading in title:
            return heading[:200]
    parts = [part for part in _TITLE_SEPARATORS.split(title) if part]
    # the headline comes first on most sites; a first part of two or three characters is a channel
    return next((part for part in parts if len(part) >= 4), title)[:200]


def _paragraphs(page: FlatPage, lines: _Lines, kept: np.ndarray) -> str:
    """The kept lines one below the other; short cells of a table's row stand side by side, parted by tabs."""
    tags = page.node_tag[page.line_node]
    is_cell = (
        kept & ((tags == TAG["td"]) | (tags == TAG["th"])) & (page.line_counts[:, CHARACTERS] <= MAX_CELL_CHARACTERS)
    )
    row_of = np.where(is_cell, page.node_parent[page.line_node], -1)
    numbers = np.flatnonzero(kept)
    pieces: list[str] = []
    row_before = cell_before = -1
    for number, row, cell in zip(
        numbers.tolist(), row_of[numbers].tolist(), page.line_node[numbers].tolist(), strict=True
    ):
        if pieces:
            pieces.append("\t" if row >= 0 and row == row_before and cell != cell_before else "\n")
        pieces.append(lines[number])
        row_before, cell_before = row, cell
    return "".join(pieces)


def _date(page: FlatPage, lines: _Lines, kept: np.ndarray, markup: str, url: str | None) -> str | None:
    """The day from the page's metadata, from the lines around the beginning of the text, or from the address."""
    for meta in _META.finditer(markup, 0, _HEAD_BYTES):
        found = _DATE.search(meta[1])
        if found:
            return _day(found)
    places = np.flatnonzero(kept)
    if len(places):
        for number in range(max(0, int(places[0]) - 12), min(len(kept), int(places[0]) + 3)):
            if page.line_counts[number, CHARACTERS] <= 120:
                found = _DATE.search(lines[number])
                if found:
                    return _day(found)
    found = _URL_DATE.search(url) if url else None
    return _day(found) if found else None


def _day(found: re.Match[str]) -> str:
    return f"{found[1]}-{int(found[2]):02}-{int(found[3]):02}"
