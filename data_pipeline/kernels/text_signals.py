"""What can be measured of a text without a model, for a whole column at once: the signals that the filter's rules look
at.

Every signal has its source in SIGNALS. White space does not count in shares; a share of nothing is 0. Where the source
counts n-grams of words, units stand in, because segmentation would cost ten times everything else together: a unit is a
letter, or a whole run of Latin letters and digits, so that English and addresses do not look like repetition. Chinese
words have about 1.7 characters, so n words are read as 2n units.
"""

from functools import lru_cache

import numpy as np
import pyarrow as pa

from data_pipeline.kernels.compiled import compiled
from data_pipeline.kernels.minhash import mix
from data_pipeline.kernels.normal_form import TABLE_SIZE, text_buffers
from data_pipeline.kernels.windows import code_points

# name -> what it is, and whose it is
SIGNALS = {
    "characters": "characters that are not white space (PanGu-α 3.1, cc_net, ChineseWebText)",
    "han_share": "Chinese characters (PanGu-α 3.1; ChineseWebText)",
    "kana_share": "Japanese kana",
    "hangul_share": "Korean",
    "latin_share": "Latin letters",
    "digit_share": "digits",
    "alphanumeric_share": "letters and digits of all scripts (data-juicer alphanumeric_filter)",
    "special_share": "neither letter, digit nor Chinese punctuation (after data-juicer special_characters_filter)",
    "invisible_share": "zero-width characters and direction marks",
    "mojibake_share": "replacement and private characters, C1 controls, 锟斤拷 and its like, runs of 烫 or 屯",
    "function_word_share": "的了是在 among Chinese characters: low in lists of keywords",
    "stop_word_kinds": "how many of 的年在月是和日了 occur (Gopher's stop words, FineWeb-2's list for Chinese)",
    "short_term_share": "runs of letters that are 2 to 4 Chinese characters: high in lists of keywords",
    "lines": "lines that are not blank",
    "mean_line_length": "characters in such a line (ChineseWebText)",
    "punctuated_line_share": "lines that end a sentence (C4; FineWeb line_punct)",
    "short_line_share": "lines of at most 30 characters (FineWeb short_line)",
    "bullet_line_share": "lines that begin with a bullet (Gopher)",
    "ellipsis_line_share": "lines that end in an ellipsis (Gopher)",
    "duplicate_line_share": "lines that were there before (Gopher, FineWeb)",
    "duplicate_line_character_share": "characters in them (Gopher, FineWeb)",
    "top_4_gram_share": "units in the most frequent 4-gram (Gopher's top 2 words)",
    "top_6_gram_share": "units in the most frequent 6-gram (Gopher's top 3 words)",
    "top_8_gram_share": "units in the most frequent 8-gram (Gopher's top 4 words)",
    "duplicate_10_gram_share": "10-grams that were there before (Gopher's duplicate 5 words)",
    "repetition_10": "repeated 10-grams, the most frequent ones (data-juicer character_repetition_filter)",
    "repeated_13_gram_share": "13-grams that occur more than once (ChineseWebText)",
}
NAMES = tuple(SIGNALS)

FUNCTION_WORDS = "的了是在"
STOP_WORDS = "的年在月是和日了"
CHINESE_PUNCTUATION = "，。、；：？！“”‘’（）《》〈〉【】「」『』…—·～"
SENTENCE_ENDS = "。！？…”；.!?\"'’」』"
BULLETS = "•●○■□▪▫◆◇★☆·*-–—➢►▶√"
INVISIBLE = "\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff\u00ad"
# The beginnings of UTF-8 sequences read as GBK, and U+FFFD encoded and read so; none is a character of modern text.
MOJIBAKE = "锟鈥銆锛鐨鎴脙鍥鍦\ufffd"
_RUN_MOJIBAKE = "烫屯"  # uninitialised memory, 0xCC and 0xCD, read as GBK

_SPACE, _HAN, _KANA, _HANGUL, _LATIN, _DIGIT, _LETTER, _CHINESE_MARK = (1 << bit for bit in range(8))
_END, _BULLET, _INVISIBLE, _MOJIBAKE, _FUNCTION, _RUN, _STOP = (1 << bit for bit in range(8, 15))
_HAN_BLOCKS = ((0x3007, 0x3008), (0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00), (0x20000, 0x323B0))
_KANA_BLOCKS = ((0x3041, 0x3097), (0x30A1, 0x30FB), (0x31F0, 0x3200), (0xFF66, 0xFF9E))
_HANGUL_BLOCKS = ((0x1100, 0x1200), (0x3131, 0x318F), (0xAC00, 0xD7A4))
_LATIN_BLOCKS = (
    (0x41, 0x5B),
    (0x61, 0x7B),
    (0xC0, 0xD7),
    (0xD8, 0xF7),
    (0xF8, 0x250),
    (0x1E00, 0x1F00),
    (0xFF21, 0xFF3B),
    (0xFF41, 0xFF5B),
)
_BROKEN_BLOCKS = ((0x80, 0xA0), (0xE000, 0xF900))  # C1 controls, private use
_SHORT_LINE = 30
_BASE = np.uint64(0x9E3779B97F4A7C15)
_PART_KEYS = 1 << 15  # keys whose hash table (768 KiB) stays in a core's second cache


@lru_cache(maxsize=1)
def class_table() -> tuple[np.ndarray, np.ndarray]:
    """Return uint8[262144], the class of each code point, and uint16[classes], the bits of each class.

    Only some twenty combinations of bits occur, so that counting classes costs one addition a character.
    """
    table = np.zeros(TABLE_SIZE, np.uint16)
    regular = ((0x0, 0x3400), (0x4DC0, 0x4E00), (0xA000, 0xAC00), (0xD7A4, 0xD800), (0xF900, 0x20000))
    for first, end in regular:
        for code in range(first, end):
            character = chr(code)
            if character.isalnum():
                table[code] = _LETTER | (_DIGIT if character.isdecimal() else 0)
            elif character.isspace():
                table[code] = _SPACE
    for bits, blocks in (
        (_HAN | _LETTER, _HAN_BLOCKS),
        (_KANA | _LETTER, _KANA_BLOCKS),
        (_HANGUL | _LETTER, _HANGUL_BLOCKS),
        (_LATIN | _LETTER, _LATIN_BLOCKS),
        (_MOJIBAKE, _BROKEN_BLOCKS),
    ):
        for first, end in blocks:
            table[first:end] |= bits
    for bit, characters in (
        (_CHINESE_MARK, CHINESE_PUNCTUATION),
        (_END, SENTENCE_ENDS),
        (_BULLET, BULLETS),
        (_INVISIBLE, INVISIBLE),
        (_MOJIBAKE, MOJIBAKE),
        (_FUNCTION, FUNCTION_WORDS),
        (_RUN, _RUN_MOJIBAKE),
        (_STOP, STOP_WORDS),
    ):
        for character in characters:
            table[ord(character)] |= bit
    class_bits, classes = np.unique(table, return_inverse=True)
    return classes.astype(np.uint8), class_bits


def text_signals(texts: pa.Array | pa.ChunkedArray) -> dict[str, np.ndarray]:
    """Return float64[rows] for each name in SIGNALS."""
    data, offsets = text_buffers(texts)
    values = np.empty(int(offsets[-1] - offsets[0]), np.uint32)
    ends = np.zeros(offsets.size, np.int64)
    values = values[: code_points(data, offsets, values, ends)]
    out = np.zeros((offsets.size - 1, len(NAMES)), np.float64)
    stop_words = np.array([ord(character) for character in STOP_WORDS], np.uint32)
    _signals(values, ends, *class_table(), stop_words, out)
    return {name: np.ascontiguousarray(out[:, column]) for column, name in enumerate(NAMES)}


@compiled
def _signals(
    values: np.ndarray,
    offsets: np.ndarray,
    table: np.ndarray,
    class_bits: np.ndarray,
    stop_words: np.ndarray,
    out: np.ndarray,
) -> None:
    """Fill `out` (float64[rows, signals]) for rows of code points."""
    longest = np.diff(offsets).max() if offsets.size > 1 else np.int64(0)
    units = np.empty(longest, np.uint32)
    bits = np.empty(longest, np.uint16)
    above = table[-1]  # code points above the table are unassigned, as its last one is
    counts = np.empty(class_bits.size, np.int64)
    for row in range(offsets.size - 1):
        text = values[offsets[row] : offsets[row + 1]]
        counts[:] = 0
        for i in range(text.size):
            code = text[i]
            kind = table[code] if code < TABLE_SIZE else above
            counts[kind] += 1
            bits[i] = class_bits[kind]
        _measure_classes(counts, class_bits, out[row])
        count = _measure_runs(text, bits[: text.size], stop_words, units, out[row])
        _measure_lines(text, bits[: text.size], out[row])
        _measure_repetition(units[:count], out[row])


@compiled
def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


@compiled
def _measure_classes(counts: np.ndarray, class_bits: np.ndarray, out: np.ndarray) -> None:
    """Measure signals 0 to 10, from how often each class of characters occurs; without the runs of signal 9."""
    totals = np.zeros(14, np.int64)
    characters = 0
    special = 0
    for kind in range(counts.size):
        bits = class_bits[kind]
        if bits & _SPACE:
            continue
        characters += counts[kind]
        special += counts[kind] if not bits & (_LETTER | _CHINESE_MARK) else 0
        for bit in range(14):
            totals[bit] += counts[kind] if bits & (1 << bit) else 0
    out[0] = characters
    for bit in range(1, 7):
        out[bit] = _share(totals[bit], characters)
    out[7] = _share(special, characters)
    out[8] = _share(totals[10], characters)
    out[9] = _share(totals[11], characters)
    out[10] = _share(totals[12], totals[1])


@compiled
def _measure_runs(
    text: np.ndarray, bits: np.ndarray, stop_words: np.ndarray, units: np.ndarray, out: np.ndarray
) -> int:
    """Measure signals 9 (its runs), 11 and 12. Writes the text's units (uint32) to `units` and returns how many there
    are."""
    stop_seen = np.zeros(stop_words.size, np.int64)
    written = 0
    terms = 0
    short_terms = 0
    term = 0  # letters of the current run
    term_is_han = True
    run = 0  # 烫 or 屯 in a row
    broken = 0
    word = np.uint64(0)  # hash of the current run of Latin letters and digits, 0 outside of one
    for i in range(text.size + 1):
        b = bits[i] if i < text.size else np.uint16(0)
        if b & (_LATIN | _DIGIT):
            word = (word * _BASE + np.uint64(text[i])) | np.uint64(1)
        elif word:
            units[written] = np.uint32(mix(word) >> np.uint64(33)) | np.uint32(0x80000000)
            written += 1
            word = np.uint64(0)
        if b & _LETTER:
            term += 1
            term_is_han = term_is_han and (b & _HAN) != 0
            if not b & (_LATIN | _DIGIT):
                units[written] = text[i]
                written += 1
        elif term:
            terms += 1
            short_terms += term_is_han and 2 <= term <= 4
            term = 0
            term_is_han = True
        if run and b & _RUN and text[i] == text[i - 1]:
            run += 1
        else:
            broken += run if run >= 3 else 0
            run = 1 if b & _RUN else 0
        if b & _STOP:
            for place in range(stop_words.size):
                stop_seen[place] |= text[i] == stop_words[place]
    out[9] += _share(broken, out[0])
    out[11] = stop_seen.sum()
    out[12] = _share(short_terms, terms)
    return written


@compiled
def _measure_lines(text: np.ndarray, bits: np.ndarray, out: np.ndarray) -> None:
    """Measure signals 13 to 20. A line is what stands between line feeds, without white space at its ends, if not
    empty."""
    most = 1
    for i in range(text.size):
        most += text[i] == 10
    hashes = np.empty(most, np.uint64)
    lengths = np.empty(most, np.int64)
    lines = 0
    total = 0
    ended = 0
    short = 0
    bullets = 0
    ellipses = 0
    start = 0
    while start <= text.size:
        stop = start
        while stop < text.size and text[stop] != 10:
            stop += 1
        following = stop + 1
        while start < stop and bits[start] & _SPACE:
            start += 1
        while stop > start and bits[stop - 1] & _SPACE:
            stop -= 1
        if stop > start:
            length = stop - start
            word = np.uint64(length)
            for i in range(start, stop):
                word = word * _BASE + np.uint64(text[i])
            hashes[lines] = mix(word)
            lengths[lines] = length
            lines += 1
            total += length
            ended += (bits[stop - 1] & _END) != 0
            short += length <= _SHORT_LINE
            bullets += (bits[start] & _BULLET) != 0
            last = text[stop - 1]
            dots = length >= 3 and last == 46 and text[stop - 2] == 46 and text[stop - 3] == 46
            ellipses += last == 0x2026 or dots
        start = following
    order = np.argsort(hashes[:lines])
    duplicates = 0
    duplicate_characters = 0
    for i in range(1, lines):
        if hashes[order[i]] == hashes[order[i - 1]]:
            duplicates += 1
            duplicate_characters += lengths[order[i]]
    out[13] = lines
    out[14] = _share(total, lines)
    out[15] = _share(ended, lines)
    out[16] = _share(short, lines)
    out[17] = _share(bullets, lines)
    out[18] = _share(ellipses, lines)
    out[19] = _share(duplicates, lines)
    out[20] = _share(duplicate_characters, total)


@compiled
def _gram_key(units: np.ndarray, start: int, gram: int) -> np.uint64:
    """Return the hash of an n-gram; never 0, the mark of an empty place."""
    word = np.uint64(0)
    for j in range(start, start + gram):
        word = word * _BASE + np.uint64(units[j])
    return mix(word) | np.uint64(1)


@compiled
def _repeated_grams(units: np.ndarray, gram: int, at: np.ndarray) -> np.ndarray:
    """Return how often each n-gram occurs that begins at several of the positions `at` (int32, in no order). `at` is
    compacted in place: its first `sum` positions, in their order, are those of these n-grams.

    Keys are first dealt into parts by their upper bits, so that the hash table of a part stays in the cache, however
    long the text is.
    """
    parts = 1
    while at.size > parts * _PART_KEYS:
        parts *= 2
    shift = np.uint64(64 - int(np.log2(parts)))
    starts = np.zeros(parts + 1, np.int64)
    if parts > 1:
        for i in range(at.size):
            starts[np.int64(_gram_key(units, at[i], gram) >> shift) + 1] += 1
        starts = np.cumsum(starts)
    else:
        starts[1] = at.size
    keys = np.empty(at.size, np.uint64)
    order = np.empty(at.size, np.int32)
    ends = starts[:-1].copy()
    for i in range(at.size):
        key = _gram_key(units, at[i], gram)
        part = np.int64(key >> shift) if parts > 1 else 0
        keys[ends[part]] = key
        order[ends[part]] = i
        ends[part] += 1
    is_repeated = np.zeros(at.size, np.bool_)
    size = 16
    while size < 2 * np.diff(starts).max():
        size *= 2
    table = np.zeros(size, np.uint64)
    counts = np.zeros(size, np.int32)
    places = np.empty(np.diff(starts).max(), np.int64)
    repeated = np.empty(at.size // 2, np.int32)
    found = 0
    for part in range(parts):
        first, last = starts[part], starts[part + 1]
        table[:] = 0
        counts[:] = 0
        for i in range(first, last):
            key = keys[i]
            place = np.int64(key >> np.uint64(20)) & (size - 1)
            while table[place] != 0 and table[place] != key:
                place = (place + 1) & (size - 1)
            table[place] = key
            counts[place] += 1
            places[i - first] = place
        for i in range(first, last):
            is_repeated[order[i]] = counts[places[i - first]] > 1
        for count in counts:
            if count > 1:
                repeated[found] = count
                found += 1
    left = 0
    for i in range(at.size):
        if is_repeated[i]:
            at[left] = at[i]
            left += 1
    return repeated[:found]


@compiled
def _measure_repetition(units: np.ndarray, out: np.ndarray) -> None:
    """Measure signals 21 to 26.

    An n-gram can occur twice only where the shorter n-gram that it begins with does, so each size looks at what the
    size before it has left: nearly nothing in ordinary text.
    """
    at = np.arange(units.size, dtype=np.int32)
    column = 21
    for gram in (4, 6, 8, 10, 13):
        grams = max(0, units.size - gram + 1)
        while at.size and at[-1] >= grams:
            at = at[:-1]
        repeated = _repeated_grams(units, gram, at)
        if gram <= 8:
            top = repeated.max() if repeated.size else 0
            out[column] = _share(min(top * gram, units.size), units.size)
        elif gram == 10:
            kinds = grams - (repeated.sum() - repeated.size)
            out[column] = _share(grams - kinds, grams)
            column += 1
            out[column] = _share(np.sort(repeated)[::-1][: int(np.sqrt(kinds))].sum(), grams)
        else:
            out[column] = _share(repeated.sum(), grams)
        column += 1
        at = at[: repeated.sum()]
