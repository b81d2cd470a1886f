"""The Python door: text in, text out, log-likelihoods that equal the full forward's."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pangu
from pangu.cli import main
from tests.conftest import REPOSITORY
from tests.pangu import small_model

TEXTS = ["今天天气很好，我们去公园。", "北京是中国的首都。", "人", "他说：“你好！”然后就走了，再也没有回来。"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model.write(tmp_path_factory.mktemp("door"))


@pytest.fixture(scope="module")
def model(path: Path) -> pangu.LanguageModel:
    return pangu.load(path, tokenizer=path.parent / "tokenizer")


def log_probabilities(path: Path, model: pangu.LanguageModel, ids: list[int], folder: Path) -> np.ndarray:
    """log p of ids[1:], from the logits that the verb `logits` computes with MindSpore's full forward."""
    np.save(folder / "ids.npy", np.array([ids[:-1]], np.int32))
    words = ["logits", str(path.parent / "model.yaml"), "--weights", str(path), "--ids", str(folder / "ids.npy")]
    assert main([*words, "--out", str(folder / "logits.npy")]) == 0
    logits = np.load(folder / "logits.npy")[0].astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
    return logits[np.arange(len(ids) - 1), ids[1:]]


def test_importing_pangu_imports_nothing_heavy() -> None:
    program = (
        "import sys, pangu; dir(pangu); "
        "print(sorted({'mindspore', 'numpy', 'numba', 'scipy', 'pydantic'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def test_log_likelihoods_equal_the_full_forward(path: Path, model: pangu.LanguageModel, tmp_path: Path) -> None:
    context, rest = TEXTS[0], TEXTS[3]
    first, second = model.request(context, rest)
    expected = log_probabilities(path, model, first + second, tmp_path)[len(first) - 1 :]
    [scored] = model.log_likelihood([(context, rest)])
    assert np.abs(scored.log_probabilities - expected).max() < 1e-5
    assert scored.total == pytest.approx(expected.sum(), abs=1e-4)


def test_a_result_does_not_depend_on_company_batch_or_order(path: Path, model: pangu.LanguageModel) -> None:
    pairs = [(a, b) for a in TEXTS for b in TEXTS]
    together = model.log_likelihood(pairs)
    alone = [model.log_likelihood([pair])[0] for pair in pairs]
    backwards = model.log_likelihood(pairs[::-1])[::-1]
    one_row = pangu.load(path, tokenizer=path.parent / "tokenizer", batch_size=1).log_likelihood(pairs)
    for one, other, third, fourth in zip(together, alone, backwards, one_row, strict=True):
        for same in (other, third, fourth):
            assert one.log_probabilities.tobytes() == same.log_probabilities.tobytes()
            assert one.is_greedy == same.is_greedy


def test_a_greedy_continuation_is_said_to_be_greedy(model: pangu.LanguageModel) -> None:
    [written] = model.complete([TEXTS[0]], max_new_tokens=6, temperature=0, stop_ids=())
    [greedy, other] = model.log_likelihood(
        [(written.prompt_ids, written.ids), (written.prompt_ids, [*written.ids[:-1], written.ids[-1] ^ 1])]
    )
    assert greedy.is_greedy and not other.is_greedy


def test_rolling_scores_every_token_once(path: Path, model: pangu.LanguageModel, tmp_path: Path) -> None:
    text = "".join(TEXTS) * 12
    ids = model.ids(text)
    length = model.config.seq_length
    assert len(ids) > 2 * length
    windows = [ids[max(0, start - 1) : start + length] for start in range(0, len(ids), length)]
    windows.append([model.tokenizer.special.end_of_document, ids[0]])  # which begins the document
    expected = sum(log_probabilities(path, model, window, tmp_path).sum() for window in windows)
    [total] = model.rolling_log_likelihood([text])
    assert total == pytest.approx(expected, abs=1e-3)
    figures = model.perplexity([text])
    assert figures.tokens == len(ids) and figures.per_token == pytest.approx(math.exp(-total / len(ids)))
    assert figures.bits_per_byte == pytest.approx(-total / math.log(2) / len(text.encode()))


def test_a_text_has_one_likelihood_whoever_asks(path: Path, model: pangu.LanguageModel) -> None:
    """Score, rolling, generation's own log-probabilities and fine-tuning's validation: the same ids and positions."""
    from pangu.model.network import build
    from pangu.training.loss import Loss
    from pangu.training.objectives.instruction import Instruction
    from pangu.tuning.aims import mean_nats
    from pangu.tuning.record_rows import samples_of
    from pangu.tuning.records import Record
    from pangu.tuning.template import TEMPLATES

    special, length = model.tokenizer.special, model.config.seq_length
    [written] = model.complete([""], max_new_tokens=10, seed=4, logprobs=True, stop_ids=())
    ids = written.ids
    for context in ("", [], [special.end_of_document]):
        [scored] = model.log_likelihood([(context, ids)])
        assert np.abs(scored.log_probabilities - written.logprobs).max() < 1e-5
    assert model.rolling_log_likelihood([ids])[0] == pytest.approx(sum(written.logprobs), abs=1e-5)
    sums, counts = model.nats_by_position([ids])
    assert counts.tolist() == [2, *[1] * 8, *[0] * (length - 9)] and sums.sum() == pytest.approx(-sum(written.logprobs))
    # Two texts share a row: neither sees the other.
    texts = [TEXTS[0], TEXTS[1]]
    samples, _ = samples_of(
        [Record(text=one) for one in texts], TEMPLATES["plain"], model.tokenizer, length, special.pad
    )
    assert len(samples.rows) == 1
    network = build(model.config, pangu_weights(path))
    network.set_train(False)
    nats = mean_nats(Loss(network, Instruction(special.end_of_document).in_graph()), samples.rows, 1)
    pairs = [("", [*model.ids(one), special.end_of_document]) for one in texts]
    totals = [one.total for one in model.log_likelihood(pairs)]
    assert nats == pytest.approx(-sum(totals) / samples.learnt, abs=1e-5)


def pangu_weights(path: Path) -> dict[str, np.ndarray]:
    from pangu.checkpoint.weights import load_for_inference

    return load_for_inference(path, None, None)[1]


def test_text_in_text_out(model: pangu.LanguageModel) -> None:
    whole = model.generate(TEXTS[0], max_new_tokens=8, seed=3)
    assert whole == model.generate([TEXTS[1], TEXTS[0]], max_new_tokens=8, seed=3)[1]
    assert whole == "".join(model.stream(TEXTS[0], max_new_tokens=8, seed=3))
    assert whole == model.generate([model.ids(TEXTS[0])], max_new_tokens=8, seed=3)[0]


def test_a_long_context_is_cut_from_its_left_and_never_the_rest(model: pangu.LanguageModel) -> None:
    first, second = model.request(TEXTS[3] * 40, TEXTS[0])
    assert len(first) + len(second) == model.config.seq_length + 1
    assert model.tokenizer.decode(second) == TEXTS[0]


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda model: model.generate("今天", max_new_token=3), "did you mean 'max_new_tokens'"),
        (lambda model: model.log_likelihood([("今天", "")]), "has no tokens of its own"),
        (lambda model: model.log_likelihood([([1], [10**6])]), "id 1000000 is outside 0.."),
        (lambda model: model.log_likelihood([("今", "天气" * 400)]), "the context holds 128"),
        (lambda model: model.perplexity([""]), "there is nothing to predict"),
        (lambda model: pangu.load("no/such/run"), "no/such/run"),
    ],
)
def test_a_mistake_is_one_line(model: pangu.LanguageModel, use, message: str) -> None:
    with pytest.raises(pangu.UserError) as caught:
        use(model)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_the_verb_score_says_what_python_says(path: Path, model: pangu.LanguageModel, tmp_path: Path, capsys) -> None:
    lines = [{"context": TEXTS[0], "continuation": TEXTS[1]}, {"text": TEXTS[3]}, {"context": "", "continuation": "好"}]
    file = tmp_path / "texts.jsonl"
    file.write_text("\ufeff" + "\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines), encoding="utf-8")
    words = ["score", str(path), str(file), "--tokenizer", str(path.parent / "tokenizer")]
    assert main(words) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[0]["log_likelihood"] == model.log_likelihood([(TEXTS[0], TEXTS[1])])[0].total
    assert rows[1]["log_likelihood"] == model.rolling_log_likelihood([TEXTS[3]])[0]
    assert rows[2]["log_likelihood"] == model.log_likelihood([("", "好")])[0].total
    assert main([*words, "--out", str(tmp_path / "out.jsonl")]) == 0
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == rows


def test_ids_that_are_none_are_one_line(path: Path, tmp_path: Path, capsys) -> None:
    ids = tmp_path / "ids.npy"
    words = ["logits", str(path.parent / "model.yaml"), "--weights", str(path), "--ids", str(ids)]
    words += ["--out", str(tmp_path / "out.npy")]
    for content, more, said in (
        (b"PK\x03\x04", [], "cannot be read as .npy"),
        (None, ["--eod", "-5"], "--eod -5: ids are 0 to"),
        (None, ["--pad", "100000"], "--pad 100000: ids are 0 to"),
    ):
        np.save(ids, np.ones((1, 4), np.int32)) if content is None else ids.write_bytes(content)
        assert main([*words, *more]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no line"),
        ('{"context": "今"}', "texts.jsonl:1: field 'continuation': must be text"),
        ('{"text": "好"}\n{"text": ""}', "texts.jsonl:2: field 'text': is empty"),
        ('{"text": "好"}\n[1]', "texts.jsonl:2: field 'context': must be text"),
        ('{"text": "好', "texts.jsonl:1: is not JSON"),
        ('{"text": "好"}\n{"text": "a", "text": "b"}', "texts.jsonl:2: field 'text': is there more than once"),
        ('{"text": "好", "continuation": "好"}', "texts.jsonl:1: field 'text': stands beside context or continuation"),
        ('{"text": "好"}\n{"context": "", "continuation": "' + "好" * 900 + '"}', "texts.jsonl:2: a continuation has"),
        ('{"text": "好"}\n{"text": "\\ud800"}', "texts.jsonl:2: field 'text': holds half of a surrogate pair"),
    ],
)
def test_a_line_that_cannot_be_scored_is_named(path: Path, tmp_path: Path, capsys, content: str, message: str) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text(content, encoding="utf-8")
    words = ["score", str(path), str(file), "--out", str(tmp_path / "out.jsonl")]
    assert main([*words, "--tokenizer", str(path.parent / "tokenizer")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out.jsonl").exists()
