"""Readers of web pages: HTML files, and the records of web archives (WARC, WET). A page that the extractor cannot cope
with is one reject.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import orjson

from data_pipeline.recipe import Source
from data_pipeline.stages.read.record_formats import (
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
    from data_pipeline.extraction.extract import Extraction


def read_page(
    part: FileRange, source: Source, limits: Limits, at: Callable[[int], bool]
) -> Iterator[Document | Reject]:
    """A page a file: its title and its main text."""
    from data_pipeline.extraction.extract import extract

    def page(data: bytes, offset: int) -> Document | Reject:
        return _extracted(lambda: extract(data), data, offset)

    yield from whole_file(part, limits, at, page, keep_mark=True)


def read_page_bytes(data: bytes, offset: int, content_type: str | None) -> Document | Reject:
    """Return the document of a page that lies inside another file."""
    from data_pipeline.extraction.extract import extract

    return _extracted(lambda: extract(data, None, content_type), data, offset)


def read_archive(
    part: FileRange, source: Source, limits: Limits, at: Callable[[int], bool]
) -> Iterator[Document | Reject]:
    """The pages of a WARC, the texts of a WET file. What is no page (pictures, HTTP errors) is a reject too."""
    from data_pipeline.stages.read.warc import WarcReject, read_documents

    if part.format == "arc":
        from data_pipeline.stages.read.formats.arc import read_documents
    for found in read_documents(part.path, limits.record_bytes, limits.ratio):
        url = None if found.url is None else repaired(found.url)
        own_id = None if found.record_id is None else repaired(found.record_id)
        if isinstance(found, WarcReject):
            yield Reject(found.offset, repaired(found.reason), own_id, url=url)
        elif at(found.offset):
            yield _extracted(found.extract, found.content, found.offset, own_id, url, found.date)
        else:
            yield quarantined(found.offset, found.content, own_id, url)


def _extracted(
    extract: "Callable[[], Extraction]",
    data: bytes,
    offset: int,
    own_id: str | None = None,
    url: str | None = None,
    fetched: str | None = None,
) -> Document | Reject:
    """The document that `extract()` makes of the page `data`, or why there is none."""
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
    facts = {"charset": found.charset, "date": found.date, "fetched": fetched}
    meta = orjson.dumps({name: value for name, value in facts.items() if value is not None}).decode()
    return Document(offset, text, own_id, title=repaired(found.title) or None, url=url, meta=meta)
