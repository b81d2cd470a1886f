"""Footnotes: what the numbers in a text link to, wherever on the page it stands.

The model of lines drops most of them, because they are short and stand behind the article, between marks that link
back. A link in the kept text whose words are a number or a mark, and whose target is an element further on, is a
reference; the element is its note. Lists of sources, which are mostly links, are none."""

import re

import numpy as np

from data_pipeline.extraction.output.element_structure import Structure
from data_pipeline.extraction.parsed_page import CHARACTERS, LINK, LINK_END, LINKED, TAG, FlatPage

MAX_NOTES = 500
MAX_NOTE_LINES, MAX_NOTE_CHARACTERS = 8, 1500
MAX_LINKED_SHARE = 0.4  # of a list of notes, in links; with their marks
HEADING_CHARACTERS = 12
_LABEL = re.compile(
    r"\s*[\[［〔【(（]?\s*(?:[注註釋释]\s*|note\s*)?(?:\d{1,3}|[*＊†‡§¶]{1,3}|[①-⑳㉑-㉟]|[a-z]|[ivx]{1,4}|[一二三四五六七八九十]{1,3})"
    r"\s*[\]］〕】)）]?\s*",
    re.I,
)
_HREF = re.compile(rb"""\bhref\s*=\s*["']?#([^\s"'>]{1,200})""", re.I)
_ANCHOR = re.compile(rb"""\b(?:id|name)\s*=\s*["']?([^\s"'>]{1,200})""", re.I)
_NOTES = re.compile(
    r"\s*(?:注[释解]?|註[釋解]?|[脚尾]注|[腳尾]註|备注|備註|附注|附註|foot\s?notes?|notes?)\s*[:：]?\s*(?:[\[［].{0,6}[\]］])?",
    re.I,
)
_TAG_BYTES = 2000


def with_notes(page: FlatPage, structure: Structure, markup: bytes, kept: np.ndarray) -> np.ndarray:
    """Return the kept lines with those of the notes that they refer to, bool [lines]."""
    targets = _targets(page, markup, kept)
    if not targets:
        return kept
    lists: dict[int, np.ndarray] = {}
    for node, reference in _nodes(page, markup, targets):
        parent = int(page.node_parent[node])
        lists[parent] = lists.get(parent, False) | (_lines_of(page, structure, node, reference) & ~kept)
    result = kept.copy()
    for notes in lists.values():
        counts = page.line_counts[notes]
        if notes.any() and counts[:, LINKED].sum() <= MAX_LINKED_SHARE * counts[:, CHARACTERS].sum():
            result |= _with_heading(page, notes)
    return result


def _targets(page: FlatPage, markup: bytes, kept: np.ndarray) -> dict[bytes, int]:
    """Return what the numbers in the kept lines link to, and the line of each."""
    if not kept.any() or b"#" not in markup:
        return {}
    places, kinds = page.mark_place, page.mark_kind
    links = np.flatnonzero(kinds == LINK)
    lines = np.searchsorted(page.line_start, places[links], "right") - 1
    inside = (lines >= 0) & (places[links] < page.line_end[lines]) & kept[np.maximum(lines, 0)]
    found: dict[bytes, int] = {}
    for link, line in zip(links[inside].tolist(), lines[inside].tolist(), strict=True):
        source = int(page.mark_source[link])
        href = _HREF.search(markup, source, source + _TAG_BYTES)
        if href is None or markup.find(b">", source, href.start()) >= 0:
            continue
        end = int(places[link + 1]) if link + 1 < len(kinds) and kinds[link + 1] == LINK_END else int(places[link])
        label = page.text[int(places[link]) : end][:40].tobytes().decode("utf-8", "replace")
        if _LABEL.fullmatch(label) and len(found) < MAX_NOTES:
            found.setdefault(href[1], line)
    return found


def _nodes(page: FlatPage, markup: bytes, targets: dict[bytes, int]) -> list[tuple[int, int]]:
    """Return the elements that have the names of targets, or hold an inline element that has one, each with the line
    that refers to it."""
    first = int(page.node_source[page.line_node[min(targets.values())]])
    found: dict[bytes, tuple[int, int]] = {}
    for anchor in _ANCHOR.finditer(markup, first):
        line = targets.get(anchor[1])
        if line is not None and anchor[1] not in found:
            node = int(np.searchsorted(page.node_source, anchor.start(), "right")) - 1
            if node > page.line_node[line]:
                found[anchor[1]] = node, line
    return list(found.values())


def _lines_of(page: FlatPage, structure: Structure, node: int, reference: int) -> np.ndarray:
    """Return the lines of a note, bool [lines]; none where the element is no note."""
    end = int(structure.end[node])
    tag = int(page.node_tag[node])
    nodes = page.line_node
    if tag == TAG["td"]:  # a number in a cell of its own
        node = int(structure.row[node]) or node
        end = int(structure.end[node])
    elif tag == TAG["dt"] and end < len(page.node_tag) and page.node_tag[end] == TAG["dd"]:
        end = int(structure.end[end])
    inside = (nodes >= node) & (nodes < end)
    inside[: reference + 1] = False
    counts = page.line_counts[inside]
    is_note = 0 < len(counts) <= MAX_NOTE_LINES and counts[:, CHARACTERS].sum() <= MAX_NOTE_CHARACTERS
    if not is_note or structure.heading[nodes[inside]].any():
        return np.zeros(len(nodes), bool)
    return inside


def _with_heading(page: FlatPage, notes: np.ndarray) -> np.ndarray:
    """Return the lines of notes with the one before them that says what they are."""
    before = int(np.flatnonzero(notes)[0]) - 1
    if before >= 0 and page.line_counts[before, CHARACTERS] <= HEADING_CHARACTERS:
        text = page.text[int(page.line_start[before]) : int(page.line_end[before])].tobytes().decode("utf-8", "replace")
        if _NOTES.fullmatch(text):
            notes[before] = True
    return notes
