"""The kept lines of a page as blocks: paragraphs, headings, list entries, code, tables.

The writers (`writers.py`) make plain text or Markdown of them, so both have the same words in the same order."""

import re
from dataclasses import dataclass, field

import numpy as np

from data_pipeline.extraction.output.element_structure import Structure
from data_pipeline.extraction.parsed_page import TAG, TAGS, FlatPage

MAX_SPAN = 50  # columns or rows of one cell
MAX_COLUMNS = 100  # that spans fill up
MAX_CELLS = 200_000  # of one table; spans are not filled up beyond
_TAG_BYTES = 3000  # how much of a start tag is looked at
_SPAN = {name: re.compile(rf"\b{name}\s*=\s*[\"']?\s*(\d{{1,4}})".encode(), re.I) for name in ("colspan", "rowspan")}
_START = re.compile(rb"\bstart\s*=\s*[\"']?\s*(\d{1,6})", re.I)
_TAGS_ONLY = re.compile(rb"(?:\s*<[^<>]{0,1000}>){1,4}")
_LANGUAGE = re.compile(
    rb"""\b(?:lang(?:uage)?-|brush:\s*|highlight-source-|highlight-|data-lang(?:uage)?\s*=\s*["']?|lang\s*=\s*["']
    |(?:class\s*=\s*["'](?:[\w-]+\s+)*(?:highlight|hljs|prettyprint|sourceCode|prism|code|chroma)\s+))
    (?!lang(?:uage)?-)([A-Za-z][\w+#.-]{0,19})""",
    re.I | re.X,
)
_NO_LANGUAGE = {
    "hljs", "code", "highlight", "linenums", "line-numbers", "default", "none", "plain", "plaintext", "text", "auto",
    "copyable", "wrap", "numbersource", "prettyprinted", "language", "zh", "en", "zh-cn", "toolbar", "notranslate",
}  # fmt: skip
_NUMBER = re.compile(r"\s*(\d{1,6})")


@dataclass(slots=True)
class Block:
    """`kind`: paragraph, heading, entry, code, table. `lines` are numbers of lines of the page."""

    kind: str
    node: int
    lines: list[int] = field(default_factory=list)
    level: int = 0  # of a heading, or how deep a list entry stands
    marker: str = ""  # of a list entry: "-", "1."; empty for its further paragraphs
    quotes: int = 0  # how many quotations it is in
    language: str = ""
    code: list[str] = field(default_factory=list)
    rows: list[list[list[int]]] = field(default_factory=list)  # of a table: row, cell, lines
    has_header: bool = False
    programs: set[int] = field(default_factory=set)  # of the lines of a table, those that are code


class StartTags:
    """The start tags of a page's elements, as they stand in its markup."""

    def __init__(self, page: FlatPage, markup: bytes):
        self._page, self._markup = page, markup
        self._numbers: dict[int, int] = {}

    def of(self, node: int) -> bytes:
        """Return the start tag of an element."""
        source = int(self._page.node_source[node])
        end = self._markup.find(b">", source, source + _TAG_BYTES)
        return self._markup[source : end + 1] if end >= 0 else b""

    def marker(self, entry: int) -> str:
        """Return what stands before the next entry of a list: its number in an `<ol>`, else a dash."""
        parent = int(self._page.node_parent[entry])
        if int(self._page.node_tag[parent]) != TAG["ol"]:
            return "-"
        if parent not in self._numbers:
            start = _START.search(self.of(parent))
            self._numbers[parent] = int(start[1]) if start else 1
        number = self._numbers[parent]
        self._numbers[parent] += 1
        return f"{number}."

    def language(self, node: int) -> str:
        """Return the programming language that the markup around code names, or nothing."""
        source = int(self._page.node_source[node])
        inside = _TAGS_ONLY.match(self._markup, source, source + _TAG_BYTES)
        tags = [inside[0] if inside else b""]
        for _ in range(6):
            node = int(self._page.node_parent[node])
            if node == 0 or int(self._page.node_tag[node]) == TAG["body"]:
                break
            tags.append(self.of(node))
        for tag in tags:
            for match in _LANGUAGE.finditer(tag):
                name = match[1].decode("ascii", "ignore").lower()
                if name not in _NO_LANGUAGE:
                    return name
        return ""


def blocks_of(page: FlatPage, structure: Structure, markup: bytes, kept: np.ndarray, texts: list[str]) -> list[Block]:
    """Return the kept lines as blocks, in the order of the page; `texts` are the lines of the page."""
    tags = StartTags(page, markup)
    numbers = np.flatnonzero(kept)
    nodes = page.line_node[numbers]
    preformatted, table, entry, heading, quote, depth = (
        column[nodes].tolist()
        for column in (structure.preformatted, structure.table, structure.entry, structure.heading, structure.quote,
                       structure.depth)
    )  # fmt: skip
    is_data = (
        structure.is_data[structure.table[nodes]]
        & (structure.cell[nodes] > 0)
        & ((structure.preformatted[nodes] == 0) | (structure.preformatted[nodes] > structure.table[nodes]))
    ).tolist()
    blocks: list[Block] = []
    tables: dict[int, Block] = {}
    entry_before = 0
    quotes = [_quotes(page, structure, place) for place in quote]
    for k, (number, node) in enumerate(zip(numbers.tolist(), nodes.tolist(), strict=True)):
        last = blocks[-1] if blocks else None
        if preformatted[k] and not is_data[k]:
            if last is None or last.kind != "code" or last.node != preformatted[k]:
                last = Block("code", preformatted[k], quotes=quotes[k], language=tags.language(preformatted[k]))
                blocks.append(last)
            last.lines.append(number)
        elif is_data[k]:
            if table[k] not in tables:
                tables[table[k]] = Block("table", table[k], quotes=quotes[k])
                blocks.append(tables[table[k]])
            tables[table[k]].lines.append(number)
            if preformatted[k]:
                tables[table[k]].programs.add(number)
        elif heading[k]:
            if last is not None and last.kind == "heading" and last.node == heading[k]:
                last.lines.append(number)
            else:
                level = TAGS[page.node_tag[heading[k]]][1:]
                blocks.append(Block("heading", heading[k], [number], int(level), quotes=quotes[k]))
        elif entry[k]:
            marker = "" if entry[k] == entry_before else tags.marker(entry[k])
            parent = int(page.node_parent[entry[k]])
            blocks.append(Block("entry", parent, [number], depth[k], marker, quotes[k]))
        else:
            # <br> parts lines, two of them paragraphs
            is_same = last is not None and last.kind == "paragraph" and last.node == node
            if last is not None and is_same and last.lines[-1] == number - 1 and page.line_breaks[number] < 2:
                last.lines.append(number)
            else:
                blocks.append(Block("paragraph", node, [number], quotes=quotes[k]))
        entry_before = entry[k]
    for block in blocks:
        if block.kind == "code":
            block.code = _code_lines(page, block.lines, texts)
        elif block.kind == "table":
            _fill_table(page, structure, tags, block)
    return _without_gutters(blocks, texts)


def _quotes(page: FlatPage, structure: Structure, quote: int) -> int:
    """Count a quotation and those that it is in."""
    count = 0
    while quote:
        count, quote = count + 1, int(structure.quote[page.node_parent[quote]])
    return count


def _code_lines(page: FlatPage, numbers: list[int], texts: list[str]) -> list[str]:
    """Return the lines of preformatted text with its empty lines, without the line numbers beside it."""
    lines: list[str] = []
    nodes = page.line_node
    first_code, last_code = 0, len(numbers)
    # a list of numbers before or behind the code, in an element of its own
    head = _counting_run(texts, numbers)
    if 3 <= head < len(numbers) and nodes[numbers[head - 1]] != nodes[numbers[head]]:
        first_code = head
    else:
        for start in range(len(numbers) - 3, 0, -1):
            if texts[numbers[start]].strip() == "1":
                run = _counting_run(texts, numbers[start:])
                if run == len(numbers) - start and nodes[numbers[start - 1]] != nodes[numbers[start]]:
                    last_code = start
                break
    for place, number in enumerate(numbers[first_code:last_code]):
        if place:
            lines += [""] * max(0, int(page.line_breaks[number]) - 1)
        lines.append(texts[number])
    return _without_line_numbers(lines)


def _counting_run(texts: list[str], numbers: list[int]) -> int:
    """Return how many lines from the first on are n, n+1, n+2, ..."""
    expected = None
    for count, number in enumerate(numbers):
        text = texts[number].strip()
        if not text.isascii() or not text.isdigit() or len(text) > 6 or expected not in (None, int(text)):
            return count
        expected = int(text) + 1
    return len(numbers)


def _without_line_numbers(lines: list[str]) -> list[str]:
    """Take the numbers off lines that all begin with one, each with the next."""
    found = [_NUMBER.match(line) for line in lines]
    if len(lines) < 3 or not all(found):
        return lines
    numbers = [int(match[1]) for match in found if match]
    if numbers != list(range(numbers[0], numbers[0] + len(lines))):
        return lines
    rest = [line[match.end() :] for line, match in zip(lines, found, strict=True) if match]
    if not any(rest):
        return lines
    has_space = all(line.startswith((" ", "\t")) for line in rest if line)
    return [line[1:] if has_space else line for line in rest]


def _fill_table(page: FlatPage, structure: Structure, tags: StartTags, block: Block) -> None:
    """Put the lines of a table into a grid: a column per cell, empty ones too, spans filled up with empty cells."""
    kept: dict[int, list[int]] = {}
    for number in block.lines:
        kept.setdefault(int(structure.cell[page.line_node[number]]), []).append(number)
    rows: list[tuple[int, list[int]]] = []
    for node in range(block.node + 1, int(structure.end[block.node])):
        tag = int(page.node_tag[node])
        if tag == TAG["tr"]:
            rows.append((node, []))
        elif tag in (TAG["td"], TAG["th"]) and rows:
            rows[-1][1].append(node)
    below: dict[int, int] = {}  # column -> further rows that a cell above takes
    size = 0
    for number, (_, cells) in enumerate(rows):
        row: list[list[int]] = []
        for cell in cells:
            _skip_taken(row, below)
            start_tag = tags.of(cell)
            across, down = (_span(start_tag, name) for name in ("colspan", "rowspan")) if size < MAX_CELLS else (1, 1)
            for offset in range(min(across, max(1, MAX_COLUMNS - len(row)))):
                if down > 1:
                    below[len(row)] = down - 1
                row.append(kept.get(cell, []) if offset == 0 else [])
        _skip_taken(row, below)
        size += len(row)
        if number == 0:
            block.has_header = all(int(page.node_tag[cell]) == TAG["th"] for cell in cells)
        if any(row):
            block.rows.append(row)
    width = max((len(row) for row in block.rows), default=0)
    if width * len(block.rows) <= MAX_CELLS:
        for row in block.rows:
            row.extend([] for _ in range(width - len(row)))


def _skip_taken(row: list[list[int]], below: dict[int, int]) -> None:
    while len(row) < MAX_COLUMNS and below.get(len(row), 0) > 0:
        below[len(row)] -= 1
        row.append([])


def _span(tag: bytes, name: str) -> int:
    found = _SPAN[name].search(tag)
    return min(max(int(found[1]), 1), MAX_SPAN) if found else 1


def _without_gutters(blocks: list[Block], texts: list[str]) -> list[Block]:
    """Drop columns of line numbers that stand beside code: 1, 2, 3 in a cell or block before it."""
    dropped = set()
    for index, block in enumerate(blocks):
        following = next((other for other in blocks[index + 1 : index + 2] if other.kind == "code"), None)
        if block.kind == "code" and following is not None and following.node != block.node:
            gutter = [line for line in block.code if line]
            if gutter and _counting_run(gutter, list(range(len(gutter)))) == len(gutter) <= len(following.code) + 1:
                dropped.add(index)
    start = 0
    while start < len(blocks):
        run = start
        while run < len(blocks) and blocks[run].kind in ("paragraph", "entry") and run - start < 5000:
            run += 1
        numbers = [number for block in blocks[start:run] for number in block.lines]
        if run < len(blocks) and blocks[run].kind == "code" and len(numbers) >= 2:
            length = len(blocks[run].code)
            tail = numbers[-length:]
            if 2 <= len(tail) == _counting_run(texts, tail) and texts[tail[0]].strip() == "1":
                gone = set(tail)
                for index in range(start, run):
                    blocks[index].lines = [number for number in blocks[index].lines if number not in gone]
                    if not blocks[index].lines:
                        dropped.add(index)
        start = max(run, start + 1)
    return [block for index, block in enumerate(blocks) if index not in dropped]
