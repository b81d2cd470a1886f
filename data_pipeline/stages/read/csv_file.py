"""Reader of CSV: the first row names the columns; commas, semicolons or tabs between, whichever it has most of.

A quoted field may hold line ends (RFC 4180). A quote that is never closed costs its own line only: the lines after it
are read again as records."""

import csv
import re
from collections import deque
from collections.abc import Callable, Iterator

from data_pipeline.recipe import Source
from data_pipeline.stages.read.compressed_bytes import Damage, Line
from data_pipeline.stages.read.record_fields import document_columns
from data_pipeline.stages.read.record_formats import (
    Document,
    Limits,
    Reject,
    cut_record,
    decode,
    doubled_field,
    excerpt_of,
    from_mapping,
    lines_of,
    quarantined,
    unknown_charset,
)
from data_pipeline.stages.read.source_files import FileRange

_DELIMITERS = (b",", b"\t", b";", b"|")
# the line by which Excel is told what parts the fields
_DECLARED = re.compile(rb"\s*sep=(.)\r?$")


def read_csv(part: FileRange, source: Source, limits: Limits, at: Callable[[int], bool]) -> Iterator[Document | Reject]:
    """Yield a row a document; columns that the recipe does not name go to `meta`."""
    csv.field_size_limit(max(csv.field_size_limit(), limits.record_bytes))
    found = lines_of(part, limits)
    header = next((line for line in found if isinstance(line, Damage) or line.data.strip()), None)
    if header is None:
        return
    if isinstance(header, Damage):
        yield Reject(header.offset, header.reason)
        return
    delimiter = max(_DELIMITERS, key=header.data.count)
    if isinstance(header, Line) and (declared := _DECLARED.match(header.data)):
        delimiter = declared[1]
        header = next((line for line in found if isinstance(line, Damage) or line.data.strip()), header)
        if isinstance(header, Damage):
            yield Reject(header.offset, header.reason)
            return
    names = _row(header, delimiter)
    if isinstance(names, Reject):
        yield names
        return
    names = [name.strip() for name in names]
    wanted = document_columns(source.fields)
    if not set(wanted) & set(names):
        yield Reject(0, f"no_text:no column {wanted[0]!r} among {', '.join(names)[:200]}")
        return
    for name in sorted({name for name in names if name and names.count(name) > 1}):
        yield doubled_field(name, header.offset)
    for line in _records(found, delimiter, limits.record_bytes):
        if not isinstance(line, Line):
            yield Reject(line.offset, line.reason) if isinstance(line, Damage) else line
        elif line.cut:
            yield cut_record(line)
        elif at(line.offset):
            yield _document(line, delimiter, names, source)
        else:
            yield quarantined(line.offset, line.data)


def _document(line: Line, delimiter: bytes, names: list[str], source: Source) -> Document | Reject:
    row = _row(line, delimiter)
    if isinstance(row, Reject):
        return row
    fields = source.fields
    value: dict[str, str] = {}
    for name, field in zip(names, row):
        if field or name in document_columns(fields):
            value.setdefault(name, field)
    if len(row) != len(names):
        reason = f"not_csv:{len(row)} fields, the header has {len(names)}"
        return Reject(line.offset, reason, value.get(fields.id), excerpt_of(line.data))
    return from_mapping(value, fields, line.offset)


def _row(line: Line, delimiter: bytes) -> list[str] | Reject:
    """Return the fields of one record."""
    text = decode(line.data)
    if text is None:
        return unknown_charset(line.data, line.offset)
    try:
        return next(csv.reader([text.removesuffix("\r")], delimiter=delimiter.decode()), [])
    except csv.Error as error:
        return Reject(line.offset, f"not_csv:{str(error)[:200]}", excerpt=excerpt_of(line.data))


def _records(found: Iterator[Line | Damage], delimiter: bytes, maximum: int) -> Iterator[Line | Damage | Reject]:
    """Yield lines joined where a quoted field goes on over line ends, at most `maximum` bytes."""
    again: deque[Line | Damage] = deque()
    # So many lines of `again` close no quote: one that is opened among them is not closed either. Without knowing that,
    # a file of opened quotes would take time that grows with the square of its lines.
    hopeless = 0
    while (first := again.popleft() if again else next(found, None)) is not None:
        hopeless = max(0, hopeless - 1)
        if isinstance(first, Damage):
            yield first
            continue
        if not first.data.strip():
            continue
        parts, size = [first], len(first.data)
        is_open = ends_in_quotes(first.data, delimiter, False)
        while is_open and not hopeless:
            line = again.popleft() if again else next(found, None)
            if not isinstance(line, Line) or size + len(line.data) > maximum:
                if line is not None:
                    again.appendleft(line)
                hopeless = len(parts)
                break
            parts.append(line)
            size += len(line.data) + 1
            is_open = ends_in_quotes(line.data, delimiter, True)
        if is_open:
            again.extendleft(reversed(parts[1:]))
            yield Reject(first.offset, "unclosed_quote", excerpt=excerpt_of(first.data))
        else:
            yield Line(first.offset, b"\n".join(part.data for part in parts), parts[-1].cut)


def ends_in_quotes(data: bytes, delimiter: bytes, inside: bool) -> bool:
    """Return whether a line ends inside a quoted field; `inside`: whether it begins in one.

    A quote opens a field at its beginning only, and closes it before a delimiter or the end of the line only: other
    quotes are what somebody forgot to double, and taking them for ends would join one record with the next.
    """
    place = 0
    if not inside:
        if not data.startswith(b'"'):
            place = data.find(delimiter + b'"') + 1
            if not place:
                return False
        place += 1
    while True:
        place = data.find(b'"', place)
        if place < 0:
            return True
        after = data[place + 1 : place + 2]
        if after == b'"':
            place += 2
        elif after and after != delimiter and after != b"\r":
            place += 1
        else:
            place = data.find(delimiter + b'"', place + 1) + 2
            if place == 1:
                return False
