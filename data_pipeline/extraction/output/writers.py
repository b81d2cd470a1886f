"""Blocks of a page as plain text or as Markdown.

Plain text has a paragraph, heading, list entry or table row a line; the cells of a row are parted by tabs. Markdown has
headings, lists, tables, fenced code; links and pictures by choice."""

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urljoin

import numpy as np

from data_pipeline.extraction.output.blocks import Block
from data_pipeline.extraction.parsed_page import CODE, CODE_END, IMAGE, LINK, LINK_END, FlatPage

FORMATS = ("text", "markdown")
_ATTRIBUTE = {
    name: re.compile(rf"""\b{name}\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s>"']+))""".encode(), re.I)
    for name in ("href", "src", "data-src", "data-original", "alt")
}
_FENCE = re.compile(r"`{3,}")
_TAG_BYTES = 6000


def write_text(blocks: list[Block], texts: list[str]) -> str:
    """Return blocks as plain text."""
    lines: list[str] = []
    for block in blocks:
        if block.kind == "code":
            lines += block.code
        elif block.kind == "table":
            lines += ["\t".join(" ".join(texts[number] for number in cell) for cell in row) for row in block.rows]
        else:
            lines += [texts[number] for number in block.lines]
    return "\n".join(lines)


def as_code(words: str) -> str:
    """Return words of code inside a sentence or a cell."""
    tick = "``" if "`" in words else "`"
    return f"{tick}{words}{tick}"


@dataclass
class Inline:
    """The lines of a page with their links, pictures and code words written as Markdown."""

    page: FlatPage
    markup: bytes
    text: bytes
    url: str | None = None
    has_links: bool = False
    has_images: bool = False
    _marks: list[tuple[int, int, int]] = field(default_factory=list)
    _places: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        kinds = {CODE, CODE_END} | ({LINK, LINK_END} if self.has_links else set())
        kinds |= {IMAGE} if self.has_images else set()
        chosen = np.isin(self.page.mark_kind, list(kinds))
        self._places = self.page.mark_place[chosen]
        self._marks = list(
            zip(
                self._places.tolist(),
                self.page.mark_kind[chosen].tolist(),
                self.page.mark_source[chosen].tolist(),
                strict=True,
            )
        )

    def line(self, number: int) -> str:
        """Return a line with what begins and ends in it."""
        start, end = int(self.page.line_start[number]), int(self.page.line_end[number])
        first, last = (int(place) for place in np.searchsorted(self._places, (start, end), "left"))
        while last < len(self._marks) and self._marks[last][0] == end and self._marks[last][1] in (LINK_END, CODE_END):
            last += 1
        if first == last:
            return self.text[start:end].decode("utf-8", "replace")
        pieces: list[str] = []
        opened: tuple[int, int, int] | None = None  # kind, source, index of its piece
        place = start
        for at, kind, source in self._marks[first:last]:
            if kind == IMAGE and at == start:  # it stands before the line
                continue
            pieces.append(self.text[place:at].decode("utf-8", "replace"))
            place = at
            if kind == IMAGE:
                pieces.append(self._image(source))
            elif kind in (LINK, CODE):
                self._close(pieces, opened)
                opened = (kind, source, len(pieces))
            else:
                self._close(pieces, opened)
                opened = None
        pieces.append(self.text[place:end].decode("utf-8", "replace"))
        self._close(pieces, opened)
        return "".join(pieces).strip()

    def images_between(self, before: int, after: int) -> list[str]:
        """Return the pictures that stand alone between two places of the text."""
        if not self.has_images:
            return []
        first = int(np.searchsorted(self._places, before, "left"))
        last = int(np.searchsorted(self._places, after, "right"))
        return [
            image for _, kind, source in self._marks[first:last] if kind == IMAGE and (image := self._image(source))
        ]

    def _close(self, pieces: list[str], opened: tuple[int, int, int] | None) -> None:
        """Write what was opened around the pieces since."""
        if opened is None:
            return
        kind, source, first = opened
        words = "".join(pieces[first:])
        inside = words.strip()
        if not inside:
            return
        before = words[: len(words) - len(words.lstrip())]
        after = words[len(words.rstrip()) :]
        if kind == CODE:
            inside = as_code(inside)
        else:
            target = self._address(source, "href")
            if target and not target.startswith(("javascript:", "#")):
                inside = f"[{inside}]({target})"
        pieces[first:] = [before, inside, after]

    def _image(self, source: int) -> str:
        address = next(
            (found for name in ("data-src", "data-original", "src") if (found := self._address(source, name))), ""
        )
        if not address or address.startswith("data:"):
            return ""
        return f"![{self._value(source, 'alt')}]({address})"

    def _address(self, source: int, name: str) -> str:
        address = "".join(self._value(source, name).split())
        with contextlib.suppress(ValueError):
            address = urljoin(self.url, address) if self.url and address else address
        return address.replace("(", "%28").replace(")", "%29")

    def _value(self, source: int, name: str) -> str:
        end = self.markup.find(b">", source, source + _TAG_BYTES)
        found = _ATTRIBUTE[name].search(self.markup, source, end + 1) if end >= 0 else None
        value = next((part for part in found.groups() if part), b"") if found else b""
        return value.decode("utf-8", "replace").replace("&amp;", "&").strip()


def write_markdown(blocks: list[Block], inline: Inline) -> str:
    """Return blocks as Markdown."""
    parts: list[str] = []
    before: Block | None = None
    for block in blocks:
        written = _WRITERS[block.kind](block, inline)
        if not written:
            continue
        if block.quotes:
            written = "\n".join("> " * block.quotes + line for line in written.split("\n"))
        if before is not None:
            first, last = before.lines[-1], block.lines[0]
            images = inline.images_between(int(inline.page.line_end[first]), int(inline.page.line_start[last]))
            parts += [f"\n\n{image}" for image in images]
            is_list = before.kind == block.kind == "entry" and (
                before.node == block.node or before.level != block.level
            )
            # a further paragraph of an entry has an empty line before it
            is_list = is_list and (block.kind != "entry" or bool(block.marker))
            parts.append("\n" if is_list and not images else "\n\n")
        parts.append(written)
        before = block
    return "".join(parts)


def _paragraph(block: Block, inline: Inline) -> str:
    # two spaces before the end of a line keep it
    return "  \n".join(inline.line(number) for number in block.lines)


def _heading(block: Block, inline: Inline) -> str:
    words = " ".join(inline.line(number) for number in block.lines)
    return f"{'#' * block.level} {words}"


def _entry(block: Block, inline: Inline) -> str:
    indent = "    " * max(0, block.level - 1)
    marker = f"{block.marker} " if block.marker else "    "
    return f"{indent}{marker}" + " ".join(inline.line(number) for number in block.lines)


def _code(block: Block, inline: Inline) -> str:
    longest = max((len(run) for line in block.code for run in _FENCE.findall(line)), default=2)
    fence = "`" * max(3, longest + 1)
    return "\n".join([fence + block.language, *block.code, fence])


def _table(block: Block, inline: Inline) -> str:
    def line_of(number: int) -> str:
        return as_code(inline.line(number).strip()) if number in block.programs else inline.line(number)

    def row_of(cells: list[list[int]]) -> str:
        words = ["<br>".join(map(line_of, cell)).replace("|", "\\|") for cell in cells]
        return "| " + " | ".join(words) + " |"

    rows = [row_of(row) for row in block.rows]
    if not rows:
        return ""
    line = "|" + " --- |" * len(block.rows[0])
    return "\n".join([rows[0], line, *rows[1:]])


_WRITERS: dict[str, Callable[[Block, Inline], str]] = {
    "paragraph": _paragraph,
    "heading": _heading,
    "entry": _entry,
    "code": _code,
    "table": _table,
}
