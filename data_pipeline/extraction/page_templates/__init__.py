# ruff: noqa: E501 (a table)
"""Invented web pages with known main text: what the kinds of Chinese sites have in common, in many random markups.

The line model of the extractor is fitted to them besides hand-labelled pages, so that it has seen threads, questions
with answers, blogs, documentation, shops and the portals of today. The words inside come from the caller's texts."""

import random
from collections.abc import Sequence

from data_pipeline.extraction.page_templates import classic, portals
from data_pipeline.extraction.page_templates.pages import TemplatePage, Text

__all__ = ["Text", "make_page"]

_KINDS = {
    classic.article: 0.34, classic.thread: 0.28, classic.manual: 0.06, classic.encyclopedia: 0.04,
    classic.product: 0.05, classic.index: 0.03, portals.portal: 0.12, portals.question: 0.03,
    portals.microblog: 0.03, portals.wiki: 0.02,
}  # fmt: skip


_KANA = str.maketrans({
    "的": "の", "是": "は", "在": "に", "了": "した", "和": "と", "不": "ない", "我": "わたし", "有": "ある", "这": "この", "也": "も",
    "与": "と", "对": "に", "为": "ため", "从": "から", "就": "なら", "都": "みんな", "说": "という", "，": "、", "们": "たち", "到": "まで",
})  # fmt: skip
_LOOSE = str.maketrans({"。": " ", "，": " ", "；": " ", "、": " ", "！": "♪", "？": "♡"})


def make_page(texts: Sequence[Text], seed: int) -> tuple[str, str, str]:
    """Return one page, its main text, and its kind: article or forum. The same texts and seed give the same page."""
    chooser = random.Random(seed)
    draw = chooser.random()
    if draw < 0.1:  # words of another script, or writers who use no stops
        table = _KANA if draw < 0.05 else _LOOSE
        some = [chooser.choice(texts) for _ in range(60)]
        texts = [
            Text(text.title.translate(table), [_cut(line.translate(table), draw) for line in text.paragraphs])
            for text in some
        ]
    page = TemplatePage(texts, chooser)
    kind = page.random.choices(list(_KINDS), list(_KINDS.values()))[0]
    kind(page)
    is_thread = kind in (classic.thread, portals.question, portals.microblog)
    markup = page.one(["\n", "", "\n    "]).join(page.markup)
    return markup, "\n".join(page.gold), "forum" if is_thread else "article"


def _cut(line: str, draw: float) -> str:
    """Return a line, or the beginning of it on pages of short lines."""
    return line if draw < 0.07 else line[:18].strip() or "♪"
