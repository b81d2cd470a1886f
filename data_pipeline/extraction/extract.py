"""The main text of Chinese web pages: title, date, article or posts; no navigation, advertisements or copyright
lines.

Each step is linear in the page: `charset.decode`; one pass over the markup (`page.py`) that gives the lines of the page
with what stands around them (`measures.py`); a fitted model that says for each line how probably it is main text
(`line_model.py`); and the kept lines as text or Markdown (`output/`). There is no tree of objects, so nothing in a page
can make it slow or deep."""

import re
from dataclasses import dataclass

import numpy as np

from data_pipeline.extraction.embedded import embedded_text
from data_pipeline.extraction.footnotes import with_notes
from data_pipeline.extraction.formulas import mark_formulas
from data_pipeline.extraction.hidden import shown_lines, with_lines
from data_pipeline.extraction.line_model import main_text
from data_pipeline.extraction.output.blocks import blocks_of
from data_pipeline.extraction.output.element_structure import Structure, structure_of, whole_parts
from data_pipeline.extraction.output.writers import Inline, write_markdown, write_text
from data_pipeline.extraction.parsed_page import CHARACTERS, LINKED, TAG, FlatPage, read_page, signs_of
from data_pipeline.stages.clean.mojibake import repair
from data_pipeline.stages.read.charset import decode

MAX_PAGE_BYTES = 32 << 20  # what lies behind is not read
MINIMUM_MOJIBAKE = 12  # letters ä å æ ç, which the first bytes of Han become
EMBEDDED_CONFIDENCE = 0.8  # of text among the data of scripts, which no probability is known for
LITTLE_TEXT = 200  # characters; a page that gives less may hold its text as data for scripts
SHORT_TEXT, SURE_TEXT = 40, 0.7  # but not one with a short text that is this sure
_HEAD_BYTES = 1 << 17  # `<meta>` is looked for this far
# links that a page puts behind its headings and around its notes
_EDIT_LINK = re.compile(r"\s*[\[［]\s*(?:编辑|編輯|編集|edit\b)[^\[\]［］]{0,12}[\]］]$")
_LINK_BACK = re.compile(r"(?:\s*[↩⤴][\ufe0e\ufe0f]?)+$")
_LINK_UP = re.compile(r"[\^↑](?:\s+|$)")
_HAN = re.compile(r"[\u4e00-\u9fff]")
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
    """What a page says. `text` is plain text with one paragraph (heading, list entry, table row, line of code) a line,
    or Markdown."""

    title: str
    text: str
    charset: str
    date: str | None  # the day of publication, YYYY-MM-DD, where the page tells it
    # why there is no text: "empty", "not_text" (binary data), "no_text" (scripts, frames, pictures only)
    reason: str | None
    confidence: float  # the mean probability of the characters kept; pages of links and pictures are near 0.5
    characters: int  # visible on the page, white space apart
    kept: int  # of these, in `text`
    linked: int  # of those kept, in links
    replaced: int  # bytes that belong to no character (U+FFFD)
    truncated: bool  # the page was too large to be read whole


@dataclass(frozen=True, slots=True)
class Form:
    """In which form the text comes."""

    format: str = "text"  # or "markdown"
    has_links: bool = False  # Markdown only
    has_images: bool = False


PLAIN = Form()


def extract(html: bytes, url: str | None = None, content_type: str | None = None, form: Form = PLAIN) -> Extraction:
    """Return the main text of one page. Never raises; a page without text has `text == ""` and a `reason`.

    `content_type` is the HTTP header's value; `url` is looked at for a date, and relative links are joined to it.
    """
    cut = html[:MAX_PAGE_BYTES]
    decoded = decode(cut, content_type)
    markup = decoded.text.replace("\0", "")
    if not markup.strip() or decoded.doubtful:
        return _nothing(decoded.charset, decoded.replaced, "not_text" if markup.strip() else "empty")
    source = markup.encode("utf-8", "replace")
    has_formulas, latin = signs_of(source)
    if latin >= MINIMUM_MOJIBAKE or has_formulas:
        markup = _encoded_once(markup) if latin >= MINIMUM_MOJIBAKE else markup
        markup = mark_formulas(markup) if has_formulas else markup
        source = markup.encode("utf-8", "replace")
    page = read_page(source)
    page = with_lines(page, shown_lines(page))
    structure = structure_of(page)
    probability, kept = main_text(page, structure)
    counts = page.line_counts
    characters = int(counts[kept, CHARACTERS].sum())
    lines = _Lines(page)
    title, date = _title(page, lines), _date(page, lines, kept, markup, url)
    visible = int(counts[:, CHARACTERS].sum())
    certain = float((probability * counts[:, CHARACTERS])[kept].sum()) / characters if characters else 0.0
    has_text = characters >= LITTLE_TEXT or (characters >= SHORT_TEXT and certain >= SURE_TEXT)
    embedded = None if has_text or "<script" not in markup else embedded_text(markup)
    if embedded and embedded.characters > 2 * characters:
        source = embedded.markup.encode("utf-8", "replace")
        page = read_page(source)
        structure, counts = structure_of(page), page.line_counts
        kept = np.ones(len(page.line_node), bool)
        characters, certain = int(counts[:, CHARACTERS].sum()), EMBEDDED_CONFIDENCE
        visible, title = max(visible, characters), title or embedded.title
    else:
        kept = with_notes(page, structure, source, kept)
        characters = int(counts[kept, CHARACTERS].sum())
    text = _written(page, structure, source, kept, form, url)
    return Extraction(
        title=title,
        text=text,
        charset=decoded.charset,
        date=date,
        reason=None if text else "no_text",
        confidence=round(certain, 4) if text else 0.0,
        characters=visible,
        kept=characters if text else 0,
        linked=int(counts[kept, LINKED].sum()),
        replaced=decoded.replaced,
        truncated=page.truncated or len(html) > MAX_PAGE_BYTES,
    )


def _encoded_once(markup: str) -> str:
    """Return a page whose UTF-8 was taken for Latin-1 and encoded again as it was before."""
    latin = markup.count("\u00e4") + markup.count("\u00e5") + markup.count("\u00e6") + markup.count("\u00e7")
    if latin < MINIMUM_MOJIBAKE or len(_HAN.findall(markup, 0, 1 << 17)) > latin:
        return markup
    return repair(markup)[0]


def _written(page: FlatPage, structure: Structure, source: bytes, kept: np.ndarray, form: Form, url: str | None) -> str:
    """Return the kept lines in a form."""
    data = page.text.tobytes()
    starts, ends = page.line_start.tolist(), page.line_end.tolist()
    is_linked = (page.line_counts[:, LINKED] > 0).tolist()
    texts = [""] * len(starts)
    for number in np.flatnonzero(kept).tolist():
        text = data[starts[number] : ends[number]].decode("utf-8", "replace")
        if is_linked[number]:
            own = _without_links_of_page(text)
            if own != text:  # Markdown is made of the places
                starts[number] += len(text[: text.find(own)].encode())
                ends[number] = starts[number] + len(own.encode())
                text = own
        texts[number] = text
    page = page._replace(line_start=np.array(starts, np.int64), line_end=np.array(ends, np.int64))
    if form.format == "text" and not whole_parts(page, structure)[kept].any():
        return "\n".join(text for text in texts if text)
    blocks = blocks_of(page, structure, source, kept, texts)
    if form.format == "markdown":
        return write_markdown(blocks, Inline(page, source, data, url, form.has_links, form.has_images))
    return write_text(blocks, texts)


def _without_links_of_page(text: str) -> str:
    """Return a line without what only leads about the page: [编辑] behind a heading, ↩ and ^ at a note."""
    if text[-1:] in ("]", "］"):
        text = _EDIT_LINK.sub("", text)
    elif text[-1:] in ("↩", "⤴", "\ufe0e", "\ufe0f"):
        text = _LINK_BACK.sub("", text)
    return _LINK_UP.sub("", text, count=1) if text[:1] in ("^", "↑") and _LINK_UP.match(text) else text


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
    """Return the page's `<title>` without the names of site and channel; where a heading repeats a part of it, that
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


def _date(page: FlatPage, lines: _Lines, kept: np.ndarray, markup: str, url: str | None) -> str | None:
    """Return the day from the page's metadata, from the lines around the beginning of the text, or from the address."""
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
