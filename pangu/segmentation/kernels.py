"""The segmentation of jieba 0.42.1 as compiled loops over character codes.

A text is cut in four steps, each as in jieba:

1. Blocks: maximal runs of `[\\u4E00-\\u9FD5a-zA-Z0-9+#&._%-]`. Outside blocks every character is a token, `\\r\\n` one.
2. In a block, the most probable route through the words of the dictionary (`Tokenizer.calc`).
3. Runs of one-character words on that route: left alone when the run is itself a word, else given to
4. `finalseg`: hidden Markov model (states B, M, E, S) on Han, a regular expression on the rest.

Character codes (uint16): 0 is any character outside a block; then the digits, the letters, `.`, `%`, the other five
ASCII characters of a block, and Han: first the code of every Han character that jieba has no entry for, then one code
for each that it has. So a comparison tells the class of a character. `ends` is uint8, 1 where a token ends.

Everything that is compiled together stands in this one file: numba's cache looks at no other for changes.
"""

from typing import NamedTuple

import numpy as np

from pangu.compiled import compiled

OUTSIDE = 0
FIRST_DIGIT = 1
FIRST_LETTER = FIRST_DIGIT + 10
PAST_LETTERS = FIRST_LETTER + 52
DOT = PAST_LETTERS
PERCENT = DOT + 1
FIRST_HAN = PERCENT + 6

BEGIN, MIDDLE, END, SINGLE = 0, 1, 2, 3


class Tables(NamedTuple):
    """What the loops read. `n` codes, `m` slots of the trie (see `pangu.double_array`)."""

    code_of: np.ndarray  # uint16[65536], by code point
    base: np.ndarray  # int32[m]
    check: np.ndarray  # int32[m]
    # float64[m], log(frequency) - log(total); -inf where the prefix is no word.
    # weight[OUTSIDE] is that of a character which begins no word: log(1) - log(total)
    weight: np.ndarray
    start: np.ndarray  # float64[4], by state
    transition: np.ndarray  # float64[4, 4], from, to
    emission: np.ndarray  # float64[n, 4]


@compiled
def _unpack(packed: np.ndarray) -> Tables:
    bounds = packed[:112].view(np.int64)
    return Tables(
        packed[bounds[0] : bounds[1]].view(np.uint16),
        packed[bounds[2] : bounds[3]].view(np.int32),
        packed[bounds[4] : bounds[5]].view(np.int32),
        packed[bounds[6] : bounds[7]].view(np.float64),
        packed[bounds[8] : bounds[9]].view(np.float64),
        packed[bounds[10] : bounds[11]].view(np.float64).reshape(4, 4),
        packed[bounds[12] : bounds[13]].view(np.float64).reshape(-1, 4),
    )


@compiled
def mark_token_ends(points: np.ndarray, text_stops: np.ndarray, packed: np.ndarray) -> np.ndarray:
    """Cut texts that stand one after the other.

    `points`: uint32[n], their code points; `text_stops`: int64[texts], where each stops; `packed`: the fields of
    Tables. Returns `ends`, uint8[n].
    """
    tables = _unpack(packed)
    codes = np.empty(len(points), np.uint16)
    longest, run = 0, 0
    for i in range(len(points)):
        point = points[i]
        code = tables.code_of[point] if point < 65536 else np.uint16(OUTSIDE)
        codes[i] = code
        run = run + 1 if code != OUTSIDE else 0
        longest = max(longest, run)
    ends = np.zeros(len(points), np.uint8)
    route = np.empty(longest + 1, np.float64)
    last_of_word = np.empty(longest, np.int32)
    came_from = np.empty(longest, np.uint8)
    i = 0
    for text_stop in text_stops:
        while i < text_stop:
            if codes[i] == OUTSIDE:
                if points[i] == 0x0D and i + 1 < text_stop and points[i + 1] == 0x0A:
                    i += 1
                ends[i] = 1
                i += 1
            else:
                stop = i + 1
                while stop < text_stop and codes[stop] != OUTSIDE:
                    stop += 1
                _cut_block(codes[i:stop], tables, route, last_of_word, came_from, ends[i:stop])
                i = stop
    return ends


@compiled
def find_token_stops(points: np.ndarray, packed: np.ndarray) -> np.ndarray:
    """Where each token of one text stops, int64[tokens]. Arguments as those of `mark_token_ends`."""
    return np.flatnonzero(mark_token_ends(points, np.array([len(points)]), packed)) + 1


@compiled
def _cut_block(
    codes: np.ndarray,
    tables: Tables,
    route: np.ndarray,
    last_of_word: np.ndarray,
    came_from: np.ndarray,
    ends: np.ndarray,
) -> None:
    """Steps 2 and 3 for one block. `route`, `last_of_word` and `came_from` are scratch space."""
    length = len(codes)
    base, check, weight = tables.base, tables.check, tables.weight
    route[length] = 0.0
    for i in range(length - 1, -1, -1):
        node = np.int32(codes[i])
        best = weight[node] + route[i + 1]
        last = i
        for j in range(i + 1, length):
            if base[node] == 0:
                break
            child = base[node] + codes[j]
            if check[child] != node:
                break
            node = child
            if weight[node] != -np.inf:
                score = weight[node] + route[j + 1]
                # jieba takes the maximum of tuples (score, last), so the longer word wins a tie
                if score >= best:
                    best, last = score, j
        if best == -np.inf:
            best = weight[OUTSIDE] + route[i + 1]
        route[i] = best
        last_of_word[i] = last

    begin, singles_from = 0, -1
    while begin < length:
        last = last_of_word[begin]
        if last == begin:
            if singles_from < 0:
                singles_from = begin
        else:
            if singles_from >= 0:
                _cut_singles(codes[singles_from:begin], tables, came_from, ends[singles_from:begin])
                singles_from = -1
            ends[last] = 1
        begin = last + 1
    if singles_from >= 0:
        _cut_singles(codes[singles_from:], tables, came_from, ends[singles_from:])


@compiled
def _cut_singles(codes: np.ndarray, tables: Tables, came_from: np.ndarray, ends: np.ndarray) -> None:
    """Steps 3 and 4 for a run of one-character words."""
    length = len(codes)
    if length == 1 or _is_word(codes, tables):
        ends[:] = 1
        return
    i = 0
    while i < length:
        stop = i + 1
        if codes[i] >= FIRST_HAN:
            while stop < length and codes[stop] >= FIRST_HAN:
                stop += 1
            _cut_han(codes[i:stop], tables, came_from, ends[i:stop])
        elif codes[i] < PAST_LETTERS:
            # [a-zA-Z0-9]+(?:\.\d+)?%?
            while stop < length and codes[stop] < PAST_LETTERS:
                stop += 1
            if stop + 1 < length and codes[stop] == DOT and codes[stop + 1] < FIRST_LETTER:
                stop += 2
                while stop < length and codes[stop] < FIRST_LETTER:
                    stop += 1
            if stop < length and codes[stop] == PERCENT:
                stop += 1
            ends[stop - 1] = 1
        else:
            while stop < length and PAST_LETTERS <= codes[stop] < FIRST_HAN:
                stop += 1
            ends[stop - 1] = 1
        i = stop


@compiled
def _is_word(codes: np.ndarray, tables: Tables) -> bool:
    """Is this whole run in the dictionary with a frequency above 0?"""
    node = np.int32(codes[0])
    for code in codes[1:]:
        if tables.base[node] == 0:
            return False
        child = tables.base[node] + code
        if tables.check[child] != node:
            return False
        node = child
    return tables.weight[node] != -np.inf


@compiled
def _cut_han(codes: np.ndarray, tables: Tables, came_from: np.ndarray, ends: np.ndarray) -> None:
    """The most probable states of a run of Han (`finalseg.viterbi`); a token ends at E and at S.

    `came_from[i]`: bit s is set when state s at i came from the later of its two predecessors in the order B, M, E, S,
    which is also the one that wins a tie: B from E or S, M from B or M, E from B or M, S from E or S.
    """
    length = len(codes)
    emission, transition = tables.emission, tables.transition
    begin = tables.start[BEGIN] + emission[codes[0], BEGIN]
    middle = tables.start[MIDDLE] + emission[codes[0], MIDDLE]
    end = tables.start[END] + emission[codes[0], END]
    single = tables.start[SINGLE] + emission[codes[0], SINGLE]
    for i in range(1, length):
        emitted = emission[codes[i]]
        # the order of additions is jieba's: (score + transition) + emission
        begin_from_end = end + transition[END, BEGIN] + emitted[BEGIN]
        begin_from_single = single + transition[SINGLE, BEGIN] + emitted[BEGIN]
        middle_from_begin = begin + transition[BEGIN, MIDDLE] + emitted[MIDDLE]
        middle_from_middle = middle + transition[MIDDLE, MIDDLE] + emitted[MIDDLE]
        end_from_begin = begin + transition[BEGIN, END] + emitted[END]
        end_from_middle = middle + transition[MIDDLE, END] + emitted[END]
        single_from_end = end + transition[END, SINGLE] + emitted[SINGLE]
        single_from_single = single + transition[SINGLE, SINGLE] + emitted[SINGLE]
        came_from[i] = (
            (begin_from_single >= begin_from_end) << BEGIN
            | (middle_from_middle >= middle_from_begin) << MIDDLE
            | (end_from_middle >= end_from_begin) << END
            | (single_from_single >= single_from_end) << SINGLE
        )
        begin = max(begin_from_end, begin_from_single)
        middle = max(middle_from_begin, middle_from_middle)
        end = max(end_from_begin, end_from_middle)
        single = max(single_from_end, single_from_single)
    state = SINGLE if single >= end else END
    for i in range(length - 1, -1, -1):
        if state >= END:
            ends[i] = 1
        if i > 0:
            later = (came_from[i] >> state) & 1
            state = (END if state in (BEGIN, SINGLE) else BEGIN) + later
