"""JSON documents that are no JSON lines: an array of objects, or objects that go over several lines.

The bytes are only scanned for where values begin and end; each value then is parsed like a line of JSONL. At most one
value is in memory; one that is too long is passed over as it streams by."""

import re
from collections.abc import Iterator

import orjson

from data_pipeline.stages.read.compressed_bytes import Damage, Line

_TOKEN = re.compile(rb'["{}\[\]]')
_IN_STRING = re.compile(rb'(?:[^"\\]|\\.)*+', re.DOTALL)
_QUOTE, _OPEN, _BACKSLASH = ord('"'), b"{[", ord("\\")


def is_document(head: bytes) -> bool:
    """Return whether a file that begins like this is an array or goes over lines, and not an object a line."""
    text = head.lstrip(b" \t\r\n\xef\xbb\xbf")
    first, _, rest = text.partition(b"\n")
    first = first.strip()
    if text[:1] == b"[":
        return not (_parses(first) and rest.strip())
    return text[:1] == b"{" and not first.endswith(b"}") and first[-1:] in b"{[," and bool(rest or first == b"{")


def _parses(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True


def values(stream: Iterator[bytes | Damage], maximum: int, offset: int = 0) -> Iterator[Line | Damage]:
    """Yield the elements of an array, or the values of a stream, each with the byte where it begins."""
    scanner = _Scanner(maximum, offset)
    for block in stream:
        if isinstance(block, Damage):
            yield from scanner.end()
            yield Damage(block.reason, block.offset + offset)
        else:
            yield from scanner.feed(block)
    is_whole = not scanner.is_array or scanner.start is not None
    yield from scanner.end()
    if not is_whole:
        yield Damage("cut_record:the array has no end", scanner.base)


class _Scanner:
    """Where the scan stands: `base` is the place of the buffer's first byte in the file."""

    def __init__(self, maximum: int, base: int):
        self.maximum, self.base = maximum, base
        self.buffer = bytearray()
        self.place = 0
        self.depth = self.level = 0
        self.is_array: bool | None = None
        self.is_inside_string = False
        self.start: int | None = None  # of the value at hand, in the file
        self.is_skipped = False

    def feed(self, block: bytes) -> Iterator[Line | Damage]:
        self.buffer += block
        while self._step():
            if self.start is not None and self.depth == self.level and not self.is_inside_string:
                yield self._take()
        self._forget()

    def end(self) -> Iterator[Line | Damage]:
        """Yield what is cut off, if there is something; what comes next begins a new value."""
        if self.start is not None:
            data = bytes(self.buffer[self.start - self.base :]) if not self.is_skipped else b""
            yield self._too_long() if self.is_skipped else Line(self.start, data, cut=True)
        elif self.depth == 0 and self.is_array is None and self.buffer.strip():
            yield Line(self.base, bytes(self.buffer[: self.maximum]))
        self.base += len(self.buffer)
        self.buffer.clear()
        self.place, self.depth, self.start = 0, self.level, None
        self.is_inside_string = self.is_skipped = False

    def _step(self) -> bool:
        """Go to the next token; False where the buffer has no further one."""
        if self.is_inside_string:
            match = _IN_STRING.match(self.buffer, self.place)
            self.place = match.end() if match else self.place
            if self.place >= len(self.buffer) or self.buffer[self.place] != _QUOTE:
                return False
            self.is_inside_string = False
            self.place += 1
            return True
        found = _TOKEN.search(self.buffer, self.place)
        if found is None:
            self.place = len(self.buffer)
            return False
        self.place = found.end()
        self._take_token(found[0], self.base + found.start())
        return True

    def _take_token(self, token: bytes, at: int) -> None:
        if self.is_array is None:
            self.is_array = token == b"["
            if self.is_array:
                self.depth = self.level = 1
                return
        if token in (b"{", b"[", b'"') and self.depth == self.level and self.start is None:
            self.start = at
        if token == b'"':
            self.is_inside_string = True
        elif token in _OPEN:
            self.depth += 1
        elif self.depth > self.level:
            self.depth -= 1
        elif self.depth:  # the end of the array; another may follow
            self.depth = self.level = 0
            self.is_array = None

    def _take(self) -> Line | Damage:
        assert self.start is not None
        found: Line | Damage
        if self.is_skipped or self.base + self.place - self.start > self.maximum:
            found = self._too_long()
        else:
            found = Line(self.start, bytes(self.buffer[self.start - self.base : self.place]))
        self.start, self.is_skipped = None, False
        return found

    def _too_long(self) -> Damage:
        assert self.start is not None
        return Damage(f"record_too_long:more than {self.maximum} bytes", self.start)

    def _forget(self) -> None:
        """Drop what is done with, and the bytes of a value that is too long."""
        if self.start is not None and self.base + len(self.buffer) - self.start > self.maximum:
            self.is_skipped = True
        keep = self.place if self.start is None or self.is_skipped else self.start - self.base
        del self.buffer[:keep]
        self.base += keep
        self.place -= keep
