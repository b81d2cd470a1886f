"""Comparing two corpora: samples, what is left out, the verdict of a real training, mistakes."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.cli import main
from data_pipeline.dedup_check import chinese_grammar
from data_pipeline.quality.comparison import LEAST_DOCUMENTS, Comparison, CorpusResult, interval_of, sample_bytes
from tests.data_pipeline.conftest import write_jsonl


@given(st.lists(st.text(alphabet="ab天", max_size=6), max_size=20), st.integers(0, 40), st.integers(0, 3), st.randoms())
def test_the_sample_is_the_same_in_any_order(texts: list[str], limit: int, seed: int, shuffler: random.Random) -> None:
    sample = sample_bytes(texts, limit, seed)
    size = sum(len(text.encode()) for text in sample)
    whole = sum(len(text.encode()) for text in set(texts))
    assert len(set(sample)) == len(sample) and set(sample) <= set(texts)
    assert size >= min(limit, whole)
    assert not sample or size - len(sample[-1].encode()) < max(limit, 1)
    shuffler.shuffle(texts)
    assert sample_bytes(texts, limit, seed) == sample


def test_a_large_corpus_is_sampled_as_it_passes() -> None:
    texts = [str(number) * 20_000 for number in range(1000, 1100)]
    assert sample_bytes(iter(texts), 300_000, 1) == sample_bytes(reversed(texts), 300_000, 1)
    assert sample_bytes(iter(texts), 300_000, 1) == sorted(
        sample_bytes(iter(texts), 300_000, 1), key=sample_bytes(texts, 10**9, 1).index
    )


def test_a_verdict_needs_an_interval_that_leaves_nothing_out() -> None:
    assert interval_of([0.3]) is None
    low, high = interval_of([0.31, 0.29, 0.30]) or (0.0, 0.0)
    assert 0.26 < low < 0.3 < high < 0.34
    outcome = CorpusResult("a", 1, 1, 1.0, 0, 2.0, 2.0, 2.0, 1.0)

    def judged(interval: tuple[float, float] | None, documents: int = LEAST_DOCUMENTS) -> Comparison:
        is_clear = interval is not None and not interval[0] <= 0 <= interval[1] and documents >= LEAST_DOCUMENTS
        return Comparison(outcome, outcome, 0.1, interval, is_clear, documents, 1, 1, 1, [])

    assert judged((0.05, 0.15)).better == "A" and "A is better" in judged((0.05, 0.15)).verdict
    assert judged((-0.05, 0.25)).better is None and "no difference shown" in judged((-0.05, 0.25)).verdict
    assert judged((0.05, 0.15), 2).better is None and "2 clean documents" in judged((0.05, 0.15), 2).verdict


@pytest.fixture
def corpora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    clean = list(chinese_grammar.documents(12, seed=1, median=200))
    same = clean[:2] + list(chinese_grammar.documents(60, seed=2, median=200))
    shuffled = ["".join(random.Random(1).sample(text, len(text))) for text in same]
    for name, texts in (("clean", clean), ("good", same), ("bad", shuffled)):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"text": text} for text in texts])
    (tmp_path / "model.yaml").write_text(
        "num_layers: 2\nhidden_size: 32\nnum_heads: 2\nffn_hidden_size: 64\nseq_length: 32\nvocab_size: 700\n"
        "compute_dtype: fp32\ndropout_rate: 0.0\n"
    )
    return tmp_path


def test_grammatical_text_beats_shuffled_text(corpora: Path, capsys: pytest.CaptureFixture) -> None:
    command = ["compare", "bad.jsonl", "good.jsonl", "--heldout", "clean.jsonl", "--out", "out", "--tokens", "16000"]
    command += ["--model", "model.yaml", "--seq-length", "32", "--batch-size", "8", "--vocab-size", "700"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((corpora / "out/compare.json").read_text())
    assert found["difference"] < 0
    # one training of each is no ground for a verdict
    assert found["better"] is None and found["interval"] is None and "no verdict" in found["verdict"]
    assert found["b"]["perplexity"] < found["a"]["perplexity"]
    assert found["steps"] == 62 and found["tokens_trained"] == 62 * 8 * 32
    assert found["b"]["in_clean_set"] == 2
    for run in found["runs"]:
        assert run["steps"][-1] == 62 and run["losses"][-1] < run["losses"][0]
    assert (corpora / "out/compare.png").read_bytes().startswith(b"\x89PNG")
    # both were judged by the same samples with the same tokenizer
    indexes = [json.loads((corpora / f"out/{name}/data/packed.json").read_text()) for name in ("a", "b")]
    assert indexes[0]["splits"]["heldout"] == indexes[1]["splits"]["heldout"]
    assert indexes[0]["tokenizer_fingerprint"] == indexes[1]["tokenizer_fingerprint"]
    # a training that fails is one line
    assert main([*command, "--model", "huge", "--out", "other"]) == 2
    error = capsys.readouterr().err
    assert "training on A" in error and "size 'huge' is neither one of" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.jsonl", "good.jsonl", "--heldout", "clean.jsonl"], "none.jsonl: no such file"),
        (["good.jsonl", "bad.jsonl", "--heldout", "empty.jsonl"], "empty.jsonl: no document in it"),
        (
            ["good.jsonl", "bad.jsonl", "--heldout", "good.jsonl"],
            "no document is left that the clean set does not have",
        ),
        (["good.jsonl", "bad.jsonl", "--heldout", "clean.jsonl", "--tokens", "100"], "--tokens 100: fewer than one"),
        (["good.jsonl", "bad.jsonl", "--heldout", "clean.jsonl", "--repeats", "0"], "--repeats 0: nearest: 1"),
        (["good.jsonl", "bad.jsonl", "--heldout", "clean.jsonl", "--vocab-size", "3"], "vocab_size 3: "),
        (["good.jsonl", "bad.jsonl", "--heldout", "clean.jsonl", "--tokenizer", "none"], "none: no such file"),
    ],
)
def test_mistakes(corpora: Path, capsys: pytest.CaptureFixture, arguments: list[str], message: str) -> None:
    (corpora / "empty.jsonl").touch()
    assert main(["compare", *arguments, "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
