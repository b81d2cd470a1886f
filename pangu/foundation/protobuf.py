"""The protobuf wire format, as much of it as MindSpore's checkpoints, strategy files and group files use.

Messages are walked where they lie, through a function that reads a few bytes at an offset: a file of many gigabytes is
indexed without reading its tensors. (Format: protobuf.dev, "Encoding".)
"""

import os
from collections.abc import Callable, Iterable, Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
LONGEST_VARINT = 10

# (offset, size) -> that many bytes, fewer at the end
Reader = Callable[[int, int], bytes]


class WireError(ValueError):
    """The bytes are no protobuf message; the text says where."""


def window_reader(descriptor: int, window: int = 8192) -> Reader:
    """Return a reader of an open file that keeps the last `window` bytes it fetched."""
    start, content = 0, b""

    def read(offset: int, size: int) -> bytes:
        nonlocal start, content
        if not start <= offset <= offset + size <= start + len(content):
            start, content = offset, os.pread(descriptor, max(size, window), offset)
        return content[offset - start : offset - start + size]

    return read


def bytes_reader(content: bytes) -> Reader:
    return lambda offset, size: content[offset : offset + size]


def read_varint(read: Reader, offset: int, end: int) -> tuple[int, int]:
    """Return an unsigned number and the offset behind it."""
    value = 0
    for position, byte in enumerate(read(offset, min(LONGEST_VARINT, end - offset))):
        value |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            return value, offset + position + 1
    raise WireError(f"no number at byte {offset}")


def fields(read: Reader, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield the fields of the message between two offsets: (field number, wire type, value or start, end).

    A number is (…, VARINT, value, offset behind it); a string or an embedded message is (…, BYTES, its start, its end).
    """
    offset = start
    while offset < end:
        key, offset = read_varint(read, offset, end)
        number, wire_type = key >> 3, key & 7
        if number == 0:
            raise WireError(f"no field at byte {offset - 1}")
        if wire_type == VARINT:
            value, offset = read_varint(read, offset, end)
            yield number, VARINT, value, offset
            continue
        if wire_type == BYTES:
            length, offset = read_varint(read, offset, end)
        elif wire_type in (FIXED32, FIXED64):
            length = 4 if wire_type == FIXED32 else 8
        else:
            raise WireError(f"wire type {wire_type} at byte {offset - 1}")
        if length > end - offset:
            raise WireError(f"field {number} at byte {offset} claims {length} bytes, {end - offset} are left")
        yield number, wire_type, offset, offset + length
        offset += length


def integers(read: Reader, wire_type: int, value: int, end: int) -> list[int]:
    """Return the values of one occurrence of a repeated int32, int64 or uint32 field, packed or not; negative ones
    as such."""
    values = []
    if wire_type == VARINT:
        values.append(value)
    elif wire_type == BYTES:
        offset = value
        while offset < end:
            item, offset = read_varint(read, offset, end)
            values.append(item)
    else:
        raise WireError(f"wire type {wire_type} where numbers were due")
    return [value - (1 << 64) if value >> 63 else value for value in values]


def text(read: Reader, wire_type: int, start: int, end: int, longest: int = 4096) -> str:
    """Return a string field."""
    if wire_type != BYTES or end - start > longest:
        raise WireError(f"no name at byte {start}")
    try:
        return read(start, end - start).decode("utf-8")
    except UnicodeDecodeError:
        raise WireError(f"no name at byte {start}") from None


def encode_varint(value: int) -> bytes:
    """Encode a number; a negative one as its 64-bit complement."""
    value &= (1 << 64) - 1
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def encode_number(number: int, value: int) -> bytes:
    """Return an integer field."""
    return encode_varint(number << 3) + encode_varint(value)


def encode_numbers(values: Iterable[int]) -> bytes:
    """Return a message whose only field 1 is repeated; proto2 writes each number by itself."""
    return b"".join(encode_number(1, value) for value in values)


def encode_message(number: int, content: bytes | str) -> bytes:
    """Return a string field, or an embedded message."""
    content = content.encode() if isinstance(content, str) else content
    return encode_length(number, len(content)) + content


def encode_length(number: int, length: int) -> bytes:
    """Return the key and the length of a string or of an embedded message; its bytes follow."""
    return encode_varint(number << 3 | BYTES) + encode_varint(length)
