"""The normal form in which documents and paragraphs are compared: letters and digits only, in one case and one width.

Chinese text has no spaces, so words in the sense of `\\W` do not exist and duplicates differ most often in punctuation,
spacing, width (Ａ, A) and case. The normal form drops all of these: NFKC where it maps one character to one character,
then lower case, then letters and numbers (Unicode L and N) only. Optionally traditional characters become simplified
ones. A table of 262,144 code points (planes 0 to 3; nothing above them is text) makes it one look-up a character.
"""

import unicodedata
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from data_pipeline.kernels.compiled import compiled

TABLE_SIZE = 0x40000
# Blocks where each code point is its own normal form; looking at each of them would double the time to start.
_IDENTITY_BLOCKS = ((0x3400, 0x4DC0), (0x4E00, 0xA000), (0xAC00, 0xD7A4), (0x20000, 0x2F800), (0x30000, TABLE_SIZE))
_SURROGATES = (0xD800, 0xE000)


class TextBuffers(NamedTuple):
    """A column of strings as numba sees it."""

    data: np.ndarray  # uint8, UTF-8
    offsets: np.ndarray  # int64[rows + 1], into data; a null is an empty string


class CodePoints(NamedTuple):
    """Rows of code points in normal form, one after the other."""

    values: np.ndarray  # uint32
    offsets: np.ndarray  # int64[rows + 1], into values


def text_buffers(column: pa.Array | pa.ChunkedArray) -> TextBuffers:
    """Return the UTF-8 bytes and the offsets of a string column. Copies nothing but the offsets (and chunks, if
    several).
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # what combine_chunks leaves of a column that has no chunk
        array = pa.array([], pa.large_string())
    if pa.types.is_null(array.type):  # what pyarrow makes of a list that holds nothing or None
        array = array.cast(pa.large_string())
    if array.null_count:
        array = array.fill_null("")
    _, offsets, data = array.buffers()
    width = np.int64 if pa.types.is_large_string(array.type) else np.int32
    if len(array) == 0 or offsets is None:
        return TextBuffers(np.zeros(0, np.uint8), np.zeros(1, np.int64))
    positions = np.frombuffer(offsets, width)[array.offset : array.offset + len(array) + 1].astype(np.int64)
    return TextBuffers(np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8), positions)


def string_column(data: np.ndarray, offsets: np.ndarray) -> pa.Array:
    """Return the inverse of `text_buffers`: a large_string column over `data` (uint8) and `offsets` (int64)."""
    return pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))


@lru_cache(maxsize=2)
def normal_form_table(fold_traditional: bool = False) -> np.ndarray:
    """Return uint32[262144]: code point -> code point in normal form, 0 where it is dropped."""
    table = np.zeros(TABLE_SIZE, np.uint32)
    for first, end in _IDENTITY_BLOCKS:
        table[first:end] = np.arange(first, end, dtype=np.uint32)
    start = 0
    for first, end in sorted((*_IDENTITY_BLOCKS, _SURROGATES)):
        for code in range(start, first):
            table[code] = _normal_code(chr(code))
        start = end
    if fold_traditional:
        table = _simplified(table)
    return table


def _normal_code(character: str) -> int:
    folded = unicodedata.normalize("NFKC", character)
    lowered = (folded if len(folded) == 1 else character).lower()[0]
    return ord(lowered) if lowered.isalnum() else 0


def _simplified(table: np.ndarray) -> np.ndarray:
    """Return `table` followed by OpenCC's traditional-to-simplified mapping, character by character."""
    from opencc import OpenCC

    codes = [code for code in np.unique(table).tolist() if 0x3400 <= code < 0xA000 or code >= 0x20000]
    # One call a character would take seconds; a line feed between characters keeps OpenCC from seeing phrases.
    converted = OpenCC("t2s").convert("\n".join(map(chr, codes))).split("\n")
    simplified = np.arange(TABLE_SIZE, dtype=np.uint32)
    for code, character in zip(codes, converted, strict=True):
        simplified[code] = ord(character) if len(character) == 1 else code
    return simplified[table]


def normal_form(text: str, fold_traditional: bool = False) -> str:
    """Return the normal form of one text: the plain reference of `normalise`."""
    table = normal_form_table(fold_traditional)
    return "".join(chr(table[ord(c)]) for c in text if ord(c) < TABLE_SIZE and table[ord(c)])


def normalise(column: pa.Array | pa.ChunkedArray, table: np.ndarray) -> CodePoints:
    """Return the normal forms of a column of strings."""
    data, offsets = text_buffers(column)
    values = np.empty(int(offsets[-1] - offsets[0]), np.uint32)
    ends = np.zeros(len(offsets), np.int64)
    return CodePoints(values[: _normalise(data, offsets, table, values, ends)], ends)


@compiled
def decode(data: np.ndarray, position: np.uint64) -> tuple[np.integer, np.uint64]:
    """Return the code point (uint32) at `position` of valid UTF-8 bytes, and the position of the next one.

    Positions are uint64: a signed index costs a test for negative values at each access, a third of the whole time.
    """
    first = np.uint32(data[position])
    if first < 0x80:
        return first, position + np.uint64(1)
    second = np.uint32(data[position + np.uint64(1)]) & 0x3F
    if first < 0xE0:
        return ((first & 0x1F) << 6) | second, position + np.uint64(2)
    third = np.uint32(data[position + np.uint64(2)]) & 0x3F
    if first < 0xF0:
        return ((first & 0x0F) << 12) | (second << 6) | third, position + np.uint64(3)
    fourth = np.uint32(data[position + np.uint64(3)]) & 0x3F
    return ((first & 0x07) << 18) | (second << 12) | (third << 6) | fourth, position + np.uint64(4)


@compiled
def _normalise(
    data: np.ndarray, offsets: np.ndarray, table: np.ndarray, values: np.ndarray, ends: np.ndarray
) -> np.uint64:
    """Write the rows' normal forms to `values` and where each ends to `ends[1:]`; return how many were written."""
    written = np.uint64(0)
    for row in range(offsets.size - 1):
        position = np.uint64(offsets[row])
        end = np.uint64(offsets[row + 1])
        while position < end:
            code, position = decode(data, position)
            # Written in any case and then kept or not: no branch to mispredict. `values` has room for one code point
            # a byte, so the write behind the last kept one is never out of bounds.
            mapped = table[code] if code < TABLE_SIZE else np.uint32(0)
            values[written] = mapped
            written += np.uint64(mapped != 0)
        ends[row + 1] = written
    return written
