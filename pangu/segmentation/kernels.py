"""The segmentation of jieba 0.42.1 as compiled loops over character codes.

A text is cut in four steps, each as in jieba:

1. Blocks: maximal runs of `[\\u4E00-\\u9FD5a-zA-Z0-9+#&._%-]`. Outside blocks every character is a token, `\\r\\n` one.
2. In a block, the most probable route through the words of the dictionary (`Tokenizer.calc`).
3. Runs of one-character words on that route: left alone when the run is itself a word, else given to
4. `finalseg`: hidden Markov model (states B, M, E, S) on Han, a regular expression on the rest.

Character codes are described in `tables.py`. `ends` is uint8, 1 where a token ends.
"""

import numpy as np

from pangu.segmentation.compiled import compiled
from pangu.segmentation.tables import DOT, FIRST_HAN, FIRST_LETTER, OUTSIDE, PAST_LETTERS, PERCENT, Tables

BEGIN, MIDDLE, END, SINGLE = 0, 1, 2, 3


@compiled
def mark_token_ends(points: np.ndarray, tables: Tables) -> np.ndarray:
    """Cut the text with these code points (uint32[n]). Returns `ends`, uint8[n]."""
    length = len(points)
    codes = np.empty(length, np.uint16)
    longest, run = 0, 0
    for i in range(length):
        point = points[i]
        code = tables.code_of[point] if point < 65536 else np.uint16(OUTSIDE)
        codes[i] = code
        run = run + 1 if code != OUTSIDE else 0
        longest = max(longest, run)
    ends = np.zeros(length, np.uint8)
    route = np.empty(longest + 1, np.float64)
    last_of_word = np.empty(longest, np.int32)
    came_from = np.empty(longest, np.uint8)
    i = 0
    while i < length:
        if codes[i] == OUTSIDE:
            if points[i] == 13 and i + 1 < length and points[i + 1] == 10:
                i += 1
            ends[i] = 1
            i += 1
        else:
            stop = i + 1
            while stop < length and codes[stop] != OUTSIDE:
                stop += 1
            _cut_block(codes[i:stop], tables, route, last_of_word, came_from, ends[i:stop])
            i = stop
    return ends


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

    `came_from[i]`: bit s is set when state s at i came from the later-named of its two predecessors, which also
    wins a tie: B from E or S, M from B or M, E from B or M, S from E or S.
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
            if state == BEGIN or state == SINGLE:
                state = SINGLE if later else END
            else:
                state = MIDDLE if later else BEGIN


@compiled
def place_families(labels: np.ndarray, first: np.ndarray, sizes: np.ndarray, codes: int) -> np.ndarray:
    """The base of each family of siblings of a double array, such that no two nodes share a slot.

    Family f has the labels `labels[first[f] : first[f] + sizes[f]]`, ascending. Slots below `codes` are taken.
    Families should come largest first: the small ones fill the gaps. Returns int32[families].
    """
    bases = np.empty(len(first), np.int32)
    used = np.zeros(4 * len(labels) + 4 * codes, np.bool_)
    used[:codes] = True
    lowest_free = codes
    for family in range(len(first)):
        siblings = labels[first[family] : first[family] + sizes[family]]
        while used[lowest_free]:
            lowest_free += 1
        slot = max(lowest_free, siblings[0] + 1)
        while True:
            fits = True
            for label in siblings:
                if used[slot - siblings[0] + label]:
                    fits = False
                    break
            if fits:
                break
            slot += 1
        bases[family] = slot - siblings[0]
        for label in siblings:
            used[slot - siblings[0] + label] = True
    return bases


@compiled
def join_tokens(points: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """UTF-8 (uint8[bytes]) of the tokens joined by spaces, a space of the text itself written ▂ and a newline ▃."""
    out = np.empty(5 * len(points) + 1, np.uint8)
    size = 0
    for i in range(len(points)):
        point = points[i]
        if point == 0x20:
            point = np.uint32(0x2582)
        elif point == 0x0A:
            point = np.uint32(0x2583)
        if point < 0x80:
            out[size] = point
            size += 1
        elif point < 0x800:
            out[size] = 0xC0 | point >> 6
            out[size + 1] = 0x80 | point & 0x3F
            size += 2
        elif point < 0x10000:
            out[size] = 0xE0 | point >> 12
            out[size + 1] = 0x80 | point >> 6 & 0x3F
            out[size + 2] = 0x80 | point & 0x3F
            size += 3
        else:
            out[size] = 0xF0 | point >> 18
            out[size + 1] = 0x80 | point >> 12 & 0x3F
            out[size + 2] = 0x80 | point >> 6 & 0x3F
            out[size + 3] = 0x80 | point & 0x3F
            size += 4
        if ends[i]:
            out[size] = 0x20
            size += 1
    return out[: max(size - 1, 0)]
