"""One look at every character of a column, which says what each text needs: most need nothing, and are not touched.

`survey` is a promise in one direction: a text without a flag is one that the rule behind the flag does not change. The
rules themselves are plain functions on one text (stages/clean.py), which tests compare with what this lets through."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from data_pipeline.kernels.compiled import compiled
from data_pipeline.kernels.minhash import mix
from data_pipeline.kernels.normal_form import TABLE_SIZE, decode, text_buffers
from data_pipeline.kernels.survey_flags import (
    AT,
    BREAK,
    DIGIT,
    INDENT,
    LATIN,
    LATIN_FIRST,
    NAVIGATION,
    NUMBERS,
    PAIR_FIRST,
    PAIR_SECOND,
    REPEATED,
    SENTENCE,
    SEPARATOR,
    SPACE,
    SYMBOL,
    TRADITIONAL,
    TRAILING,
    UNIFY,
    UNTIDY,
    WIDE_FIRST,
    WORDS,
)

_LINE_FEED = 10
_HAN_BLOCKS = ((0x3007, 0x3008), (0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00), (0x20000, 0x323B0))
_ALPHABETS = ((0x41, 0x5B), (0x61, 0x7B), (0xC0, 0xD7), (0xD8, 0xF7), (0xF8, 0x250), (0x370, 0x700), (0x900, 0xE80),
              (0x1E00, 0x2000), (0xFF21, 0xFF3B), (0xFF41, 0xFF5B))  # fmt: skip
_SYLLABLES = (
    (0x1100, 0x1200),
    (0x3041, 0x3097),
    (0x30A1, 0x30FB),
    (0x3131, 0x318F),
    (0xAC00, 0xD7A4),
    (0xFF66, 0xFF9E),
)
_BASE = np.uint64(0x9E3779B97F4A7C15)
# digits that may be a private number stand together, with no more than one other character between them
_NUMBER_DIGITS = 5


class Words(NamedTuple):
    """Whole items of a line to look for, and how long an item and its line may be."""

    hashes: np.ndarray  # uint64, sorted
    item: int
    line: int


def words(items: frozenset[str], item: int, line: int) -> Words:
    """Return items as the kernel looks for them."""
    hashes = []
    for text in items:
        word = 0
        for character in text:
            word = (word * int(_BASE) + ord(character)) & 0xFFFFFFFFFFFFFFFF
        hashes.append(word)
    return Words(np.array(sorted(hashes), np.uint64), item, line)


def survey(
    column: pa.Array | pa.ChunkedArray, classes: np.ndarray, navigation: Words, repeated_from: int
) -> np.ndarray:
    """Return int32[rows]: what each text may need. `classes` (int32[262144]) gives each code point's; lines of
    `repeated_from` characters and more are compared with each other.
    """
    data, offsets = text_buffers(column)
    rows = offsets.size - 1
    flags = np.zeros(rows, np.int32)
    longest = int(np.max(np.diff(offsets), initial=0))
    lines = np.empty(longest // max(repeated_from, 1) + 2, np.uint64)
    _survey(data, offsets, classes, navigation.hashes, navigation.item, navigation.line, repeated_from, lines, flags)
    return flags


def count_words(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return int64[rows]: words of alphabets, and characters of other scripts than Chinese (kana, hangul).

    A word is a run of letters and digits that begins with a letter; numbers are no words."""
    data, offsets = text_buffers(column)
    words = np.zeros(offsets.size - 1, np.int64)
    _count_words(data, offsets, _word_classes(), words)
    return words


@lru_cache(maxsize=1)
def _word_classes() -> np.ndarray:
    """Return uint8[262144]: 1 a letter of an alphabet, 2 a digit or what joins parts of a word, 3 a word of its own."""
    classes = np.zeros(TABLE_SIZE, np.uint8)
    for first, end in _ALPHABETS:
        classes[first:end] = 1
    classes[0x30:0x3A] = 2
    classes[[ord(mark) for mark in "_-.'’"]] = 2
    for first, end in _SYLLABLES:
        classes[first:end] = 3
    return classes


def measure(column: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Return int64[rows] each: the characters that are not white space, and the Chinese characters."""
    data, offsets = text_buffers(column)
    characters, han = np.zeros(offsets.size - 1, np.int64), np.zeros(offsets.size - 1, np.int64)
    _measure(data, offsets, _measured_classes(), characters, han)
    return characters, han


@lru_cache(maxsize=1)
def _measured_classes() -> np.ndarray:
    classes = np.ones(TABLE_SIZE, np.int64)
    classes[:0x21] = 0
    classes[[0xA0, 0x3000]] = 0
    for first, end in _HAN_BLOCKS:
        classes[first:end] |= 1 << 32
    return classes


@compiled
def _survey(
    data: np.ndarray,
    offsets: np.ndarray,
    classes: np.ndarray,
    words: np.ndarray,
    longest_item: int,
    longest_line: int,
    repeated_from: int,
    lines: np.ndarray,
    flags: np.ndarray,
) -> None:
    for row in range(offsets.size - 1):
        position = np.uint64(offsets[row])
        end = np.uint64(offsets[row + 1])
        seen = np.int32(0)
        found = np.int32(0)
        before = np.int32(SPACE)  # a text that begins with white space is untidy
        is_first = True
        code_before = np.uint32(0)
        digits = 0
        gap = 0
        line_hash = np.uint64(0)
        line_length = 0
        item_hash = np.uint64(0)
        item_length = 0
        known = np.int64(0)
        is_bar = True
        blank = 0
        count = 0
        while True:
            if position < end:
                code, position = decode(data, position)
                kind = classes[code] if code < TABLE_SIZE else np.int32(SYMBOL)
            elif is_first:
                break
            else:
                code, kind, position = np.uint32(_LINE_FEED), classes[_LINE_FEED], end + np.uint64(1)
            seen |= kind
            if (kind & LATIN) and (before & LATIN_FIRST):
                found |= np.int32(LATIN)
            if (kind & PAIR_SECOND) and (before & PAIR_FIRST):
                found |= np.int32(WORDS)
            if (kind & WIDE_FIRST) and code_before < 0x80:
                found |= np.int32(WIDE_FIRST)
            code_before = code
            if kind & DIGIT:
                digits += 1
                gap = 0
                if digits >= _NUMBER_DIGITS:
                    found |= np.int32(NUMBERS)
            else:
                gap += 1
                if gap > 1:
                    digits = 0
            if is_first and (kind & SPACE):
                found |= np.int32(UNTIDY)
            if kind & (SEPARATOR | SENTENCE):
                if item_length > longest_item:
                    is_bar = False
                elif item_length:
                    place = np.searchsorted(words, item_hash)
                    known += place < words.size and words[place] == item_hash
                item_hash = np.uint64(0)
                item_length = 0
                if kind & SENTENCE:
                    is_bar = False
            else:
                item_hash = item_hash * _BASE + np.uint64(code)
                item_length += 1
            if code == _LINE_FEED:
                if before & TRAILING and not is_first:
                    found |= np.int32(UNTIDY)
                if is_bar and known and line_length <= longest_line:
                    found |= np.int32(NAVIGATION)
                blank = blank + 1 if line_length == 0 else 1
                if blank > 2:
                    found |= np.int32(UNTIDY)
                if line_length >= repeated_from:
                    lines[count] = mix(line_hash ^ np.uint64(line_length))
                    count += 1
                line_hash = np.uint64(0)
                line_length = 0
                known = np.int64(0)
                is_bar = True
                if position > end:
                    break
            else:
                if line_length == 0 and (kind & INDENT):
                    found |= np.int32(UNTIDY)
                line_hash = line_hash * _BASE + np.uint64(code)
                line_length += 1
            before = kind
            is_first = False
        if not is_first and before & SPACE:
            found |= np.int32(UNTIDY)
        if seen & AT:
            found |= np.int32(NUMBERS)
        if count > 1:
            ordered = np.sort(lines[:count])
            for index in range(1, count):
                if ordered[index] == ordered[index - 1]:
                    found |= np.int32(REPEATED)
                    break
        flags[row] = found | (seen & np.int32(SYMBOL | UNIFY | TRADITIONAL | BREAK))


@compiled
def _measure(
    data: np.ndarray, offsets: np.ndarray, classes: np.ndarray, characters: np.ndarray, han: np.ndarray
) -> None:
    for row in range(offsets.size - 1):
        position = np.uint64(offsets[row])
        end = np.uint64(offsets[row + 1])
        total = np.int64(0)
        while position < end:
            code, position = decode(data, position)
            total += classes[code] if code < TABLE_SIZE else np.int64(1)
        characters[row] = total & np.int64(0xFFFFFFFF)
        han[row] = total >> np.int64(32)


@compiled
def _count_words(data: np.ndarray, offsets: np.ndarray, classes: np.ndarray, words: np.ndarray) -> None:
    for row in range(offsets.size - 1):
        position = np.uint64(offsets[row])
        end = np.uint64(offsets[row + 1])
        is_inside = False
        count = np.int64(0)
        while position < end:
            code, position = decode(data, position)
            kind = classes[code] if code < TABLE_SIZE else np.uint8(0)
            if kind == 1 and not is_inside:
                count += 1
                is_inside = True
            elif kind == 3:
                count += 1
                is_inside = False
            elif kind == 0:
                is_inside = False
        words[row] = count
