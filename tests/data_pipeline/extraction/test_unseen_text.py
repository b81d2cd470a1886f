# ruff: noqa: E501 (markup)
"""Text that the markup does not show at first: containers that scripts show, the folded rest, data for scripts."""

import json
import random
import time

import pytest

from data_pipeline.extraction.extract import extract
from tests.data_pipeline.extraction.pages import SENTENCES, article

PARAGRAPHS = "".join(f"<p>{sentence}</p>" for sentence in SENTENCES)


def bare(body: str) -> bytes:
    return f"<html><head><meta charset=utf-8><title>社区食堂开张三个月</title></head><body><div class=nav><a href=/>首页</a></div>{body}<div>版权所有 2024</div></body></html>".encode()


@pytest.mark.parametrize(
    "body",
    [
        f'<div id=js_content style="visibility: hidden; opacity: 0;">{PARAGRAPHS}</div>',
        f"<div style='VISIBILITY:HIDDEN'><section>{PARAGRAPHS}</section></div>",
        f"<div class=main hidden>{PARAGRAPHS}</div>",
        f"<p>{SENTENCES[0][:20]}…</p><a href=#>展开全文</a><div style='display:none'>{PARAGRAPHS}</div>",
        f"<div class=text>{SENTENCES[0]}</div>" + "".join(f"<p style='display:none'>{s}</p>" for s in SENTENCES[1:]),
    ],
)
def test_the_article_that_a_script_shows_is_the_text(body: str) -> None:
    text = extract(bare(body)).text
    assert all(sentence in text for sentence in SENTENCES)


def test_the_whole_body_hidden_until_it_has_loaded() -> None:
    html = f"<html><head><title>就业</title></head><body style='visibility:hidden'>{PARAGRAPHS}</body></html>".encode()
    assert SENTENCES[2] in extract(html).text


def test_the_folded_rest_of_a_visible_article_is_kept() -> None:
    body = (
        f"<div class=article>{PARAGRAPHS}<div class=rest style='display: none'><p>剩下的一半写的是冬天：河面结了冰，孩子们在上面滑行。</p>"
        "<p>等到雪化的时候，镇上的人又开始修船，预备下一个春天，一切照旧，谁也不觉得日子过得太慢。</p></div><a href=#>点击展开全文</a></div>"
    )
    assert "河面结了冰" in extract(bare(body)).text


@pytest.mark.parametrize(
    "body",
    [
        f"<div class=login-modal style='display:none'>{'<p>用户协议：您应当阅读并遵守本协议的全部条款，否则请停止使用。</p>' * 30}</div>",
        f"<div class=mobile style='display:none'>{PARAGRAPHS}</div>",
        "<div style='display:none'><p>系统繁忙，请稍后再试，谢谢您的理解。</p></div>",
    ],
)
def test_hidden_dialogs_copies_and_messages_stay_away(body: str) -> None:
    text = extract(article(f"{PARAGRAPHS}{body}")).text
    assert "用户协议" not in text and "系统繁忙" not in text
    assert text.count(SENTENCES[3]) == 1


def test_article_body_of_linked_data_where_the_page_has_no_text() -> None:
    data = {
        "@context": "https://schema.org",
        "@graph": [{"@type": "NewsArticle", "headline": "社区食堂开张三个月", "articleBody": "\n".join(SENTENCES)}],
    }
    html = f'<html><head><title></title><script type="application/ld+json">{json.dumps(data, ensure_ascii=False)}</script></head><body><div id=root></div></body></html>'
    found = extract(html.encode())
    assert found.text == "\n".join(SENTENCES) and found.title == "社区食堂开张三个月" and found.reason is None


NEXT = {
    "a field with markup": {"article": {"title": "题目在这里", "content": PARAGRAPHS}, "hot": [{"title": f"热点新闻第{i}条"} for i in range(30)]},
    "a list of paragraphs": {"post": {"blocks": [{"type": "p", "text": s} for s in [*SENTENCES, "短句。"]]}, "user": {"intro": "喜欢写作，住在河边。"}},
    "a summary besides": {"detail": {"summary": SENTENCES[0], "body": "\n".join(SENTENCES)}},
}  # fmt: skip


@pytest.mark.parametrize("name", NEXT)
@pytest.mark.parametrize(
    "form",
    [
        '<script id="__NEXT_DATA__" type="application/json">{}</script>',
        "<script>window.__INITIAL_STATE__={};(function(){{}})()</script>",
    ],
)
def test_text_of_page_data_where_the_page_has_none(name: str, form: str) -> None:
    data = json.dumps({"props": {"pageProps": NEXT[name]}, "buildId": "x" * 100}, ensure_ascii=False)
    html = f"<html><head><title>题目在这里</title></head><body><div id=__next></div>{form.format(data)}</body></html>"
    text = extract(html.encode()).text
    assert text.split("\n")[: len(SENTENCES)] == SENTENCES
    assert "热点新闻" not in text and "喜欢写作" not in text


def test_page_data_beside_a_visible_article_changes_nothing() -> None:
    data = json.dumps({"articleBody": "另外一篇文章，写的是别的事情，和这一页没有关系。" * 20}, ensure_ascii=False)
    for body in (PARAGRAPHS, f"<p>{SENTENCES[2]}</p>"):  # a short article too
        plain = extract(article(body))
        assert extract(article(body + f"<script type=application/ld+json>{data}</script>")).text == plain.text


@pytest.mark.parametrize(
    "data",
    [
        "[" * 200_000,
        '{"a":' * 100_000 + "1",
        '{"articleBody": "没有关上的字符串',
        json.dumps({"articleBody": 5, "text": ["\ud800", None, {"x": []}]}),
        json.dumps([{"t": "一句话，两句话，三句话，四句话，五句话。"}] * 60_000),
    ],
)
def test_broken_and_endless_data_is_no_text_and_no_harm(data: str) -> None:
    extract(f"<script type=application/ld+json>{data}</script><p>短".encode("utf-8", "surrogatepass"))


def test_ten_megabytes_of_scripts_take_seconds_at_most() -> None:
    chooser = random.Random(1)
    html = "".join(f"<script>window.a{i}={{'x':{chooser.random()}}}</script>" for i in range(200_000)).encode()
    before = time.process_time()
    extract(html + b"<script type=application/json>{" * 20_000)
    # it takes one second; quadratic work would take many minutes
    assert time.process_time() - before < 60
