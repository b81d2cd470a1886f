# ruff: noqa: E501 (markup)
"""Pages of 2026: components with a shadow root in the markup, text that only scripts have, folded and floating parts, and
the ends of articles."""

import json

import pytest

from data_pipeline.extraction.extract import Form, extract
from tests.data_pipeline.extraction.pages import SENTENCES, article

PARAGRAPHS = "".join(f"<p>{sentence}</p>" for sentence in SENTENCES)


def page(body: str) -> bytes:
    return f"<!DOCTYPE html><html><head><meta charset=utf-8><title>河边小镇的春天</title></head><body><nav><a href=/>首页</a></nav>{body}<footer>版权所有 2026 河边网</footer></body></html>".encode()


def pushed(text: str, size: int = 10**6) -> str:
    """React's rows as the scripts of a page bring them, parted anywhere."""
    parts = [text[start : start + size] for start in range(0, len(text), size)]
    return "<div id=__next></div>" + "".join(f"<script>self.__next_f.push([1,{json.dumps(part)}])</script>" for part in parts)  # fmt: skip


def elements() -> str:
    children = [["$", "p", None, {"children": sentence}] for sentence in SENTENCES]
    return "0:null\n5:" + json.dumps(["$", "article", None, {"className": "a-1", "children": children}]) + "\n"


DATA = json.dumps({"article": {"title": "河边小镇的春天", "content": PARAGRAPHS}})
PAGES = {
    "shadow root": f"<news-page><template shadowrootmode=open><style>p{{}}</style><article>{PARAGRAPHS}</article></template></news-page>",
    "custom elements": f"<app-root><app-article><article-body>{PARAGRAPHS}</article-body></app-article></app-root>",
    "content-visibility": f"<article style='content-visibility:auto;contain-intrinsic-size:1px 5000px'>{PARAGRAPHS}</article>",
    "React's elements": pushed(elements()),
    "React's data": pushed(f"7:{DATA}\n"),
    "React's text": pushed(f"7:T{len(PARAGRAPHS.encode()):x},{PARAGRAPHS}8:null\n"),
    "React's rows in parts": pushed(f"1:I[1,[],\"\"]\n7:{DATA}", 41),
    "arguments of a function": f'<div id=__nuxt></div><script>window.__NUXT__=(function(a,b){{return {{data:[{{title:a,content:b}}]}}}})("河边",{json.dumps(PARAGRAPHS)})</script>',
    "an object that is no JSON": f"<div id=app></div><script>window.__INITIAL_STATE__={{user:undefined,page:{DATA}}}</script>",
    "vertical writing": f"<article style='writing-mode:vertical-rl'>{PARAGRAPHS}</article>",
}  # fmt: skip


@pytest.mark.parametrize("kind", PAGES)
def test_the_text_of_the_page_comes_out(kind) -> None:
    text = extract(page(PAGES[kind])).text
    assert [sentence for sentence in SENTENCES if sentence not in text] == []
    assert "版权所有" not in text
    assert "$" not in text


@pytest.mark.parametrize("part", ["<template><p>{}</p></template>", "<div popover><p>{}</p></div>"])
def test_what_no_reader_sees_stays_away(part) -> None:
    words = "模板与浮层里的文字只有打开以后才会显示，因此不是正文。"
    assert words not in extract(page(f"<article>{PARAGRAPHS}</article>{part.format(words)}")).text


def test_text_that_is_hidden_until_it_is_found_is_text() -> None:
    words = "折叠起来的段落可以被页内查找打开，因此应当保留在正文里。"
    assert words in extract(page(f"<article>{PARAGRAPHS}<div hidden=until-found><p>{words}</p></div></article>")).text


@pytest.mark.parametrize(
    ("end", "wanted"),
    [
        (
            "<ol start=3><li>先安装依赖<pre><code class=language-bash>pip install x\n  --upgrade</code></pre></li><li>再运行一次，看结果<ul><li>第一次的结果</li></ul></li></ol>",
            "3. 先安装依赖\n\n```bash\npip install x\n  --upgrade\n```\n\n4. 再运行一次，看结果\n    - 第一次的结果",
        ),
        (
            "<table><tr><th>名称</th><th>公式</th></tr><tr><td>周长</td><td><math><semantics><mi>x</mi><annotation encoding='application/x-tex'>|2\\pi r|</annotation></semantics></math></td></tr></table>",
            "| 名称 | 公式 |\n| --- | --- |\n| 周长 | $\\|2\\pi r\\|$ |",
        ),
        (
            "<blockquote><p>外层引文第一段，说明事情的起因。</p><blockquote><p>内层引文，来自更早的一篇文章。</p></blockquote><pre>int a;\nint b;</pre></blockquote>",
            "> 外层引文第一段，说明事情的起因。\n\n> > 内层引文，来自更早的一篇文章。\n\n> ```\n> int a;\n> int b;\n> ```",
        ),
    ],
)  # fmt: skip
def test_an_article_ends_with_its_list_table_or_quotation(end, wanted) -> None:
    assert extract(page(f"<article>{PARAGRAPHS}{end}</article>"), form=Form("markdown")).text.endswith(wanted)


@pytest.mark.parametrize(
    "words",
    [
        "一家人👨‍👩‍👧‍👦去看🏳️‍🌈表演，👩🏽‍🚀也来了，旗帜🇨🇳飘扬。",
        "𠮷野家在𡈽地上，𪚥是笔画最多的字，𫝀𫠝𬺰𰻞𱁬𲎯都是扩展区的字。",
        "生僻字⿰亻⿱艹𫟦和兼容字﨑、㐂、〇、〆、々，都不应当丢掉。",
    ],
)
def test_rare_characters_stay_whole(words) -> None:
    assert words in extract(article(f"<p>{words}</p>")).text


LISTS = {
    "short entries": ("<ol><li>先看水位</li><li>再看风向</li></ol>", ["先看水位", "再看风向"]),
    "lists in lists": ("<ul><li>甲<ol><li>甲一</li><li>甲二</li></ol></li><li>乙<p>又一段</p></li></ul>", ["甲", "甲一", "甲二", "乙", "又一段"]),
    "a table in a list": ("<ol><li>看表：<table><tr><th>时</th><th>位</th></tr><tr><td>8</td><td>3.2</td></tr></table></li></ol>", ["看表：", "时\t位", "8\t3.2"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", LISTS)
def test_a_list_between_paragraphs_is_whole(kind) -> None:
    markup, lines = LISTS[kind]
    found = extract(page(f"<article>{PARAGRAPHS}{markup}{PARAGRAPHS}</article>")).text.split("\n")
    assert found == [*SENTENCES, *lines, *SENTENCES]


def test_the_list_at_the_end_of_each_answer_belongs_to_it() -> None:
    turns = "".join(
        f"<div class='message user'><p>第{i}个问题是什么？</p></div>"
        f"<div class='message assistant'><div class=md><p>{sentence}</p><ul><li>第{i}点看水位</li></ul></div></div>"
        for i, sentence in enumerate(SENTENCES)
    )
    text = extract(page(f"<main>{turns}</main>")).text
    assert [i for i in range(len(SENTENCES)) if f"第{i}点" not in text] == []
