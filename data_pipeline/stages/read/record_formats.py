"""Readers of JSONL, TXT and Parquet, and what all readers share: a range of a file in, documents and rejects out.

A reader never stops at a bad record. What it cannot read comes out as a `Reject` with the reason and the byte where
it lies."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from data_pipeline.recipe import Fields, Source
from data_pipeline.stages.read import charset
from data_pipeline.stages.read.compressed_bytes import BLOCK, Damage, Line, lines, read_stream, without_mark
from data_pipeline.stages.read.remote_files import open_input
from data_pipeline.stages.read.source_files import FileRange

EXCERPT_BYTES = 4096
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
    """One JSON object a line."""
    for line in lines_of(part, limits, every_empty=False):
        if isinstance(line, Damage):
            yield Reject(line.offset, line.reason)
        elif line.data.strip(b" \t\r\0"):
            yield parse_json_line(line, source.fields) if at(line.offset) else quarantined(line.offset, line.data)


def read_text(
    part: FileRange, source: Source, limits: Limits, at: Callable[[int], bool]
) -> Iterator[Document | Reject]:
    """A file, the paragraphs of it, or its lines."""
    if source.split == "file":
        yield from whole_file(part, limits, at, lambda data, offset: _text_document(data, offset))
        return
    paragraph: list[bytes] = []
    size = start = 0
    for line in lines_of(part, limits, every_empty=False):
        if isinstance(line, Damage):
            yield Reject(line.offset, line.reason)
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


def read_parquet(
    part: FileRange, source: Source, limits: Limits, at: Callable[[int], bool]
) -> Iterator[Document | Reject]:
    """A row a document; the columns that are not named in the recipe go to `meta`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        place = part.path if isinstance(part.path, Path) else open_input(part.path)
        file = pq.ParquetFile(place)
        names = file.schema_arrow.names
        if source.fields.text in names and not pa.types.is_nested(file.schema_arrow.field(source.fields.text).type):
            # a text that many rows share is held once, however often a row group repeats it
            file = pq.ParquetFile(place, read_dictionary=[source.fields.text], buffer_size=BLOCK)
    except (FileNotFoundError, PermissionError):
        raise
    except (pa.ArrowException, OSError) as error:
        yield Reject(0, f"damaged_parquet:{str(error).splitlines()[0][:200]}")
        return
    wanted = source.fields.html or source.fields.text
    if wanted not in names:
        yield Reject(0, f"no_text:no column {wanted!r} among {', '.join(names)[:200]}")
        return
    row = 0
    for group in range(file.num_row_groups):
        end = row + file.metadata.row_group(group).num_rows
        try:
            for batch in file.iter_batches(batch_size=256, row_groups=[group], use_threads=False):
                batch = _convertible(batch)
                for index in range(batch.num_rows):
                    yield _parquet_row(batch, index, row, source.fields, limits) if at(row) else quarantined(row, b"")
                    row += 1
        except (pa.ArrowException, OSError) as error:
            yield Reject(row, f"damaged_parquet:row group {group}: {str(error).splitlines()[0][:200]}")
        row = end


def _convertible(batch: Any) -> Any:
    """`batch` with what Python has no value for as strings: times that count nanoseconds."""
    import pyarrow as pa

    for index, column in enumerate(batch.schema):
        if pa.types.is_temporal(column.type) and getattr(column.type, "unit", None) == "ns":
            batch = batch.set_column(index, column.name, batch.column(index).cast(pa.string()))
    return batch


def parse_json_line(line: Line, fields: Fields) -> Document | Reject:
    """A line of JSONL as a document. What strict JSON refuses (a raw control character, half a surrogate pair) is
    forgiven; a line in GB18030 is read as that.
    """
    try:
        value = orjson.loads(line.data)
    except orjson.JSONDecodeError as strict:
        text = decode(line.data)
        if text is None:
            return unknown_charset(line.data, line.offset)
        try:
            value = json.loads(text.strip("\0 \t\r\ufeff"), strict=False)
        except (ValueError, RecursionError):
            reason = "cut_record:the stream breaks inside it" if line.cut else f"not_json:{str(strict)[:200]}"
            return Reject(line.offset, reason, None, excerpt_of(line.data))
    if not isinstance(value, dict):
        return Reject(line.offset, f"not_an_object:{type(value).__name__}", None, excerpt_of(line.data))
    return from_mapping(value, fields, line.offset)


def from_mapping(value: dict[str, Any], fields: Fields, offset: int) -> Document | Reject:
    """A record as a document; fields that the recipe does not name go to `meta`."""
    own_id = _plain(value.pop(fields.id, None))
    html = value.pop(fields.html, None) if fields.html else None
    text = value.pop(fields.text, None)
    if isinstance(html, str | bytes):
        title, url = _plain(value.pop(fields.title, None)), _plain(value.pop(fields.url, None))
        return Document(offset, "", own_id, title, url, _meta(value) if value else None, html)
    if not isinstance(text, str):
        what = "the field is missing or null" if text is None else f"the field is a {type(text).__name__}"
        return Reject(offset, f"no_text:{fields.text!r}: {what}", own_id)
    title, url = _plain(value.pop(fields.title, None)), _plain(value.pop(fields.url, None))
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


def _plain(value: Any) -> str | None:
    """A field as a string; numbers keep their digits."""
    if value is None or isinstance(value, str):
        return None if value is None else repaired(value)
    return repaired(json.dumps(value, ensure_ascii=False, sort_keys=True, default=str))


def repaired(text: str) -> str:
    """`text` without NUL and without halves of surrogate pairs, which UTF-8 cannot hold."""
    if "\0" in text:
        text = text.replace("\0", "")
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "ignore")
    return text


def decode(data: bytes) -> str | None:
    """UTF-8, else the encoding that `charset` finds, else None. Damaged bytes may be MAXIMUM_DAMAGE of the
    characters.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        found = charset.decode(data, markup=False)
    return None if found.doubtful or found.replaced > MAXIMUM_DAMAGE * len(found.text) else found.text


def _parquet_row(batch: Any, index: int, row: int, fields: Fields, limits: Limits) -> Document | Reject:
    value: dict[str, Any] = {}
    try:
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            value[name] = column[index].as_py()
        for name in (fields.text, fields.id, fields.title, fields.url):
            if isinstance(value.get(name), bytes):  # older writers do not say that a column is text
                value[name] = decode(value[name])
        text = value.get(fields.html or fields.text)
        if isinstance(text, str) and len(text) > limits.record_bytes // 4 and len(text.encode()) > limits.record_bytes:
            reason = f"record_too_long:more than {limits.record_bytes} bytes"
            return Reject(row, reason, _plain(value.get(fields.id)), text[:EXCERPT_BYTES])
    except (ValueError, IndexError) as error:  # of UTF-8, or of a dictionary
        own_id = value.get(fields.id)
        return Reject(row, f"bad_value:column {name!r}: {type(error).__name__}", _plain(own_id))
    return from_mapping(value, fields, row)


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
    """The file as one record, if it is not too long. Damage: what came before it is still a document."""
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
    elif not size:
        yield Reject(0, "empty_file")


def lines_of(part: FileRange, limits: Limits, *, every_empty: bool = True) -> Iterator[Line | Damage]:
    """The lines that begin in a range of a file. Without `every_empty` a run of empty ones may come out shortened."""
    if part.start == 0:
        skipped, stream = without_mark(read_stream(part.path, limits.ratio))
        found = lines(stream, limits.record_bytes, skipped, every_empty=every_empty)
    else:
        start = _first_line(part)
        if start is None:
            return
        found = lines(read_stream(part.path, limits.ratio, start), limits.record_bytes, start, every_empty=every_empty)
    for line in found:
        if part.end is not None and line.offset >= part.end:
            return
        yield line


def _first_line(part: FileRange) -> int | None:
    """Where the first line begins in a range that is not the first; None where one line reaches over the whole range.

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
    """The beginning of a record as far as it can be shown."""
    return repaired(data[:EXCERPT_BYTES].decode("utf-8", "replace"))


def unknown_charset(data: bytes, offset: int) -> Reject:
    """The reject of a record that `decode` makes nothing of."""
    return Reject(offset, "unknown_charset:no encoding makes sense of it", None, excerpt_of(data))


def quarantined(offset: int, data: bytes, own_id: str | None = None, url: str | None = None) -> Reject:
    """The reject of a record that has to be skipped."""
    return Reject(offset, "quarantined:it killed its worker twice", own_id, excerpt_of(data) if data else None, url)
