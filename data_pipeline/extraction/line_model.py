"""Which lines of a page are its main text: gradient-boosted trees over the measures of a line, and what to do with
their answer.

The trees are in `line_model.json`, made by `data_pipeline/extraction/fit.py`, which also says how well they do on
pages that they have not seen. `docs/extraction.md` tells what they look at."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.extraction.measures import (
    FEATURES,
    FIRST_FEATURES,
    PAGE_THREAD,
    TREE_DEPTH,
    evaluate_trees,
    measure_lines,
    measure_page,
    node_kinds,
)
from data_pipeline.extraction.output.element_structure import Structure, whole_parts
from data_pipeline.extraction.parsed_page import CHARACTERS, DIGITS, LINKED, STOPS, TAG, FlatPage
from data_pipeline.extraction.patterns import NAME_GROUPS, PHRASE_GROUPS
from data_pipeline.extraction.post_stream import find_posts
from data_pipeline.extraction.surroundings import look_again

MODEL_FILE = Path(__file__).with_name("line_model.json")
SHARED = 0.4  # how far a line's probability is that of its kind; by cross-validation, 0.2 to 0.6 do as well
LEAST_PROBABILITY = 0.1  # a line below is never kept
INNER_PROBABILITY = 0.1  # of a heading, program or table between kept lines
TAIL_PROBABILITY = 0.2  # of a line of a list, program or table that goes on behind the last kept line
MAX_PART_LINES = 6  # a heading is no farther behind the kept line before it
MAX_LEVELS_OUT = 4  # elements that a list or table in a list is left by
SURE_SHARE = 0.75  # a line is kept that is this sure, of what the surest line of the page is
SURE_SHARE_OF_THREADS = 0.15  # replies are less sure, and there are many
SURE_CHARACTERS = 20  # of a line that may be the surest
SHARE_OF_REPLIES = 0.5  # of the characters of a kind, kept in a thread, that keep its other lines too
LEAST_OF_REPLIES = 0.04
THREAD_BY_FORM = 0.9  # probability of a page that shows a row of posts
THREAD_MASS = 0.9  # of the fairly sure text of a thread is in its home
IS_SURE = 0.5  # a line of this probability is kept wherever it stands
IS_THREAD = 0.5  # a page that is one this probably
OTHER_ARTICLE = 0.3  # what remains of the probability of a line of another article
# The furniture of posts: kinds of lines of which nearly all say a day, a floor, a count, an action.
FURNITURE_LINES = 3  # a kind has at least
FURNITURE_CHARACTERS = 40  # a line of it has at most, on average
FURNITURE_SHARE = 0.8  # of its lines say so
FURNITURE_DIGITS = 0.3  # of the characters of a line are a day or a number
SURE_FURNITURE, LIKELY_FURNITURE = 0.9, 0.5  # mean probability below, for bylines and ages; for words of replies
BRANCH_PROBABILITY, BRANCH_CHARACTERS = 0.35, 10  # of the line of a column that makes it a part of the thread
SHARE_OF_BODIES = 0.25  # what the kind of a post's text says, of the kind that says the most; posts may have two forms
NAME_CHARACTERS = 8  # the name of a person is shorter
EDIT_CHARACTERS = 60
# what forums write into a post: who changed it, and whom it quotes
_EDITED = re.compile(
    r"本[帖主].{0,2}最[后後]由.{1,40}[编編][辑輯]|[^。！？]{1,30}\s*(?:发表于|發表於)\s*[12]\d{3}-\d{1,2}-\d{1,2}"
)
_DIGITS = re.compile(r"\d+")
_PERSON = 1 << list(NAME_GROUPS).index("person")
_TEXT = sum(1 << list(NAME_GROUPS).index(name) for name in ("content", "article", "text", "post"))
_SURE_PHRASES, _LIKELY_PHRASES = (
    np.int64(sum(1 << list(PHRASE_GROUPS).index(name) for name in names))
    for names in (("byline", "age"), ("comment", "person", "tool"))
)


@dataclass(frozen=True)
class Trees:
    """Complete binary trees of one depth, in heap order: node k asks `row[feature[k]] > threshold[k]` and goes to
    2k+1 or, if so, to 2k+2. The sum of the leaves that a row falls into is the log of the odds that the line is main
    text."""

    feature: np.ndarray  # uint16 [trees, 2^TREE_DEPTH - 1]
    threshold: np.ndarray  # float32 [trees, 2^TREE_DEPTH - 1]
    leaf: np.ndarray  # float32 [trees, 2^TREE_DEPTH]

    @classmethod
    def from_lightgbm(cls, trees: list[dict[str, Any]]) -> "Trees":
        """Read LightGBM's `dump_model()["tree_info"][i]["tree_structure"]`, none deeper than TREE_DEPTH."""
        inner = 2**TREE_DEPTH - 1
        feature = np.zeros((len(trees), inner), np.uint16)
        threshold = np.full((len(trees), inner), np.inf, np.float32)
        leaf = np.zeros((len(trees), inner + 1), np.float32)

        def place(tree: int, node: dict[str, Any], k: int) -> None:
            if "leaf_value" in node:
                # a leaf higher up: everything below goes left to the same value
                while k < inner:
                    k = 2 * k + 1
                leaf[tree, k - inner] = float(f"{node['leaf_value']:.6g}")
                return
            feature[tree, k], threshold[tree, k] = node["split_feature"], float(f"{node['threshold']:.6g}")
            place(tree, node["left_child"], 2 * k + 1)
            place(tree, node["right_child"], 2 * k + 2)

        for number, root in enumerate(trees):
            place(number, root, 0)
        return cls(feature, threshold, leaf)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Trees":
        """Read what `to_json` wrote."""
        threshold = [[np.inf if x is None else x for x in row] for row in data["threshold"]]
        return cls(
            np.array(data["feature"], np.uint16), np.array(threshold, np.float32), np.array(data["leaf"], np.float32)
        )

    def to_json(self) -> dict[str, Any]:
        """Return the trees as lists; a threshold that nothing exceeds is null."""
        threshold = [[None if np.isinf(x) else float(f"{x:.6g}") for x in row] for row in self.threshold.tolist()]
        leaves = [[float(f"{x:.6g}") for x in row] for row in self.leaf.tolist()]
        return {"feature": self.feature.tolist(), "threshold": threshold, "leaf": leaves}

    def probabilities(self, rows: np.ndarray) -> np.ndarray:
        """Return for each row of `measure_lines` the probability that the line is main text; float64 [lines]."""
        return evaluate_trees(rows, self.feature, self.threshold, self.leaf)


@dataclass(frozen=True)
class LineModel:
    """Three sets of trees: whether the page is a thread, in which replies are text and no comments; then two that judge
    its lines. The second reads besides what the first says of the lines and elements around a line."""

    page: Trees
    first: Trees
    second: Trees

    def save(self, path: Path) -> None:
        """Write the model as JSON."""
        content = {
            "features": FEATURES,
            "page": self.page.to_json(),
            "first": self.first.to_json(),
            "second": self.second.to_json(),
        }
        path.write_text(json.dumps(content, separators=(",", ":")) + "\n")

    @classmethod
    def load(cls, path: Path) -> "LineModel":
        """Read a model. Raises ValueError where the file was fitted to other measures than this code takes."""
        data = json.loads(path.read_text())
        if data["features"] != FEATURES:
            raise ValueError(f"{path}: fitted to other features; run python -m data_pipeline.extraction.fit --write")
        return cls(*(Trees.from_json(data[name]) for name in ("page", "first", "second")))

    def probabilities(self, page: FlatPage, kinds: np.ndarray, posts: np.ndarray) -> tuple[np.ndarray, float]:
        """Return for each line the probability that it is main text, float64 [lines]; and that the page is a thread."""
        rows = measure_lines(page, kinds)
        thread = thread_probability(self.page, measure_page(page, rows), posts)
        rows[:, PAGE_THREAD] = thread
        look_again(page, kinds, self.first.probabilities(rows), FIRST_FEATURES, rows)
        return without_other_articles(rows, self.second.probabilities(rows)), thread


@cache
def line_model() -> LineModel:
    """Return the shipped model."""
    return LineModel.load(MODEL_FILE)


def thread_probability(trees: Trees, measures: np.ndarray, posts: np.ndarray) -> float:
    """Return how probably a page is a thread, by its measures, float32 [1, PAGE_THREAD], and by its posts."""
    thread = float(trees.probabilities(measures)[0])
    return max(thread, THREAD_BY_FORM) if (posts >= 0).any() else thread


def without_other_articles(rows: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Return probabilities, lower for other articles: what stands behind another headline of the same rank, outside the
    home of the page's own. In threads every post may have one."""
    after, big, home = (rows[:, FEATURES.index(name)] for name in ("after_headline", "big_headings", "in_home"))
    is_other = (after > 0) & (big >= 1) & (home == 0) & (rows[:, PAGE_THREAD] < IS_THREAD)
    return np.where(is_other, OTHER_ARTICLE * probability, probability)


def main_text(page: FlatPage, structure: Structure) -> tuple[np.ndarray, np.ndarray]:
    """Return for each line how probably it is main text, float64 [lines], and whether it is kept, bool [lines]."""
    kinds = node_kinds(page)
    posts = find_posts(page)
    probability, thread = line_model().probabilities(page, kinds, posts)
    part = whole_parts(page, structure)
    probability = smoothed(page, part, kinds, probability)
    kept = kept_lines(page, kinds, posts, probability, thread)
    kept = with_inner_parts(page, structure, part, probability, kept)
    return probability, with_tail(page, structure, part, probability, kept)


def smoothed(page: FlatPage, part: np.ndarray, kinds: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Return probabilities that lines of one kind share, and lines of one program or table (`part`)."""
    return shared_in_parts(page, part, shared_among_kinds(page, kinds, probability))


def with_inner_parts(
    page: FlatPage, structure: Structure, part: np.ndarray, probability: np.ndarray, kept: np.ndarray
) -> np.ndarray:
    """Return the kept lines with the headings, lists, programs and tables between them.

    Such a part says little by itself. Where it stands in the element that holds the kept lines before and behind it,
    it belongs to them, unless it is improbable by far or made of links."""
    nodes = page.line_node
    counts = page.line_counts
    is_entry = structure.entry[nodes] > 0
    # entries of two or three characters say nothing each
    whole = shared_in_parts(page, np.where(is_entry, structure.outer_list[nodes], 0), probability)
    probability = np.where(is_entry, np.maximum(probability, whole), probability)
    is_part = (part > 0) | (structure.heading[nodes] > 0) | is_entry
    is_candidate = (
        is_part & ~kept & (probability >= INNER_PROBABILITY) & (2 * counts[:, LINKED] <= counts[:, CHARACTERS])
    )
    places = np.flatnonzero(kept)
    if not is_candidate.any() or not len(places):
        return kept
    candidates = np.flatnonzero(is_candidate)
    behind = np.searchsorted(places, candidates)
    inner = (behind > 0) & (behind < len(places))
    candidates, behind = candidates[inner], behind[inner]
    before, after = nodes[places[behind - 1]], nodes[places[behind]]
    around = page.node_parent[before]
    own = nodes[candidates]
    # at the end of a post or an answer
    is_behind = (own > around) & (own < structure.end[around]) & is_entry[candidates]
    is_behind &= probability[candidates] >= TAIL_PROBABILITY
    # a list or table that the line before ends: what holds it holds the line behind it
    for _ in range(MAX_LEVELS_OUT):
        is_left = (after >= structure.end[around]) & (structure.depth[around] + structure.table[around] > 0)
        around = np.where(is_left, page.node_parent[around], around)
    is_near = (candidates - places[behind - 1] <= MAX_PART_LINES) | (part[candidates] > 0)
    is_inside = (own > around) & (own < structure.end[around]) & (after > around) & (after < structure.end[around])
    result = kept.copy()
    result[candidates[(is_inside | is_behind) & is_near]] = True
    return result


def with_tail(
    page: FlatPage, structure: Structure, part: np.ndarray, probability: np.ndarray, kept: np.ndarray
) -> np.ndarray:
    """Return the kept lines with the lists, programs and tables that go on behind the last of them, in the element that
    holds most of them: such parts have nothing kept behind them, and few sentences."""
    places = np.flatnonzero(kept)
    if not len(places):
        return kept
    counts, nodes = page.line_counts, page.line_node
    last = int(places[-1])
    around = int(page.node_parent[nodes[last]])
    own = nodes[places]
    while around and 2 * np.count_nonzero((own > around) & (own < structure.end[around])) < len(places):
        around = int(page.node_parent[around])
    if not around or page.node_tag[around] in (TAG["body"], TAG["html"]):
        return kept
    result = kept.copy()
    for number in range(last + 1, len(kept)):
        is_inside = around < nodes[number] < structure.end[around]
        is_linked = 2 * counts[number, LINKED] > counts[number, CHARACTERS]
        is_odd = part[number] > 0 or structure.entry[nodes[number]] > 0
        if not (is_inside and is_odd) or is_linked or probability[number] < TAIL_PROBABILITY:
            break
        result[number] = True
    return result


def shared_in_parts(page: FlatPage, part: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Give all lines of a program, and all cells of a table of data, their mean: such a part is kept whole or not at
    all."""
    if not part.any():
        return probability
    characters = page.line_counts[:, CHARACTERS].astype(np.float64)
    size = len(page.node_parent)
    mean = np.bincount(part, probability * characters, size) / np.maximum(np.bincount(part, characters, size), 1)
    return np.where(part > 0, mean[part], probability)


def shared_among_kinds(page: FlatPage, kinds: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Return each line's probability drawn towards the mean of the lines in elements of the same kind, characters as
    weights.

    The posts of a thread stand or fall together, though the last of them has nothing good behind it. Links take no
    part: in old layouts one kind of cell holds the menu and the text."""
    counts = page.line_counts
    is_text = 2 * counts[:, LINKED] <= counts[:, CHARACTERS]
    kind = kinds[page.line_node]
    characters = np.where(is_text, counts[:, CHARACTERS], 0).astype(np.float64)
    size = len(page.node_parent)
    mean = np.bincount(kind, probability * characters, size) / np.maximum(np.bincount(kind, characters, size), 1)
    return np.where(is_text, probability + SHARED * (mean[kind] - probability), probability)


def kept_lines(
    page: FlatPage, kinds: np.ndarray, posts: np.ndarray, probability: np.ndarray, thread: float
) -> np.ndarray:
    """Return the lines to keep, bool [lines].

    They are the choice whose expected F1 is the greatest, as far as they are nearly as sure as the surest line: a
    stream of teasers is text or it is not, all of it, so many lines of little probability are no expected text. In
    threads all lines are kept that are not improbable: where one reply is text, all are."""
    # the text of <title> is no line of the page
    probability = np.where(page.node_tag[page.line_node] == TAG["title"], 0.0, probability)
    long = probability[page.line_counts[:, CHARACTERS] >= SURE_CHARACTERS]
    surest = float(long.max()) if len(long) else float(probability.max(initial=0.0))
    if thread >= IS_THREAD:
        furniture = post_furniture(page, kinds, probability)
        kept = probability >= max(SURE_SHARE_OF_THREADS * surest, LEAST_PROBABILITY)
        kept = with_all_replies(page, kinds, probability, kept)
        kept = without_columns(page, probability, kept & ~furniture)
        return kept | post_bodies(page, kinds, posts, ~furniture)
    share = SURE_SHARE * surest
    return expected_best(page, probability) & (probability >= max(share, LEAST_PROBABILITY))


def with_all_replies(page: FlatPage, kinds: np.ndarray, probability: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return the kept lines of a thread with those in elements of the same kind as most of them.

    Posts repeat one template: where most of what stands in such elements is text, a short or odd reply is text too.
    Names and times stand in elements of their own."""
    counts = page.line_counts
    is_text = 2 * counts[:, LINKED] <= counts[:, CHARACTERS]
    kind = kinds[page.line_node]
    characters = np.where(is_text, counts[:, CHARACTERS], 0).astype(np.float64)
    size = len(page.node_parent)
    share = np.bincount(kind, characters * kept, size) / np.maximum(np.bincount(kind, characters, size), 1)
    return kept | (is_text & (share[kind] >= SHARE_OF_REPLIES) & (probability >= LEAST_OF_REPLIES))


def post_furniture(page: FlatPage, kinds: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Return the lines of a thread that repeat with its posts and are none of their text, bool [lines].

    A day, a floor, a count of likes, a signature stand in elements of their own. A single such line may be a reply
    ("666", "昨天"); so the kind is judged: it is furniture where nearly all of its short lines are, or say the same."""
    counts, phrases = page.line_counts, page.line_phrases
    kind, size = kinds[page.line_node], len(page.node_parent)
    characters = counts[:, CHARACTERS].astype(np.float64)
    short = (characters < FURNITURE_CHARACTERS) & (counts[:, STOPS] == 0)
    lines = np.maximum(np.bincount(kind, minlength=size), 1)
    mean = np.bincount(kind, probability * characters, size) / np.maximum(np.bincount(kind, characters, size), 1)
    length = np.bincount(kind, characters, size) / lines
    texts = [
        page.text[a:b].tobytes().decode("utf-8", "replace")
        for a, b in zip(page.line_start.tolist(), page.line_end.tolist(), strict=True)
    ]

    def is_mostly(marked: np.ndarray) -> np.ndarray:
        return np.bincount(kind, short & marked, size) >= FURNITURE_SHARE * lines

    same = Counter((k, _DIGITS.sub("", text)) for k, text in zip(kind.tolist(), texts, strict=True))
    most = np.zeros(size)
    for (k, _), times in same.items():
        most[k] = max(most[k], times)
    sure = ((phrases & _SURE_PHRASES) != 0) | (counts[:, DIGITS] >= FURNITURE_DIGITS * characters)
    likely = sure | ((phrases & _LIKELY_PHRASES) != 0)
    # a card or a signature; the name of who speaks is short
    names = page.node_names | page.node_names[page.node_parent]
    is_card = ((names & _PERSON) != 0) & ((names & _TEXT) == 0) & (length >= NAME_CHARACTERS)
    is_furniture = (is_mostly(sure) | is_card | (most >= FURNITURE_SHARE * lines)) & (mean < SURE_FURNITURE)
    is_furniture |= is_mostly(likely) & (mean < LIKELY_FURNITURE)
    result = (is_furniture & (lines >= FURNITURE_LINES) & (length < FURNITURE_CHARACTERS))[kind]
    return result | np.array([len(text) < EDIT_CHARACTERS and bool(_EDITED.match(text)) for text in texts], bool)


def post_bodies(page: FlatPage, kinds: np.ndarray, posts: np.ndarray, is_text: np.ndarray) -> np.ndarray:
    """Return the lines that are the text of posts by their form, bool [lines]: of the kinds in which the posts say the
    most."""
    inside = (posts >= 0) & is_text
    if not inside.any():
        return inside
    kind, counts = kinds[page.line_node], page.line_counts
    size = np.bincount(kind, np.where(inside, counts[:, CHARACTERS] - counts[:, LINKED], 0))
    length = size / np.maximum(np.bincount(kind, inside, len(size)), 1)
    is_body = (size >= SHARE_OF_BODIES * size.max()) & (length >= NAME_CHARACTERS)
    return inside & is_body[kind]


def without_columns(page: FlatPage, probability: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return the kept lines of a thread without the doubtful ones of columns beside it: lists of hot words, cards of
    people.

    Replies may all be doubtful, and so may be the headline, but not a whole branch of the page: beside the least
    element that holds nearly all of the sure text, a branch counts that has a line of its own that is fairly sure."""
    characters, nodes, parent = page.line_counts[:, CHARACTERS], page.line_node, page.node_parent
    sure = np.where(probability >= BRANCH_PROBABILITY, characters * (characters >= BRANCH_CHARACTERS), 0)
    mass = np.bincount(nodes, sure, len(parent))
    for node in range(len(parent) - 1, 0, -1):
        mass[parent[node]] += mass[node]
    holds_most = mass > THREAD_MASS * mass[0]
    home = int(np.flatnonzero(holds_most)[-1]) if mass[0] else 0
    result = kept.copy()
    for number in np.flatnonzero(kept & (probability < IS_SURE) & (page.node_tag[nodes] != TAG["h1"])).tolist():
        node = int(nodes[number])
        while node != home and not holds_most[parent[node]]:
            node = int(parent[node])
        result[number] = home in (node, parent[node]) or mass[node] > 0
    return result


def expected_best(page: FlatPage, probability: np.ndarray) -> np.ndarray:
    """Return the lines whose expected F1 is the greatest, bool [lines].

    Lines are taken in falling order of probability as long as 2·Σpᵢcᵢ(kept) / (Σcᵢ(kept) + Σpᵢcᵢ(all)) grows, cᵢ
    being characters; which comes to p above half the F1 that is reached (Lipton, Elkan, Naryanaswamy, "Optimal
    thresholding of classifiers to maximize F1 measure", ECML 2014)."""
    if not len(probability):
        return np.zeros(0, bool)
    characters = page.line_counts[:, CHARACTERS].astype(np.float64)
    order = np.argsort(-probability, kind="stable")
    hits = np.cumsum((probability * characters)[order])
    expected = 2 * hits / (np.cumsum(characters[order]) + hits[-1] + 1e-9)
    kept = np.zeros(len(probability), bool)
    kept[order[: int(expected.argmax()) + 1]] = True
    return kept
