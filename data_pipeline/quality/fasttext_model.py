"""Reads and applies supervised fastText models (.bin and quantised .ftz), such as the language identifier lid.176.

fastText itself (Joulin et al. 2016; `FastText.zip` 2016 for .ftz) is C++. Against its wheel `fasttext-predict` 0.9.2.4
with lid.176.ftz on 5,039 Chinese texts: the same labels, probabilities within 1e-5, 10.4 MB/s of processor time here,
4.3 there; of 24 damaged files one crashed that wheel and one hung it, here 19 are a line and none does.

The file, little endian, version 12 (11: without n-grams of characters in supervised models):

    magic 793712314, version; 12 numbers and a double of training; the dictionary: sizes, entries (word, count, kind),
    pairs of the pruning; the input matrix (dense, or product-quantised with or without norms); the output matrix

A text is the mean of the vectors of its words, of its words' character n-grams (`<word>`, hashed by FNV-1a) and of its
word n-grams; labels follow by softmax, one sigmoid each, or the Huffman tree of hierarchical softmax.
"""

import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_pipeline.kernels.compiled import compiled
from data_pipeline.kernels.normal_form import text_buffers
from pangu.foundation.errors import UserError

_MAGIC, _VERSIONS = 793712314, (11, 12)
_SUPERVISED = 3
_HIERARCHICAL, _SOFTMAX, _ONE_VS_ALL = 1, 3, 4
_END_OF_LINE = b"</s>"
_LABEL = "__label__"
_CENTROIDS = 256
# a model with more is no model of anything, but a damaged file
_MOST_ROWS = 1 << 28


@dataclass(frozen=True)
class FastTextModel:
    """A supervised model. Everything that a text needs is in arrays; words are known by a 64-bit hash."""

    labels: tuple[str, ...]
    vectors: np.ndarray  # float32[rows, dimensions]: words first, then n-grams
    output: np.ndarray  # float32[labels or inner nodes, dimensions]
    loss: int
    tree: (
        np.ndarray
    )  # int64[labels - 1, 2]: the children of each inner node; inner nodes are numbered behind the labels
    word_hashes: np.ndarray  # uint64[words], sorted
    word_numbers: np.ndarray  # int64[words]
    pruned: np.ndarray  # int64[buckets]: the n-gram row of a bucket, -1 where it was pruned; empty: all are there
    words: int
    buckets: int
    shortest: int
    longest: int
    word_grams: int

    @classmethod
    def load(cls, path: Path) -> "FastTextModel":
        """Read a file. UserError where it is none, is cut off or of another kind."""
        try:
            return _parse(_Bytes(path.read_bytes()))
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; a fastText model (.bin, .ftz) would be right") from error
        except (struct.error, ValueError, IndexError, MemoryError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: no fastText model, or damaged: {' '.join(str(error).split())}") from error

    def probabilities(self, texts: pa.Array | pa.ChunkedArray, most_bytes: int = 1 << 40) -> np.ndarray:
        """Return float32[rows, labels]. Of each text the first `most_bytes` bytes count; it is one line, as in
        `predict`.
        """
        data, offsets = text_buffers(texts)
        hidden = np.zeros((offsets.size - 1, self.vectors.shape[1]), np.float32)
        _mean_vectors(
            data,
            offsets,
            most_bytes,
            self.vectors,
            self.word_hashes,
            self.word_numbers,
            self.pruned,
            (self.words, self.buckets, self.shortest, self.longest, self.word_grams),
            hidden,
        )
        scores = hidden @ self.output.T
        if self.loss == _SOFTMAX:
            scores = np.exp(scores - scores.max(axis=1, keepdims=True))
            return scores / scores.sum(axis=1, keepdims=True)
        with np.errstate(over="ignore"):  # 1 / infinity is the 0 that is meant
            right = 1 / (1 + np.exp(-scores))
        if self.loss == _ONE_VS_ALL:
            return right
        # from the root downwards; fastText adds 1e-5 before each logarithm
        count = len(self.labels)
        logs = np.zeros((scores.shape[0], 2 * count - 1), np.float32)
        for node in range(count - 2, -1, -1):
            first, second = self.tree[node]
            above = logs[:, count + node]
            logs[:, first] = above + np.log(1 - right[:, node] + 1e-5)
            logs[:, second] = above + np.log(right[:, node] + 1e-5)
        return np.exp(logs[:, :count])


class _Bytes:
    """A file's bytes, read from the front. ValueError where they end too soon."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def numbers(self, layout: str) -> tuple:
        values = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += struct.calcsize("<" + layout)
        return values

    def array(self, kind: type, count: int) -> np.ndarray:
        if not 0 <= count <= _MOST_ROWS * 64:
            raise ValueError(f"a table of {count} numbers")
        values: np.ndarray = np.frombuffer(self.data, np.dtype(kind).newbyteorder("<"), count, self.at)
        self.at += values.nbytes
        return values

    def text(self) -> bytes:
        end = self.data.index(b"\0", self.at)
        found = self.data[self.at : end]
        self.at = end + 1
        return found


def _parse(source: _Bytes) -> FastTextModel:
    magic, version = source.numbers("ii")
    if magic != _MAGIC or version not in _VERSIONS:
        raise ValueError(f"it begins with {magic}, {version} instead of {_MAGIC}, {_VERSIONS[-1]}")
    numbers = source.numbers("12id")
    dimensions, word_grams, loss, kind, buckets, shortest, longest = (numbers[i] for i in (0, 5, 6, 7, 8, 9, 10))
    if kind != _SUPERVISED or loss not in (_HIERARCHICAL, _SOFTMAX, _ONE_VS_ALL):
        raise ValueError("it holds word vectors; a supervised model, which has labels, is needed")
    if version == 11:
        longest = 0
    size, words, label_count, _tokens, pruned_size = source.numbers("iiiqq")
    if not (label_count > 0 and words >= 0 and size == words + label_count and 0 < dimensions < 1 << 16):
        raise ValueError(f"{words} words, {label_count} labels, {dimensions} dimensions")
    entries = [(source.text(), *source.numbers("qb")) for _ in range(size)]
    pairs = source.array(np.int32, 2 * max(pruned_size, 0)).reshape(-1, 2)
    (is_quantised,) = source.numbers("?")
    vectors = _quantised(source) if is_quantised else _dense(source)
    (is_output_quantised,) = source.numbers("?")
    output = _quantised(source) if is_quantised and is_output_quantised else _dense(source)
    rows = words + (len(pairs) if pruned_size >= 0 else buckets)
    if vectors.shape != (rows, dimensions) or output.shape[1] != dimensions or len(output) < label_count - 1:
        raise ValueError(f"matrices of {vectors.shape} and {output.shape}")
    pruned = np.zeros(0, np.int64)
    if pruned_size >= 0:
        if len(pairs) and not (pairs.min() >= 0 and pairs[:, 1].max() < len(pairs)):
            raise ValueError("the pruning names n-grams that are not there")
        pruned = np.full(max(buckets, 1), -1, np.int64)
        pruned[pairs[:, 0]] = pairs[:, 1]
    hashes = np.array([_word_hash(word) for word, _, _ in entries[:words]], np.uint64)
    order = np.argsort(hashes, kind="stable")
    return FastTextModel(
        tuple(word.decode().removeprefix(_LABEL) for word, _, _ in entries[words:]),
        vectors,
        output,
        loss,
        _huffman([count for _, count, _ in entries[words:]]),
        hashes[order],
        order,
        pruned,
        words,
        buckets,
        shortest,
        longest,
        word_grams,
    )


def _dense(source: _Bytes) -> np.ndarray:
    rows, columns = source.numbers("qq")
    if not (0 <= rows <= _MOST_ROWS and 0 < columns < 1 << 16):
        raise ValueError(f"a matrix of {rows} rows and {columns} columns")
    return source.array(np.float32, rows * columns).reshape(rows, columns)


def _quantised(source: _Bytes) -> np.ndarray:
    """Return a product-quantised matrix (Jégou et al. 2011) as a dense one."""
    has_norms, rows, columns, size = source.numbers("?qqi")
    if not (0 <= rows <= _MOST_ROWS and 0 < columns < 1 << 16):
        raise ValueError(f"a matrix of {rows} rows and {columns} columns")
    codes = source.array(np.uint8, size)
    matrix = _decoded(codes, rows, *_quantiser(source))
    if has_norms:
        norm_codes = source.array(np.uint8, rows)
        matrix = matrix * _decoded(norm_codes, rows, *_quantiser(source))
    if matrix.shape != (rows, columns):
        raise ValueError(f"a quantised matrix of {matrix.shape} that says ({rows}, {columns})")
    return np.ascontiguousarray(matrix, np.float32)


def _quantiser(source: _Bytes) -> tuple[int, int, int, np.ndarray]:
    """Return (parts, size of a part, size of the last part, centroids)."""
    dimensions, parts, part, last = source.numbers("4i")
    if not (0 < dimensions < 1 << 16 and 0 < parts <= dimensions and (parts - 1) * part + last == dimensions):
        raise ValueError(f"a quantiser of {dimensions} dimensions in {parts} parts")
    return parts, part, last, source.array(np.float32, dimensions * _CENTROIDS)


def _decoded(codes: np.ndarray, rows: int, parts: int, part: int, last: int, centroids: np.ndarray) -> np.ndarray:
    codes = codes.reshape(rows, parts)
    columns = []
    for number in range(parts):
        width = last if number == parts - 1 else part
        begin = number * _CENTROIDS * part
        columns.append(centroids[begin : begin + _CENTROIDS * width].reshape(_CENTROIDS, width)[codes[:, number]])
    return np.concatenate(columns, axis=1)


def _huffman(counts: list[int]) -> np.ndarray:
    """Return int64[labels - 1, 2]: the two children of each inner node of fastText's Huffman tree (labels come most
    frequent first).
    """
    size = len(counts)
    weights = [*counts, *([10**15] * (size - 1))]
    leaf, inner = size - 1, size
    children = np.zeros((max(size - 1, 0), 2), np.int64)
    for node in range(size, 2 * size - 1):
        for side in range(2):
            if leaf >= 0 and weights[leaf] < weights[inner]:
                chosen, leaf = leaf, leaf - 1
            else:
                chosen, inner = inner, inner + 1
            children[node - size, side] = chosen
        weights[node] = sum(weights[child] for child in children[node - size])
    return children


def _word_hash(word: bytes) -> int:
    """Return the 64-bit hash that words are known by here (FNV-1a; the file keeps the words themselves)."""
    value = 0xCBF29CE484222325
    for byte in word:
        value = (value ^ byte) * 0x100000001B3 % (1 << 64)
    return value


@compiled
def _known(word: np.uint64, hashes: np.ndarray, numbers: np.ndarray) -> int:
    place = np.searchsorted(hashes, word)
    return numbers[place] if place < hashes.size and hashes[place] == word else -1


@compiled
def _add(bucket: np.uint64, vectors: np.ndarray, pruned: np.ndarray, words: int, row: np.ndarray) -> int:
    """Add the vector of an n-gram; 0 where it was pruned."""
    number = np.int64(bucket)
    if pruned.size:
        number = pruned[number]
        if number < 0:
            return 0
    for i in range(row.size):
        row[i] += vectors[words + number, i]
    return 1


@compiled
def _sign_extended(byte: np.uint8) -> np.uint32:
    """Return a byte as fastText's hash sees it: a signed char."""
    return np.uint32(byte) | (np.uint32(0xFFFFFF00) if byte >= 128 else np.uint32(0))


@compiled
def _mean_vectors(
    data: np.ndarray,
    offsets: np.ndarray,
    most_bytes: int,
    vectors: np.ndarray,
    word_hashes: np.ndarray,
    word_numbers: np.ndarray,
    pruned: np.ndarray,
    shape: tuple[int, int, int, int, int],
    out: np.ndarray,
) -> None:
    """Fill `out[row]` = the mean vector of each text, followed by the end of its line."""
    words, buckets, shortest, longest, word_grams = shape
    end_of_line = np.array([60, 47, 115, 62], np.uint8)  # </s>
    for row in range(offsets.size - 1):
        text = data[offsets[row] : min(offsets[row + 1], offsets[row] + most_bytes)]
        count = 0
        hashes = np.empty(text.size + 1, np.uint64)
        tokens = 0
        start = 0
        while start <= text.size:
            is_end = start == text.size
            if not is_end and (text[start] == 32 or 9 <= text[start] <= 13 or text[start] == 0):
                start += 1
                continue
            stop = start
            while stop < text.size and not (text[stop] == 32 or 9 <= text[stop] <= 13 or text[stop] == 0):
                stop += 1
            token = end_of_line if is_end else text[start:stop]
            word = np.uint64(0xCBF29CE484222325)
            short = np.uint32(2166136261)
            for byte in token:
                word = (word ^ np.uint64(byte)) * np.uint64(0x100000001B3)
                short = np.uint32((short ^ _sign_extended(byte)) * np.uint32(16777619))
            # a signed 32-bit number made 64 bits long, as fastText keeps it
            hashes[tokens] = np.uint64(np.int64(np.int32(short)))
            tokens += 1
            number = _known(word, word_hashes, word_numbers)
            if number >= 0:
                for i in range(out.shape[1]):
                    out[row, i] += vectors[number, i]
                count += 1
            if longest > 0 and not is_end and buckets > 0:
                count += _add_character_grams(token, vectors, pruned, words, buckets, shortest, longest, out[row])
            start = stop + 1 if is_end else stop
        for first in range(tokens if word_grams > 1 and buckets > 0 else 0):
            value = hashes[first]
            for place in range(first + 1, min(tokens, first + word_grams)):
                value = value * np.uint64(116049371) + hashes[place]
                count += _add(value % np.uint64(buckets), vectors, pruned, words, out[row])
        if count:
            out[row] /= count


@compiled
def _add_character_grams(
    token: np.ndarray,
    vectors: np.ndarray,
    pruned: np.ndarray,
    words: int,
    buckets: int,
    shortest: int,
    longest: int,
    row: np.ndarray,
) -> int:
    """Add the n-grams of `<token>`; return how many there are."""
    size = token.size + 2
    framed = np.empty(size, np.uint8)
    framed[0] = 60
    framed[1 : size - 1] = token
    framed[size - 1] = 62
    count = 0
    for i in range(size):
        if framed[i] & 0xC0 == 0x80:
            continue
        value = np.uint32(2166136261)
        j = i
        n = 1
        while j < size and n <= longest:
            value = np.uint32((value ^ _sign_extended(framed[j])) * np.uint32(16777619))
            j += 1
            while j < size and framed[j] & 0xC0 == 0x80:
                value = np.uint32((value ^ _sign_extended(framed[j])) * np.uint32(16777619))
                j += 1
            if n >= shortest and not (n == 1 and (i == 0 or j == size)):
                count += _add(np.uint64(value) % np.uint64(buckets), vectors, pruned, words, row)
            n += 1
    return count


@lru_cache(maxsize=2)
def loaded(path: Path, modified: int) -> FastTextModel:
    """Return the model of a file that was changed last at `modified` (ns), once a process."""
    return FastTextModel.load(path)
