"""Train models that say how good a text is, score texts with them, and see what they are worth.

    python -m data_pipeline quality train spam.model --positives books.jsonl.gz --negatives reviewed.jsonl
    python -m data_pipeline quality train clean.lm --texts encyclopedia/ --order 5
    python -m data_pipeline quality score spam.model crawl.jsonl.gz --out scores.jsonl
    python -m data_pipeline quality evaluate spam.model --positives good.jsonl --negatives bad.jsonl --out worth.html

Examples are files (JSONL, CSV, Parquet, HTML, WARC; of a .txt file each line), the output directories of runs, or what
`python -m data_pipeline review` wrote. The stage `quality` of a recipe uses the models, or trains its own.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pangu.foundation.best_effort import print_translated
from pangu.foundation.errors import UserError

if TYPE_CHECKING:
    from data_pipeline.quality.classifier import Classifier
    from data_pipeline.quality.ngram_model import NgramModel

SCORED_ROWS = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    train = actions.add_parser(
        "train", help="train a classifier (--positives, --negatives) or a language model (--texts)"
    )
    train.add_argument("model", type=Path, help="the file to write")
    _add_examples(train)
    train.add_argument("--texts", nargs="+", metavar="PATH", help="clean texts, for a language model")
    train.add_argument("--most-examples", type=int, default=100_000, metavar="N", help="of each side (100000)")
    train.add_argument("--seed", type=int, default=1, help="of the sample and of the training (1)")
    for name in ("gram", "bits", "epochs", "characters", "order", "prune", "most-characters"):
        train.add_argument(f"--{name}", type=int, metavar="N", help=argparse.SUPPRESS)
    for name in ("learning-rate", "heldout"):
        train.add_argument(f"--{name}", type=float, metavar="X", help=argparse.SUPPRESS)
    train.add_argument("--threshold", type=float, metavar="P", help="good from this probability on (0.5)")
    train.add_argument("--json", action="store_true", help="print everything as JSON, mistakes too")
    train.epilog = "more settings, as in the recipe: --gram --bits --epochs --learning-rate --characters --heldout; "
    train.epilog += "--order --prune --most-characters"

    score = actions.add_parser("score", help="a line of JSON for each text")
    score.add_argument("model", type=Path, help="a file that `quality train` wrote")
    score.add_argument("files", nargs="+", metavar="PATH", help="texts")
    score.add_argument("--out", type=Path, help="JSONL (standard output)")
    score.add_argument("--text-field", default="text", metavar="NAME", help="the field that holds the document (text)")

    evaluate = actions.add_parser("evaluate", help="ROC, precision and recall, and the threshold, drawn")
    evaluate.add_argument("model", type=Path, help="a file that `quality train` wrote")
    _add_examples(evaluate)
    evaluate.add_argument("--threshold", type=float, metavar="P", help="instead of the model's")
    evaluate.add_argument("--out", type=Path, help="the picture: a .png, or a self-contained .html (MODEL.html)")
    evaluate.add_argument("--json", action="store_true", help="print everything as JSON, mistakes too")


def _add_examples(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--positives", nargs="+", metavar="PATH", help="good texts")
    parser.add_argument("--negatives", nargs="+", metavar="PATH", help="bad texts")
    parser.add_argument("--text-field", default="text", metavar="NAME", help="the field that holds the document (text)")


def run(arguments: argparse.Namespace) -> int:
    return {"train": _train, "score": _score, "evaluate": _evaluate}[arguments.action](arguments)


def _train(arguments: argparse.Namespace) -> int:
    from data_pipeline.quality import classifier, ngram_model
    from data_pipeline.quality.documents import examples, read_documents, sample_texts

    is_classifier = bool(arguments.positives and arguments.negatives)
    if is_classifier == bool(arguments.texts) or bool(arguments.positives) != bool(arguments.negatives):
        raise UserError(
            "quality train: give --positives and --negatives for a classifier, or --texts for a language model"
        )
    if arguments.most_examples < 1:
        raise UserError(f"--most-examples {arguments.most_examples}: nearest: 1")

    def sample(paths: list[str], side: Any) -> list[str]:
        texts = examples(read_documents(paths, arguments.text_field), side)
        return sample_texts(texts, arguments.most_examples, arguments.seed)

    trained: Classifier | NgramModel
    if is_classifier:
        settings = _settings(classifier.ClassifierSettings, arguments)
        trained = classifier.train(
            sample(arguments.positives, "positives"), sample(arguments.negatives, "negatives"), settings
        )
    else:
        trained = ngram_model.train(
            sample(arguments.texts, "positives"), _settings(ngram_model.LanguageModelSettings, arguments)
        )
    fingerprint = trained.save(arguments.model)
    if arguments.json:
        print(json.dumps({"model": str(arguments.model), "fingerprint": fingerprint, **trained.figures}))
        return 0
    if is_classifier:
        figures = trained.figures
        print_translated(f"trained on {figures['positives']:,} good and {figures['negatives']:,} bad texts")
        held = figures["heldout_positives"] + figures["heldout_negatives"]
        print_translated(f"on {held:,} of them that were kept away from the training:")
        _print_quality(figures["heldout"])
    else:
        figures = trained.figures
        print_translated(
            f"trained on {figures['characters']:,} characters, {figures['vocabulary']:,} different ones; "
            f"n-grams by length {', '.join(f'{count:,}' for count in figures['ngrams'])}"
        )
    print_translated(
        f"{arguments.model}: written, {arguments.model.stat().st_size / 1e6:.1f} MB, fingerprint {fingerprint[:16]}"
    )
    return 0


def _settings(kind: Any, arguments: argparse.Namespace) -> Any:
    """Return the settings of a model from the options that were given; those of the other kind are refused."""
    from pydantic import ValidationError

    from data_pipeline.quality.classifier import ClassifierSettings
    from data_pipeline.quality.ngram_model import LanguageModelSettings

    every = {*ClassifierSettings.model_fields, *LanguageModelSettings.model_fields}
    given = {name: value for name in every if (value := getattr(arguments, name, None)) is not None}
    foreign = sorted(set(given) - set(kind.model_fields) - {"seed"})
    if foreign:
        option = foreign[0].replace("_", "-")
        raise UserError(f"--{option}: this model has no such setting; it has {', '.join(kind.model_fields)}")
    try:
        return kind(**{name: value for name, value in given.items() if name in kind.model_fields})
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).replace("_", "-")
        raise UserError(f"--{option}: {first['msg'][:1].lower()}{first['msg'][1:]}, got {first['input']!r}") from error


def _load(path: Path) -> "Classifier | NgramModel":
    """Return a model of either kind."""
    from data_pipeline.quality import classifier, model_file, ngram_model

    is_classifier = model_file.load(path).kind == classifier.KIND
    return classifier.Classifier.load(path) if is_classifier else ngram_model.NgramModel.load(path)


def _score(arguments: argparse.Namespace) -> int:
    import itertools

    import pyarrow as pa

    from data_pipeline.quality.classifier import Classifier
    from data_pipeline.quality.documents import read_documents

    model = _load(arguments.model)
    name = "probability" if isinstance(model, Classifier) else "perplexity"
    documents = read_documents(arguments.files, arguments.text_field)
    lines: list[str] = []
    while chunk := list(itertools.islice(documents, SCORED_ROWS)):
        texts = pa.array([document.text for document in chunk], pa.large_string())
        values = model.probabilities(texts) if isinstance(model, Classifier) else model.perplexities(texts)
        for document, value in zip(chunk, values.tolist(), strict=True):
            own = {"id": document.id, "doc_id": document.doc_id, "source": document.source}
            lines.append(json.dumps({**own, name: round(value, 6) if value == value else None}, ensure_ascii=False))
        if arguments.out is None:
            sys.stdout.write("".join(f"{line}\n" for line in lines))
            lines.clear()
    if arguments.out is not None:
        from data_pipeline.engine.run_files import write_whole

        write_whole(arguments.out, "".join(f"{line}\n" for line in lines))
        print_translated(f"{arguments.out}: {len(lines):,} texts scored")
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    import numpy as np
    import pyarrow as pa

    from data_pipeline.quality.classifier import Classifier
    from data_pipeline.quality.curves import measure
    from data_pipeline.quality.documents import examples, read_documents
    from data_pipeline.quality.drawing import draw

    if not (arguments.positives and arguments.negatives):
        raise UserError("quality evaluate: give --positives and --negatives, which the model has not seen in training")
    model = _load(arguments.model)
    good = list(examples(read_documents(arguments.positives, arguments.text_field), "positives"))
    bad = list(examples(read_documents(arguments.negatives, arguments.text_field), "negatives"))
    texts = pa.array([*good, *bad], pa.large_string())
    labels = np.repeat(np.array([1, 0], np.uint8), [len(good), len(bad)])
    threshold = arguments.threshold
    if isinstance(model, Classifier):
        threshold = model.settings.threshold if threshold is None else threshold
        scores = model.probabilities(texts)
        name = "probability"
    else:
        # the lower the perplexity, the better: its reciprocal, between 0 and 1, is drawn
        scores = np.nan_to_num(1 / model.perplexities(texts))
        threshold = 1 / threshold if threshold else float(np.median(scores))
        name = "1 / perplexity"
    measured = measure(scores, labels, threshold)
    out = arguments.out or arguments.model.with_suffix(".html")
    title = f"{arguments.model.name}: {len(good):,} good and {len(bad):,} bad texts"
    draw(out, title, name, scores, labels, measured)
    if arguments.json:
        print(json.dumps({"positives": len(good), "negatives": len(bad), **asdict(measured), "picture": str(out)}))
    else:
        print_translated(title)
        _print_quality(asdict(measured))
        print_translated(f"{out}: drawn")
    return 0


def _print_quality(figures: dict[str, float]) -> None:
    """Print the figures of `curves.Quality` for a person."""
    print_translated(
        f"  area under ROC {figures['roc_area']:.4f}, average precision {figures['average_precision']:.4f}, "
        f"Brier {figures['brier']:.4f}, calibration error {figures['calibration_error']:.3f}"
    )
    print_translated(
        f"  at {figures['threshold']:.3g}: precision {figures['precision']:.3f}, recall {figures['recall']:.3f}, "
        f"F1 {figures['f1']:.3f}, accuracy {figures['accuracy']:.3f}, bad texts let through "
        f"{figures['false_positive_rate']:.1%}"
    )
    print_translated(f"  the greatest F1, {figures['best_f1']:.3f}, is at {figures['best_threshold']:.3g}")
