"""Hashes of stretches of text: winnowed fingerprints, and all windows under chosen fingerprints.

Winnowing (Schleimer, Wilkerson and Aiken, "Winnowing: local algorithms for document fingerprinting", SIGMOD 2003): of
each `length - gram + 1` consecutive hashes of `gram` characters the least is selected, the rightmost one of equals. Two
texts that share `length` characters select the same fingerprint in them, whatever surrounds them; and only about one
position in `(length - gram) / 2` is selected.
"""

import numpy as np

from data_pipeline.kernels.compiled import compiled
from data_pipeline.kernels.minhash import mix
from data_pipeline.kernels.normal_form import decode

_BASE = np.uint64(0x9E3779B97F4A7C15)


@compiled
def code_points(data: np.ndarray, offsets: np.ndarray, values: np.ndarray, ends: np.ndarray) -> int:
    """Decode rows of UTF-8 to `values` (uint32), where each ends to `ends[1:]`; return how many were written."""
    written = 0
    for row in range(offsets.size - 1):
        position = np.uint64(offsets[row])
        end = np.uint64(offsets[row + 1])
        while position < end:
            values[written], position = decode(data, position)
            written += 1
        ends[row + 1] = written
    return written


@compiled
def _rolling(values: np.ndarray, width: int, hashes: np.ndarray) -> None:
    """Fill `hashes[i]` = hash of `values[i : i + width]`, for each i where that fits."""
    power = np.uint64(1)
    for _ in range(width):
        power *= _BASE
    word = np.uint64(0)
    for i in range(values.size):
        word = word * _BASE + np.uint64(values[i])
        if i >= width:
            word -= power * np.uint64(values[i - width])
        if i >= width - 1:
            hashes[i - width + 1] = mix(word)


@compiled
def _select(hashes: np.ndarray, count: int, window: int, selected: np.ndarray) -> None:
    """Fill `selected[p]` = index of the least (rightmost of equals) of `hashes[p : p + window]`, for p <= count -
    window.
    """
    best = -1
    for p in range(count - window + 1):
        if best < p:
            best = p
            for i in range(p + 1, p + window):
                if hashes[i] <= hashes[best]:
                    best = i
        elif hashes[p + window - 1] <= hashes[best]:
            best = p + window - 1
        selected[p] = best


@compiled
def fingerprints(
    values: np.ndarray, offsets: np.ndarray, length: int, gram: int, rows: np.ndarray, out: np.ndarray
) -> int:
    """Write the row and the fingerprint (uint64) of each selected position; return how many.

    `rows` and `out` have room for one a character.
    """
    window = length - gram + 1
    written = 0
    for row in range(offsets.size - 1):
        text = values[offsets[row] : offsets[row + 1]]
        if text.size < length:
            continue
        count = text.size - gram + 1
        hashes = np.empty(count, np.uint64)
        selected = np.empty(count - window + 1, np.int64)
        _rolling(text, gram, hashes)
        _select(hashes, count, window, selected)
        for p in range(selected.size):
            if p == 0 or selected[p] != selected[p - 1]:
                rows[written] = row
                out[written] = hashes[selected[p]]
                written += 1
    return written


@compiled
def windows(
    values: np.ndarray,
    offsets: np.ndarray,
    length: int,
    gram: int,
    wanted: np.ndarray,
    rows: np.ndarray,
    positions: np.ndarray,
    out: np.ndarray,
) -> int:
    """Write row, position and hash of each window of `length` characters whose fingerprint is in `wanted` (sorted
    uint64).

    Returns how many; the outputs have room for one a character.
    """
    window = length - gram + 1
    written = 0
    for row in range(offsets.size - 1):
        text = values[offsets[row] : offsets[row + 1]]
        if text.size < length:
            continue
        count = text.size - gram + 1
        hashes = np.empty(count, np.uint64)
        selected = np.empty(count - window + 1, np.int64)
        whole = np.empty(count - window + 1, np.uint64)
        _rolling(text, gram, hashes)
        _select(hashes, count, window, selected)
        _rolling(text, length, whole)
        member = False
        for p in range(selected.size):
            if p == 0 or selected[p] != selected[p - 1]:
                place = np.searchsorted(wanted, hashes[selected[p]])
                member = place < wanted.size and wanted[place] == hashes[selected[p]]
            if member:
                rows[written] = row
                positions[written] = p
                out[written] = whole[p]
                written += 1
    return written
