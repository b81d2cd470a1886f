"""Training a tokenizer: the layout, the same bytes again, small and hostile corpora."""

import random
import time
from collections import Counter
from pathlib import Path
from typing import Literal

import pytest

from data_pipeline.stages.tokenizer.training_process import sample_evenly, train_tokenizer
from pangu.foundation.errors import UserError
from pangu.tokenizer import RELEASED_LAYOUT, Tokenizer
from tests.pangu.strange_text import WORDS, strange_lines

Style = Literal["lossless", "released"]
ModelType = Literal["unigram", "bpe"]


def plain_lines(seed: int, count: int) -> list[str]:
    """Lines of words whose frequencies fall as Zipf's law has it."""
    generator = random.Random(seed)
    words = generator.sample(WORDS, 2000)
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    return ["".join(generator.choices(words, weights, k=12)) + "。" for _ in range(count)]


@pytest.mark.parametrize("style", ["lossless", "released"])
@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_the_same_settings_give_the_same_bytes_in_the_released_layout(
    tmp_path: Path, style: Style, model_type: ModelType, capfd: pytest.CaptureFixture
) -> None:
    lines = plain_lines(0, 1500)
    digests = set()
    for name in "ab":
        tokenizer = train_tokenizer(
            iter(lines), tmp_path / name, vocab_size=1500, style=style, model_type=model_type, sample_lines=1000, seed=4
        )
        digests.add((tmp_path / name / "vocab.model").read_bytes())
        assert Tokenizer.load(tmp_path / name).fingerprint == tokenizer.fingerprint
    assert len(digests) == 1
    assert tokenizer.vocab_size <= 1500
    assert tuple(tokenizer.piece(i) for i in range(10)) == RELEASED_LAYOUT
    assert tokenizer.special.end_of_document == 9 and tokenizer.special.pad == 6
    assert tokenizer.segmenter == ("none" if style == "lossless" else "jieba")
    other = train_tokenizer(lines, tmp_path / "c", vocab_size=1500, sample_lines=1000, seed=5)
    assert other.fingerprint != tokenizer.fingerprint
    assert capfd.readouterr() == ("", "")


def test_pieces_are_words(tmp_path: Path) -> None:
    lines = plain_lines(1, 3000)
    tokenizer = train_tokenizer(lines, tmp_path, vocab_size=4000)
    characters = sum(map(len, lines))
    assert characters / sum(len(ids) for ids in tokenizer.encode_batch(lines)) > 1.5


def test_a_small_corpus_gives_a_small_vocabulary(tmp_path: Path) -> None:
    for number, texts in enumerate((["天"], ["今天天气很好"] * 3, ["a b c"], ["\t天\0地▁"])):
        for model_type in ("unigram", "bpe"):
            tokenizer = train_tokenizer(
                texts, tmp_path / f"{number}{model_type}", vocab_size=40_000, model_type=model_type
            )
            assert 266 < tokenizer.vocab_size < 320
            assert tokenizer.decode(tokenizer.encode("今 天\n▁")) == "今 天\n▁"


def test_a_vocabulary_smaller_than_the_alphabet(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(strange_lines(seed=0, size=100_000), tmp_path, vocab_size=300)
    assert tokenizer.vocab_size <= 300
    assert tokenizer.decode(tokenizer.encode("天\ud7ff𠮷")) == "天\ud7ff𠮷"


def test_what_cannot_be_trained_is_said_in_a_line(tmp_path: Path) -> None:
    for texts, vocab_size, message in (
        ([], 1000, "nothing but white space"),
        (["\n \t"], 1000, "nothing"),
        (["天"], 200, "298"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            train_tokenizer(texts, tmp_path / "none", vocab_size=vocab_size)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "none").exists()


def test_one_endless_line_is_as_good_as_many(tmp_path: Path) -> None:
    start = time.monotonic()
    tokenizer = train_tokenizer(
        ["".join(plain_lines(2, 300)) * 1000], tmp_path, vocab_size=800, model_type="bpe", sample_lines=2000
    )
    assert tokenizer.vocab_size == 800
    assert time.monotonic() - start < 120  # it took hours where the line was one sentence


def test_lone_surrogates_in_the_corpus_do_no_harm(tmp_path: Path) -> None:
    assert train_tokenizer(["今天\ud800天气"] * 5, tmp_path, vocab_size=500).encode("今天")


def test_sampling_is_even() -> None:
    counts: Counter[str] = Counter()
    for seed in range(2000):
        counts.update(sample_evenly("abcdefghij", 3, random.Random(seed)))
    assert all(abs(count - 600) < 90 for count in counts.values())
    assert sample_evenly("abc", 5, random.Random(0)) == ["a", "b", "c"]
