"""Fits the line model of the extractor: `python -m data_pipeline.extraction.fit [--write]`.

Trees are fitted to the lines of the hand-labelled pages (../shared/data/html) and of invented pages
(`page_templates.py`), half by weight each; a line is positive where half of its 4-grams are in the page's main text,
and lines weigh as the square root of their length, pages alike. Prints F1 of pages that the fit did not see:
eightfold over the labelled pages, from pages of 2004-2005 to pages of 2018-2022 and back, and on fresh invented
pages. Needs `lightgbm`."""

import argparse
import gzip
import json
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np

from data_pipeline.extraction.line_model import MODEL_FILE, LineModel, expected_best, shared_among_kinds
from data_pipeline.extraction.measures import FEATURES, TREE_DEPTH, measure_lines
from data_pipeline.extraction.page import FlatPage, read_page
from data_pipeline.extraction.page_templates import Text, make_page
from data_pipeline.extraction.scoring import labelled_pages, scores
from data_pipeline.stages.read.charset import decode

CORPUS = {"lctt_it_news": 400, "medical_qa": 500, "law_md": 150, "tidb_docs": 60, "classical_modern": 150}
SETTINGS = {
    "n_estimators": 200, "num_leaves": 8, "max_depth": TREE_DEPTH, "learning_rate": 0.1,
    "min_child_samples": 30, "subsample": 0.7, "subsample_freq": 1,
    "colsample_bytree": 0.3, "reg_lambda": 5, "n_jobs": 1, "verbose": -1, "random_state": 1, "deterministic": True,
}  # fmt: skip
SHARE_OF_LABELLED = 0.5


class Example:
    """One page as rows of features, with the label and the weight of each line."""

    def __init__(self, html: bytes, gold: str):
        self.page: FlatPage = read_page(html)
        self.features = measure_lines(self.page)
        self.gold = gold
        self.lines = [
            bytes(self.page.text[a:b]).decode() for a, b in zip(self.page.line_start, self.page.line_end, strict=True)
        ]
        packed = re.sub(r"\s+", "", gold)
        grams = {packed[i : i + 4] for i in range(len(packed) - 3)}
        whole = {re.sub(r"\s+", "", line) for line in gold.split("\n")}
        shares = []
        for line in self.lines:
            line = re.sub(r"\s+", "", line)
            own = [line[i : i + 4] in grams for i in range(len(line) - 3)]
            shares.append(sum(own) / len(own) if own else float(line in whole))
        self.label = np.array(shares) > 0.5
        weight = np.sqrt([len(line) + 1 for line in self.lines])
        self.weight = weight / weight.sum() if len(weight) else weight

    def f1(self, model: LineModel) -> float:
        kept = expected_best(self.page, shared_among_kinds(self.page, model.probabilities(self.features)))
        return scores("\n".join(line for line, keep in zip(self.lines, kept, strict=True) if keep), self.gold)[0]


def corpus_texts(folder: Path) -> list[Text]:
    """Real Chinese texts for the invented pages: news, questions and answers, laws, manuals, classics."""
    chooser, texts = random.Random(1), []
    for name, count in CORPUS.items():
        with gzip.open(folder / f"{name}.jsonl.gz", "rt") as file:
            rows = [json.loads(line)["text"] for line in file]
        for text in chooser.sample(rows, count):
            text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
            text = re.sub(r"^[#>*=\-\s]+|`|\*\*", "", text, flags=re.M)
            paragraphs = [line.strip() for line in text.split("\n") if line.strip()]
            if len(paragraphs) > 1:
                texts.append(Text(paragraphs[0][:45], paragraphs[1:]))
    return texts


def fit(labelled: list[Example], invented: list[Example]) -> LineModel:
    import lightgbm

    pages = labelled + invented
    scale = [SHARE_OF_LABELLED / len(labelled)] * len(labelled) + [(1 - SHARE_OF_LABELLED) / len(invented)] * len(
        invented
    )
    weight = np.concatenate([page.weight * share for page, share in zip(pages, scale, strict=True)])
    trees = lightgbm.LGBMClassifier(**SETTINGS)
    features, label = np.vstack([page.features for page in pages]), np.concatenate([page.label for page in pages])
    trees.fit(features, label, sample_weight=weight / weight.mean())
    return LineModel.from_trees([tree["tree_structure"] for tree in trees.booster_.dump_model()["tree_info"]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(__file__).resolve().parents[3] / "shared" / "data")
    parser.add_argument("--invented", type=int, default=900, help="how many invented pages the fit sees")
    parser.add_argument("--write", action="store_true", help=f"replace {MODEL_FILE.name} by a fit to all pages")
    arguments = parser.parse_args()
    pages = [(page.name, page.html, page.gold) for page in labelled_pages(arguments.shared / "html")]
    labelled = [Example(decode(html).text.encode(), gold) for _, html, gold in pages]
    texts = corpus_texts(arguments.shared / "corpus")
    invented = [
        Example(html.encode(), gold) for html, gold in (make_page(texts, seed) for seed in range(arguments.invented))
    ]
    fresh = [Example(html.encode(), gold) for html, gold in (make_page(texts, 10**6 + seed) for seed in range(150))]
    print("labels", Counter(bool(label) for page in labelled + invented for label in page.label))
    found = np.zeros(len(labelled))
    for fold in np.array_split(np.random.RandomState(0).permutation(len(labelled)), 8):
        model = fit([labelled[i] for i in range(len(labelled)) if i not in set(fold)], invented)
        found[fold] = [labelled[i].f1(model) for i in fold]
    print(f"eightfold over the labelled pages  {found.mean():.3f}")
    old = [page for page, (_, html, _) in zip(labelled, pages, strict=True) if html.startswith(b"<text id=")]
    new = [page for page, (_, html, _) in zip(labelled, pages, strict=True) if not html.startswith(b"<text id=")]
    for name, seen, unseen in (
        ("fitted to old, tested on new      ", old, new),
        ("fitted to new, tested on old      ", new, old),
    ):
        model = fit(seen, invented)
        print(f"{name} {np.mean([page.f1(model) for page in unseen]):.3f}   ")
    model = fit(labelled, invented)
    print(f"fitted to all, labelled pages      {np.mean([page.f1(model) for page in labelled]):.3f}")
    print(f"fitted to all, fresh invented      {np.mean([page.f1(model) for page in fresh]):.3f}")
    if arguments.write:
        model.save(MODEL_FILE, FEATURES)
        print(f"written: {MODEL_FILE}")


if __name__ == "__main__":
    main()
