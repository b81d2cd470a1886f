"""What the quality models see of a text: letters in one width and one case, every digit a 0, white space one space.

cc_net reads its texts the same way before its language model (lower case, digits to 0). Punctuation stays as it is,
also its width, because spam and prose differ in it. Line feeds stay too: a line is the sentence of the language model.
"""

import unicodedata
from functools import lru_cache

import numpy as np
import pyarrow as pa

from data_pipeline.kernels.compiled import compiled
from data_pipeline.kernels.normal_form import TABLE_SIZE, CodePoints, decode, text_buffers

SPACE, NEWLINE, ZERO = 0x20, 0x0A, 0x30
# Blocks whose characters are their own reading; looking at each of them would double the time to start.
_IDENTITY_BLOCKS = ((0x3400, 0x4DC0), (0x4E00, 0xA000), (0xAC00, 0xD7A4), (0x20000, 0x2F800), (0x30000, TABLE_SIZE))


@lru_cache(maxsize=1)
def reading_table() -> np.ndarray:
    """Return uint32[262144]: code point -> what it is read as."""
    table = np.arange(TABLE_SIZE, dtype=np.uint32)
    start = 0
    for first, end in (*_IDENTITY_BLOCKS, (TABLE_SIZE, TABLE_SIZE)):
        for code in range(start, first):
            table[code] = _reading(chr(code))
        start = end
    return table


def _reading(character: str) -> int:
    if character == "\n":
        return NEWLINE
    folded = unicodedata.normalize("NFKC", character)
    lowered = (folded if len(folded) == 1 else character).lower()[0]
    category = unicodedata.category(lowered)
    if category == "Nd":
        return ZERO
    if category[0] in "ZC":
        return SPACE
    return ord(lowered if category[0] in "LN" else character)


def read(texts: pa.Array | pa.ChunkedArray, most_characters: int | None = None) -> CodePoints:
    """Return the readings of a column of strings; of each text the first `most_characters` at most (None: all)."""
    data, offsets = text_buffers(texts)
    values = np.empty(int(offsets[-1] - offsets[0]), np.uint32)
    ends = np.zeros(offsets.size, np.int64)
    most = np.iinfo(np.int64).max if most_characters is None else most_characters
    return CodePoints(values[: _read(data, offsets, reading_table(), most, values, ends)], ends)


@compiled
def _read(
    data: np.ndarray, offsets: np.ndarray, table: np.ndarray, most: int, values: np.ndarray, ends: np.ndarray
) -> int:
    """Write the rows' readings to `values` and where each ends to `ends[1:]`; return how many were written."""
    written = 0
    for row in range(offsets.size - 1):
        position = np.uint64(offsets[row])
        end = np.uint64(offsets[row + 1])
        begin = written
        before = np.uint32(NEWLINE)
        while position < end and written - begin < most:
            code, position = decode(data, position)
            mapped = table[code] if code < TABLE_SIZE else np.uint32(SPACE)
            is_space = mapped in (SPACE, NEWLINE)
            if mapped == NEWLINE and before == SPACE:
                values[written - 1] = mapped  # a space at the end of a line goes
            elif not (is_space and before in (SPACE, NEWLINE)):
                values[written] = mapped
                written += 1
            else:
                continue  # white space after white space, or at the beginning of a line
            before = mapped
        while written > begin and values[written - 1] in (SPACE, NEWLINE):
            written -= 1
        ends[row + 1] = written
    return written
