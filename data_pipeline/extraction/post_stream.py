"""Finds the posts of a thread by their form: a row of like elements, each with a day and a text of its own, whose
floors are counted or which a count of replies stands before.

The model of a page (`line_model.py`) reads means of measures. They say little of a thread whose software it has not
seen. Comments below an article have the same form; they are told apart by what they are called."""

import re

import numpy as np

from data_pipeline.extraction.parsed_page import CHARACTERS, DIGITS, LINKED, TAGS, FlatPage
from data_pipeline.extraction.patterns import NAME_GROUPS, PHRASE_GROUPS
from data_pipeline.kernels.compiled import compiled

LEAST_POSTS = 3
SHARE_OF_POSTS = 0.6  # of the elements in the row are posts; others are advertisements, buttons
POST_CHARACTERS = 10  # of text, on average
MAX_DAYS = 6  # in one post: its own, those of replies to it
SHORT_LINE = 60  # a line with a day is shorter
DAY_DIGITS, DAY_SHARE = 6, 0.3  # a line with so many digits that are so much of it is a day
SHARE_OF_FLOORS = 0.6  # of the posts have a floor, and it rises
LINES_BEFORE = 6  # where the count of replies stands
ANCESTORS = 3  # which may be called comments
_AGE = np.int64(1 << list(PHRASE_GROUPS).index("age"))
_POST, _COMMENT, _RELATED = (1 << list(NAME_GROUPS).index(name) for name in ("post", "comment", "related"))
_FLOOR = re.compile(r"(?:^|\s)(?:#\s?(\d{1,5})|(\d{1,5})\s?(?:楼|樓|#|F\b))|^(\d{1,5})$")
_FIRST_FLOORS = {
    word: floor for floor, words in enumerate(("楼主 樓主 1楼", "沙发 沙發", "板凳", "地板")) for word in words.split()
}
_COUNT = re.compile(
    r"\d\s*(?:条|條|个|個|则|則|篇|次)?\s*(?:回复|回覆|回帖|跟帖|回应|回應|回答|answers?\b|repl(?:y|ies)\b)"
    r"|(?:回复|回覆|回帖|跟帖|回应|回應|回答|answers|replies)(?:数|數)?\s*[:：(（]?\s*\d",
    re.I,
)

_COMMENTS = re.compile(r"(?:最新|全部|热门|熱門|精彩|网友|網友|用户|文章)*\s*(?:评论|評論|留言|跟贴)")


@compiled
def _find_posts(parent, tag, line_node, counts, phrases, age, tags, limits):
    """Return for each line the element that is its post in the row of posts with the most text, or -1."""
    least_posts, share, characters, max_days = limits
    nodes, lines = parent.size, line_node.size
    days, text = np.zeros(nodes), np.zeros(nodes)
    for i in range(lines):
        size, digits = counts[i, CHARACTERS], counts[i, DIGITS]
        is_day = phrases[i] & age != 0 or (digits >= DAY_DIGITS and digits >= DAY_SHARE * size)
        if size < SHORT_LINE and is_day:
            days[line_node[i]] += 1
        else:
            text[line_node[i]] += size - counts[i, LINKED]
    code = np.zeros(nodes, np.int64)
    for node in range(nodes - 1, 0, -1):
        days[parent[node]] += days[node]
        text[parent[node]] += text[node]
        code[node] = np.int64(parent[node]) * (tags + 2) + tag[node] + 1
    order = np.argsort(code, kind="mergesort")
    best, best_text, start = np.int64(-1), 0.0, 0
    for k in range(1, nodes + 1):
        if k == nodes or code[order[k]] != code[order[start]]:
            posts, found = 0, 0.0
            for j in range(start, k):
                node = order[j]
                if 1 <= days[node] <= max_days and text[node] >= 1:
                    posts += 1
                    found += text[node]
            if (
                posts >= least_posts
                and posts >= share * (k - start)
                and found >= characters * posts
                and found > best_text
            ):
                best, best_text = code[order[start]], found
            start = k
    owner = np.full(nodes, -1, np.int32)
    post = np.full(lines, -1, np.int32)
    if best >= 0:
        for node in range(1, nodes):
            if code[node] == best:
                owner[node] = node
            elif owner[parent[node]] >= 0:
                owner[node] = owner[parent[node]]
        for i in range(lines):
            post[i] = owner[line_node[i]]
    return post


def find_posts(page: FlatPage) -> np.ndarray:
    """Return for each line the element that is its post, or -1, int32 [lines]. A page that is no thread has none."""
    post = _find_posts(
        page.node_parent, page.node_tag, page.line_node, page.line_counts, page.line_phrases, _AGE, len(TAGS),
        (LEAST_POSTS, SHARE_OF_POSTS, POST_CHARACTERS, MAX_DAYS),
    )  # fmt: skip
    return post if _is_thread(page, post) else np.full_like(post, -1)


def _is_thread(page: FlatPage, post: np.ndarray) -> bool:
    """Return whether a row of elements are posts, and no comments or teasers."""
    inside = np.flatnonzero(post >= 0)
    if not len(inside):
        return False
    first = int(inside[0])
    node, names = int(post[first]), 0
    for _ in range(ANCESTORS):
        names |= int(page.node_names[node])
        node = int(page.node_parent[node])
    if names & _RELATED or (names & _COMMENT and not names & _POST):
        return False
    texts = page.text.tobytes()

    def line(number: int) -> str:
        return texts[page.line_start[number] : page.line_end[number]].decode("utf-8", "replace")

    before = [line(number) for number in range(max(0, first - LINES_BEFORE), first)]
    if any(_COMMENTS.match(text) for text in before):
        return False
    if any(_COUNT.search(text) for text in before):
        return True
    floors: dict[int, int] = {}
    for number in inside[page.line_counts[inside, CHARACTERS] < SHORT_LINE].tolist():
        owner = int(post[number])
        if owner not in floors and (floor := _floor(line(number))) is not None:
            floors[owner] = floor
    rising = sum(a < b for a, b in zip(floors.values(), list(floors.values())[1:], strict=False))
    return rising + 1 >= max(LEAST_POSTS, SHARE_OF_FLOORS * len(np.unique(post[inside])))


def _floor(text: str) -> int | None:
    """Return the floor that a line names."""
    if text in _FIRST_FLOORS:
        return _FIRST_FLOORS[text]
    found = _FLOOR.search(text)
    return int(found[1] or found[2] or found[3]) if found else None
