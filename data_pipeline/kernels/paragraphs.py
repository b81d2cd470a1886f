"""Paragraphs of a column of texts: where each lies, a hash of its normal form, and the column without some of them.

A paragraph is what stands between line feeds. Its hash is that of its normal form, so that a footer is the same footer
with other spaces or punctuation.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from data_pipeline.kernels.compiled import compiled
from data_pipeline.kernels.minhash import mix
from data_pipeline.kernels.normal_form import TABLE_SIZE, decode, string_column, text_buffers

_LINE_FEED = 10
_BASE = np.uint64(0x9E3779B97F4A7C15)


class Paragraphs(NamedTuple):
    """Every paragraph of a column, in order."""

    row: np.ndarray  # int64
    start: np.ndarray  # int64, byte in the column's data
    end: np.ndarray  # int64, byte behind the last one, line feed not counted
    length: np.ndarray  # int64, characters of the normal form
    hash: np.ndarray  # uint64, of the normal form


def find_paragraphs(texts: pa.Array | pa.ChunkedArray, table: np.ndarray) -> Paragraphs:
    """Return the paragraphs of `texts`; `table` is `normal_form_table(...)`. A row without a line feed is one
    paragraph.
    """
    data, offsets = text_buffers(texts)
    inside = data[offsets[0] : offsets[-1]]
    count = int(np.count_nonzero(inside == _LINE_FEED)) + offsets.size - 1
    row, start, end, length = (np.empty(count, np.int64) for _ in range(4))
    found = Paragraphs(row, start, end, length, np.empty(count, np.uint64))
    _find(data, offsets, table, *found)
    return found


def without_paragraphs(texts: pa.Array | pa.ChunkedArray, paragraphs: Paragraphs, drop: np.ndarray) -> pa.Array:
    """Return `texts` without the paragraphs that `drop` (bool) marks; the others are joined by line feeds again."""
    data, offsets = text_buffers(texts)
    out = np.empty(int(offsets[-1] - offsets[0]), np.uint8)
    ends = np.zeros(offsets.size, np.int64)
    written = _copy(data, paragraphs.row, paragraphs.start, paragraphs.end, drop, out, ends)
    return string_column(out[:written], ends)


@compiled
def _find(
    data: np.ndarray,
    offsets: np.ndarray,
    table: np.ndarray,
    rows: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    lengths: np.ndarray,
    hashes: np.ndarray,
) -> None:
    paragraph = 0
    for row in range(offsets.size - 1):
        position = np.uint64(offsets[row])
        end = np.uint64(offsets[row + 1])
        more = True
        while more:
            more = False
            start = position
            length = 0
            word = np.uint64(0)
            stop = end
            while position < end:
                code, following = decode(data, position)
                if code == _LINE_FEED:
                    stop = position
                    position = following
                    more = True
                    break
                position = following
                mapped = table[code] if code < TABLE_SIZE else np.uint32(0)
                if mapped:
                    word = mix(word * _BASE + np.uint64(mapped))
                    length += 1
            rows[paragraph] = row
            starts[paragraph] = start
            ends[paragraph] = stop
            lengths[paragraph] = length
            hashes[paragraph] = word
            paragraph += 1


@compiled
def _copy(
    data: np.ndarray,
    rows: np.ndarray,
    starts: np.ndarray,
    stops: np.ndarray,
    drop: np.ndarray,
    out: np.ndarray,
    ends: np.ndarray,
) -> int:
    """Copy the paragraphs that stay to `out`, and where each row ends to `ends[1:]`; return the bytes written."""
    written = 0
    paragraph = 0
    for row in range(ends.size - 1):
        first = True
        while paragraph < rows.size and rows[paragraph] == row:
            if not drop[paragraph]:
                if not first:
                    out[written] = _LINE_FEED
                    written += 1
                first = False
                size = stops[paragraph] - starts[paragraph]
                out[written : written + size] = data[starts[paragraph] : stops[paragraph]]
                written += size
            paragraph += 1
        ends[row + 1] = written
    return written
