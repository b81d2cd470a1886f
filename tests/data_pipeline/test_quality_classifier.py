"""The classifier against its plain reference, what it learns, its curves against plain ones, its file."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.cli import main
from data_pipeline.dedup_check import chinese_grammar
from data_pipeline.quality import model_file
from data_pipeline.quality.classifier import (
    Classifier,
    ClassifierSettings,
    calibrate,
    sigmoid,
    train,
)
from data_pipeline.quality.curves import curves, measure
from data_pipeline.quality.documents import sample_texts
from data_pipeline.quality.ngram_model import NgramModel
from pangu.foundation.errors import UserError
from tests.data_pipeline.conftest import write_jsonl
from tests.data_pipeline.references import log_odds_reference

TEXT = st.text(alphabet="天地ＡＢab１2 \n，。加微信\u200b", max_size=40)
SOUP = ("搬家", "加微信", "优惠", "点击", "办证", "特价", "热线", "包邮", "抢购", "代理")


def soup(seed: int) -> str:
    """Spam as it is: keywords and numbers."""
    generator = np.random.default_rng(seed)
    return " ".join(
        f"{generator.choice(SOUP)}{generator.integers(10**9)}" for _ in range(int(generator.integers(5, 40)))
    )


GOOD = list(chinese_grammar.documents(200, seed=1, median=200))
BAD = [soup(seed) for seed in range(200)]


@pytest.fixture(scope="module")
def model() -> Classifier:
    return train(GOOD[:150], BAD[:150], ClassifierSettings(bits=14))


@given(st.lists(TEXT, min_size=1, max_size=5), st.integers(1, 6), st.integers(8, 14), st.integers(1, 30))
@settings(max_examples=60)
def test_scores_equal_the_reference(texts: list[str], gram: int, bits: int, characters: int) -> None:
    weights = np.random.default_rng(bits).normal(size=1 << bits).astype(np.float32)
    chosen = ClassifierSettings(gram=gram, bits=bits, characters=characters)
    classifier = Classifier(chosen, weights, 0.25, 1.5, -0.5, {})
    found = classifier.log_odds(pa.array(texts))
    assert found.tolist() == pytest.approx([log_odds_reference(classifier, text) for text in texts], rel=1e-5, abs=1e-5)
    # a row does not depend on the others
    assert [classifier.log_odds(pa.array([text]))[0] for text in texts] == found.tolist()


def test_it_learns(model: Classifier) -> None:
    good, bad = (model.probabilities(pa.array(texts[150:], pa.large_string())) for texts in (GOOD, BAD))
    assert good.min() > 0.5 > bad.max()
    assert model.figures["positives"] == model.figures["negatives"] == 150
    assert model.figures["heldout"]["roc_area"] == 1
    assert model.probabilities(pa.array(["", None], pa.string())).shape == (2,)


def test_the_same_examples_give_the_same_bytes(model: Classifier, tmp_path: Path) -> None:
    again = train(GOOD[:150], BAD[:150], ClassifierSettings(bits=14))
    assert model.save(tmp_path / "a") == again.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    other = train(GOOD[:150], BAD[:150], ClassifierSettings(bits=14, seed=2))
    assert other.content().fingerprint != model.content().fingerprint
    loaded = Classifier.load(tmp_path / "a")
    texts = pa.array(GOOD[150:], pa.large_string())
    assert loaded.settings == model.settings and loaded.figures == model.figures
    assert loaded.probabilities(texts).tolist() == model.probabilities(texts).tolist()


def train_plainly(positives: list[str], negatives: list[str], chosen: ClassifierSettings, heldout: set[str]) -> dict:
    """AdaGrad on the log loss by dictionaries, in the same order: the weight of each n-gram, and the bias."""
    texts = [*positives, *negatives]
    labels = [1] * len(positives) + [0] * len(negatives)
    seen = np.array([n for n, text in enumerate(texts) if text not in heldout])
    share = sum(labels[n] for n in seen) / len(seen)
    weights: dict[str, float] = {}
    squares: dict[str, float] = {}
    bias = math.log(share / (1 - share))
    generator = np.random.Generator(np.random.Philox(chosen.seed))
    for epoch in range(chosen.epochs):
        rate = chosen.learning_rate * (1 - epoch / chosen.epochs)
        for n in generator.permutation(seen):
            text = f"\n{texts[n]}\n"
            grams = [text[i - k + 1 : i + 1] for i in range(len(text)) for k in range(1, min(chosen.gram, i + 1) + 1)]
            z = bias + sum(weights.get(gram, 0) for gram in grams) / math.sqrt(len(grams))
            error = 1 / (1 + math.exp(-z)) - labels[n]
            for gram in grams:
                step = error / math.sqrt(len(grams))
                squares[gram] = squares.get(gram, 0) + step**2
                weights[gram] = weights.get(gram, 0) - rate * step / (math.sqrt(squares[gram]) + 1e-6)
            bias -= 0.01 * rate * error
    return {"bias": bias, **weights}


def test_training_equals_plain_training() -> None:
    generator = np.random.default_rng(1)
    texts = ["".join(generator.choice(list("天地玄黄宇宙"), 4)) for _ in range(80)]
    texts = list(dict.fromkeys(texts))
    good, bad = texts[:30], texts[30:60]
    chosen = ClassifierSettings(gram=2, bits=22, epochs=3)
    model = train(good, bad, chosen)
    by_hash = {
        label: sorted(group, key=lambda text: xxhash.xxh3_64_intdigest(text.encode()))
        for label, group in ((1, good), (0, bad))
    }
    heldout = {*by_hash[1][:5], *by_hash[0][:5]}
    assert model.figures["heldout_positives"] == model.figures["heldout_negatives"] == 5
    plain = train_plainly(good, bad, chosen, heldout)
    assert model.bias == pytest.approx(plain["bias"], abs=1e-4)
    for asked in ("天地", "宙宇玄", "黄"):
        text = f"\n{asked}\n"
        grams = [text[i - k + 1 : i + 1] for i in range(len(text)) for k in range(1, min(2, i + 1) + 1)]
        z = plain["bias"] + sum(plain.get(gram, 0) for gram in grams) / math.sqrt(len(grams))
        expected = model.slope * z + model.intercept
        assert model.log_odds(pa.array([asked]))[0] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("positives", "negatives", "message"),
    [
        ([], BAD, "positives: 0 texts; at least 20 of each class are needed"),
        (GOOD, BAD[:19], "negatives: 19 texts"),
        (GOOD, GOOD, "positives and negatives are the same texts"),
        (["天"] * 30, BAD, "positives: 30 times the same text teaches nothing"),
    ],
)
def test_examples_that_teach_nothing(positives: list[str], negatives: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(positives, negatives, ClassifierSettings(bits=10))


def test_examples_that_are_all_alike() -> None:
    """Nothing can be told apart, so every text gets the share of good ones."""
    same = train(
        [f"天地{n}" for n in range(100, 160)], [f"天地{n}" for n in range(160, 220)], ClassifierSettings(bits=10)
    )
    assert same.probabilities(pa.array(["天地300"]))[0] == pytest.approx(0.5, abs=0.1)
    blank = train([" " * n for n in range(1, 40)], ["\n" * n for n in range(1, 40)], ClassifierSettings(bits=10))
    assert 0 < blank.probabilities(pa.array(["天"]))[0] < 1


@given(st.floats(-3, 3), st.floats(0.2, 4), st.integers(0, 9))
@settings(max_examples=40)
def test_calibration_finds_the_curve(intercept: float, slope: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.normal(size=20_000)
    labels = (generator.random(scores.size) < sigmoid(slope * scores + intercept)).astype(np.uint8)
    found = calibrate(scores, labels)
    assert found == pytest.approx((slope, intercept), abs=0.25)


def test_calibration_of_separated_and_of_useless_scores() -> None:
    labels = np.repeat(np.array([0, 1], np.uint8), 50)
    slope, intercept = calibrate(np.where(labels == 1, 5.0, -5.0), labels)
    assert 0.9 < sigmoid(np.array([5 * slope + intercept]))[0] < 1
    slope, intercept = calibrate(np.zeros(100), labels)
    assert sigmoid(np.array([intercept]))[0] == pytest.approx(0.5, abs=0.01)
    slope, _ = calibrate(np.where(labels == 1, -1.0, 1.0), labels)
    assert slope > 0


SCORED = st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=2, max_size=40).filter(
    lambda rows: 0 < sum(good for _, good in rows) < len(rows)
)


@given(SCORED, st.floats(0, 1))
def test_the_curves_equal_plain_ones(rows: list[tuple[int, bool]], threshold: float) -> None:
    scores = np.array([score / 8 for score, _ in rows])
    labels = np.array([good for _, good in rows], np.uint8)
    quality = measure(scores, labels, threshold)
    good, bad = scores[labels == 1], scores[labels == 0]
    wins = sum((g > b) + 0.5 * (g == b) for g in good for b in bad)
    assert quality.roc_area == pytest.approx(wins / (good.size * bad.size))
    average, recall = 0.0, 0.0
    for limit in sorted(set(scores), reverse=True):
        kept = scores >= limit
        now = labels[kept].sum() / good.size
        average += (now - recall) * labels[kept].mean()
        recall = now
    assert quality.average_precision == pytest.approx(average)
    kept = scores >= threshold
    assert quality.recall == pytest.approx((good >= threshold).mean())
    assert quality.precision == pytest.approx(labels[kept].mean() if kept.any() else 1)
    best = max(2 * (labels[scores >= t]).sum() / ((scores >= t).sum() + good.size) for t in set(scores))
    assert quality.best_f1 == pytest.approx(best)
    assert measure(scores, labels, quality.best_threshold).f1 == pytest.approx(best)
    assert quality.brier == pytest.approx(np.mean((scores - labels) ** 2))


def test_curves_need_both_classes() -> None:
    for label, missing in ((0, "good"), (1, "bad")):
        with pytest.raises(UserError, match=f"no {missing} text among the 3 examples"):
            curves(np.array([0.1, 0.2, 0.3]), np.full(3, label, np.uint8))


@given(st.lists(st.text(alphabet="ab", max_size=3)), st.integers(1, 6), st.integers(0, 3), st.randoms())
def test_the_sample_does_not_depend_on_the_order(texts, most, seed, shuffler) -> None:
    sample = sample_texts(texts, most, seed)
    assert len(sample) == min(most, len(set(texts))) and set(sample) <= set(texts)
    shuffler.shuffle(texts)
    assert sample_texts(texts, most, seed) == sample


@given(st.data())
@settings(max_examples=40)
def test_a_damaged_model_is_one_line(model: Classifier, tmp_path_factory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("model") / "spam.model"
    model.save(path)
    whole = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del whole[data.draw(st.integers(0, len(whole) - 1)) :]
    else:
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(whole)
    with pytest.raises(UserError, match=r"spam\.model") as caught:
        Classifier.load(path)
    assert "\n" not in str(caught.value)


def test_another_version_and_another_kind(model: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model.save(tmp_path / "a.model")
    with pytest.raises(UserError, match="is a classifier model; a language model model would be right"):
        NgramModel.load(tmp_path / "a.model")
    with monkeypatch.context() as patch:
        patch.setattr(model_file, "FORMAT_VERSION", 2)
        model.save(tmp_path / "b.model")
    with pytest.raises(UserError, match="a quality model of version 2; this program reads version 1: train it again"):
        Classifier.load(tmp_path / "b.model")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, texts in (("good", GOOD), ("bad", BAD)):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"id": f"{name}{n}", "text": text} for n, text in enumerate(texts)])
    return tmp_path


def test_the_commands(files: Path, capsys: pytest.CaptureFixture) -> None:
    examples = ["--positives", "good.jsonl", "--negatives", "bad.jsonl"]
    assert main(["quality", "train", "q.model", *examples, "--bits", "12", "--json"]) == 0
    trained = json.loads(capsys.readouterr().out)
    assert trained["positives"] == 200 and trained["fingerprint"] == model_file.load(Path("q.model")).fingerprint
    assert main(["quality", "score", "q.model", "bad.jsonl", "--out", "scores.jsonl"]) == 0
    scores = [json.loads(line) for line in Path("scores.jsonl").read_text().splitlines()]
    assert [row["id"] for row in scores] == [f"bad{n}" for n in range(200)]
    assert max(row["probability"] for row in scores) < 0.5
    capsys.readouterr()
    for picture in ("q.png", "q.html"):
        assert main(["quality", "evaluate", "q.model", *examples, "--out", picture, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["roc_area"] == 1
    assert Path("q.png").read_bytes().startswith(b"\x89PNG")
    page = Path("q.html").read_text()
    assert "data:image/png;base64" in page and 'src="http' not in page

    assert main(["quality", "train", "clean.lm", "--texts", "good.jsonl", "--order", "3"]) == 0
    assert main(["quality", "score", "clean.lm", "good.jsonl"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()[2:]]
    assert all(math.isfinite(row["perplexity"]) for row in rows) and len(rows) == 200
    assert main(["quality", "evaluate", "clean.lm", *examples, "--threshold", "100"]) == 0
    assert "clean.html: drawn" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "m"], "give --positives and --negatives for a classifier, or --texts for a language model"),
        (["train", "m", "--positives", "good.jsonl"], "give --positives and --negatives"),
        (
            ["train", "m", "--texts", "good.jsonl", "--gram", "3"],
            "--gram: this model has no such setting; it has order",
        ),
        (["train", "m", "--texts", "good.jsonl", "--order", "1"], "--order: input should be greater than"),
        (["train", "m", "--texts", "none.jsonl"], "none.jsonl: no such file"),
        (["train", "m", "--texts", "good.jsonl", "--text-field", "body"], "good.jsonl: no document in it (no_text)"),
        (["train", "good.jsonl/m", "--texts", "good.jsonl"], "cannot be written"),
        (["train", "m", "--positives", "good.jsonl", "--negatives", "few.jsonl"], "negatives: 1 texts; at least 20"),
        (["train", "m", "--positives", "good.jsonl", "--negatives", "good.jsonl"], "are the same texts"),
        (["score", "good.jsonl", "good.jsonl"], "good.jsonl: is no quality model"),
        (["score", "none.model", "good.jsonl"], "none.model: no such file; `python -m data_pipeline quality train`"),
        (["evaluate", "few.jsonl"], "give --positives and --negatives, which the model has not seen"),
    ],
)
def test_mistakes(files: Path, capsys: pytest.CaptureFixture, arguments: list[str], message: str) -> None:
    write_jsonl(files / "few.jsonl", [{"text": "一"}])
    assert main(["quality", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
