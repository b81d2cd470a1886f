"""Files whose name says nothing: what they are by what they begin with; and files that nothing here reads."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from data_pipeline.recipe import Source
from data_pipeline.stages.read import charset
from data_pipeline.stages.read.compressed_bytes import Damage, read_stream
from data_pipeline.stages.read.record_formats import Document, Limits, Reject
from data_pipeline.stages.read.remote_files import RemoteFile
from data_pipeline.stages.read.source_files import UNSUPPORTED, FileRange

_HEAD_BYTES = 1 << 16
_TAR_MARK = slice(257, 262)
_MAGIC = (
    (b"%PDF-", "pdf"),
    (b"PAR1", "parquet"),
    (b"ARROW1", "arrow"),
    (b"WARC/", "warc"),
    (b"filedesc:", "arc"),
)
_HTML = re.compile(rb"\A\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype html|html|head|body)\b", re.I | re.S)


def format_by_content(path: Path | RemoteFile, ratio: float) -> str:
    """Return the format of a file by its first bytes, decompressed; UNSUPPORTED where they are no text either."""
    head = b""
    for block in read_stream(path, ratio):
        if isinstance(block, Damage):
            break
        head += block[: _HEAD_BYTES - len(head)]
        if len(head) >= _HEAD_BYTES:
            break
    if head.startswith(b"PK\x03\x04"):
        # the first member of an EPUB is its media type; that of an office file is the list of its parts
        if head[30:].startswith(b"mimetypeapplication/epub+zip"):
            return "epub"
        return "docx" if b"[Content_Types].xml" in head[:2000] and b"word/" in head else "zip"
    if head[_TAR_MARK] == b"ustar":
        return "tar"
    for mark, kind in _MAGIC:
        if head.startswith(mark):
            return kind
    if _HTML.match(head):
        return "html"
    if re.match(rb"(?:\xef\xbb\xbf)?\s*(?:\{\s*\"|\{\s*\}|\[\s*\{)", head):
        return "jsonl"
    cut = head[: head.rfind(b"\n")] if len(head) >= _HEAD_BYTES and b"\n" in head else head
    decoded = charset.decode(cut, markup=False)
    is_text = not decoded.doubtful and "\0" not in decoded.text and decoded.replaced * 50 <= len(decoded.text)
    return "txt" if is_text else UNSUPPORTED


def read_unsupported(
    part: FileRange, source: Source, limits: Limits, at: Callable[[int], bool]
) -> Iterator[Document | Reject]:
    """Yield the reject of a file that nothing reads."""
    suffix = PurePosixPath(part.relative).suffix
    unknown = "neither its name nor its content says what it is"
    yield Reject(0, f"unsupported_file:{f'nothing reads {suffix}; `format` of its source may' if suffix else unknown}")
