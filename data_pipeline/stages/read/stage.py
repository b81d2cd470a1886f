"""read: the files of the sources as records.

JSONL and JSON, CSV, TXT, Parquet, Arrow, HTML, MHTML, WARC, WET, ARC, EPUB, DOCX, PDF; zip, tar and WACZ by their
members; gzip, zstandard, bzip2, xz and LZ4 by their content. Every good record of a file
comes out, whatever stands between, before or after; everything else goes to the rejects with the reason, the file and
the byte where it lies.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import pyarrow as pa
from pydantic import Field, model_validator

from data_pipeline import record
from data_pipeline.engine.steps import ByteSize, Item, Read, StageSettings
from data_pipeline.recipe import Source
from data_pipeline.stages.read.by_content import format_by_content, read_unsupported
from data_pipeline.stages.read.changed_files import Watch
from data_pipeline.stages.read.compressed_bytes import read_stream, without_mark
from data_pipeline.stages.read.csv_file import read_csv
from data_pipeline.stages.read.formats.books import read_docx, read_epub, read_mht, read_pdf
from data_pipeline.stages.read.formats.members import CONTAINERS, Member, read_members
from data_pipeline.stages.read.formats.tables import read_arrow, read_parquet
from data_pipeline.stages.read.page_files import page_of_record, read_archive, read_page
from data_pipeline.stages.read.record_formats import (
    Document,
    Limits,
    Reader,
    Reject,
    read_jsonl,
    read_text,
)
from data_pipeline.stages.read.remote_files import RemoteFile, failed
from data_pipeline.stages.read.source_files import BY_CONTENT, FileRange, ReadItem, read_items
from pangu.foundation.errors import UserError

READERS: dict[str, Reader] = {
    "jsonl": read_jsonl,
    "csv": read_csv,
    "txt": read_text,
    "parquet": read_parquet,
    "html": read_page,
    "warc": read_archive,
    "arc": read_archive,
    "arrow": read_arrow,
    "mht": read_mht,
    "docx": read_docx,
    "epub": read_epub,
    "pdf": read_pdf,
    "unsupported": read_unsupported,
}
BATCH_ROWS = 2048
BATCH_BYTES = 4 << 20
SIGNALS = ("bytes", "confidence")


class Settings(StageSettings):
    """How input is cut into work, and what no record may exceed."""

    shard_bytes: ByteSize | None = Field(
        default=None,
        description="text in a shard, about: the unit of parallel work and of resuming;"
        " null: a sixteenth of the source, 4MB to 64MB",
        ge=1,
    )
    item_bytes: ByteSize | None = Field(
        default=None,
        description="input that one task reads, about; large files of lines are cut; null: like shard_bytes",
        ge=1,
    )
    maximum_record_bytes: ByteSize = Field(
        default=32 << 20, description="a longer line, file or page goes to the rejects", ge=1
    )
    maximum_ratio: float = Field(
        default=200, description="bytes out for a byte in of a compressed file, after 64MB, before it is a bomb", gt=1
    )
    format: Literal["text", "markdown"] = Field(
        default="text",
        description="of the text of pages; markdown keeps headings, lists, tables, code and its language",
    )
    links: bool = Field(default=False, description="keep the addresses of links (markdown)")
    images: bool = Field(default=False, description="keep pictures with their addresses (markdown)")
    minimum_confidence: float = Field(
        default=0.0,
        description="a page whose main text is less sure goes to the rejects: articles are above 0.9, lists of links"
        " below 0.5",
        ge=0,
        le=1,
    )

    @model_validator(mode="after")
    def _links_need_markdown(self) -> Self:
        if self.format == "text" and (self.links or self.images):
            raise ValueError("`links` and `images` need `format: markdown`")
        return self


def items(sources: Sequence[Source], settings: Settings, base: Path) -> list[Item]:
    """Return the work: ranges of files."""
    return read_items(sources, base, settings.item_bytes, settings.shard_bytes)


def read(payload: ReadItem, settings: Settings, progress: Any) -> Iterator[pa.RecordBatch]:
    """Yield the records of one item, rejects among them, in batches of bounded size."""
    limits = Limits(
        settings.maximum_record_bytes,
        settings.maximum_ratio,
        settings.format,
        settings.links,
        settings.images,
        settings.minimum_confidence,
    )
    name = payload.source.name
    batch = _Batch(name)
    for part in payload.ranges:
        for relative, found in _read_file(part, payload.source, limits, progress):
            batch.add(relative, found)
            if batch.is_full():
                progress.done(len(batch.offset), batch.size)
                yield batch.take()
    if batch.offset:
        yield batch.take()


def _read_file(
    part: FileRange, source: Source, limits: Limits, progress: Any
) -> Iterator[tuple[str, Document | Reject]]:
    """Yield the records of a range, or of the members of an archive, each with the name of its file.

    A file that cannot be opened or read is one reject, and so is one in which nothing is."""
    if _has_no_size(part) and _has_no_byte(part, limits):
        yield part.relative, Reject(0, "empty_file")
        return
    is_empty = True
    for found in _records_of(part, source, limits, progress):
        is_empty = False
        yield found
    if is_empty and part.start == 0 and part.end is None:
        reason = "empty_file" if _has_no_byte(part, limits) else "no_records:there is none in this file"
        yield part.relative, Reject(0, reason)


def _has_no_size(part: FileRange) -> bool:
    """Return whether a file says that it has no byte; those of /proc say so too."""
    try:
        return isinstance(part.path, Path) and not part.path.stat().st_size
    except OSError:
        return False


def _has_no_byte(part: FileRange, limits: Limits) -> bool:
    """Return whether a file is empty, however it is compressed; a mark of byte order is no content."""
    try:
        _, blocks = without_mark(read_stream(part.path, limits.ratio))
        return not any(blocks)
    except OSError:
        return False


def _records_of(
    part: FileRange, source: Source, limits: Limits, progress: Any
) -> Iterator[tuple[str, Document | Reject]]:
    """Yield what a file holds, if anything."""

    def at(offset: int) -> bool:
        return progress.at(record.document_id(source.name, part.relative, offset) >> 1)

    try:
        watch = Watch.begin(part)
        if watch is not None and (change := watch.change_since_plan()):
            yield part.relative, Reject(part.start, change)
            if part.head:
                return
        if part.format == BY_CONTENT:
            part = replace(part, format=format_by_content(part.path, limits.ratio))
        if part.format not in CONTAINERS:
            for found in READERS[part.format](part, source, limits, at):
                if isinstance(found, Document) and found.html is not None:
                    found = page_of_record(found, limits)
                yield part.relative, found
        else:
            for member in read_members(part, limits):
                if isinstance(member, Member):
                    yield from _read_file(member.part, source, limits, progress)
                else:
                    yield part.relative, member
        if watch is not None and (change := watch.change_while_read()):
            yield part.relative, Reject(part.start, change)
    except (UserError, MemoryError):
        raise
    except Exception as error:
        if isinstance(part.path, RemoteFile) and not isinstance(error, FileNotFoundError | PermissionError):
            raise failed(part.path, error) from error
        if isinstance(error, OSError):
            yield part.relative, Reject(part.start, f"unreadable:{error.strerror or error}")
        else:  # one strange file does not end the run; the stages behind treat one strange record like that
            yield part.relative, Reject(part.start, f"failed:{type(error).__name__} {error}"[:500])


class _Batch:
    """Columns of a record batch being filled."""

    def __init__(self, source: str):
        self.source = source
        self._clear()

    def _clear(self) -> None:
        self.path: list[str] = []
        self.offset: list[int] = []
        self.id: list[str | None] = []
        self.url: list[str | None] = []
        self.title: list[str | None] = []
        self.text: list[str | None] = []
        self.meta: list[str | None] = []
        self.bytes: list[int] = []
        self.confidence: list[float | None] = []
        self.reason: list[str | None] = []
        self.size = 0

    def add(self, path: str, found: Document | Reject) -> None:
        self.path.append(path)
        self.offset.append(found.offset)
        self.id.append(found.id)
        if isinstance(found, Document):
            self.url.append(found.url)
            self.title.append(found.title)
            self.text.append(found.text)
            self.meta.append(found.meta)
            size = len(found.text.encode())
            self.bytes.append(size)
            self.confidence.append(found.confidence)
            self.size += size
            self.reason.append(None)
        else:
            self.url.append(found.url)
            for column in (self.title, self.meta):
                column.append(None)
            self.text.append(found.excerpt)
            self.bytes.append(0)
            self.confidence.append(None)
            self.reason.append(found.reason)

    def is_full(self) -> bool:
        return len(self.offset) >= BATCH_ROWS or self.size >= BATCH_BYTES

    def take(self) -> pa.RecordBatch:
        """Return the batch; a new one is begun."""
        paths = [record.clean_name(path) for path in self.path]
        numbers = [
            record.document_id(self.source, path, offset) for path, offset in zip(self.path, self.offset, strict=True)
        ]
        count = len(numbers)
        measured = [pa.array(column, pa.float64()) for column in (self.bytes, self.confidence)]
        signals = pa.StructArray.from_arrays(measured, names=list(SIGNALS))
        columns = [
            pa.array(numbers, pa.uint64()),
            pa.array(self.id, pa.string()),
            pa.array([self.source] * count, pa.string()),
            pa.array(paths, pa.string()),
            pa.array(self.offset, pa.int64()),
            pa.array(self.url, pa.string()),
            pa.array(self.title, pa.string()),
            pa.array(self.text, pa.string()),
            pa.nulls(count, pa.string()),
            pa.array(self.meta, pa.string()),
            signals,
            pa.array(self.reason, pa.string()),
        ]
        batch = pa.RecordBatch.from_arrays(columns, schema=record.schema(SIGNALS))
        self._clear()
        return batch


STEPS = (
    Read(
        "records",
        needs=(),
        items=items,
        read=read,
        signals=SIGNALS,
        uses=(
            "data_pipeline.stages.read.compressed_bytes",
            "data_pipeline.stages.read.by_content",
            "data_pipeline.stages.read.changed_files",
            "data_pipeline.stages.read.formats.arc",
            "data_pipeline.stages.read.formats.books",
            "data_pipeline.stages.read.formats.json_values",
            "data_pipeline.stages.read.formats.members",
            "data_pipeline.stages.read.formats.tables",
            "data_pipeline.stages.read.record_fields",
            "data_pipeline.stages.read.source_files",
            "data_pipeline.stages.read.remote_files",
            "data_pipeline.stages.read.record_formats",
            "data_pipeline.stages.read.csv_file",
            "data_pipeline.stages.read.page_files",
            "data_pipeline.stages.read.charset",
            "data_pipeline.stages.read.warc",
            "data_pipeline.extraction.extract",
            "data_pipeline.extraction.parsed_page",
            "data_pipeline.extraction.patterns",
            "data_pipeline.extraction.post_stream",
            "data_pipeline.extraction.measures",
            "data_pipeline.extraction.surroundings",
            "data_pipeline.extraction.line_model",
            "data_pipeline.extraction.output.element_structure",
            "data_pipeline.extraction.hidden",
            "data_pipeline.extraction.embedded",
            "data_pipeline.extraction.footnotes",
            "data_pipeline.extraction.formulas",
            "data_pipeline.extraction.mathml",
            "data_pipeline.extraction.output.blocks",
            "data_pipeline.extraction.output.writers",
        ),
        libraries=("orjson",),
    ),
)
