"""Measures the lines of a page: what each says, how its element is called, what stands around it.

One row of numbers for a line. `FEATURES` names the columns; `data_pipeline/extraction/line_model.py` turns them into
the probability that the line belongs to the main text."""

import numpy as np

from data_pipeline.extraction.parsed_page import (
    ANCHORS,
    CHARACTERS,
    DIGITS,
    HAN,
    LINKED,
    MARKS,
    SPACES,
    STOPS,
    TAGS,
    FlatPage,
)
from data_pipeline.extraction.patterns import NAME_GROUPS, PHRASE_GROUPS
from data_pipeline.extraction.surroundings import SECOND_LOOK, SURROUNDINGS, measure_surroundings
from data_pipeline.kernels.compiled import compiled

# Elements that say something about the text in them, one bit each.
TAG_GROUPS = {
    "nav": "nav menu",
    "footer": "footer",
    "aside": "aside",
    "header": "header hgroup",
    "article": "article",
    "main": "main",
    "form": "form fieldset",
    "list": "ul ol dl dir li",
    "heading": "h1 h2 h3 h4 h5 h6",
    "preformatted": "pre listing",
    "paragraph": "p",
    "quote": "blockquote",
    "cell": "td th",
    "head": "head title",
}
_TAG_BITS = np.array(
    [sum(1 << bit for bit, tags in enumerate(TAG_GROUPS.values()) if tag in tags.split()) for tag in [*TAGS, ""]],
    np.int64,
)
# arguments of the kernels, whose machine code outlives a change of the tables in another file
_GROUPS = (len(TAG_GROUPS), len(PHRASE_GROUPS), len(NAME_GROUPS), TAGS.index("body"))
TREE_DEPTH = 4  # of the model that reads these measures
LEVELS = 4  # how many enclosing elements are measured one by one

FEATURES = [
    "log_characters", "han_share", "mark_share", "stop_share", "has_stop", "link_share", "anchors", "digit_share",
    "space_share", "ends_sentence", "is_good",
    "before_log", "before_link", "before_good", "after_log", "after_link", "after_good",
    "window_log", "window_link", "window_good",
    "good_lines_away_before", "good_lines_away_after", "good_before_share", "good_after_share", "position",
    *(f"level{level}_{what}" for level in range(LEVELS) for what in ("log", "link", "good", "share", "mark")),
    "chain_depth", "chain_size_share", "same_element_good", "same_path_share", "same_path_good",
    "page_log", "page_link", "page_good", "page_lines",
    *(f"tag_{name}" for name in TAG_GROUPS),
    *(f"phrase_{name}" for name in PHRASE_GROUPS), "phrase_kinds",
    *(f"near_{name}" for name in NAME_GROUPS),
    *(f"inside_{name}" for name in NAME_GROUPS),
]  # fmt: skip
LINE_FEATURES = len(FEATURES)
FEATURES += SURROUNDINGS
FIRST_FEATURES = len(FEATURES)  # what the first model reads; the second reads all
PAGE_THREAD = FEATURES.index("page_thread")  # how probably the page is a thread; known when its lines are measured
FEATURES += SECOND_LOOK


@compiled
def _measure(
    text, parent, tag, names, line_start, line_end, line_node, phrases, counts, tag_bits, path_of, features, groups
):
    nodes, lines = parent.size, line_node.size
    tag_groups, phrase_groups, name_groups, body = groups
    rows = np.zeros((lines, features), np.float32)
    # what lies in an element and all below it
    size, linked, good, marks = np.zeros(nodes), np.zeros(nodes), np.zeros(nodes), np.zeros(nodes)
    own_good = np.zeros(nodes)
    line_good = np.zeros(lines)
    path_size, path_good = np.zeros(nodes), np.zeros(nodes)
    for i in range(lines):
        characters, node = counts[i, CHARACTERS], line_node[i]
        mark, stop, link = counts[i, MARKS], counts[i, STOPS], counts[i, LINKED]
        if characters >= 15 and 3 * link < characters and (stop > 0 or mark >= 2) and mark * 40 >= characters:
            line_good[i] = characters - link
        size[node] += characters
        linked[node] += link
        marks[node] += mark
        good[node] += line_good[i]
        path_size[path_of[node]] += characters
        path_good[path_of[node]] += line_good[i]
    own_good[:] = good
    for node in range(nodes - 1, 0, -1):
        size[parent[node]] += size[node]
        linked[parent[node]] += linked[node]
        marks[parent[node]] += marks[node]
        good[parent[node]] += good[node]
    # what the enclosing elements are; a name says nothing about an element that holds most of the page's good text
    inside, near, tags, chain = (
        np.zeros(nodes, np.int64),
        np.zeros(nodes, np.int64),
        np.zeros(nodes, np.int64),
        np.zeros(nodes, np.int32),
    )
    chain_size = np.zeros(nodes)
    for node in range(nodes):
        own_tags = tag_bits[tag[node]] if tag[node] >= 0 else 0
        tags[node] = own_tags
        if node:
            up = parent[node]
            tags[node] |= tags[up]
            inside[node] = inside[up] | names[node] if tag[node] > body else 0
            near[node] = names[node] | (names[up] if tag[up] > body else 0)
            on_chain = good[node] * 2 >= good[0] and good[0] > 0
            chain[node] = chain[up] + 1 if on_chain else chain[up]
            chain_size[node] = size[node] if on_chain else chain_size[up]
        else:
            chain_size[node] = size[0]
    total, total_good = max(size[0], 1.0), max(good[0], 1.0)
    away = 50.0
    good_so_far = 0.0
    for i in range(lines):
        rows[i, 20] = away
        rows[i, 22] = good_so_far / total_good
        away = 0.0 if line_good[i] > 0 else min(away + 1, 50.0)
        good_so_far += line_good[i]
    away = 50.0
    for k in range(lines):
        i = lines - 1 - k
        rows[i, 21] = away
        rows[i, 23] = 1 - rows[i, 22] - line_good[i] / total_good
        away = 0.0 if line_good[i] > 0 else min(away + 1, 50.0)
    for i in range(lines):
        row, node = rows[i], line_node[i]
        characters = max(counts[i, CHARACTERS], 1)
        row[0] = np.log1p(characters)
        row[1] = counts[i, HAN] / characters
        row[2] = counts[i, MARKS] / characters
        row[3] = counts[i, STOPS] / characters
        row[4] = counts[i, STOPS] > 0
        row[5] = counts[i, LINKED] / characters
        row[6] = min(counts[i, ANCHORS], 6)
        row[7] = counts[i, DIGITS] / characters
        row[8] = counts[i, SPACES] / characters
        row[9] = _ends_sentence(text, line_start[i], line_end[i])
        row[10] = line_good[i] > 0
        for side in range(2):
            k = i - 1 if side == 0 else i + 1
            if 0 <= k < lines:
                row[11 + 3 * side] = np.log1p(counts[k, CHARACTERS])
                row[12 + 3 * side] = counts[k, LINKED] / max(counts[k, CHARACTERS], 1)
                row[13 + 3 * side] = line_good[k] > 0
        window, window_link, window_good = 0.0, 0.0, 0.0
        for k in range(max(0, i - 4), min(lines, i + 5)):
            window += counts[k, CHARACTERS]
            window_link += counts[k, LINKED]
            window_good += line_good[k]
        row[17] = np.log1p(window)
        row[18] = window_link / max(window, 1)
        row[19] = window_good / max(window, 1)
        row[24] = i / lines
        up = node
        for level in range(LEVELS):
            at = 25 + 5 * level
            row[at] = np.log1p(size[up])
            row[at + 1] = linked[up] / max(size[up], 1)
            row[at + 2] = good[up] / max(size[up], 1)
            row[at + 3] = good[up] / total_good
            row[at + 4] = marks[up] / max(size[up], 1)
            up = parent[up]
        at = 25 + 5 * LEVELS
        row[at] = chain[node]
        row[at + 1] = chain_size[node] / total
        row[at + 2] = own_good[node] / total_good
        row[at + 3] = path_size[path_of[node]] / total
        row[at + 4] = path_good[path_of[node]] / max(path_size[path_of[node]], 1)
        row[at + 5] = np.log1p(total)
        row[at + 6] = linked[0] / total
        row[at + 7] = good[0] / total
        row[at + 8] = np.log1p(lines)
        at += 9
        for bit in range(tag_groups):
            row[at + bit] = tags[node] >> bit & 1
        at += tag_groups
        for bit in range(phrase_groups):
            row[at + bit] = phrases[i] >> bit & 1
            row[at + phrase_groups] += phrases[i] >> bit & 1
        at += phrase_groups + 1
        for bit in range(name_groups):
            row[at + bit] = near[node] >> bit & 1
            row[at + name_groups + bit] = inside[node] >> bit & 1
    return rows


@compiled
def _ends_sentence(text, start, end):
    """Return whether a line ends as sentences do: 。！？；：…”」』）, with their ASCII forms."""
    if end - start >= 3:
        a, b, c = text[end - 3], text[end - 2], text[end - 1]
        if a == 0xE3 and b == 0x80 and (c == 0x82 or c == 0x8D or c == 0x8F or c == 0x8B):  # 。」』》
            return True
        if a == 0xEF and b == 0xBC and (c == 0x81 or c == 0x9F or c == 0x9B or c == 0x9A or c == 0x89):  # ！？；：）
            return True
        if a == 0xE2 and b == 0x80 and (c == 0x9D or c == 0xA6):  # ”…
            return True
    return end > start and (text[end - 1] == 46 or text[end - 1] == 33 or text[end - 1] == 63 or text[end - 1] == 59)


@compiled
def _paths(parent, tag, names):
    """Return the first node whose chain of (tag, names) is the same: lines with one path are of one kind (posts, list
    entries)."""
    nodes = parent.size
    code = np.zeros(nodes, np.int64)
    for node in range(1, nodes):
        code[node] = (code[parent[node]] * 1000003 ^ (names[node] * 8191 + tag[node] + 7)) & 0x7FFFFFFFFFFFFFFF
    order = np.argsort(code, kind="mergesort")
    path_of = np.zeros(nodes, np.int32)
    first = order[0]
    for k in range(nodes):
        if code[order[k]] != code[first]:
            first = order[k]
        path_of[order[k]] = first
    return path_of


@compiled
def evaluate_trees(rows, feature, threshold, leaf):
    """Return the logistic function of the sum over trees, float64 [rows].

    `feature` and `threshold` are [trees, 2^TREE_DEPTH - 1], `leaf` is [trees, 2^TREE_DEPTH]: complete trees in heap
    order, so that a step down is arithmetic instead of a branch that the processor would have to guess. Unsigned
    places spare numba's test for negative ones."""
    probability = np.zeros(rows.shape[0])
    one, leaves = np.uint64(1), np.uint64(2**TREE_DEPTH - 1)
    for i in range(rows.shape[0]):
        row, total = rows[i], 0.0
        for tree in range(feature.shape[0]):
            asked, limit = feature[tree], threshold[tree]
            k = np.uint64(0)
            for _ in range(TREE_DEPTH):
                k = k + k + one + np.uint64(row[asked[k]] > limit[k])
            total += leaf[tree, k - leaves]
        probability[i] = 1 / (1 + np.exp(-total))
    return probability


def node_kinds(page: FlatPage) -> np.ndarray:
    """Return for each element the first one whose tags and names up to the root are the same (posts of a thread,
    entries of a list)."""
    return _paths(page.node_parent, page.node_tag, page.node_names)


def measure_lines(page: FlatPage, path_of: np.ndarray) -> np.ndarray:
    """Return the measures of each line, float32 [lines, len(FEATURES)]; those of SECOND_LOOK are 0 yet."""
    rows = _measure(
        page.text, page.node_parent, page.node_tag, page.node_names, page.line_start, page.line_end, page.line_node,
        page.line_phrases, page.line_counts, _TAG_BITS, path_of, len(FEATURES), _GROUPS,
    )  # fmt: skip
    measure_surroundings(page, path_of, LINE_FEATURES, rows)
    return rows


@compiled
def _mean_row(rows, counts, columns):
    found = np.zeros((1, columns), np.float32)
    total = 1e-9
    for i in range(rows.shape[0]):
        weight = counts[i, CHARACTERS]
        total += weight
        for k in range(columns):
            found[0, k] += weight * rows[i, k]
    return found / np.float32(total)


def measure_page(page: FlatPage, rows: np.ndarray) -> np.ndarray:
    """Return the measures of a page, float32 [1, PAGE_THREAD]: the means of those of its lines, characters as
    weights."""
    return _mean_row(rows, page.line_counts, PAGE_THREAD)
