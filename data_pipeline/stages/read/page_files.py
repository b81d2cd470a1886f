"""Readers of web pages: HTML files, and the records of web archives (WARC, WET). A page that the extractor cannot cope
with is one reject.
"""

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import orjson

from data_pipeline.recipe import Source
from data_pipeline.stages.read.record_formats import (
    EXCERPT_BYTES,
    Document,
    Limits,
    Reject,
    excerpt_of,
    quarantined,
    repaired,
    whole_file,
)
from data_pipeline.stages.read.source_files import FileRange

if TYPE_CHECKING:
    from data_pipeline.extraction.extract import Extraction, Form


def read_page(
    part: FileRange, source: Source, limits: Limits, at: Callable[[int], bool]
) -> Iterator[Document | Reject]:
    """Yield a page a file: its title and its main text."""
    from data_pipeline.extraction.extract import extract

    def page(data: bytes, offset: int) -> Document | Reject:
        return _extracted(lambda: extract(data, form=form_of(limits)), data, Document(offset, ""), limits)

    yield from whole_file(part, limits, at, page, keep_mark=True)


def read_page_bytes(data: bytes, offset: int, content_type: str | None, limits: Limits) -> Document | Reject:
    """Return the document of a page that lies inside another file."""
    from data_pipeline.extraction.extract import extract

    return _extracted(lambda: extract(data, None, content_type, form_of(limits)), data, Document(offset, ""), limits)


def read_archive(
    part: FileRange, source: Source, limits: Limits, at: Callable[[int], bool]
) -> Iterator[Document | Reject]:
    """Yield the pages of a WARC, the texts of a WET file. What is no page (pictures, HTTP errors) is a reject too."""
    from data_pipeline.stages.read import warc
    from data_pipeline.stages.read.formats import arc

    form = form_of(limits)
    read_documents = arc.read_documents if part.format == "arc" else warc.read_documents
    for found in read_documents(part.path, limits.record_bytes, limits.ratio):
        url = None if found.url is None else repaired(found.url)
        own_id = None if found.record_id is None else repaired(found.record_id)
        if isinstance(found, warc.WarcReject):
            yield Reject(found.offset, repaired(found.reason), own_id, url=url)
        elif at(found.offset):
            record = Document(found.offset, "", own_id, url=url)
            yield _extracted(functools.partial(found.extract, form), found.content, record, limits, found.date)
        else:
            yield quarantined(found.offset, found.content, own_id, url)


def page_of_record(record: Document, limits: Limits) -> Document | Reject:
    """Return the document that a record with a page in a field is."""
    from data_pipeline.extraction.extract import extract

    # what was text already is UTF-8 now, whatever the page says of itself
    is_text = isinstance(record.html, str)
    data = record.html.encode("utf-8", "replace") if isinstance(record.html, str) else record.html or b""
    header = "text/html; charset=utf-8" if is_text else None
    return _extracted(lambda: extract(data, record.url, header, form_of(limits)), data, record, limits)


def form_of(limits: Limits) -> "Form":
    """Return the form of the text of pages."""
    from data_pipeline.extraction.extract import Form

    return Form(limits.format, limits.has_links, limits.has_images)


def _extracted(
    extract: "Callable[[], Extraction]", data: bytes, record: Document, limits: Limits, fetched: str | None = None
) -> Document | Reject:
    """Return the document that `extract()` makes of the page `data`, or why there is none. `record` says what is
    known."""
    offset, own_id, url = record.offset, record.id, record.url
    try:
        found = extract()
    except MemoryError:
        raise
    except Exception as error:  # whatever a page brings about, it costs that page alone
        reason = repaired(f"extraction_failed:{type(error).__name__} {error}"[:500])
        return Reject(offset, reason, own_id, excerpt_of(data), url)
    text = repaired(found.text)
    if not text.strip():
        return Reject(offset, f"{found.reason}:no main text found", own_id, excerpt_of(data), url)
    if found.confidence < limits.confidence:
        reason = f"low_confidence:{found.confidence:.3f} is below {limits.confidence:g}"
        return Reject(offset, reason, own_id, text[:EXCERPT_BYTES], url)
    facts = {"charset": found.charset, "date": found.date, "fetched": fetched}
    if record.meta:
        facts = {**orjson.loads(record.meta), **facts}
    meta = orjson.dumps({name: value for name, value in facts.items() if value is not None}).decode()
    title = record.title or repaired(found.title) or None
    return Document(offset, text, own_id, title, url, meta, confidence=found.confidence)
