"""ARC files, the form of web archives before WARC (Internet Archive 1996): a line of header, then the HTTP answer.

`URL IP-ADDRESS DATE CONTENT-TYPE LENGTH` stands before each record. They are read as WARC responses are."""

import re
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.stages.read.compressed_bytes import Damage, read_stream
from data_pipeline.stages.read.remote_files import RemoteFile
from data_pipeline.stages.read.warc import WarcDocument, WarcRecord, WarcReject, document_of

_HEADER = re.compile(rb"^(\S+) (\S+) (\d{8,14}) (\S+)(?: \S+)* (\d{1,12})$")
_LONGEST_HEADER = 1 << 14


def read_documents(
    path: Path | RemoteFile, max_record_bytes: int, max_ratio: float
) -> Iterator[WarcDocument | WarcReject]:
    """Yield the pages of an archive; what is no page is a reject."""
    window = bytearray()
    offset = 0
    blocks = read_stream(path, max_ratio)
    is_at_end = False
    damage: Damage | None = None

    def fill(size: int) -> bool:
        nonlocal is_at_end, damage
        while len(window) < size and not is_at_end:
            block = next(blocks, None)
            if isinstance(block, Damage):
                damage, is_at_end = block, True
            elif block is None:
                is_at_end = True
            else:
                window.extend(block)
        return len(window) >= size

    while True:
        fill(_LONGEST_HEADER)
        blank = len(window) - len(window.lstrip(b"\r\n"))
        del window[:blank]
        offset += blank
        if not window and (is_at_end or not fill(1)):
            break
        end = window.find(b"\n", 0, _LONGEST_HEADER)
        header = _HEADER.match(bytes(window[: max(end, 0)]).rstrip(b"\r"))
        if header is None:
            skipped = end + 1 if end >= 0 else len(window)
            yield WarcReject(offset, "not_arc:a line that is no header of a record")
            del window[:skipped]
            offset += skipped
            continue
        start, length = offset, int(header[5])
        del window[: end + 1]
        offset += end + 1
        url = header[1].decode("utf-8", "replace")
        if length > max_record_bytes:
            yield WarcReject(start, f"record_too_long:{length} bytes, the limit is {max_record_bytes}", url)
            while length and fill(1):
                step = min(length, len(window))
                del window[:step]
                offset, length = offset + step, length - step
            continue
        is_whole = fill(length)
        content = bytes(window[:length])
        del window[:length]
        offset += len(content)
        if not is_whole:
            yield WarcReject(start, "cut_record:the stream ends or breaks inside it", url)
        elif not url.startswith("filedesc:"):
            media = header[4].decode("latin-1")
            headers = {"content-type": "application/http" if content.startswith(b"HTTP/") else media}
            date = header[3].decode()
            yield document_of(
                WarcRecord(start, "response", url, _iso(date), content, headers), max_record_bytes, max_ratio
            )
    if damage is not None:
        yield WarcReject(damage.offset, damage.reason)


def _iso(date: str) -> str:
    """Return `20010203040506` as WARC writes it."""
    digits = date.ljust(14, "0")
    return f"{digits[:4]}-{digits[4:6]}-{digits[6:8]}T{digits[8:10]}:{digits[10:12]}:{digits[12:14]}Z"
