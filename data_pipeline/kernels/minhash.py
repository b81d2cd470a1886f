"""MinHash signatures over character n-grams, the bands of locality-sensitive hashing, and exact Jaccard similarity.

A signature holds `size` numbers; the share of equal numbers of two signatures estimates the Jaccard similarity of the
two sets of n-grams. Classic MinHash pays `size` hash evaluations a character. Here one evaluation a character picks a
slot and a value, and the least value of a slot is kept; only while slots are empty (short documents) do more rounds
follow, each with new hashes. This is the similarity sketch of Dahlgaard, Knudsen and Thorup, "Fast Similarity
Sketching" (FOCS 2017), which has the concentration of `size` independent permutations for sets of any size, unlike
one-permutation hashing with densification, whose slots depend on each other in short documents, and most Chinese
documents on the web are short.
"""

import numpy as np

from data_pipeline.kernels.compiled import compiled

EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)
_BLOCK = 2048  # n-grams hashed at a time: the hashes of a block stay in the first-level cache
_BASE = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_ROUND = np.uint64(0xD1B54A32D192ED03)


@compiled
def mix(value: np.uint64) -> np.uint64:
    """Return a bijection of 64-bit words that flips every bit with probability 1/2 (splitmix64's finaliser, Steele
    2014).
    """
    value ^= value >> np.uint64(30)
    value *= _MIX_1
    value ^= value >> np.uint64(27)
    value *= _MIX_2
    return value ^ (value >> np.uint64(31))


@compiled
def _gram_words(values: np.ndarray, start: int, count: int, gram: int, words: np.ndarray) -> None:
    """Fill `words[i]` = the n-gram `values[start + i : start + i + gram]` as one number (uint64), for i < count."""
    # One pass a character of the n-gram over slices that start at 0: each is a loop that the compiler turns into vector
    # code, which it does not do for an inner loop of unknown length or for indices that might be negative.
    words = words[:count]
    words[:] = np.uint64(0)
    for j in range(gram):
        characters = values[start + j : start + j + count]
        for i in range(count):
            words[i] = words[i] * _BASE + np.uint64(characters[i])


@compiled
def _distinct_words(values: np.ndarray, start: int, count: int, gram: int) -> np.ndarray:
    """Return the sorted distinct words of the n-grams that begin at `values[start : start + count]`."""
    words = np.empty(count, np.uint64)
    _gram_words(values, start, count, gram, words)
    words.sort()
    distinct = 0
    for i in range(count):
        if i == 0 or words[i] != words[i - 1]:
            words[distinct] = words[i]
            distinct += 1
    return words[:distinct]


@compiled
def _fill(words: np.ndarray, hashes: np.ndarray, turn: int, seed: int, slots: np.ndarray) -> None:
    """Make one round of the sketch: lower `slots` to the least value that the n-grams `words` have in each."""
    size = np.uint64(slots.size)
    salt = mix(np.uint64(seed) + np.uint64(turn) * _ROUND)
    high = np.uint64(turn) << np.uint64(32)
    hashes = hashes[: words.size]
    for i in range(words.size):
        hashes[i] = mix(words[i] * _BASE + salt)
    if turn < slots.size:
        for i in range(words.size):
            word = hashes[i]
            slot = ((word >> np.uint64(32)) * size) >> np.uint64(32)
            slots[slot] = min(slots[slot], high | (word & np.uint64(0xFFFFFFFF)))
    else:  # after `size` rounds each round is for one slot, so that the sketch ends for certain
        slot = np.uint64(turn - slots.size)
        for i in range(words.size):
            slots[slot] = min(slots[slot], high | (hashes[i] & np.uint64(0xFFFFFFFF)))


@compiled
def _sketch(
    values: np.ndarray,
    start: int,
    end: int,
    gram: int,
    seed: int,
    words: np.ndarray,
    hashes: np.ndarray,
    slots: np.ndarray,
) -> None:
    """Fill `slots` (uint64[size]) for the document `values[start:end]`, which holds at least one character."""
    slots[:] = EMPTY
    width = min(gram, end - start)  # a document shorter than an n-gram is one n-gram
    grams = end - start - width + 1
    for first in range(0, grams, _BLOCK):
        count = min(_BLOCK, grams - first)
        _gram_words(values, start + first, count, width, words)
        _fill(words[:count], hashes, 0, seed, slots)
    if not (slots == EMPTY).any():
        return
    # A long document that leaves slots empty repeats itself, and the rounds to come need not do the same.
    distinct = words[:grams] if grams <= _BLOCK else _distinct_words(values, start, grams, width)
    turn = 1
    while (slots == EMPTY).any():
        for first in range(0, distinct.size, _BLOCK):
            _fill(distinct[first : first + _BLOCK], hashes, turn, seed, slots)
        turn += 1


@compiled
def signatures(values: np.ndarray, offsets: np.ndarray, gram: int, seed: int, out: np.ndarray) -> None:
    """Fill `out` (uint32[rows, size]) with the signatures of rows of code points (`values`, `offsets`: see CodePoints).

    A row without characters gets zeros; it must be kept out of the comparison by its length.
    """
    words = np.empty(_BLOCK, np.uint64)
    hashes = np.empty(_BLOCK, np.uint64)
    slots = np.empty(out.shape[1], np.uint64)
    for row in range(offsets.size - 1):
        if offsets[row] == offsets[row + 1]:
            out[row, :] = 0
            continue
        _sketch(values, offsets[row], offsets[row + 1], gram, seed, words, hashes, slots)
        for slot in range(slots.size):
            out[row, slot] = slots[slot] & np.uint64(0xFFFFFFFF)


@compiled
def band_keys(signature: np.ndarray, rows: int, out: np.ndarray) -> None:
    """Fill `out` (uint64[documents, bands]) with a hash of each band of `rows` numbers of `signature` (uint32)."""
    for document in range(out.shape[0]):
        for band in range(out.shape[1]):
            key = np.uint64(band + 1) * _ROUND
            for row in range(rows):
                key = mix(key ^ np.uint64(signature[document, band * rows + row]))
            out[document, band] = key


@compiled
def agreements(signature: np.ndarray, left: np.ndarray, right: np.ndarray, out: np.ndarray) -> None:
    """Fill `out` (uint16[pairs]): in how many places the signatures of documents `left[i]` and `right[i]` are equal."""
    for pair in range(left.size):
        first = signature[left[pair]]
        second = signature[right[pair]]
        equal = 0
        for slot in range(first.size):
            equal += first[slot] == second[slot]
        out[pair] = equal


@compiled
def _row_words(values: np.ndarray, offsets: np.ndarray, row: int, gram: int) -> np.ndarray:
    """Return the set of n-grams of a row, as sorted words."""
    length = offsets[row + 1] - offsets[row]
    width = min(gram, length)
    return _distinct_words(values, offsets[row], length - width + 1 if width else 0, width)


@compiled
def jaccard(
    values: np.ndarray, offsets: np.ndarray, left: np.ndarray, right: np.ndarray, gram: int, out: np.ndarray
) -> None:
    """Fill `out` (float32[pairs]) with the Jaccard similarity of the n-gram sets of rows `left[i]` and `right[i]`.

    Pairs should be sorted by `left`: the set of a row is kept for as long as `left` stays the same.
    """
    kept = -1
    first = np.empty(0, np.uint64)
    for pair in range(left.size):
        if left[pair] != kept:
            kept = left[pair]
            first = _row_words(values, offsets, kept, gram)
        second = _row_words(values, offsets, right[pair], gram)
        i = j = common = 0
        while i < first.size and j < second.size:
            a, b = first[i], second[j]
            common += a == b
            i += a <= b
            j += b <= a
        union = first.size + second.size - common
        out[pair] = np.float32(common / union) if union else np.float32(0)
