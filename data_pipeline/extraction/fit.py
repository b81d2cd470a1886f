"""Fits the line model of the extractor: `python -m data_pipeline.extraction.fit [--write]`.

Trees are fitted to the lines of hand-labelled pages (../shared/data/html, html_modern) and of invented pages
(`page_templates/`); a line is positive where half of its 4-grams are in the page's main text, and lines weigh as the
square root of their length, pages of one set alike. The second trees learn from what first trees say that have not
seen the page. Prints F1 of pages whose site the fit did not see. Needs `lightgbm`."""

import argparse
import gzip
import json
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np

from data_pipeline.extraction.formulas import mark_formulas
from data_pipeline.extraction.hidden import shown_lines, with_lines
from data_pipeline.extraction.line_model import (
    MODEL_FILE,
    LineModel,
    Trees,
    kept_lines,
    smoothed,
    thread_probability,
    with_inner_parts,
    with_tail,
    without_other_articles,
)
from data_pipeline.extraction.measures import (
    FEATURES,
    FIRST_FEATURES,
    PAGE_THREAD,
    TREE_DEPTH,
    measure_lines,
    measure_page,
    node_kinds,
)
from data_pipeline.extraction.output.element_structure import structure_of, whole_parts
from data_pipeline.extraction.page_templates import Text, make_page
from data_pipeline.extraction.parsed_page import read_page
from data_pipeline.extraction.post_stream import find_posts
from data_pipeline.extraction.scoring import LabelledPage, labelled_pages, scores
from data_pipeline.extraction.surroundings import look_again
from data_pipeline.stages.read.charset import decode

CORPUS = {"lctt_it_news": 400, "medical_qa": 500, "law_md": 150, "tidb_docs": 60, "classical_modern": 150}
SETTINGS = {
    "objective": "binary", "num_leaves": 12, "max_depth": TREE_DEPTH, "learning_rate": 0.08,
    "min_data_in_leaf": 30, "bagging_fraction": 0.7, "bagging_freq": 1, "feature_fraction": 0.3, "lambda_l2": 5,
    "max_bin": 63, "num_threads": 1, "verbose": -1, "seed": 1, "deterministic": True,
}  # fmt: skip
TREES = 150  # each of the two models
PAGE_TREES = 80
FOLDS = 5
SHARES = {"old": 0.25, "modern": 0.45, "invented": 0.3}  # of the weight


class Example:
    """One page as rows of features, with the label and the weight of each line."""

    def __init__(self, html: bytes, gold: str, origin: str, site: str = "", kind: str = "article"):
        self.origin, self.site, self.kind = origin, site, kind
        page = read_page(mark_formulas(decode(html).text.replace("\0", "")).encode("utf-8", "replace"))
        self.page = with_lines(page, shown_lines(page))
        self.kinds = node_kinds(self.page)
        self.structure = structure_of(self.page)
        self.part = whole_parts(self.page, self.structure)
        self.features = measure_lines(self.page, self.kinds)
        self.page_features = measure_page(self.page, self.features)
        self.posts = find_posts(self.page)
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

    def set_thread(self, trees: Trees) -> None:
        """Say in every row how probably the page is a thread."""
        self.features[:, PAGE_THREAD] = thread_probability(trees, self.page_features, self.posts)

    def second_features(self, probability: np.ndarray) -> np.ndarray:
        """Return the rows with what a first model says."""
        look_again(self.page, self.kinds, probability, FIRST_FEATURES, self.features)
        return self.features

    def f1(self, model: LineModel) -> float:
        """Return the F1 of the page's text by a model."""
        self.set_thread(model.page)
        rows = self.second_features(model.first.probabilities(self.features))
        probability = without_other_articles(rows, model.second.probabilities(rows))
        probability = smoothed(self.page, self.part, self.kinds, probability)
        thread = float(rows[0, PAGE_THREAD]) if len(rows) else 0.0
        kept = kept_lines(self.page, self.kinds, self.posts, probability, thread)
        kept = with_inner_parts(self.page, self.structure, self.part, probability, kept)
        kept = with_tail(self.page, self.structure, self.part, probability, kept)
        return scores("\n".join(line for line, keep in zip(self.lines, kept, strict=True) if keep), self.gold)[0]


def site_of(html: bytes) -> str:
    """Return the site of a page: the address that it names most, without the names of its machines."""
    hosts = re.findall(
        rb"https?://(?:[\w-]+\.)*?([\w-]+\.(?:com\.cn|net\.cn|gov\.cn|org\.cn|[a-z]{2,4}))\b", html.lower()
    )
    return Counter(hosts).most_common(1)[0][0].decode() if hosts else ""


def corpus_texts(folder: Path) -> list[Text]:
    """Return real Chinese texts for the invented pages: news, questions and answers, laws, manuals, classics."""
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


def fit_trees(examples: list[Example], columns: int, trees: int = TREES) -> Trees:
    """Fit trees to the first columns of the rows of some pages."""
    import lightgbm

    counts = Counter(example.origin for example in examples)
    share = {origin: SHARES[origin] / count for origin, count in counts.items()}
    weight = np.concatenate([example.weight * share[example.origin] for example in examples])
    rows = np.vstack([example.features[:, :columns] for example in examples])
    label = np.concatenate([example.label for example in examples])
    data = lightgbm.Dataset(rows, label, weight=weight / weight.mean(), params={"verbose": -1})
    dump = lightgbm.train(SETTINGS, data, trees).dump_model()
    return Trees.from_lightgbm([tree["tree_structure"] for tree in dump["tree_info"]])


def fit_page_trees(examples: list[Example]) -> Trees:
    """Fit trees that tell threads from other pages."""
    import lightgbm

    rows = np.vstack([example.page_features for example in examples])
    label = np.array([example.kind == "forum" for example in examples])
    weight = np.array([1.0 if example.origin == "invented" else 3.0 for example in examples])
    data = lightgbm.Dataset(rows, label, weight=weight, params={"verbose": -1})
    settings = {**SETTINGS, "min_data_in_leaf": 15, "num_leaves": 6}
    dump = lightgbm.train(settings, data, PAGE_TREES).dump_model()
    return Trees.from_lightgbm([tree["tree_structure"] for tree in dump["tree_info"]])


def groups_of(examples: list[Example], folds: int, seed: int) -> np.ndarray:
    """Return a fold for each page; pages of one site are in one fold."""
    sites = sorted({example.site or f"?{number}" for number, example in enumerate(examples)})
    order = np.random.RandomState(seed).permutation(len(sites))
    fold = {site: int(place) % folds for site, place in zip(sites, order, strict=True)}
    return np.array([fold[example.site or f"?{number}"] for number, example in enumerate(examples)])


def fit(examples: list[Example], inner: int = 4) -> LineModel:
    """Fit both sets of trees; the second to what first trees say of pages that they have not seen."""
    fold = groups_of(examples, inner, 1)
    split = [
        (
            [e for e, own in zip(examples, fold, strict=True) if own != k],
            [e for e, own in zip(examples, fold, strict=True) if own == k],
        )
        for k in range(inner)
    ]
    for others, own in split:
        page = fit_page_trees(others)
        for example in own:
            example.set_thread(page)
    for others, own in split:
        first = fit_trees(others, FIRST_FEATURES)
        for example in own:
            example.second_features(first.probabilities(example.features))
    second = fit_trees(examples, len(FEATURES))
    return LineModel(fit_page_trees(examples), fit_trees(examples, FIRST_FEATURES), second)


def cross_validate(labelled: list[Example], invented: list[Example], folds: int = FOLDS) -> np.ndarray:
    """Return the F1 of each page by a model that has seen no page of its site."""
    found, fold = np.zeros(len(labelled)), groups_of(labelled, folds, 0)
    for k in range(folds):
        model = fit([page for page, own in zip(labelled, fold, strict=True) if own != k] + invented, inner=2)
        for number in np.flatnonzero(fold == k):
            found[number] = labelled[number].f1(model)
        print(f"fold {k + 1} of {folds}: {found[fold == k].mean():.3f}", flush=True)
    return found


def examples_of(pages: list[LabelledPage], origin: str) -> list[Example]:
    """Return labelled pages as examples."""
    return [Example(page.html, page.gold, origin, site_of(page.html), page.kind) for page in pages]


def main() -> None:
    """Fit, report, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(__file__).resolve().parents[3] / "shared" / "data")
    parser.add_argument("--invented", type=int, default=400, help="how many invented pages the fit sees")
    parser.add_argument("--write", action="store_true", help=f"replace {MODEL_FILE.name} by a fit to all pages")
    parser.add_argument("--no-validation", action="store_true", help="only fit to all pages")
    arguments = parser.parse_args()
    old = examples_of(labelled_pages(arguments.shared / "html"), "old")
    modern = examples_of(labelled_pages(arguments.shared / "html_modern"), "modern")
    texts = corpus_texts(arguments.shared / "corpus")
    made = [make_page(texts, seed) for seed in range(arguments.invented)]
    invented = [Example(html.encode(), gold, "invented", kind=kind) for html, gold, kind in made]
    labelled = old + modern
    print("lines", Counter(bool(label) for page in labelled + invented for label in page.label))
    if not arguments.no_validation:
        found = cross_validate(labelled, invented)
        for name, chosen in (
            ("old pages", [page.origin == "old" for page in labelled]),
            ("modern pages", [page.origin == "modern" for page in labelled]),
            ("modern articles", [page.origin == "modern" and page.kind == "article" for page in labelled]),
            ("modern threads", [page.origin == "modern" and page.kind == "forum" for page in labelled]),
        ):
            print(f"{name:18s} {int(np.sum(chosen)):3d} pages of sites not seen, F1 {found[chosen].mean():.3f}")
    if arguments.write:
        model = fit(labelled + invented)
        fresh = [
            Example(html.encode(), gold, "invented")
            for html, gold, _ in (make_page(texts, 10**6 + n) for n in range(100))
        ]
        print(f"fitted to all: fresh invented pages, F1 {np.mean([page.f1(model) for page in fresh]):.3f}")
        model.save(MODEL_FILE)
        print(f"written: {MODEL_FILE}")


if __name__ == "__main__":
    main()
