"""Which n-grams of a column of texts are among a given set, and where: the kernel of decontamination.

Texts are compared in normal form (letters and digits only), so punctuation, spaces, width and case hide nothing. Each
n-gram of a text is one step of a rolling hash. A bit map of the wanted hashes, small enough for the cache, turns nearly
all of them away; the rest is looked up in the sorted hashes. 64-bit hashes of 20 million n-grams against a corpus of
10^12 characters give about one chance hit, and a chance hit alone never counts as contamination."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from data_pipeline.kernels.compiled import compiled
from data_pipeline.kernels.minhash import mix
from data_pipeline.kernels.normal_form import TABLE_SIZE, decode, text_buffers

_BASE = np.uint64(0x9E3779B97F4A7C15)
# bits of the map for each wanted n-gram: one in sixteen others passes
_BITS_PER_GRAM = 16


class Placed(NamedTuple):
    """Rows in normal form, and for each of its characters where that stands in the row as it was."""

    values: np.ndarray  # uint32
    places: np.ndarray  # int32: index of the character in its row
    offsets: np.ndarray  # int64[rows + 1], into both


class Matches(NamedTuple):
    """N-grams that were found, in the order of rows and positions."""

    rows: np.ndarray  # int64
    positions: np.ndarray  # int64: of the first character, in normal form
    numbers: np.ndarray  # int64: which of the wanted n-grams


def placed(column: pa.Array | pa.ChunkedArray, table: np.ndarray) -> Placed:
    """Return the normal forms of a column of strings, with the way back."""
    data, offsets = text_buffers(column)
    room = int(offsets[-1] - offsets[0])
    values, places = np.empty(room, np.uint32), np.empty(room, np.int32)
    ends = np.zeros(len(offsets), np.int64)
    written = _placed(data, offsets, table, values, places, ends)
    return Placed(values[:written], places[:written], ends)


def grams(text: Placed, gram: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (hash uint64, position in `text.values` int64) of every n-gram of every row."""
    hashes, positions = np.empty(text.values.size, np.uint64), np.empty(text.values.size, np.int64)
    written = _grams(text.values, text.offsets, gram, hashes, positions)
    return hashes[:written], positions[:written]


def bit_map(wanted: np.ndarray) -> np.ndarray:
    """Return uint64[2^k]: a bit for the leading bits of each wanted hash."""
    bits = max(12, int(np.ceil(np.log2(max(wanted.size, 1) * _BITS_PER_GRAM))))
    filled = np.zeros(1 << (bits - 6), np.uint64)
    _fill(wanted, np.uint64(64 - bits), filled)
    return filled


def find(text: Placed, gram: int, wanted: np.ndarray, filled: np.ndarray) -> Matches:
    """Return the n-grams of `text` that are in `wanted` (sorted uint64, `filled` is its bit map)."""
    rows, positions = np.empty(text.values.size, np.int64), np.empty(text.values.size, np.int64)
    numbers = np.empty(text.values.size, np.int64)
    shift = np.uint64(64 - 6 - int(np.log2(filled.size)))
    count = _find(text.values, text.offsets, gram, wanted, filled, shift, rows, positions, numbers)
    return Matches(rows[:count].copy(), positions[:count].copy(), numbers[:count].copy())


@compiled
def _placed(
    data: np.ndarray, offsets: np.ndarray, table: np.ndarray, values: np.ndarray, places: np.ndarray, ends: np.ndarray
) -> np.signedinteger:
    written = np.uint64(0)
    for row in range(offsets.size - 1):
        position = np.uint64(offsets[row])
        end = np.uint64(offsets[row + 1])
        index = np.int32(0)
        while position < end:
            code, position = decode(data, position)
            # written in any case and then kept or not: no branch to mispredict
            mapped = table[code] if code < TABLE_SIZE else np.uint32(0)
            values[written] = mapped
            places[written] = index
            written += np.uint64(mapped != 0)
            index += np.int32(1)
        ends[row + 1] = written
    return np.int64(written)


@compiled
def _grams(values: np.ndarray, offsets: np.ndarray, gram: int, hashes: np.ndarray, positions: np.ndarray) -> int:
    power = np.uint64(1)
    for _ in range(gram):
        power *= _BASE
    written = 0
    for row in range(offsets.size - 1):
        first, end = offsets[row], offsets[row + 1]
        word = np.uint64(0)
        for i in range(first, end):
            word = word * _BASE + np.uint64(values[i])
            if i - first >= gram:
                word -= power * np.uint64(values[i - gram])
            if i - first >= gram - 1:
                hashes[written] = mix(word)
                positions[written] = i - gram + 1
                written += 1
    return written


@compiled
def _fill(wanted: np.ndarray, shift: np.uint64, filled: np.ndarray) -> None:
    for word in wanted:
        bit = word >> shift
        filled[bit >> np.uint64(6)] |= np.uint64(1) << (bit & np.uint64(63))


@compiled
def _find(
    values: np.ndarray,
    offsets: np.ndarray,
    gram: int,
    wanted: np.ndarray,
    filled: np.ndarray,
    shift: np.uint64,
    rows: np.ndarray,
    positions: np.ndarray,
    numbers: np.ndarray,
) -> int:
    power = np.uint64(1)
    for _ in range(gram):
        power *= _BASE
    written = 0
    for row in range(offsets.size - 1):
        first, end = offsets[row], offsets[row + 1]
        word = np.uint64(0)
        for i in range(first, end):
            word = word * _BASE + np.uint64(values[i])
            if i - first >= gram:
                word -= power * np.uint64(values[i - gram])
            if i - first < gram - 1:
                continue
            key = mix(word)
            bit = key >> shift
            if (filled[bit >> np.uint64(6)] >> (bit & np.uint64(63))) & np.uint64(1) == 0:
                continue
            place = np.searchsorted(wanted, key)
            if place < wanted.size and wanted[place] == key:
                rows[written] = row
                positions[written] = i - gram + 1 - first
                numbers[written] = place
                written += 1
    return written
