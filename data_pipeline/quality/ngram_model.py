"""How usual a text is: the perplexity of an n-gram model of characters, trained on a clean sample (as cc_net does).

* **The estimate** is interpolated modified Kneser-Ney (Chen and Goodman 1998, section 3), with one <s> before and one
  </s> behind each line, unigrams interpolated with the uniform distribution over characters, </s> and <unk>, as KenLM's
  lmplz does it (Heafield et al. 2013). Rare n-grams of the higher orders can be left out (`prune`); their mass goes to
  the back-off, so that every distribution still sums to one.
* **Characters instead of SentencePiece pieces**: a Chinese piece has 1.7 characters, so order 5 sees about three words;
  and a score needs no tokenizer.
* **The model is a trie** that reads a context from its last character backwards. A node of depth n is an n-gram: the
  character that it adds on the left, log10 of its probability, log10 of its back-off, and where its children begin. One
  walk a character finds the longest n-gram known and, on the way, the back-offs that the next character may need.

Perplexity is 10^(-Σ log10 p / tokens), the end of each line being a token.
"""

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from data_pipeline.kernels.compiled import compiled
from data_pipeline.kernels.normal_form import TABLE_SIZE
from data_pipeline.quality import model_file
from data_pipeline.quality.reading import NEWLINE, read
from pangu.foundation.errors import UserError
from pangu.foundation.settings import Section

KIND = "language model"
UNKNOWN, BEGIN, END = 0, 1, 2  # <unk>, <s>, </s>; the characters follow, the most frequent first
_FIRST_CHARACTER = 3
_WORD_BITS = 18  # of a key: enough for every code point of TABLE_SIZE
LEAST_CHARACTERS = 1000
_LEVEL_ARRAYS = ("words", "log_probability", "log_back_off", "first_child")
# discounts where the counts are too few to estimate them, as lmplz --discount_fallback
_FALLBACK = (0.5, 1.0, 1.5)


class LanguageModelSettings(Section):
    """How a language model is trained. Order 5 is cc_net's."""

    order: int = Field(default=5, description="characters that an n-gram has at most", ge=2, le=8)
    prune: int = Field(
        default=1, description="n-grams of 4 characters and more that occur no more often are left out", ge=0
    )
    most_characters: int = Field(
        default=5_000_000, description="of the sample; memory grows with it: about 200 bytes each", ge=1
    )


@dataclass(frozen=True)
class Level:
    """The nodes of one depth, sorted by parent, then by character."""

    words: np.ndarray  # uint32: the character that the n-gram has more on the left than its parent
    log_probability: np.ndarray  # float32: log10 p(last character | the ones before)
    log_back_off: np.ndarray  # float32: log10 of the back-off weight of the n-gram as a context
    first_child: np.ndarray  # int64[nodes + 1]: where the children of each node begin in the next level


@dataclass(frozen=True)
class NgramModel:
    """A trained model. Level 0 has a node for every word, in the order of their numbers."""

    settings: LanguageModelSettings
    characters: np.ndarray  # uint32[words - 3]: the code point of each word from number 3 on
    levels: tuple[Level, ...]
    figures: dict[str, Any]

    def log_probabilities(self, texts: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
        """Return float64[rows], Σ log10 p of each text, and int64[rows], its tokens (characters and ends of lines)."""
        words, starts = _words(read(texts), self._numbers)
        sums = np.zeros(starts.size - 1)
        tokens = np.zeros(starts.size - 1, np.int64)
        _score(words, starts, *self._arrays, self.settings.order, sums, tokens)
        return sums, tokens

    def perplexities(self, texts: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Return float64[rows]: the perplexity a token of each text; NaN of a text without characters."""
        sums, tokens = self.log_probabilities(texts)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(tokens > 0, 10.0 ** np.minimum(-sums / tokens, 300.0), np.nan)

    @functools.cached_property
    def _numbers(self) -> np.ndarray:
        return _number_table(self.characters)

    @functools.cached_property
    def _arrays(self) -> tuple[np.ndarray, ...]:
        """Return the levels one after the other: words, probabilities, back-offs; where a node's children begin and
        end.
        """
        sizes = [level.words.size for level in self.levels]
        behind = np.cumsum(sizes)  # where the next level begins
        inner = self.levels[:-1]
        return (
            *(np.concatenate([getattr(level, name) for level in self.levels]) for name in _LEVEL_ARRAYS[:3]),
            np.concatenate([level.first_child[:-1] + base for level, base in zip(inner, behind, strict=False)]),
            np.concatenate([level.first_child[1:] + base for level, base in zip(inner, behind, strict=False)]),
        )

    def content(self) -> model_file.ModelContent:
        """Return the model as `model_file` keeps it."""
        arrays = {"characters": self.characters}
        for depth, level in enumerate(self.levels, 1):
            for name in _LEVEL_ARRAYS:
                arrays[f"{depth}.{name}"] = getattr(level, name)
        return model_file.ModelContent(KIND, {"settings": self.settings.model_dump(), "figures": self.figures}, arrays)

    def save(self, path: Path) -> str:
        """Write the model; returns its fingerprint."""
        return model_file.save(path, self.content())

    @classmethod
    def load(cls, path: Path) -> "NgramModel":
        """Read a model that `save` wrote; UserError where it is none."""
        content = model_file.load(path, KIND)
        settings = LanguageModelSettings(**content.about["settings"])
        arrays = content.arrays
        depths = range(1, settings.order + 1)
        levels = tuple(Level(*(arrays[f"{depth}.{name}"] for name in _LEVEL_ARRAYS)) for depth in depths)
        return cls(settings, arrays["characters"], levels, content.about["figures"])


def train(texts: Iterable[str], settings: LanguageModelSettings) -> NgramModel:
    """Estimate a model from a clean sample, of which the first `most_characters` count."""
    points = read(pa.array(list(_up_to(texts, settings.most_characters)), pa.large_string()))
    if points.values.size < LEAST_CHARACTERS:
        raise UserError(
            f"a language model from {points.values.size} characters would say nothing; {LEAST_CHARACTERS} are the least"
        )
    codes, counts = np.unique(points.values[points.values != NEWLINE], return_counts=True)
    characters = codes[np.lexsort((codes, -counts))].astype(np.uint32)
    words, _ = _words(points, _number_table(characters))
    levels = _estimate(words, characters.size + _FIRST_CHARACTER, settings)
    figures = {
        "characters": int(points.values.size),
        "vocabulary": int(characters.size),
        "ngrams": [int(level.words.size) for level in levels],
    }
    return NgramModel(settings, characters, levels, figures)


def _up_to(texts: Iterable[str], most: int) -> Iterator[str]:
    """Yield texts until they have `most` characters together; the last one is cut."""
    left = most
    for text in texts:
        if left <= 0:
            return
        yield text[:left]
        left -= len(text)


def _number_table(characters: np.ndarray) -> np.ndarray:
    """Return uint32[262144]: code point -> number of the word, UNKNOWN for others."""
    table = np.full(TABLE_SIZE, UNKNOWN, np.uint32)
    table[characters] = np.arange(_FIRST_CHARACTER, characters.size + _FIRST_CHARACTER, dtype=np.uint32)
    return table


def _words(points: Any, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the texts as words, <s> … </s> for each line: uint32[words], and int64[rows + 1], where each text
    begins.
    """
    values, offsets = points
    lines = int(np.count_nonzero(values == NEWLINE)) + offsets.size - 1
    words = np.empty(values.size + 2 * lines, np.uint32)
    starts = np.zeros(offsets.size, np.int64)
    return words[: _number_lines(values, offsets, numbers, words, starts)], starts


@compiled
def _number_lines(
    values: np.ndarray, offsets: np.ndarray, numbers: np.ndarray, words: np.ndarray, starts: np.ndarray
) -> int:
    written = 0
    for row in range(offsets.size - 1):
        is_open = False
        for i in range(offsets[row], offsets[row + 1]):
            if not is_open:
                words[written] = BEGIN
                written += 1
                is_open = True
            if values[i] == NEWLINE:
                words[written] = END
                is_open = False
            else:
                words[written] = numbers[values[i]]
            written += 1
        if is_open:
            words[written] = END
            written += 1
        starts[row + 1] = written
    return written


def _estimate(words: np.ndarray, vocabulary: int, settings: LanguageModelSettings) -> tuple[Level, ...]:
    """Return modified Kneser-Ney over `words`; nodes of the trie, depth by depth.

    `nodes` holds, for each position and the order at hand, the node of the n-gram that ends there, -1 where the line is
    not that long. The parent of a node is its n-gram without the first word (the one to back off to), its context is
    the node of the (n-1)-gram that ends one position before.
    """
    place = np.arange(words.size)
    begins = np.maximum.accumulate(np.where(words == BEGIN, place, 0))
    room = place - begins + 1  # the longest n-gram that ends here
    nodes = words.astype(np.int64)
    parents, lefts = [np.zeros(vocabulary, np.int64)], [np.arange(vocabulary)]
    contexts = [np.zeros(vocabulary, np.int64)]
    raw_counts = [np.bincount(words, minlength=vocabulary)]
    for order in range(2, settings.order + 1):
        long_enough = np.flatnonzero(room >= order)
        left = words[long_enough - order + 1].astype(np.int64)
        keys = nodes[long_enough] << _WORD_BITS | left
        distinct, first, inverse, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
        contexts.append(nodes[long_enough[first] - 1])
        nodes = np.full(words.size, -1, np.int64)
        nodes[long_enough] = inverse
        parents.append(distinct >> _WORD_BITS)
        lefts.append(distinct & ((1 << _WORD_BITS) - 1))
        raw_counts.append(counts)
    return _smooth(parents, lefts, contexts, raw_counts, vocabulary, settings)


def _smooth(
    parents: list[np.ndarray],
    lefts: list[np.ndarray],
    contexts: list[np.ndarray],
    raw_counts: list[np.ndarray],
    vocabulary: int,
    settings: LanguageModelSettings,
) -> tuple[Level, ...]:
    """Return probabilities and back-offs of all nodes, without those that `prune` leaves out."""
    orders = len(parents)
    kept = [np.ones(raw.size, bool) if n < 3 else raw > settings.prune for n, raw in enumerate(raw_counts)]
    back_offs: list[np.ndarray] = []
    probability = np.zeros(0)
    probabilities: list[np.ndarray] = []
    for n in range(orders):
        counts = _adjusted(raw_counts[n], lefts[n], parents[n + 1] if n + 1 < orders else None)
        if n == 0:
            counts[BEGIN] = 0  # <s> is never predicted
        size = 1 if n == 0 else raw_counts[n - 1].size
        discount = _discounts(counts)[np.minimum(counts, 3)]
        total = np.bincount(contexts[n], counts, size)
        freed = np.bincount(contexts[n], np.where(kept[n], discount, counts), size)
        with np.errstate(invalid="ignore", divide="ignore"):
            back_off = np.where(total > 0, freed / total, 1.0)
        own = np.maximum(counts - discount, 0) / np.maximum(total, 1)[contexts[n]]
        lower = np.full(vocabulary, 1 / (vocabulary - 1)) if n == 0 else probability[parents[n]]
        probability = own + back_off[contexts[n]] * lower
        probabilities.append(probability)
        if n:
            back_offs.append(back_off)
    back_offs.append(np.ones(raw_counts[-1].size))
    probabilities[0][BEGIN] = 1.0  # log10 0; nothing asks for it
    return _levels(parents, lefts, kept, probabilities, back_offs)


def _adjusted(raw: np.ndarray, left: np.ndarray, parents_of_next: np.ndarray | None) -> np.ndarray:
    """Return Kneser-Ney's counts: how many different words stand before an n-gram; how often it occurs where none can
    (it begins with <s>) or none is looked at (the highest order)."""
    if parents_of_next is None:
        return raw.copy()
    return np.where(left == BEGIN, raw, np.bincount(parents_of_next, minlength=raw.size))


def _discounts(counts: np.ndarray) -> np.ndarray:
    """Return float64[4]: what is taken from a count of 0, 1, 2, and 3 or more (Chen and Goodman, eq. 26)."""
    t = np.bincount(np.minimum(counts, 5), minlength=6)[:5].astype(float)
    discounts = np.array([0.0, *_FALLBACK])
    if (t[1:5] > 0).all():
        y = t[1] / (t[1] + 2 * t[2])
        estimated = np.array([k - (k + 1) * y * t[k + 1] / t[k] for k in (1, 2, 3)])
        if (estimated >= 0).all() and (estimated <= (1, 2, 3)).all():
            discounts[1:] = estimated
    return discounts


def _levels(
    parents: list[np.ndarray],
    lefts: list[np.ndarray],
    kept: list[np.ndarray],
    probabilities: list[np.ndarray],
    back_offs: list[np.ndarray],
) -> tuple[Level, ...]:
    levels = []
    for n, keep in enumerate(kept):
        number = np.cumsum(keep) - 1  # of a node among those kept
        children = np.zeros(0, np.int64)
        if n + 1 < len(kept):
            children = number[parents[n + 1][kept[n + 1]]]
        first_child = np.searchsorted(children, np.arange(int(keep.sum()) + 1))
        with np.errstate(divide="ignore"):
            levels.append(
                Level(
                    lefts[n][keep].astype(np.uint32),
                    np.log10(probabilities[n][keep]).astype(np.float32),
                    np.maximum(np.log10(back_offs[n][keep]), -99).astype(np.float32),
                    first_child.astype(np.int64),
                )
            )
    return tuple(levels)


@compiled
def _child(words: np.ndarray, low: int, high: int, word: int) -> int:
    """Return the index of `word` in the sorted `words[low:high]`, -1 where it is not there."""
    end = high
    while low < high:
        middle = (low + high) >> 1
        if words[middle] < word:
            low = middle + 1
        else:
            high = middle
    return low if low < end and words[low] == word else -1


@compiled
def _score(
    words: np.ndarray,
    starts: np.ndarray,
    node_words: np.ndarray,
    log_probability: np.ndarray,
    log_back_off: np.ndarray,
    first_child: np.ndarray,
    last_child: np.ndarray,
    order: int,
    sums: np.ndarray,
    tokens: np.ndarray,
) -> None:
    """Fill `sums` (Σ log10 p) and `tokens` of each text. Children of node i are `first_child[i]:last_child[i]`."""
    back_offs = np.zeros(order + 1)  # of the contexts that end at the word before, by their length
    known = 0  # the longest of them
    path = np.empty(order + 1, np.int64)  # the nodes from the word to the longest n-gram that is known
    for row in range(starts.size - 1):
        begin = starts[row]
        for i in range(starts[row], starts[row + 1]):
            word = words[i]
            if word == BEGIN:
                begin = i
                back_offs[1] = log_back_off[BEGIN]
                known = 1
                continue
            depth = 1
            path[1] = word
            longest = min(order, i - begin + 1)
            while depth < longest:
                node = path[depth]
                child = _child(node_words, first_child[node], last_child[node], words[i - depth])
                if child < 0:
                    break
                depth += 1
                path[depth] = child
            sums[row] += log_probability[path[depth]]
            for length in range(depth, known + 1):
                sums[row] += back_offs[length]
            known = min(depth, order - 1)
            for length in range(1, known + 1):
                back_offs[length] = log_back_off[path[length]]
            tokens[row] += 1


def cut_offs(perplexities: Iterable[np.ndarray], percentiles: Sequence[float]) -> list[float]:
    """Return the perplexities below which `percentiles` per cent of the documents lie (cc_net: 30 and 60, head and
    middle).

    From a histogram of log10 in steps of 0.001, so that neither memory nor the order of the documents matters.
    """
    histogram = np.zeros(10_001, np.int64)
    for values in perplexities:
        whole = values[np.isfinite(values)]
        place = np.clip(np.ceil(np.log10(np.maximum(whole, 1.0)) * 1000), 0, 10_000).astype(np.int64)
        histogram += np.bincount(place, minlength=histogram.size)
    reached = np.cumsum(histogram)
    if not reached[-1]:
        return [math.inf for _ in percentiles]
    return [
        float(10 ** (np.searchsorted(reached, max(1, math.ceil(share / 100 * reached[-1]))) / 1000))
        for share in percentiles
    ]
