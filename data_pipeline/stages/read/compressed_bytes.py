"""Streams of bytes from files that may be compressed, cut, damaged or hostile; and lines from such streams.

Nothing here holds more than a block of output and one line, whatever the file claims: a gzip bomb is stopped by the
ratio of output to input, an endless line is skipped. Damage is passed over, up to the next gzip member or frame, and
reported with the place where it is; everything before it comes out."""

import bz2
import codecs
import itertools
import os
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

from data_pipeline.stages.read.charset import utf16_by_nul
from data_pipeline.stages.read.remote_files import RemoteFile, open_input

BLOCK = 1 << 20
# a stream may expand so much before the ratio counts
FREE_BYTES = 64 << 20
# what an xz header may ask for
_XZ_MEMORY = 256 << 20
Compression = Literal["none", "gzip", "zstd", "bzip2", "xz", "lz4"]

_NEWLINE = ord("\n")
_EMPTY_LINES = re.compile(rb"\n*")

_MAGIC: tuple[tuple[bytes, Compression], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x04\x22\x4d\x18", "lz4"),
)


@dataclass(frozen=True)
class Damage:
    """Something in a stream that is not data. `offset` counts decompressed bytes."""

    reason: str
    offset: int


class _Decoder(Protocol):
    """What zlib, zstandard, bz2 and lzma have in common here: bytes in, at most about a block out, at each step."""

    def feed(self, data: bytes) -> Iterator[bytes]: ...

    def resume(self) -> Iterator[bytes]: ...

    @property
    def complete(self) -> bool: ...


def compression_of(head: bytes) -> Compression:
    """Tell the compression by the first bytes, not by the name: names lie."""
    return next((name for magic, name in _MAGIC if head.startswith(magic)), "none")


def read_stream(path: Path | RemoteFile, ratio: float, start: int = 0) -> Iterator[bytes | Damage]:
    """Yield the decompressed bytes of a file in blocks, and Damage where there is some.

    `start` (plain files only) skips bytes. After FREE_BYTES of output, more than `ratio` bytes out for a byte in is a
    bomb."""
    with open_input(path) as file:
        yield from decompressed(file, ratio, start)


def decompressed(file: BinaryIO, ratio: float, start: int = 0) -> Iterator[bytes | Damage]:
    """Yield the same of an open file, which can be sought in."""
    kind = compression_of(file.read(6))
    file.seek(0 if kind != "none" else start)
    if kind == "none":
        yield from _plain_blocks(file, start)
        return
    if kind == "lz4":
        yield from _lz4_blocks(file, ratio)
        return
    decoder = _decoder(kind)
    bytes_in = bytes_out = 0
    while block := file.read(BLOCK):
        bytes_in += len(block)
        pieces = decoder.feed(block)
        while True:
            try:
                piece = next(pieces, None)
            except DecodeError as error:
                yield Damage(f"damaged_{kind}:{error}", bytes_out)
                pieces = decoder.resume()
                continue
            if piece is None:
                break
            bytes_out += len(piece)
            if bytes_out > FREE_BYTES and bytes_out > ratio * bytes_in:
                yield Damage(f"decompression_bomb:more than {ratio:g} bytes out for a byte in", bytes_out)
                return
            yield piece
    if not decoder.complete:
        yield Damage(f"truncated_{kind}:the file ends inside the compressed stream", bytes_out)


def _plain_blocks(file: BinaryIO, start: int) -> Iterator[bytes | Damage]:
    """Yield the bytes of a plain file from `start` on, and Damage where it has become shorter meanwhile."""
    place = start
    size = _size(file)
    while block := file.read(BLOCK):
        place += len(block)
        yield block
    if place < size:
        yield Damage(f"changed_file:cut from {size} to {place} bytes while it was read", place - start)


def _size(file: BinaryIO) -> int:
    """Return how many bytes an open file has; 0 where its system does not say."""
    try:
        return os.fstat(file.fileno()).st_size
    except (OSError, AttributeError):
        return 0


def _lz4_blocks(file: BinaryIO, ratio: float) -> Iterator[bytes | Damage]:
    """Yield the blocks of LZ4 frames, by Arrow, which has no way on after damage."""
    import pyarrow as pa

    bytes_out = 0
    try:
        with pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "lz4") as stream:
            while block := stream.read(BLOCK):
                bytes_out += len(block)
                if bytes_out > FREE_BYTES and bytes_out > ratio * max(file.tell(), 1):
                    yield Damage(f"decompression_bomb:more than {ratio:g} bytes out for a byte in", bytes_out)
                    return
                yield block
    except (pa.ArrowException, OSError) as error:
        yield Damage(f"damaged_lz4:{str(error).splitlines()[0][:200]}", bytes_out)


class DecodeError(Exception):
    """The compressed bytes are not what the format allows."""


class _GzipDecoder:
    """gzip with any number of members. After damage, `resume` goes on at the next member."""

    def __init__(self) -> None:
        self.decoder = zlib.decompressobj(wbits=31)
        self.rest = b""
        self.searching = False
        self.started = False

    @property
    def complete(self) -> bool:
        return self.searching or not self.started

    def feed(self, data: bytes) -> Iterator[bytes]:
        self.rest += data
        return self._decode()

    def resume(self) -> Iterator[bytes]:
        """Look for the next member, at least one byte after the start of what is left."""
        self.searching = True
        self.rest = self.rest[1:]
        return self._decode()

    def _decode(self) -> Iterator[bytes]:
        while self.rest:
            if self.searching or not self.started:
                if not self._find_member():
                    return
                self.decoder = zlib.decompressobj(wbits=31)
                self.searching, self.started = False, True
            data = self.rest
            try:
                piece = self.decoder.decompress(data, BLOCK)
            except zlib.error as error:
                raise DecodeError(str(error)) from error
            self.rest = self.decoder.unconsumed_tail
            if self.decoder.eof:
                self.rest = self.decoder.unused_data
                self.started = False
            if piece:
                yield piece
            elif not self.decoder.eof and len(self.rest) == len(data):
                return

    def _find_member(self) -> bool:
        """Move to the magic number of the next member; zero bytes between members are padding."""
        if not self.searching:
            self.rest = self.rest.lstrip(b"\0")
            if self.rest.startswith(b"\x1f\x8b") or (len(self.rest) < 2 and b"\x1f\x8b".startswith(self.rest)):
                return len(self.rest) >= 2
            if not self.rest:
                return False
            raise DecodeError("bytes after the end of the last member")
        place = self.rest.find(b"\x1f\x8b\x08")
        self.rest = self.rest[place:] if place >= 0 else self.rest[-2:]
        return place >= 0


class _FrameDecoder:
    """A format of whole frames, any number of them: zstandard, bzip2. After damage, `resume` goes on at the next one.

    Input is taken in small steps, so that little is lost of the frame behind a damaged one; `pieces` makes the output
    of a step, in pieces of bounded size."""

    STEP = 1 << 10

    def __init__(
        self,
        new: Callable[[], Any],
        pieces: Callable[[Any, bytes], Iterator[bytes]],
        error: type[Exception],
        magic: re.Pattern[bytes],
    ) -> None:
        self.new, self.pieces, self.error, self.magic = new, pieces, error, magic
        self.decoder = new()
        self.rest = b""
        self.place = 0
        self.searching = False
        self.started = False

    @property
    def complete(self) -> bool:
        return self.searching or not self.started

    def feed(self, data: bytes) -> Iterator[bytes]:
        self.rest, self.place = self.rest[self.place :] + data, 0
        return self._decode()

    def resume(self) -> Iterator[bytes]:
        """Look for the next frame, at least one byte after the start of what is left."""
        self.decoder, self.searching = self.new(), True
        self.place += 1
        return self._decode()

    def _decode(self) -> Iterator[bytes]:
        while self.place < len(self.rest):
            if self.searching:
                found = self.magic.search(self.rest, self.place)
                if found is None:
                    # a magic number may be cut by the end
                    self.place = max(self.place, len(self.rest) - 9)
                    return
                self.place, self.searching = found.start(), False
            step = self.rest[self.place : self.place + self.STEP]
            self.started = True
            try:
                yield from self.pieces(self.decoder, step)
            except self.error as error:
                raise DecodeError(str(error)) from error
            self.place += len(step)
            if self.decoder.eof:
                self.place -= len(self.decoder.unused_data)
                self.decoder, self.started = self.new(), False


def _zstd_pieces(decoder: Any, step: bytes) -> Iterator[bytes]:
    """Yield at most 32 MiB: 128 KiB for each 4 bytes."""
    if piece := decoder.decompress(step):
        yield piece


def _bzip2_pieces(decoder: Any, step: bytes) -> Iterator[bytes]:
    """Take bytes out bit by bit: 40 bytes may be 45 MB."""
    if piece := decoder.decompress(step, BLOCK):
        yield piece
    while not decoder.eof and not decoder.needs_input:
        if piece := decoder.decompress(b"", BLOCK):
            yield piece


def _decoder(kind: Compression) -> _Decoder:
    if kind == "gzip":
        return _GzipDecoder()
    if kind == "bzip2":
        magic = re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)")
        return _FrameDecoder(bz2.BZ2Decompressor, _bzip2_pieces, OSError, magic)
    if kind == "xz":
        import lzma

        magic = re.compile(re.escape(b"\xfd7zXZ\x00"))
        return _FrameDecoder(
            lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY), _bzip2_pieces, lzma.LZMAError, magic
        )
    import zstandard

    # the window is capped, so a header cannot ask for gigabytes
    factory = zstandard.ZstdDecompressor(max_window_size=1 << 27)
    magic = re.compile(re.escape(b"\x28\xb5\x2f\xfd"))
    return _FrameDecoder(lambda: factory.decompressobj(write_size=BLOCK), _zstd_pieces, zstandard.ZstdError, magic)


@dataclass(frozen=True)
class Line:
    """A line without its line end. `offset` is the (decompressed) byte where it begins; `cut`: the stream broke
    inside it; `is_open`: it is the last one, and no line end is behind it.
    """

    offset: int
    data: bytes
    cut: bool = False
    is_open: bool = field(default=False, compare=False)


def lines(
    stream: Iterator[bytes | Damage], maximum: int, offset: int = 0, *, every_empty: bool = True
) -> Iterator[Line | Damage]:
    """Yield lines of at most `maximum` bytes; a longer one is skipped as it streams by and reported as Damage.

    `offset` is where the stream begins in its file. A line at which the stream breaks comes out as `cut`. Without
    `every_empty` at least one of a run of empty lines comes out, not all.
    """
    parts: list[bytes] = []
    size = 0
    start = offset
    skipping = False
    for block in stream:
        if isinstance(block, Damage):
            if parts:
                yield Line(start, b"".join(parts), cut=True)
            yield Damage(block.reason, block.offset + offset)
            start += size
            parts, size, skipping = [], 0, False
            continue
        begin = 0
        while (end := block.find(b"\n", begin)) >= 0:
            size += end - begin
            if not skipping and size <= maximum:
                yield Line(start, b"".join((*parts, block[begin:end])))
            else:
                yield Damage(f"line_too_long:{size} bytes, the limit is {maximum}", start)
            start += size + 1
            parts, size, skipping = [], 0, False
            begin = end + 1
            if not every_empty and end + 2 < len(block) and block[begin] == block[begin + 1] == _NEWLINE:
                # of many empty lines one: a bomb of them would take a minute
                last = _EMPTY_LINES.match(block, begin).end() - 1  # type: ignore[union-attr]
                start += last - begin
                begin = last
        size += len(block) - begin
        if size > maximum:
            skipping = True
            parts = []
        elif begin < len(block):
            parts.append(block[begin:])
    if skipping:
        yield Damage(f"line_too_long:{size} bytes, the limit is {maximum}", start)
    elif parts:
        yield Line(start, b"".join(parts), is_open=True)


_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def without_mark(stream: Iterator[bytes | Damage]) -> tuple[int, Iterator[bytes | Damage]]:
    """Return (bytes skipped, the stream without its byte order mark). UTF-16, with a mark or without, and UTF-32 come
    out as UTF-8.
    """
    first = next(stream, b"")
    if isinstance(first, bytes):
        for mark, name in _MARKS:
            if first.startswith(mark):
                rest = itertools.chain([first[len(mark) :]], stream)
                return (len(mark), rest) if name == "utf-8" else (0, _transcoded(rest, name))
        if wide := utf16_by_nul(first):
            return 0, _transcoded(itertools.chain([first], stream), wide)
    return 0, itertools.chain([first], stream)


def is_wide(head: bytes) -> bool:
    """Return whether a file that begins like this is UTF-16 or UTF-32, and so cannot be cut at newline bytes."""
    has_mark = any(head.startswith(mark) for mark, name in _MARKS if name != "utf-8")
    return has_mark or utf16_by_nul(head) is not None


def _transcoded(stream: Iterator[bytes | Damage], name: str) -> Iterator[bytes | Damage]:
    decoder = codecs.getincrementaldecoder(name)(errors="replace")
    for block in stream:
        yield block if isinstance(block, Damage) else decoder.decode(block).encode("utf-8", "ignore")
