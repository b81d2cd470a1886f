"""Invented pages: the same seed gives the same page, and what should be found stands in it."""

import re

from data_pipeline.extraction.page_templates import Text, make_page
from data_pipeline.extraction.parsed_page import read_page
from tests.data_pipeline.extraction.pages import SENTENCES

TEXTS = [Text(f"第{number}篇：{SENTENCES[number % 6][:14]}", SENTENCES[number % 6 :] * 3) for number in range(30)]


def test_the_main_text_of_an_invented_page_stands_in_it() -> None:
    kinds = set()
    for seed in range(60):
        markup, gold, kind = make_page(TEXTS, seed)
        assert (markup, gold, kind) == make_page(TEXTS, seed)
        kinds.add(kind)
        page = read_page(markup.encode())
        words = re.sub(r"\s+", "", page.text.tobytes().decode())
        missing = [line for line in gold.split("\n") if re.sub(r"\s+", "", line) not in words]
        assert missing == [], seed
    assert kinds == {"article", "forum"}
