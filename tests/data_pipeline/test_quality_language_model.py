"""The n-gram model against a plain interpolated modified Kneser-Ney, its distributions, its file."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from data_pipeline.dedup_check import chinese_grammar
from data_pipeline.quality import ngram_model
from data_pipeline.quality.ngram_model import LanguageModelSettings, NgramModel, cut_offs, train
from data_pipeline.quality.reading import read
from pangu.foundation.errors import UserError
from tests.data_pipeline.references import read_reference

Gram = tuple[str, ...]
LINE = st.text(alphabet="天地人山水", min_size=1, max_size=8)


def plain_model(lines: list[str], order: int, prune: int) -> Callable[[Gram, str], float]:
    """p(word | context) by the formulas, with dictionaries."""
    sentences = [("<s>", *line, "</s>") for line in lines]
    raw = [Counter(s[i : i + n] for s in sentences for i in range(len(s) - n + 1)) for n in range(1, order + 1)]
    counts: list[dict[Gram, int]] = []
    for n in range(1, order + 1):
        before = Counter(gram[1:] for gram in raw[n]) if n < order else Counter()
        counts.append(
            {g: c if n == order or g[0] == "<s>" else before[g] for g, c in raw[n - 1].items() if g != ("<s>",)}
        )
    discounts = []
    for table in counts:
        t = Counter(table.values())
        chosen: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5)
        if all(t[k] for k in (1, 2, 3, 4)):
            y = t[1] / (t[1] + 2 * t[2])
            estimated = [k - (k + 1) * y * t[k + 1] / t[k] for k in (1, 2, 3)]
            if all(0 <= d <= k for k, d in enumerate(estimated, 1)):
                chosen = (0.0, *estimated)
        discounts.append(chosen)
    vocabulary = {w for s in sentences for w in s} | {"<unk>"}
    by_context: list[dict[Gram, list[Gram]]] = []
    for table in counts:
        grouped = defaultdict(list)
        for gram in table:
            grouped[gram[:-1]].append(gram)
        by_context.append(grouped)

    def probability(context: Gram, word: str) -> float:
        n = len(context)
        lower = probability(context[1:], word) if n else 1 / (len(vocabulary) - 1)
        grams = by_context[n].get(context)
        if not grams:
            return lower
        total = sum(counts[n][g] for g in grams)
        keeps = {g: n < 3 or raw[n][g] > prune for g in grams}
        freed = sum(discounts[n][min(counts[n][g], 3)] if keeps[g] else counts[n][g] for g in grams)
        own = 0.0
        if keeps.get((*context, word)):
            count = counts[n][(*context, word)]
            own = max(count - discounts[n][min(count, 3)], 0)
        return own / total + freed / total * lower

    return probability


@given(st.lists(LINE, min_size=1, max_size=30), LINE, st.integers(2, 5), st.integers(0, 2))
@settings(max_examples=60)
def test_equals_the_plain_model(lines: list[str], probe: str, order: int, prune: int) -> None:
    text = "\n".join(lines)
    points = read(pa.array([text]))
    model = small_model(points, LanguageModelSettings(order=order, prune=prune))
    plain = plain_model(lines, order, prune)
    known = set(text)
    for line in (probe, lines[0], "川" + probe):
        sentence = ("<s>", *(c if c in known else "<unk>" for c in line), "</s>")
        expected = sum(
            math.log10(plain(sentence[max(0, i - order + 1) : i], sentence[i])) for i in range(1, len(sentence))
        )
        sums, tokens = model.log_probabilities(pa.array([line]))
        assert tokens.tolist() == [len(line) + 1]
        assert sums[0] == pytest.approx(expected, abs=1e-4)


def small_model(points, chosen: LanguageModelSettings) -> NgramModel:
    """`train` without its refusal of short texts."""
    least = ngram_model.LEAST_CHARACTERS
    ngram_model.LEAST_CHARACTERS = 0
    try:
        return train(["".join(map(chr, points.values.tolist()))], chosen)
    finally:
        ngram_model.LEAST_CHARACTERS = least


@given(st.lists(LINE, min_size=3, max_size=40), st.integers(2, 5), st.integers(0, 2), LINE)
@settings(max_examples=30)
def test_every_distribution_sums_to_one(lines: list[str], order: int, prune: int, context: str) -> None:
    model = small_model(read(pa.array(["\n".join(lines)])), LanguageModelSettings(order=order, prune=prune))
    known = sorted({*"".join(lines)})
    base, _ = model.log_probabilities(pa.array([context]))
    # p(context followed by x) without the end: take the end's own share out by asking with and without it
    words = [*known, "川"]  # the last one is <unk>
    total = 0.0
    end = end_probability(model, context)
    for word in words:
        with_word, _ = model.log_probabilities(pa.array([context + word]))
        total += 10 ** (with_word[0] - math.log10(end_probability(model, context + word)) - base[0]) * end
    assert total + end == pytest.approx(1, abs=1e-4)


def end_probability(model: NgramModel, context: str) -> float:
    """p(</s> | context), from the trie by hand."""
    words = [ngram_model.BEGIN, *(int(model._numbers[ord(c)]) for c in context)]
    log_probability, back_off = 0.0, 0.0
    levels = model.levels
    best = 0.0
    for length in range(min(len(words), model.settings.order - 1), -1, -1):
        node = find(model, [*words[len(words) - length :], ngram_model.END])
        if node is not None:
            best = float(levels[length].log_probability[node])
            break
        context_node = find(model, words[len(words) - length :])
        if context_node is not None:
            back_off += float(levels[length - 1].log_back_off[context_node])
    log_probability = best + back_off
    return 10**log_probability


def find(model: NgramModel, gram: list[int]) -> int | None:
    node = gram[-1]
    for depth, word in enumerate(reversed(gram[:-1]), 1):
        first, last = model.levels[depth - 1].first_child[node : node + 2]
        children = model.levels[depth].words[first:last]
        place = int(np.searchsorted(children, word))
        if place >= children.size or children[place] != word:
            return None
        node = int(first) + place
    return node


@given(st.text(alphabet="天地Ａａ１٣9 \t\n\u3000\u200b。，ｱ\U000e0041\U0010ffff", max_size=40), st.integers(0, 12))
def test_the_reading(text: str, most: int) -> None:
    assert "".join(map(chr, read(pa.array([text])).values.tolist())) == read_reference(text)
    assert "".join(map(chr, read(pa.array([text]), most).values.tolist())) == read_reference(text, most)


@pytest.fixture(scope="module")
def model() -> NgramModel:
    return train(chinese_grammar.documents(300, seed=1), LanguageModelSettings())


def test_it_knows_what_is_usual(model: NgramModel, tmp_path: Path) -> None:
    usual = list(chinese_grammar.documents(20, seed=2))
    shuffled = ["".join(np.random.default_rng(1).permutation(list(text))) for text in usual]
    good, bad = (model.perplexities(pa.array(texts, pa.large_string())) for texts in (usual, shuffled))
    assert good.max() < bad.min()
    assert np.isnan(model.perplexities(pa.array(["", " \n ", None]))).all()
    # rows do not depend on each other, and the same model comes back from its file
    model.save(tmp_path / "clean.lm")
    again = NgramModel.load(tmp_path / "clean.lm")
    assert [again.perplexities(pa.array([text]))[0] for text in usual] == good.tolist()
    other = train(chinese_grammar.documents(300, seed=1), LanguageModelSettings())
    assert other.content().fingerprint == again.content().fingerprint


def test_too_little_text() -> None:
    with pytest.raises(UserError, match="a language model from 4 characters"):
        train(["天地玄黄"], LanguageModelSettings())
    with pytest.raises(UserError, match="from 0 characters"):
        train([], LanguageModelSettings())


@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=50), st.integers(1, 99))
def test_cut_offs_divide_the_documents(values: list[float], share: int) -> None:
    perplexities = np.array(values)
    (limit,) = cut_offs([perplexities, np.array([np.nan])], [share])
    below = np.mean(perplexities <= limit * 1.000001)
    assert below >= share / 100 - 1e-9
    exact = np.sort(perplexities)[max(1, math.ceil(share / 100 * len(values))) - 1]
    assert limit == pytest.approx(exact, rel=0.0025)
    assume(len(values) > 1)
    halves = [perplexities[::2], perplexities[1::2]]
    assert cut_offs(halves, [share]) == [limit]


def test_cut_offs_of_nothing() -> None:
    assert cut_offs([], [30, 60]) == [math.inf, math.inf]
