"""Readers of JSON and TXT, and what all readers share: a range of a file in, documents and rejects out.

A reader never stops at a bad record. What it cannot read comes out as a `Reject` with the reason and the byte where
it lies."""

import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import orjson

from data_pipeline.recipe import Fields, Source
from data_pipeline.stages.read import charset
from data_pipeline.stages.read.changed_files import has_changed
from data_pipeline.stages.read.compressed_bytes import BLOCK, Damage, Line, lines, read_stream, without_mark
from data_pipeline.stages.read.formats import json_values
from data_pipeline.stages.read.record_fields import columns_of, take_text, take_value
from data_pipeline.stages.read.remote_files import open_input
from data_pipeline.stages.read.source_files import FileRange

EXCERPT_BYTES = 4096
# a whole number that orjson makes a float of
_LONG_NUMBER = re.compile(rb"(?<=[:\[,\s])-?[1-9][0-9]{18,}(?=\s*[,\]}])")
# bytes of a character beyond the basic plane, written as two halves of a surrogate pair (CESU-8), or one half alone
_SURROGATE_PAIR = re.compile(rb"\xed([\xa0-\xaf])([\x80-\xbf])\xed([\xb0-\xbf])([\x80-\xbf])")
_SURROGATE_HALF = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")
# so many sequences of UTF-8 for each byte that is none say that a text is UTF-8 with damage
_SEQUENCES_FOR_DAMAGE = 10
# a text with more characters that cannot be decoded than this is not worth repairing
MAXIMUM_DAMAGE = 0.001


@dataclass(slots=True)
class Document:
    """A document as it was read. `offset` is its place in the decompressed file (Parquet: the row)."""

    offset: int
    text: str
    id: str | None = None
    title: str | None = None
    url: str | None = None
    meta: str | None = None
    html: str | bytes | None = None  # a page whose main text is to become `text`
    confidence: float | None = None  # of a page: how sure its main text is


@dataclass(slots=True)
class Reject:
    """Something that is not a document; `excerpt` is the beginning of it, as far as it can be shown."""

    offset: int
    reason: str
    id: str | None = None
    excerpt: str | None = None
    url: str | None = None


@dataclass(frozen=True)
class Limits:
    """How large a record may be, how far a compressed stream may expand; of pages: the form of their text, and how sure
    it must be."""

    record_bytes: int
    ratio: float
    format: str = "text"
    has_links: bool = False
    has_images: bool = False
    confidence: float = 0.0


Reader = Callable[[FileRange, Source, Limits, Callable[[int], bool]], Iterator[Document | Reject]]
"""The last argument is told the offset of each record before it is parsed; False means: skip it."""


def read_jsonl(
    part: FileRange, source: Source, limits: Limits, at: Callable[[int], bool]
) -> Iterator[Document | Reject]:
    """Yield a document for each JSON object: one a line, those of an array, or those that go over lines."""
    known: set[str] = set()
    for line in _json_values(part, limits):
        if isinstance(line, Damage):
            yield Reject(line.offset, line.reason)
        elif line.data.strip(b" \t\r\0"):
            if not at(line.offset):
                yield quarantined(line.offset, line.data)
                continue
            doubled: set[str] = set()
            found = parse_json_line(line, source.fields, doubled)
            is_odd = isinstance(found, Reject) and found.reason.startswith("not_json")
            if is_odd and (several := _values_of(line, limits)):
                yield from (parse_json_line(value, source.fields, doubled) for value in several)
            else:
                yield found
            yield from (doubled_field(name, line.offset) for name in sorted(doubled - known))
            known |= doubled


def _json_values(part: FileRange, limits: Limits) -> Iterator[Line | Damage]:
    """Yield the values of a JSON file, as lines."""
    if part.start or part.end is not None:  # only files of lines are cut
        yield from lines_of(part, limits, every_empty=False)
        return
    skipped, stream = without_mark(read_stream(part.path, limits.ratio))
    first = next(stream, b"")
    whole = itertools.chain([first], stream)
    if isinstance(first, bytes) and json_values.is_document(first):
        yield from json_values.values(whole, limits.record_bytes, skipped)
    else:
        yield from _with_cut(lines(whole, limits.record_bytes, skipped, every_empty=False), part)


def _values_of(line: Line, limits: Limits) -> list[Line]:
    """Return the objects of a line that holds several: parted by nothing, by a carriage return or by a record
    separator (RFC 7464). None where that is not what it is."""
    found = list(json_values.values(iter([line.data]), limits.record_bytes, line.offset))
    values = [value for value in found if isinstance(value, Line) and not value.cut]
    between = line.data
    for value in values:
        between = between.replace(value.data, b"", 1)
    is_all = len(values) == len(found) > 0 and not between.strip(b" \t\r\0\x1e,")
    return values if is_all and (len(values) > 1 or b"\x1e" in between) else []


def read_text(
    part: FileRange, source: Source, limits: Limits, at: Callable[[int], bool]
) -> Iterator[Document | Reject]:
    """Yield a file, the paragraphs of it, or its lines."""
    if source.split == "file":
        yield from whole_file(part, limits, at, lambda data, offset: _text_document(data, offset))
        return
    paragraph: list[bytes] = []
    size = start = 0
    for line in lines_of(part, limits, every_empty=False):
        if isinstance(line, Damage):
            yield Reject(line.offset, line.reason)
            continue
        if line.cut:
            data = b"\n".join([*paragraph, line.data])
            yield cut_record(Line(start if paragraph else line.offset, data))
            paragraph, size = [], 0
            continue
        if source.split == "line":
            if line.data.strip():
                yield (
                    _text_document(line.data, line.offset) if at(line.offset) else quarantined(line.offset, line.data)
                )
            continue
        blank = not line.data.strip()
        if paragraph and (blank or size + len(line.data) > limits.record_bytes):
            data = b"\n".join(paragraph)
            if not blank:
                yield Reject(
                    start,
                    f"record_too_long:more than {limits.record_bytes} bytes without a blank line",
                    None,
                    excerpt_of(data),
                )
            else:
                yield _text_document(data, start) if at(start) else quarantined(start, data)
            paragraph, size = [], 0
        if not blank:
            if not paragraph:
                start = line.offset
            paragraph.append(line.data)
            size += len(line.data) + 1
    if paragraph:
        data = b"\n".join(paragraph)
        yield _text_document(data, start) if at(start) else quarantined(start, data)


def parse_json_line(line: Line, fields: Fields, doubled: set[str]) -> Document | Reject:
    """Return a line of JSONL as a document. What strict JSON refuses (a raw control character, half a surrogate pair)
    is forgiven; a line in GB18030 is read as that. Names that an object has twice are added to `doubled`.
    """
    try:
        value = _exact(line.data, orjson.loads(line.data), doubled)
    except orjson.JSONDecodeError as strict:
        text = decode(line.data)
        if text is None:
            return unknown_charset(line.data, line.offset)
        try:
            value = _first_of_each(text.strip("\0 \t\r\ufeff"), doubled, strict=False)
        except (ValueError, RecursionError):
            if line.cut:
                return cut_record(line)
            return Reject(line.offset, f"not_json:{str(strict)[:200]}", None, excerpt_of(line.data))
    if not isinstance(value, dict):
        return Reject(line.offset, f"not_an_object:{type(value).__name__}", None, excerpt_of(line.data))
    return from_mapping(value, fields, line.offset)


def _exact(data: bytes, value: Any, doubled: set[str]) -> Any:
    """Return the value of some JSON; read again where a whole number has more digits than a float holds, and where a
    name may stand twice in an object.
    """
    if isinstance(value, str):
        return value
    # a colon in a text may look like one behind a name, which costs time only
    names = data.count(b'":') + data.count(b'" :')
    found, has_float = _names_in(value)
    if names == found and not (has_float and _LONG_NUMBER.search(data)):
        return value
    try:
        return _first_of_each(data, doubled)
    except RecursionError:  # deeper than this reader goes
        return value


def _names_in(value: Any) -> tuple[int, bool]:
    """Return how many names the objects in a value have, and whether there is a number that is not whole."""
    count, has_float = 0, False
    waiting: list[Any] = [[value]]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, dict):
            count += len(inner)
            inner = inner.values()
        for one in inner:
            kind = type(one)
            if kind is dict or kind is list:
                waiting.append(one)
            elif kind is float:
                has_float = True
    return count, has_float


def _first_of_each(data: bytes | str, doubled: set[str], *, strict: bool = True) -> Any:
    """Return the value of some JSON; of two fields of one name the first, and the name is added to `doubled`."""

    def first(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for name, field in pairs:
            if name in value:
                doubled.add(name)
            value.setdefault(name, field)
        return value

    return json.loads(data, object_pairs_hook=first, strict=strict)


def doubled_field(name: str, offset: int) -> Reject:
    """Return the line in the rejects that says, once for what is read in one piece, that a name stands twice."""
    return Reject(offset, f"doubled_field:{repaired(name)!r} is there more than once; the first was taken")


def from_mapping(value: dict[str, Any], fields: Fields, offset: int) -> Document | Reject:
    """Return a record as a document; fields that the recipe does not name go to `meta`."""
    own_id = plain(take_value(value, fields.id))
    title, url = (
        plain(take_value(value, name)) if name not in columns_of(fields.text) else plain(value.get(name))
        for name in (fields.title, fields.url)
    )
    html = take_value(value, fields.html) if fields.html else None
    if isinstance(html, str | bytes):
        return Document(offset, "", own_id, title, url, _meta(value) if value else None, html)
    text = take_text(value, fields.text)
    if not isinstance(text, str):
        what = "the field is missing or null" if text is None else f"the field is a {type(text).__name__}"
        return Reject(offset, f"no_text:{fields.text!r}: {what}", own_id)
    meta = _meta(value) if value else None
    text = repaired(text)
    if not text.strip():
        return Reject(offset, "empty_text", own_id)
    return Document(offset, text, own_id, title, url, meta)


def _meta(value: dict[str, Any]) -> str:
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS).decode()
    except (orjson.JSONEncodeError, TypeError, ValueError, RecursionError):
        try:
            return repaired(json.dumps(value, ensure_ascii=False, sort_keys=True, default=str))
        except (ValueError, RecursionError):
            return "{}"


def plain(value: Any) -> str | None:
    """Return a field as a string; numbers keep their digits."""
    if value is None or isinstance(value, str):
        return None if value is None else repaired(value)
    return repaired(json.dumps(value, ensure_ascii=False, sort_keys=True, default=str))


def repaired(text: str) -> str:
    """Return `text` without NUL and without halves of surrogate pairs, which UTF-8 cannot hold."""
    if "\0" in text:
        text = text.replace("\0", "")
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "ignore")
    return text


def decode(data: bytes) -> str | None:
    """Return UTF-8, else the encoding that `charset` finds, else None. Damaged bytes may be MAXIMUM_DAMAGE of the
    characters.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        text = _damaged_utf8(data)
        if text is not None:
            return text
        found = charset.decode(data, markup=False)
    return None if found.doubtful or found.replaced > MAXIMUM_DAMAGE * len(found.text) else found.text


def _damaged_utf8(data: bytes) -> str | None:
    """Return the text of UTF-8 with pairs of surrogates or a few bytes that are damaged, each now U+FFFD."""
    text = _SURROGATE_HALF.sub(b"\xef\xbf\xbd", _SURROGATE_PAIR.sub(_joined, data)).decode("utf-8", "replace")
    damaged = text.count("\ufffd") - data.count(b"\xef\xbf\xbd")
    sequences = len(text) - damaged - sum(character < "\x80" for character in text)
    return text if damaged * _SEQUENCES_FOR_DAMAGE <= sequences else None


def _joined(match: re.Match[bytes]) -> bytes:
    """Return the four bytes of UTF-8 that a pair of surrogates stands for."""
    first, second, third, fourth = (match[number][0] for number in range(1, 5))
    point = 0x10000 + (((first & 0x0F) << 16) | ((second & 0x3F) << 10) | ((third & 0x0F) << 6) | (fourth & 0x3F))
    return chr(point).encode()


def _text_document(data: bytes, offset: int) -> Document | Reject:
    text = decode(data)
    if text is None:
        return unknown_charset(data, offset)
    text = repaired(text).replace("\r\n", "\n").strip("\r\n")
    return Document(offset, text) if text.strip() else Reject(offset, "empty_text")


def whole_file(
    part: FileRange,
    limits: Limits,
    at: Callable[[int], bool],
    parse: Callable[[bytes, int], Document | Reject],
    keep_mark: bool = False,
) -> Iterator[Document | Reject]:
    """Yield the file as one record, if it is not too long. Damage: what came before it is still a document."""
    stream = read_stream(part.path, limits.ratio)
    if not keep_mark:
        _, stream = without_mark(stream)
    pieces: list[bytes] = []
    size = 0
    for block in stream:
        if isinstance(block, Damage):
            yield Reject(block.offset, block.reason)
            break
        size += len(block)
        if size > limits.record_bytes:
            yield Reject(
                0,
                f"record_too_long:more than {limits.record_bytes} bytes; for TXT, `split` cuts it",
                None,
                excerpt_of(pieces[0] if pieces else block),
            )
            return
        pieces.append(block)
    data = b"".join(pieces)
    if data.strip():
        yield parse(data, 0) if at(0) else quarantined(0, data)


def lines_of(part: FileRange, limits: Limits, *, every_empty: bool = True) -> Iterator[Line | Damage]:
    """Yield the lines that begin in a range of a file. Without `every_empty` a run of empty ones may come out
    shortened.
    """
    if part.start == 0:
        skipped, stream = without_mark(read_stream(part.path, limits.ratio))
        found = lines(stream, limits.record_bytes, skipped, every_empty=every_empty)
    else:
        start = _first_line(part)
        if start is None:
            return
        found = lines(read_stream(part.path, limits.ratio, start), limits.record_bytes, start, every_empty=every_empty)
    for line in _with_cut(found, part):
        if part.end is not None and line.offset >= part.end:
            return
        yield line


def _with_cut(found: Iterator[Line | Damage], part: FileRange) -> Iterator[Line | Damage]:
    """Yield lines; the last one as cut where no line end is behind it and somebody writes to the file."""
    for line in found:
        yield replace(line, cut=True) if isinstance(line, Line) and line.is_open and has_changed(part) else line


def _first_line(part: FileRange) -> int | None:
    """Return where the first line begins in a range that is not the first; None where one line reaches over the
    whole range.

    So a file that is one endless line is read once, and not once more for each of its ranges."""
    place = part.start - 1  # a newline there begins the range
    with open_input(part.path) as file:
        file.seek(place)
        while part.end is None or place < part.end:
            block = file.read(BLOCK)
            if not block:
                return None
            found = block.find(b"\n")
            if found >= 0:
                return place + found + 1
            place += len(block)
    return None


def excerpt_of(data: bytes) -> str:
    """Return the beginning of a record as far as it can be shown."""
    return repaired(data[:EXCERPT_BYTES].decode("utf-8", "replace"))


def unknown_charset(data: bytes, offset: int) -> Reject:
    """Return the reject of a record that `decode` makes nothing of."""
    return Reject(offset, "unknown_charset:no encoding makes sense of it", None, excerpt_of(data))


def cut_record(line: Line) -> Reject:
    """Return the reject of a record of which the end is missing."""
    return Reject(line.offset, "cut_record:the stream breaks inside it", None, excerpt_of(line.data))


def quarantined(offset: int, data: bytes, own_id: str | None = None, url: str | None = None) -> Reject:
    """Return the reject of a record that has to be skipped."""
    return Reject(offset, "quarantined:it killed its worker twice", own_id, excerpt_of(data) if data else None, url)
