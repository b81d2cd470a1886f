"""SentencePiece's Unigram encoding as compiled loops, equal to `SentencePieceProcessor.encode` of 0.2.3 in every id.

The best path through the pieces is summed in float32 in SentencePiece's order, from the left, with its way of breaking
ties (the first of equal candidates stays) and of keeping the sum small, so that even paths that differ by a rounding
come out the same. The pieces lie in a trie over character codes instead of bytes, which for Chinese is a third of the
steps; normalisation is one look-up per character.

Symbols: the code of a character of the pieces (from 1), or UNKNOWN.
"""

from typing import NamedTuple

import numpy as np

from pangu.tokenizer.lazily_compiled import Compiled

UNKNOWN = 0
SPACE = -1  # in a normalised sequence: a space, which is dropped after another one


class Unigram(NamedTuple):
    """What the loops read."""

    # int32, by code point: a symbol, or -1 - s for the sequence s of several or no symbols; from its length on, UNKNOWN
    becomes: np.ndarray
    sequences: np.ndarray  # int32: the sequences one after the other, of symbols and SPACE
    sequence_starts: np.ndarray  # int32: where each sequence starts, and where the last one stops
    # A node takes 16 bytes, which are read together: the first three of int32[m, 4] are its base, its check (see
    # `pangu.tokenizer.double_array`) and the id of the piece that ends there, or -1; the fourth of float32[m, 4] is
    # its score.
    links: np.ndarray
    scores: np.ndarray
    unknown_score: np.ndarray  # float32[1]
    mark: np.ndarray  # int32[1], the symbol of ▁
    unknown_id: np.ndarray  # int32[1]
    byte_ids: np.ndarray  # int32[256], the ids of the byte pieces; empty without byte fallback


@Compiled
def _unpack(packed: np.ndarray) -> Unigram:
    bounds = packed[:128].view(np.int64)
    nodes = packed[bounds[6] : bounds[7]]
    return Unigram(
        packed[bounds[0] : bounds[1]].view(np.int32),
        packed[bounds[2] : bounds[3]].view(np.int32),
        packed[bounds[4] : bounds[5]].view(np.int32),
        nodes.view(np.int32).reshape(-1, 4),
        nodes.view(np.float32).reshape(-1, 4),
        packed[bounds[8] : bounds[9]].view(np.float32),
        packed[bounds[10] : bounds[11]].view(np.int32),
        packed[bounds[12] : bounds[13]].view(np.int32),
        packed[bounds[14] : bounds[15]].view(np.int32),
    )


@Compiled
def encode_words(
    points: np.ndarray, ends: np.ndarray, text_stops: np.ndarray, packed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Encode segmented texts that stand one after the other, as if each were its tokens joined by spaces.

    `points`: uint32[n], their code points; `ends`: uint8[n], 1 where a token ends; `text_stops`: int64[texts], where
    each stops; `packed`: the fields of Unigram, the nodes once. Returns the ids (int32) and where those of each text
    stop (int64[texts]).
    """
    tables = _unpack(packed)
    room = 0
    begin = 0
    for stop in text_stops:
        room = max(room, _most_symbols(points[begin:stop], ends[begin:stop], tables))
        begin = stop
    symbols = np.empty(room, np.int32)
    score, start, piece = np.empty(room + 1, np.float32), np.empty(room + 1, np.int32), np.empty(room + 1, np.int32)
    ids = np.empty(len(points) + room, np.int32)
    id_stops = np.empty(len(text_stops), np.int64)
    size = 0
    begin = 0
    for text in range(len(text_stops)):
        stop = text_stops[text]
        length = _normalise(points[begin:stop], ends[begin:stop], tables, symbols)
        _find_best_path(symbols[:length], tables, score, start, piece)
        if size + length > len(ids):
            ids = np.concatenate((ids, np.empty(len(ids) + length, np.int32)))
        first = size
        while length > 0:
            # a run of unknown characters is one unknown piece
            if piece[length] != tables.unknown_id[0] or size == first or ids[size - 1] != piece[length]:
                ids[size] = piece[length]
                size += 1
            length = start[length]
        ids[first:size] = ids[first:size][::-1].copy()
        id_stops[text] = size
        begin = stop
    return ids[:size], id_stops


@Compiled
def encode_lossless(points: np.ndarray, text_stops: np.ndarray, packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Encode texts that stand one after the other, character by character; the unknown ones become bytes.

    Arguments and results are those of `encode_words`.
    """
    tables = _unpack(packed)
    room = 0
    begin = 0
    for stop in text_stops:
        room = max(room, stop - begin)
        begin = stop
    symbols = np.empty(room, np.int32)
    score, start, piece = np.empty(room + 1, np.float32), np.empty(room + 1, np.int32), np.empty(room + 1, np.int32)
    ids = np.empty(len(points) + 4 * room, np.int32)
    id_stops = np.empty(len(text_stops), np.int64)
    size = 0
    begin = 0
    for text in range(len(text_stops)):
        stop = text_stops[text]
        length = stop - begin
        for i in range(length):
            point = points[begin + i]
            symbols[i] = tables.becomes[point] if point < len(tables.becomes) else UNKNOWN
        _find_best_path(symbols[:length], tables, score, start, piece)
        if size + 4 * length > len(ids):
            ids = np.concatenate((ids, np.empty(len(ids) + 4 * length, np.int32)))
        first = size
        while length > 0:
            if piece[length] != tables.unknown_id[0]:
                ids[size] = piece[length]
                size += 1
            else:
                size = _append_bytes_reversed(points[begin + length - 1], tables.byte_ids, ids, size)
            length = start[length]
        ids[first:size] = ids[first:size][::-1].copy()
        id_stops[text] = size
        begin = stop
    return ids[:size], id_stops


@Compiled
def _most_symbols(points: np.ndarray, ends: np.ndarray, tables: Unigram) -> int:
    """Return no fewer symbols than `_normalise` writes."""
    count = 1
    for i in range(len(points)):
        symbol = tables.becomes[points[i]] if points[i] < len(tables.becomes) else UNKNOWN
        count += ends[i]
        count += 1 if symbol >= 0 else tables.sequence_starts[-symbol] - tables.sequence_starts[-1 - symbol]
    return count


@Compiled
def _normalise(points: np.ndarray, ends: np.ndarray, tables: Unigram, symbols: np.ndarray) -> int:
    """Write the symbols of one text: a mark before each token, no mark after another. Returns how many there are."""
    mark = tables.mark[0]
    symbols[0] = mark
    length = 1
    after_space = True
    for i in range(len(points)):
        symbol = tables.becomes[points[i]] if points[i] < len(tables.becomes) else UNKNOWN
        if symbol >= 0:
            symbols[length] = symbol
            length += 1
            after_space = False
        else:
            # spaces are dropped where the text before ends with one, but not inside what one character becomes
            drop = after_space
            for symbol_or_space in tables.sequences[
                tables.sequence_starts[-1 - symbol] : tables.sequence_starts[-symbol]
            ]:
                after_space = symbol_or_space == SPACE
                drop = drop and after_space
                if not drop:
                    symbols[length] = mark if after_space else symbol_or_space
                    length += 1
        if ends[i] and not after_space:
            symbols[length] = mark
            length += 1
            after_space = True
    while length > 0 and symbols[length - 1] == mark:
        length -= 1
    return length


@Compiled
def _find_best_path(
    symbols: np.ndarray, tables: Unigram, score: np.ndarray, start: np.ndarray, piece: np.ndarray
) -> None:
    """Write for each place where a piece of the best paths stops: the sum until there, where the piece starts, its
    id."""
    length = len(symbols)
    links, scores = tables.links, tables.scores
    unknown_score, unknown_id = tables.unknown_score[0], tables.unknown_id[0]
    score[0] = 0
    start[: length + 1] = -1
    farthest = 0
    for begin in range(length):
        if abs(score[begin]) > np.float32(100000):
            offset = score[begin]
            for i in range(begin, farthest + 1):
                if i == begin or start[i] != -1:
                    score[i] -= offset
        so_far = score[begin]
        alone = False  # is there a piece of this one character?
        node = symbols[begin]
        stop = begin + 1
        while True:
            if links[node, 2] != -1:
                candidate = scores[node, 3] + so_far
                if start[stop] == -1 or candidate > score[stop]:
                    score[stop], start[stop], piece[stop] = candidate, begin, links[node, 2]
                alone = alone or stop == begin + 1
                farthest = max(farthest, stop)
            base = links[node, 0]
            if base == 0 or stop == length:
                break
            child = base + symbols[stop]
            if links[child, 1] != node:
                break
            node = child
            stop += 1
        if not alone:
            candidate = unknown_score + so_far
            farthest = max(farthest, begin + 1)
            if start[begin + 1] == -1 or candidate > score[begin + 1]:
                score[begin + 1], start[begin + 1], piece[begin + 1] = candidate, begin, unknown_id


@Compiled
def _append_bytes_reversed(point: int, byte_ids: np.ndarray, ids: np.ndarray, size: int) -> int:
    """Write the ids of a character's UTF-8 bytes, the last byte first. Returns the new size."""
    if point < 0x80:
        ids[size] = byte_ids[point]
        return size + 1
    rest = int(point)
    lead, most = 0xC0, 0x20  # the first byte of two, and where what it can hold ends
    while True:
        ids[size] = byte_ids[0x80 | rest & 0x3F]
        size += 1
        rest >>= 6
        if rest < most:
            ids[size] = byte_ids[lead | rest]
            return size + 1
        lead, most = lead >> 1 | 0x80, most >> 1
