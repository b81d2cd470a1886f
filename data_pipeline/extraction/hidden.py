"""Hidden blocks whose text a reader does see: a script shows the article, or a button unfolds the rest of it.

Menus, dialogs and copies for another screen are hidden too. A hidden block counts as shown where it holds more good
text than all that is visible, or goes on with the visible article on a page that offers to unfold it."""

import re

import numpy as np

from data_pipeline.extraction.parsed_page import CHARACTERS, LINKED, MARKS, STOPS, FlatPage
from data_pipeline.extraction.patterns import NAME_GROUPS

MINIMUM_CHARACTERS = 60  # of good text in a hidden block
UNFOLDED_SHARE = 0.25  # of the visible good text, that an unfolded rest has at least
_UNFOLD = re.compile(
    r"展开全文|展开阅读|阅读全文|查看全文|余下全文|剩余全文|全文阅读|显示全部|查看更多|点击展开|展开剩余|继续阅读|查看全部|展开更多|閱讀全文|"
    "展開全文|繼續閱讀|続きを読む|read more|show more|continue reading".encode(),
    re.I,
)
_NEVER_SHOWN = sum(1 << bit for bit, name in enumerate(NAME_GROUPS) if name in ("form", "tool", "advertisement"))


def shown_lines(page: FlatPage) -> np.ndarray:
    """Return which lines a reader sees, bool [lines]."""
    hidden = page.line_hidden
    shown = hidden == 0
    if shown.all():
        return shown
    counts = page.line_counts
    is_good = (
        (counts[:, CHARACTERS] >= 15)
        & (3 * counts[:, LINKED] < counts[:, CHARACTERS])
        & ((counts[:, STOPS] > 0) | (counts[:, MARKS] >= 2))
    )
    good = np.where(is_good, counts[:, CHARACTERS], 0)
    # paragraphs hidden one by one stand together
    parent = page.node_parent[hidden]
    sums = np.bincount(parent[~shown], good[~shown], len(page.node_parent))
    best = int(sums.argmax())
    members = ~shown & (parent == best)
    names = page.node_names[hidden[members]]
    visible = float(good[shown].sum())
    if sums[best] < MINIMUM_CHARACTERS or (names & _NEVER_SHOWN).any() or _repeats(page, members & is_good, shown):
        return shown
    if sums[best] >= visible or (
        sums[best] >= UNFOLDED_SHARE * visible
        and _share_below(page, best, np.where(shown, good, 0)) >= 0.6
        and _UNFOLD.search(page.text.tobytes())
    ):
        return shown | members
    return shown


def _repeats(page: FlatPage, members: np.ndarray, shown: np.ndarray) -> bool:
    """Say whether hidden lines are mostly a copy of visible ones."""
    text = page.text.tobytes()

    def texts(chosen: np.ndarray) -> list[bytes]:
        return [text[page.line_start[i] : page.line_end[i]] for i in np.flatnonzero(chosen).tolist()]

    visible, hidden = set(texts(shown)), texts(members)
    return 2 * sum(line in visible for line in hidden) > len(hidden)


def _share_below(page: FlatPage, node: int, good: np.ndarray) -> float:
    """Return the share of good text that lies in an element and below it."""
    below = np.zeros(len(page.node_parent), bool)
    below[node] = True
    parents = page.node_parent
    for child in range(node + 1, len(parents)):
        below[child] = below[parents[child]]
    return float(good[below[page.line_node]].sum()) / max(float(good.sum()), 1.0)


def with_lines(page: FlatPage, chosen: np.ndarray) -> FlatPage:
    """Return the page with some of its lines only."""
    if chosen.all():
        return page
    fields = {name: getattr(page, name)[chosen] for name in FlatPage._fields if name.startswith("line_")}
    return page._replace(**fields)
