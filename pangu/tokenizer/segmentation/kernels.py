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

from pangu.tokenizer.lazily_compiled import Compiled

OUTSIDE = 0
FIRST_DIGIT = 1
FIRST_LETTER = FIRST_DIGIT + 10
PAST_LETTERS = FIRST_LETTER + 52
DOT = PAST_LETTERS
PERCENT = DOT + 1
FIRST_HAN = PERCENT + 6

BEGIN, MIDDLE, END, SINGLE = 0, 1, 2, 3


class Tables(NamedTuple):
    """What the loops read. `n` codes, `m` slots of the trie (see `pangu.tokenizer.double_array`)."""

    code_of: np.ndarray  # uint16[65536], by code point
    # A node takes 16 bytes, which are read together: the first two of int32[m, 4] are its base and its check, the
    # second of float64[m, 2] is the weight of the word that ends there, log(frequency) - log(total), or -inf where none
    # does. The weight of node OUTSIDE is that of a character which begins no word: log(1) - log(total).
    links: np.ndarray
    weights: np.ndarray
    start: np.ndarray  # float64[4], by state
    transition: np.ndarray  # float64[4, 4], from, to
    emission: np.ndarray  # float64[n, 4]


@Compiled
def _unpack(packed: np.ndarray) -> Tables:
    bounds = packed[:80].view(np.int64)
    nodes = packed[bounds[2] : bounds[3]]
    return Tables(
        packed[bounds[0] : bounds[1]].view(np.uint16),
        nodes.view(np.int32).reshape(-1, 4),
        nodes.view(np.float64).reshape(-1, 2),
        packed[bounds[4] : bounds[5]].view(np.float64),
        packed[bounds[6] : bounds[7]].view(np.float64).reshape(4, 4),
        packed[bounds[8] : bounds[9]].view(np.float64).reshape(-1, 4),
    )


@Compiled
def mark_token_ends(points: np.ndarray, text_stops: np.ndarray, packed: np.ndarray) -> np.ndarray:
    """Cut texts that stand one after the other.

    `points`: uint32[n], their code points; `text_stops`: int64[texts], where each stops; `packed`: code_of, the nodes,
    start, transition and emission of Tables. Returns `ends`, uint8[n].
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
                begin = i
                while i < text_stop and codes[i] != OUTSIDE:
                    i += 1
                _cut_block(codes, begin, i, tables, route, last_of_word, came_from, ends)
    return ends


@Compiled
def find_token_stops(points: np.ndarray, packed: np.ndarray) -> np.ndarray:
    """Return where each token of one text stops, int64[tokens]. Arguments as those of `mark_token_ends`."""
    return np.flatnonzero(mark_token_ends(points, np.array([len(points)]), packed)) + 1


@Compiled
def _cut_block(
    codes: np.ndarray,
    first: int,
    stop: int,
    tables: Tables,
    route: np.ndarray,
    last_of_word: np.ndarray,
    came_from: np.ndarray,
    ends: np.ndarray,
) -> None:
    """Take steps 2 and 3 for the block codes[first:stop]. The places in `route` and `last_of_word` count from
    `first`."""
    links, weights = tables.links, tables.weights
    route[stop - first] = 0.0
    for i in range(stop - 1, first - 1, -1):
        node = np.int32(codes[i])
        best = weights[node, 1] + route[i + 1 - first]
        last = i
        for j in range(i + 1, stop):
            base = links[node, 0]
            if base == 0:
                break
            child = base + np.int32(codes[j])
            if links[child, 1] != node:
                break
            node = child
            weight = weights[node, 1]
            if weight != -np.inf:
                score = weight + route[j + 1 - first]
                # jieba takes the maximum of tuples (score, last), so the longer word wins a tie
                if score >= best:
                    best, last = score, j
        if best == -np.inf:
            best = weights[OUTSIDE, 1] + route[i + 1 - first]
        route[i - first] = best
        last_of_word[i - first] = last

    i, singles_from = first, -1
    while i < stop:
        last = last_of_word[i - first]
        if last == i:
            if singles_from < 0:
                singles_from = i
        else:
            if singles_from >= 0:
                _cut_singles(codes, singles_from, i, tables, came_from, ends)
                singles_from = -1
            ends[last] = 1
        i = last + 1
    if singles_from >= 0:
        _cut_singles(codes, singles_from, stop, tables, came_from, ends)


@Compiled
def _cut_singles(
    codes: np.ndarray, first: int, stop: int, tables: Tables, came_from: np.ndarray, ends: np.ndarray
) -> None:
    """Take steps 3 and 4 for a run of one-character words."""
    if stop - first == 1 or _is_word(codes, first, stop, tables):
        ends[first:stop] = 1
        return
    i = first
    while i < stop:
        begin = i
        i += 1
        if codes[begin] >= FIRST_HAN:
            while i < stop and codes[i] >= FIRST_HAN:
                i += 1
            _cut_han(codes, begin, i, tables, came_from, ends)
        elif codes[begin] < PAST_LETTERS:
            # [a-zA-Z0-9]+(?:\.\d+)?%?
            while i < stop and codes[i] < PAST_LETTERS:
                i += 1
            if i + 1 < stop and codes[i] == DOT and codes[i + 1] < FIRST_LETTER:
                i += 2
                while i < stop and codes[i] < FIRST_LETTER:
                    i += 1
            if i < stop and codes[i] == PERCENT:
                i += 1
            ends[i - 1] = 1
        else:
            while i < stop and PAST_LETTERS <= codes[i] < FIRST_HAN:
                i += 1
            ends[i - 1] = 1


@Compiled
def _is_word(codes: np.ndarray, first: int, stop: int, tables: Tables) -> bool:
    """Return whether codes[first:stop] is in the dictionary with a frequency above 0."""
    node = np.int32(codes[first])
    for i in range(first + 1, stop):
        base = tables.links[node, 0]
        child = base + np.int32(codes[i])
        if base == 0 or tables.links[child, 1] != node:
            return False
        node = child
    return tables.weights[node, 1] != -np.inf


@Compiled
def _cut_han(codes: np.ndarray, first: int, stop: int, tables: Tables, came_from: np.ndarray, ends: np.ndarray) -> None:
    """Find the most probable states of a run of Han (`finalseg.viterbi`); a token ends at E and at S.

    `came_from[i - first]`: bit s is set when state s at i came from the later of its two predecessors in the order
    B, M, E, S, which is also the one that wins a tie: B from E or S, M from B or M, E from B or M, S from E or S.
    """
    emission, transition = tables.emission, tables.transition
    code = codes[first]
    begin = tables.start[BEGIN] + emission[code, BEGIN]
    middle = tables.start[MIDDLE] + emission[code, MIDDLE]
    end = tables.start[END] + emission[code, END]
    single = tables.start[SINGLE] + emission[code, SINGLE]
    for i in range(first + 1, stop):
        code = codes[i]
        # the order of additions is jieba's: (score + transition) + emission
        begin_from_end = end + transition[END, BEGIN] + emission[code, BEGIN]
        begin_from_single = single + transition[SINGLE, BEGIN] + emission[code, BEGIN]
        middle_from_begin = begin + transition[BEGIN, MIDDLE] + emission[code, MIDDLE]
        middle_from_middle = middle + transition[MIDDLE, MIDDLE] + emission[code, MIDDLE]
        end_from_begin = begin + transition[BEGIN, END] + emission[code, END]
        end_from_middle = middle + transition[MIDDLE, END] + emission[code, END]
        single_from_end = end + transition[END, SINGLE] + emission[code, SINGLE]
        single_from_single = single + transition[SINGLE, SINGLE] + emission[code, SINGLE]
        came_from[i - first] = (
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
    for i in range(stop - 1, first - 1, -1):
        if state >= END:
            ends[i] = 1
        if i > first:
            later = (came_from[i - first] >> state) & 1
            state = (END if state in (BEGIN, SINGLE) else BEGIN) + later
