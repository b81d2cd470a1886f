"""Choosing tokens: candidate sets as the original's, penalties, random numbers, and text that ends at a stop string."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pangu.foundation.errors import UserError
from pangu.generation import GenerationOptions
from pangu.generation.sampling import Sampler, candidates, most_likely
from pangu.generation.text_stream import TextStream

SCORES = st.integers(1, 3000).flatmap(lambda size: arrays(np.float32, size, elements=st.floats(-30, 30, width=16)))


@pytest.mark.parametrize(
    ("name", "top_k", "top_p"), [("p1.0_k3", 3, 1.0), ("p1.0_k5", 5, 1.0), ("p0.5_k3", 0, 0.5), ("p0.9_k3", 0, 0.9)]
)
def test_candidates_are_those_of_the_original_sampler(shared: Path, name: str, top_k: int, top_p: float) -> None:
    """The original ignores top-k where top-p is below 1."""
    oracle = np.load(shared / "oracle" / "pangu_tiny_generate.npz")
    ids, probabilities = candidates(oracle["sampler/log_probs"][0], top_k, top_p)
    np.testing.assert_array_equal(ids, oracle[f"sampler_{name}/ids"])
    np.testing.assert_allclose(probabilities, oracle[f"sampler_{name}/p"], rtol=1e-6)


@given(SCORES, st.integers(1, 3000))
def test_most_likely_is_a_stable_sort(scores: np.ndarray, count: int) -> None:
    np.testing.assert_array_equal(most_likely(scores, count), np.argsort(-scores, kind="stable")[:count])


@given(SCORES, st.floats(0.01, 1), st.integers(0, 50))
def test_top_p_is_the_smallest_set_that_reaches_p(scores: np.ndarray, top_p: float, top_k: int) -> None:
    ids, probabilities = candidates(scores, top_k, top_p)
    assert probabilities.sum() == pytest.approx(1)
    assert len(set(ids)) == len(ids) <= (top_k or len(scores))
    everything = np.sort(np.exp(scores.astype(np.float64) - scores.max()))[::-1][: top_k or None]
    share = everything.cumsum() / everything.sum()
    assert share[len(ids) - 1] >= top_p - 1e-5
    if len(ids) > 1:
        assert share[len(ids) - 2] < top_p + 1e-5


def test_penalties() -> None:
    """Frequency and presence count generated tokens only; repetition takes the prompt's too."""
    logits = np.array([2.0, 1.0, -1.0, 0.5, 3.0], np.float32)
    plain = GenerationOptions(temperature=0, frequency_penalty=0.6, presence_penalty=0.3)
    sampler = Sampler(plain, [4, 4, 4])
    assert [sampler.choose(logits) for _ in range(3)] == [4, 4, 0]  # 3.0, 3.0-0.6-0.3=2.1, then 3.0-1.2-0.3=1.5
    np.testing.assert_allclose(sampler.penalised(logits), [2.0 - 0.9, 1, -1, 0.5, 3.0 - 1.5], rtol=1e-6)
    repetition = Sampler(GenerationOptions(temperature=0, repetition_penalty=2.0), [2, 4, 4])
    np.testing.assert_allclose(repetition.penalised(logits), [2, 1, -2, 0.5, 1.5])
    np.testing.assert_array_equal(logits, np.array([2.0, 1.0, -1.0, 0.5, 3.0], np.float32))


def test_draws_follow_the_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    for options in (GenerationOptions(temperature=1, top_k=0), GenerationOptions(temperature=0.5, top_k=2)):
        sampler = Sampler(options, [1])
        _, expected = candidates(logits / options.temperature, options.top_k, 1.0)
        counts = Counter(sampler.choose(logits) for _ in range(4000))
        for token, probability in enumerate(expected):
            assert counts[token] / 4000 == pytest.approx(probability, abs=0.03)


def test_random_numbers_depend_on_seed_and_prompt_alone() -> None:
    def draws(seed: int, prompt: list[int]) -> list[float]:
        sampler = Sampler(GenerationOptions(seed=seed), prompt)
        return [sampler.uniform() for _ in range(5)]

    assert draws(1, [1, 2]) == draws(1, [1, 2])
    assert len({*draws(1, [1, 2]), *draws(2, [1, 2]), *draws(1, [2, 1])}) == 15
    # Frozen: the same seed gives the same text in every later version.
    assert draws(0, [7])[0] == 0.46439084682144194


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.5},
        {"repetition_penalty": 0},
        {"frequency_penalty": float("inf")},
        {"presence_penalty": float("nan")},
        {"stop_strings": ("",)},
        {"seed": -1},
    ],
)
def test_meaningless_options_are_named(wrong: dict) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        GenerationOptions(**wrong)


class Pieces:
    """A tokenizer whose ids are pieces of text."""

    def __init__(self, pieces: list[str]) -> None:
        self.pieces, self.vocab_size = pieces, len(pieces)

    def stream_decoder(self) -> "Pieces":
        return self

    def push(self, token_id: int) -> str:
        return self.pieces[token_id]

    def finish(self) -> str:
        return ""


@given(
    st.lists(st.text("ab中", max_size=4), max_size=12), st.lists(st.text("ab中", min_size=1, max_size=4), max_size=3)
)
def test_text_ends_before_the_first_stop_string(pieces: list[str], stops: list[str]) -> None:
    """Whatever tokens it begins and ends in; and nothing is held back that cannot begin one."""
    stream = TextStream(Pieces(pieces), stops)  # type: ignore[arg-type]
    given_out, read = "", ""
    for index in range(len(pieces)):
        if not stream.stopped:
            read += pieces[index]
        given_out += stream.push(index)
        if not stream.stopped:
            held = read[len(given_out) :]
            assert read.startswith(given_out)
            assert not held or any(stop.startswith(held) for stop in stops)
    given_out += stream.finish()
    found = [read.find(stop) for stop in stops if stop in read]
    assert stream.stopped == bool(found)
    assert given_out == (read[: min(found)] if found else read)
