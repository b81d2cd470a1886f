"""Measures what stands around a line far away: the headline, the kind of its element, the last word of a box before it.

The *headline* is the line of the page that repeats the most of `<title>`. On today's portals lists of hot words stand
before it and whole other articles behind the one that it belongs to, so where a line stands towards it says more than
what the line says. `SURROUNDINGS` names the columns that follow those of `measures.py`; `SECOND_LOOK` those that are
known when a first model has judged every line."""

import numpy as np

from data_pipeline.extraction.parsed_page import CHARACTERS, LINKED, STOPS, TAG, FlatPage
from data_pipeline.extraction.patterns import PHRASE_GROUPS
from data_pipeline.kernels.compiled import compiled

BOX_PHRASES = ("related", "comment", "byline", "tool", "navigation", "copyright", "advertisement", "prompt", "age")
_BOX_BITS = np.array([1 << list(PHRASE_GROUPS).index(name) for name in BOX_PHRASES], np.int64)
SIBLING_LEVELS = 3
MASS_LEVELS = 6

SURROUNDINGS = [
    "has_headline", "is_headline", "after_headline", "headline_characters", "headline_lines", "headline_common_size",
    "headline_common_good", "headline_common_depth", "headings_since", "big_headings", "repeats",
    "kind_count", "kind_mean", "kind_link", *(f"siblings{level}" for level in range(SIBLING_LEVELS)),
    *(f"since_{name}" for name in BOX_PHRASES), *(f"until_{name}" for name in BOX_PHRASES), "depth",
    "in_home", "home_log", "home_good", "kind_at_home", "lines_behind_home",
    "page_thread",
]  # fmt: skip
SECOND_LOOK = [
    "p", "p_before", "p_after", "p_near", "p_around", "p_far", "p_kind",
    *(f"p_level{level}" for level in range(MASS_LEVELS)), *(f"mass_level{level}" for level in range(MASS_LEVELS)),
    "mass_before", "mass_after", "gap_before", "gap_after", "run_mass", "run_is_best", "run_from_best", "p_page",
]  # fmt: skip


@compiled
def _title_match(text, start, end, title_start, title_end):
    """Return how many bytes from the beginning of a line stand in the title, at most."""
    best = 0
    for i in range(title_start, title_end):
        if text[i] == text[start]:
            k = 1
            while i + k < title_end and start + k < end and text[i + k] == text[start + k]:
                k += 1
            best = max(best, k)
    return best


@compiled
def _find_headline(text, tag, line_start, line_end, line_node, title_tag, h1, h3):
    """Return the line that repeats the most of the title, headings first; -1 where none repeats enough of it."""
    lines = line_node.size
    title = -1
    for i in range(lines):
        if tag[line_node[i]] == title_tag:
            title = i
            break
    if title < 0:
        return -1
    title_start, title_end = line_start[title], min(line_end[title], line_start[title] + 300)
    best, best_score = -1, 0.0
    for i in range(title + 1, lines):
        length = line_end[i] - line_start[i]
        if length < 6 or length > 600:
            continue
        is_heading = h1 <= tag[line_node[i]] <= h3
        matched = _title_match(text, line_start[i], line_end[i], title_start, title_end)
        if is_heading and 2 * matched < length:  # the name of a channel may stand before it
            for start in range(line_start[i] + 1, min(line_end[i], line_start[i] + 60)):
                matched = max(matched, _title_match(text, start, line_end[i], title_start, title_end))
        # the name of a site or channel is a part of the title too, a short one
        if matched < 12 or 2 * matched < length or 3 * matched < title_end - title_start:
            is_whole = tag[line_node[i]] == h1 and matched == length and text[title_start] == text[line_start[i]]
            if not is_whole:
                continue
        score = matched + (20.0 if is_heading else 0.0) + (10.0 if tag[line_node[i]] == h1 else 0.0) - 1e-4 * i
        if score > best_score:
            best, best_score = i, score
    return best


@compiled
def _measure_surroundings(
    text, parent, tag, line_start, line_end, line_node, phrases, counts, path_of, at, rows, tags, boxes
):
    title_tag, h1, h3 = tags
    nodes, lines = parent.size, line_node.size
    size, good = np.zeros(nodes), np.zeros(nodes)
    kind_size, kind_linked, kind_nodes = np.zeros(nodes), np.zeros(nodes), np.zeros(nodes)
    depth = np.zeros(nodes, np.int32)
    siblings = np.zeros(nodes, np.int32)
    for node in range(1, nodes):
        depth[node] = depth[parent[node]] + 1
        kind_nodes[path_of[node]] += 1
    for i in range(lines):
        node, characters = line_node[i], counts[i, CHARACTERS]
        size[node] += characters
        kind_size[path_of[node]] += characters
        kind_linked[path_of[node]] += counts[i, LINKED]
        if rows[i, 10] > 0:
            good[node] += characters - counts[i, LINKED]
    for node in range(nodes - 1, 0, -1):
        size[parent[node]] += size[node]
        good[parent[node]] += good[node]
    _count_siblings(parent, path_of, siblings)
    headline = _find_headline(text, tag, line_start, line_end, line_node, title_tag, h1, h3)
    # the nearest element that holds both the line and the headline
    common = np.zeros(nodes, np.int32)
    if headline >= 0:
        up = line_node[headline]
        on_chain = np.zeros(nodes, np.bool_)
        while up > 0:
            on_chain[up] = True
            up = parent[up]
        for node in range(1, nodes):
            common[node] = node if on_chain[node] else common[parent[node]]
    repeats = _repeats(text, line_start, line_end)
    total, total_good = max(size[0], 1.0), max(good[0], 1.0)
    characters_so_far = np.zeros(lines + 1)
    for i in range(lines):
        characters_so_far[i + 1] = characters_so_far[i] + counts[i, CHARACTERS]
    headings, big = 0, 0
    for i in range(lines):
        row, node = rows[i], line_node[i]
        row[at] = headline >= 0
        if headline >= 0:
            row[at + 1] = i == headline
            row[at + 2] = i >= headline
            between = characters_so_far[i] - characters_so_far[headline]
            row[at + 3] = np.log1p(between) if between >= 0 else -np.log1p(-between)
            row[at + 4] = np.log1p(i - headline) if i >= headline else -np.log1p(headline - i)
            row[at + 5] = size[common[node]] / total
            row[at + 6] = good[common[node]] / total_good
            row[at + 7] = depth[node] - depth[common[node]]
        if h1 <= tag[node] <= h3 and i != headline:
            headings += 1
            big += tag[node] == h1 or (headline >= 0 and path_of[node] == path_of[line_node[headline]])
        if i == headline:
            headings, big = 0, 0
        row[at + 8] = min(headings, 12)
        row[at + 9] = min(big, 6)
        row[at + 10] = np.log1p(repeats[i])
        kind = path_of[node]
        row[at + 11] = np.log1p(kind_nodes[kind])
        row[at + 12] = np.log1p(kind_size[kind] / max(kind_nodes[kind], 1.0))
        row[at + 13] = kind_linked[kind] / max(kind_size[kind], 1.0)
        up = node
        for level in range(3):
            row[at + 14 + level] = np.log1p(siblings[up])
            up = parent[up]
    kinds = boxes.size
    since = np.full(kinds, 40.0)
    first = at + 17
    for i in range(lines):
        for k in range(kinds):
            rows[i, first + k] = since[k]
            since[k] = min(since[k] + 1, 40.0)
            if counts[i, CHARACTERS] <= 24 and phrases[i] & boxes[k]:
                since[k] = 0.0
    since[:] = 40.0
    first += kinds
    for j in range(lines):
        i = lines - 1 - j
        for k in range(kinds):
            rows[i, first + k] = since[k]
            since[k] = min(since[k] + 1, 40.0)
            if counts[i, CHARACTERS] <= 24 and phrases[i] & boxes[k]:
                since[k] = 0.0
        rows[i, first + kinds] = depth[line_node[i]]
    rows[:, first + kinds + 1 : first + kinds + 6] = -1.0
    if headline >= 0:
        _measure_home(
            headline, size, good, common, line_node, counts, phrases, boxes[2], path_of, kind_size, rows,
            first + kinds + 1,
        )  # fmt: skip


@compiled
def _measure_home(headline, size, good, common, line_node, counts, phrases, byline, path_of, kind_size, rows, at):
    """Measure the *home* of the headline, which is the least element that holds it and the first good text behind
    it."""
    lines = line_node.size
    home, other, last = -1, -1, -1
    for i in range(headline + 1, lines):
        is_byline = counts[i, CHARACTERS] < 60 and phrases[i] & byline
        if rows[i, 10] > 0 and counts[i, STOPS] > 0 and counts[i, CHARACTERS] >= 25 and not is_byline:
            home = common[line_node[i]]
            break
        if (
            other < 0
            and counts[i, CHARACTERS] >= 12
            and 3 * counts[i, LINKED] < counts[i, CHARACTERS]
            and not is_byline
        ):
            other = common[line_node[i]]
    if home < 0:  # a page without sentences
        home = other
    if home < 0:
        return
    kind_home = np.zeros(kind_size.size)
    for i in range(lines):
        # the element that holds the line and the headline is the home or lies in it
        rows[i, at] = size[common[line_node[i]]] <= size[home]
        if rows[i, at] > 0:
            kind_home[path_of[line_node[i]]] += counts[i, CHARACTERS]
            last = i
    for i in range(lines):
        kind = path_of[line_node[i]]
        rows[i, at + 1] = np.log1p(size[home])
        rows[i, at + 2] = good[home] / max(good[0], 1.0)
        rows[i, at + 3] = kind_home[kind] / max(kind_size[kind], 1.0)
        rows[i, at + 4] = np.log1p(i - last) if i > last else 0.0


@compiled
def _count_siblings(parent, path_of, siblings):
    """Count for each element how many of its kind its parent has."""
    nodes = parent.size
    code = np.zeros(nodes, np.int64)
    for node in range(1, nodes):
        code[node] = np.int64(parent[node]) * 4_000_000 + path_of[node]
    order = np.argsort(code, kind="mergesort")
    start = 0
    for k in range(1, nodes + 1):
        if k == nodes or code[order[k]] != code[order[start]]:
            for j in range(start, k):
                siblings[order[j]] = k - start
            start = k


@compiled
def _repeats(text, line_start, line_end):
    """Count for each line how many lines of the page say the same."""
    lines = line_start.size
    code = np.zeros(lines, np.int64)
    for i in range(lines):
        h = np.int64(7)
        for k in range(line_start[i], min(line_end[i], line_start[i] + 400)):
            h = (h * 131 + text[k]) & 0x7FFFFFFFFFFFFF
        code[i] = h
    order = np.argsort(code, kind="mergesort")
    found = np.zeros(lines, np.int32)
    start = 0
    for k in range(1, lines + 1):
        if k == lines or code[order[k]] != code[order[start]]:
            for j in range(start, k):
                found[order[j]] = k - start
            start = k
    return found


@compiled
def _look_again(parent, line_node, counts, path_of, probability, at, rows, levels):
    nodes, lines = parent.size, line_node.size
    size, mass = np.zeros(nodes), np.zeros(nodes)
    kind_size, kind_mass = np.zeros(nodes), np.zeros(nodes)
    total = 1e-9
    for i in range(lines):
        node, characters = line_node[i], counts[i, CHARACTERS]
        size[node] += characters
        mass[node] += probability[i] * characters
        kind_size[path_of[node]] += characters
        kind_mass[path_of[node]] += probability[i] * characters
        total += probability[i] * characters
    for node in range(nodes - 1, 0, -1):
        size[parent[node]] += size[node]
        mass[parent[node]] += mass[node]
    # runs of lines that are probably text; a few others may stand between
    run_of = np.zeros(lines, np.int32)
    run_mass = np.zeros(lines + 1)
    run, weak = 0, 1000.0
    for i in range(lines):
        if probability[i] >= 0.5:
            if weak > 60:
                run += 1
            weak = 0.0
        else:
            weak += counts[i, CHARACTERS] * (0.5 - probability[i]) * 2
        run_of[i] = run
        run_mass[run] += probability[i] * counts[i, CHARACTERS] if probability[i] >= 0.5 else 0.0
    best = 0
    for k in range(run + 1):
        if run_mass[k] > run_mass[best]:
            best = k
    before, gap = 0.0, 500.0
    for i in range(lines):
        row, node, own = rows[i], line_node[i], counts[i, CHARACTERS]
        row[at] = probability[i]
        row[at + 1] = probability[i - 1] if i > 0 else 0.0
        row[at + 2] = probability[i + 1] if i + 1 < lines else 0.0
        for w in range(3):
            reach = 2 if w == 0 else 5 if w == 1 else 12
            weight, found = 1e-9, 0.0
            for k in range(max(0, i - reach), min(lines, i + reach + 1)):
                weight += counts[k, CHARACTERS]
                found += probability[k] * counts[k, CHARACTERS]
            row[at + 3 + w] = found / weight
        row[at + 6] = kind_mass[path_of[node]] / max(kind_size[path_of[node]], 1.0)
        up = node
        for level in range(levels):
            row[at + 7 + level] = mass[up] / max(size[up], 1.0)
            row[at + 7 + levels + level] = mass[up] / total
            up = parent[up]
        k = at + 7 + 2 * levels
        row[k] = before / total
        before += probability[i] * own
        row[k + 1] = 1 - before / total
        row[k + 2] = np.log1p(gap)
        gap = 0.0 if probability[i] >= 0.5 else min(gap + own, 5000.0)
        row[k + 4] = run_mass[run_of[i]] / total
        row[k + 5] = run_of[i] == best
        row[k + 6] = run_of[i] - best
        row[k + 7] = total / max(size[0], 1.0)
    gap = 500.0
    for j in range(lines):
        i = lines - 1 - j
        rows[i, at + 7 + 2 * levels + 3] = np.log1p(gap)
        gap = 0.0 if probability[i] >= 0.5 else min(gap + counts[i, CHARACTERS], 5000.0)


_TAGS = (TAG["title"], TAG["h1"], TAG["h3"])


def measure_surroundings(page: FlatPage, path_of: np.ndarray, at: int, rows: np.ndarray) -> None:
    """Fill the columns of `SURROUNDINGS` from column `at` on."""
    _measure_surroundings(
        page.text, page.node_parent, page.node_tag, page.line_start, page.line_end, page.line_node, page.line_phrases,
        page.line_counts, path_of, at, rows, _TAGS, _BOX_BITS,
    )  # fmt: skip


def look_again(page: FlatPage, path_of: np.ndarray, probability: np.ndarray, at: int, rows: np.ndarray) -> None:
    """Fill the columns of `SECOND_LOOK` from column `at` on, by what a first model says of every line."""
    _look_again(page.node_parent, page.line_node, page.line_counts, path_of, probability, at, rows, MASS_LEVELS)
