"""Web archives: WARC 0.17 to 1.1 and WET, plain or compressed, however damaged.

Every whole record comes out. Damaged bytes, cut ends, lying lengths, bombs and records that are too large come out as
`WarcReject` with the reason and the byte (of the decompressed stream) where they begin; reading goes on at the next
gzip member and the next line that begins with `WARC/`. At most one record is in memory.

ISO 28500 (WARC), RFC 9112 section 7.1 (chunked)."""

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data_pipeline.extraction.extract import PLAIN, Extraction, Form, extract
from data_pipeline.stages.read.charset import decode
from data_pipeline.stages.read.compressed_bytes import Damage, read_stream
from data_pipeline.stages.read.remote_files import RemoteFile

MAX_RECORD_BYTES = 64 << 20
MAX_RATIO = 200.0  # bytes out for a byte in, after the first 64 MB of a file and the first MB of an HTTP body
MAX_HEADER_BYTES = 1 << 16
_FREE_BODY_BYTES = 1 << 20
_MOST_ENCODINGS = 4  # of one body; more would be a bomb
_RECORD_START = re.compile(rb"(?:\A|\n)(WARC/[01]\.\d)")
_AFTER_RECORD = re.compile(rb"(?:\r?\n){2}|(?:\r?\n)?WARC/|[\r\n]*\Z")
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_FIELD = re.compile(rb"^([\w-]+)[ \t]*:[ \t]*([^\r\n]*)", re.M)
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,8})[^\r\n]{0,256}\r?\n")
_TAG = re.compile(rb"</?[A-Za-z][A-Za-z0-9]{0,10}(?:\s[^<>]{0,200})?/?>")
_NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_HTML_TYPES = ("text/html", "application/xhtml+xml", "application/xhtml", "application/vnd.wap.xhtml+xml")


@dataclass(frozen=True, slots=True)
class WarcRecord:
    """One record as it stands in the archive."""

    offset: int  # where it begins in the decompressed stream
    kind: str  # WARC-Type: "response", "conversion", "warcinfo", ...
    url: str | None
    date: str | None  # WARC-Date
    content: bytes
    headers: dict[str, str] = field(default_factory=dict, repr=False)  # names in small letters

    @property
    def record_id(self) -> str | None:
        """Return WARC-Record-ID without its angle brackets, such as `urn:uuid:...`."""
        return _record_id(self.headers)


@dataclass(frozen=True, slots=True)
class WarcReject:
    """A stretch of the archive that gives no document."""

    offset: int
    reason: str
    url: str | None = None
    record_id: str | None = None


@dataclass(frozen=True, slots=True)
class WarcDocument:
    """A page (`is_html`) or a plain text, its transfer encodings undone; `content_type` is the HTTP header's value."""

    offset: int
    url: str | None
    date: str | None
    content: bytes
    content_type: str | None
    is_html: bool
    record_id: str | None = None

    def extract(self, form: Form = PLAIN) -> Extraction:
        """Return the text: of a page its main text in a form, of a WET record all of it."""
        if self.is_html:
            return extract(self.content, self.url, self.content_type, form)
        decoded = decode(self.content, self.content_type, markup=False)
        text = "" if decoded.doubtful else decoded.text.replace("\0", "").strip()
        reason = None if text else ("not_text" if decoded.doubtful else "empty")
        length = len(text)
        return Extraction("", text, decoded.charset, None, reason, 1.0, length, length, 0, decoded.replaced, False)


def read_documents(
    path: Path | RemoteFile, max_record_bytes: int = MAX_RECORD_BYTES, max_ratio: float = MAX_RATIO
) -> Iterator[WarcDocument | WarcReject]:
    """Yield the pages and texts of an archive. Requests, metadata and the like are passed over; other media and HTTP
    errors are rejects. Raises OSError where the file cannot be opened or read."""
    for record in read_records(path, max_record_bytes, max_ratio):
        if isinstance(record, WarcReject):
            yield record
        elif record.kind in ("response", "resource", "conversion"):
            yield document_of(record, max_record_bytes, max_ratio)


def read_records(
    path: Path | RemoteFile, max_record_bytes: int = MAX_RECORD_BYTES, max_ratio: float = MAX_RATIO
) -> Iterator[WarcRecord | WarcReject]:
    """Yield all records of an archive, whatever their type, and what is damaged in it."""
    stream = _Stream(read_stream(path, max_ratio))
    no_end_before = 0  # no header that begins before this place has an end before it
    while True:
        stream.skip_line_ends()
        if not stream.fill(MAX_HEADER_BYTES):
            yield from stream.take_damage()
            if stream.is_at_end:
                return
        start = stream.offset
        head = stream.peek(MAX_HEADER_BYTES)
        if not head:
            continue
        if not _RECORD_START.match(head):
            stream.seek_record()
            yield WarcReject(start, f"not_warc:{stream.offset - start} bytes between records")
            continue
        # what was searched in vain is not searched again: a file of nothing but starts of records would take for ever
        end = _HEADER_END.search(head, max(0, no_end_before - start))
        if end is None:
            no_end_before = max(start, start + len(head) - 3)
            stream.skip(4)
            stream.seek_record()
            yield WarcReject(start, "damaged_header:no empty line ends it")
            continue
        headers = {
            name.decode().lower(): value.decode("utf-8", "replace").strip()
            for name, value in _FIELD.findall(head[: end.start()])
        }
        url = headers.get("warc-target-uri", "").strip("<>") or None
        own_id = _record_id(headers)
        length = headers.get("content-length", "")
        stream.skip(end.end())
        if not length.isascii() or not length.isdigit() or len(length) > 15:
            stream.seek_record()
            yield WarcReject(start, f"damaged_header:Content-Length {length[:20]!r} is no number", url, own_id)
            continue
        if int(length) > max_record_bytes:
            stream.seek_record()  # and not that many bytes on: a damaged length would swallow the rest
            yield WarcReject(start, f"record_too_long:{length} bytes, the limit is {max_record_bytes}", url, own_id)
            continue
        if not stream.fill(int(length)):
            # what was swallowed may hold the records after a length that lies
            stream.seek_record()
            yield WarcReject(start, "cut_record:the stream ends or breaks inside it", url, own_id)
            continue
        content = stream.peek(int(length))
        inside = None if stream.record_ends_after(int(length)) else _RECORD_START.search(content, 1)
        if inside:  # the length is too large
            content = content[: inside.start()].rstrip(b"\r\n")
            stream.skip(inside.start())
        elif stream.record_ends_after(int(length)):
            stream.skip(int(length))
        else:  # too small
            stream.skip(int(length))
            content += stream.seek_record(keep=max_record_bytes - len(content)).rstrip(b"\r\n")
        yield WarcRecord(start, headers.get("warc-type", "").lower(), url, headers.get("warc-date"), content, headers)


def _record_id(headers: dict[str, str]) -> str | None:
    return headers.get("warc-record-id", "").strip("<>") or None


class _Stream:
    """A window on the decompressed bytes that knows where it stands. Damage ends what can be filled until it is
    taken."""

    def __init__(self, blocks: Iterator[bytes | Damage]):
        self._blocks = blocks
        self._window = bytearray()
        self._start = 0  # of what is unread in the window
        self._damage: list[Damage] = []
        self._ended = False
        self.offset = 0

    @property
    def is_at_end(self) -> bool:
        return self._ended and self._left() == 0 and not self._damage

    def _left(self) -> int:
        return len(self._window) - self._start

    def fill(self, size: int) -> bool:
        """Have `size` bytes to peek at; False where the stream ends or is damaged before."""
        while self._left() < size and not self._ended and not self._damage:
            block = next(self._blocks, None)
            if block is None:
                self._ended = True
            elif isinstance(block, Damage):
                self._damage.append(block)
            else:
                if self._start > 1 << 20:
                    del self._window[: self._start]
                    self._start = 0
                self._window += block
        return self._left() >= size

    def take_damage(self) -> Iterator[WarcReject]:
        """Yield what is damaged, once all bytes before it are read; the stream goes on behind it."""
        if self._left() == 0:
            yield from (WarcReject(damage.offset, damage.reason) for damage in self._damage)
            self._damage = []

    def peek(self, size: int) -> bytes:
        return bytes(self._window[self._start : self._start + size])

    def skip(self, size: int) -> None:
        """Go forward by `size` bytes, or up to the end or damage."""
        while size > 0:
            self.fill(min(size, 1 << 20))
            step = min(size, self._left())
            if step == 0:
                return
            self._start += step
            self.offset += step
            size -= step

    def skip_line_ends(self) -> None:
        while self.fill(1) and self._window[self._start] in b"\r\n":
            self._start += 1
            self.offset += 1

    def seek_record(self, keep: int = 0) -> bytes:
        """Go forward to the next line that begins a record, or up to the end or damage; returns up to `keep` of what it
        passes."""
        passed = bytearray()
        while True:
            self.fill(1 << 16)
            found = _RECORD_START.search(self._window, self._start + 1)
            left = self._left()
            # a mark may be cut by the end of the window
            unmarked = max(left - 16, 1) if not found and self.fill(left + 1) else left
            step = found.start(1) - self._start if found else unmarked
            passed += self._window[self._start : self._start + min(step, keep - len(passed))]
            self.skip(step)
            if found or not step:
                return bytes(passed)

    def record_ends_after(self, size: int) -> bool:
        """Return whether an empty line, a record, the end or damage stands `size` bytes on."""
        self.fill(size + 16)
        after = bytes(self._window[self._start + size : self._start + size + 16])
        return _AFTER_RECORD.match(after) is not None


def document_of(record: WarcRecord, max_bytes: int, max_ratio: float) -> WarcDocument | WarcReject:
    """Return the page of a record, its HTTP encodings undone, or why there is none."""

    def rejected(reason: str) -> WarcReject:
        return WarcReject(record.offset, reason, record.url, record.record_id)

    content, content_type = record.content, record.headers.get("content-type", "")
    is_http = content_type.startswith("application/http") or (
        record.kind == "response" and content.startswith(b"HTTP/")
    )
    if is_http:
        head = _HEADER_END.search(content, 0, MAX_HEADER_BYTES)
        if head is None:
            return rejected("damaged_http:no empty line ends the header")
        status = content[:32].split(b" ")[1:2]
        fields = {
            name.decode().lower(): value.decode("latin-1").strip()
            for name, value in _FIELD.findall(content[: head.start()])
        }
        if status and not status[0].startswith(b"2"):
            return rejected(f"http_status:{status[0][:3].decode('ascii', 'replace')}")
        content, content_type = content[head.end() :], fields.get("content-type", "")
        try:
            if "chunked" in fields.get("transfer-encoding", "").lower():
                content = _unchunked(content)
            content = _decompressed(content, fields.get("content-encoding", "").lower(), max_bytes, max_ratio)
        except _BodyError as error:
            return rejected(str(error))
    media = content_type.split(";")[0].strip().lower()
    is_html = media in _HTML_TYPES or (
        media in ("", "text/plain", "application/octet-stream") and _looks_like_html(content)
    )
    if record.kind == "conversion" or (media == "text/plain" and not is_html):
        is_html = False
    elif not is_html:
        return rejected(f"content_type:{media[:60]}")
    if not content.strip():
        return rejected("empty")
    return WarcDocument(
        record.offset, record.url, record.date, content, content_type or None, is_html, record.record_id
    )


class _BodyError(Exception):
    """An HTTP body that its header's encodings do not explain; the message is the reject's reason."""


def _looks_like_html(content: bytes) -> bool:
    return re.search(rb"<(?:!doctype html|html|head|body|title)\b", content[:2048], re.I) is not None


def _has_tags(content: bytes) -> bool:
    """Return whether bytes are text with tags: a compressed body has hardly one, and bytes that no text has."""
    return len(_TAG.findall(content)) >= 3 and not _NO_TEXT.search(content)


def _unchunked(body: bytes) -> bytes:
    """Return the chunks joined; as it is where it does not begin with a chunk (archives often store it joined
    already).
    """
    parts: list[bytes] = []
    place = 0
    while True:
        size = _CHUNK_SIZE.match(body, place)
        if size is None:
            # a body cut short keeps what came; one that never was chunked stays whole
            return b"".join(parts) if parts else body
        length = int(size[1], 16)
        if length == 0:
            return b"".join(parts)
        parts.append(body[size.end() : size.end() + length])
        place = size.end() + length
        place += 2 if body[place : place + 2] == b"\r\n" else body[place : place + 1] == b"\n"


def _decompressed(body: bytes, encodings: str, max_bytes: int, max_ratio: float) -> bytes:
    """Return the body without its Content-Encodings, the last of which was put on last (RFC 9110, section 8.4)."""
    names = [name.strip() for name in encodings.split(",")]
    if len(names) > _MOST_ENCODINGS:
        raise _BodyError(f"content_encoding:{len(names)} of them")
    limit = min(max_bytes, int(max(_FREE_BODY_BYTES, len(body) * max_ratio)))
    for name in reversed(names):
        if name not in ("", "identity", "none"):
            body = _without_encoding(body, name, limit)
    return body


def _without_encoding(body: bytes, encoding: str, limit: int) -> bytes:
    """Return the body without one encoding; one that is cut short gives what it holds."""
    if encoding in ("gzip", "x-gzip"):
        if not body.startswith(b"\x1f\x8b"):
            return body  # the crawler undid it and kept the header
        whole = _gzip_members(body, limit)
    elif encoding == "deflate":
        whole = _inflated(body, zlib.MAX_WBITS, limit)[0] or _inflated(body, -15, limit)[0]
    elif encoding == "zstd":
        if not body.startswith(b"\x28\xb5\x2f\xfd"):
            return body
        whole = _from_zstd(body, limit)
    elif encoding == "br":
        # Brotli has no mark of its own: a crawler may have undone it and kept the header
        whole = b"" if _has_tags(body) else _from_brotli(body, limit)
    elif _looks_like_html(body):
        return body
    else:
        raise _BodyError(f"content_encoding:{encoding[:20]} is not known")
    if whole:
        return whole
    if _looks_like_html(body) or _has_tags(body):
        return body
    raise _BodyError(f"damaged_http:the body is not {encoding}")


def _gzip_members(body: bytes, limit: int) -> bytes:
    """Return all members of a gzip stream, joined; what follows the last one is passed over."""
    whole = b""
    while body.startswith(b"\x1f\x8b"):
        piece, body = _inflated(body, 31, limit - len(whole))
        whole += piece
    return whole


def _inflated(body: bytes, window: int, limit: int) -> tuple[bytes, bytes]:
    """Return (what one stream of deflate holds as far as it is sound, the bytes behind it)."""
    decoder = zlib.decompressobj(wbits=window)
    whole = bytearray()
    try:
        # in steps, so that what stands before damage is kept
        for place in range(0, len(body), 1 << 14):
            step = body[place : place + (1 << 14)]
            while step:
                whole += decoder.decompress(step, limit + 1 - len(whole))
                if len(whole) > limit:
                    raise _BodyError(f"decompression_bomb:more than {limit} bytes out of {len(body)}")
                step = decoder.unconsumed_tail
            if decoder.eof:
                return bytes(whole), decoder.unused_data + body[place + (1 << 14) :]
    except zlib.error:
        pass
    return bytes(whole), b""


def _from_brotli(body: bytes, limit: int) -> bytes:
    try:
        import brotli
    except ImportError:
        raise _BodyError("needs_brotli:pip install brotli") from None
    decoder = brotli.Decompressor()
    whole = bytearray()
    try:
        whole += decoder.process(body, output_buffer_limit=1 << 20)
        while len(whole) <= limit and not decoder.can_accept_more_data():
            whole += decoder.process(b"", output_buffer_limit=1 << 20)
    except brotli.error:
        pass
    if len(whole) > limit:
        raise _BodyError(f"decompression_bomb:more than {limit} bytes out of {len(body)}")
    return bytes(whole)


def _from_zstd(body: bytes, limit: int) -> bytes:
    import zstandard

    whole = bytearray()
    factory = zstandard.ZstdDecompressor(max_window_size=1 << 27)
    try:
        with factory.stream_reader(body, read_across_frames=True) as reader:
            while piece := reader.read(1 << 20):
                whole += piece
                if len(whole) > limit:
                    raise _BodyError(f"decompression_bomb:more than {limit} bytes out of {len(body)}")
    except zstandard.ZstdError:
        pass
    return bytes(whole)
