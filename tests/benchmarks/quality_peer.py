"""One peer's turn, run by tests/benchmarks/quality.py in an environment that has it.

fasttext TRAIN.txt TEST.txt GRAMS     train with one thread, print seconds and the probability of __label__1
kenlm MODEL.arpa TEST.txt             print seconds and the log10 probability of each line
lid MODEL.ftz TEST.txt                print seconds and the likeliest label of each line
"""

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable


def main() -> None:
    peer, model_path, test_path, *rest = sys.argv[1:]
    with open(test_path, encoding="utf-8") as file:
        lines = file.read().split("\n")[:-1]
    turns: dict[str, Callable[..., dict]] = {"fasttext": _fasttext, "kenlm": _kenlm, "lid": _lid}
    print(json.dumps(turns[peer](model_path, lines, *rest)))


def _version(*packages: str) -> str:
    for package in packages:
        try:
            return f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            pass
    return "of unknown version"


def _fasttext(train_path: str, lines: list[str], grams: str) -> dict:
    import fasttext

    start = time.perf_counter()
    model = fasttext.train_supervised(train_path, thread=1, verbose=0, wordNgrams=int(grams), lr=0.5, epoch=5, seed=1)
    trained = time.perf_counter()
    scores = []
    for line in lines:
        labels, probabilities = model.predict(line, k=2)
        scores.append(float(dict(zip(labels, probabilities, strict=True)).get("__label__1", 0.0)))
    end = time.perf_counter()
    return {
        "version": _version("fasttext-wheel", "fasttext"),
        "train": trained - start,
        "score": end - trained,
        "scores": scores,
    }


def _kenlm(model_path: str, lines: list[str]) -> dict:
    import kenlm

    model = kenlm.Model(model_path)
    start = time.perf_counter()
    scores = [model.score(line) for line in lines]
    return {"version": _version("kenlm"), "score": time.perf_counter() - start, "scores": scores}


def _lid(model_path: str, lines: list[str]) -> dict:
    import fasttext

    model = fasttext.load_model(model_path)
    start = time.perf_counter()
    labels = [(model.predict(line, k=1) or [("",)])[0][0] for line in lines]
    version = _version("fasttext-predict", "fasttext-wheel", "fasttext")
    return {"version": version, "score": time.perf_counter() - start, "labels": labels}


if __name__ == "__main__":
    main()
