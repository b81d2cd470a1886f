# ruff: noqa: E501, RUF005 (markup)
"""One extractor, two writers: code, tables, lists and headings in plain text and in Markdown."""

import ast
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.extraction.extract import Form, extract
from tests.data_pipeline.extraction.pages import SENTENCES, article

MARKDOWN = Form("markdown")
PROGRAM = 'def hello(name):\n    if name:\n\t\tprint("你好", name)\n\n    return {"a": 1,  "b": 2}'


def both(inside: str) -> tuple[str, str]:
    html = article(inside)
    return extract(html).text, extract(html, form=MARKDOWN).text


CODE = {
    "pre and code": (f'<pre><code class="language-python">{PROGRAM}\n</code></pre>', "python"),
    "pre alone": (f"<pre>\n{PROGRAM}\n</pre>", ""),
    "highlighted": (f'<div class="highlight-source-js"><pre><span class=k>{PROGRAM.replace("def", "<b>def</b>")}</span></pre></div>', "js"),
    "hljs": (f'<pre class="prettyprint"><code class="prism language-c++ has-numbering">{PROGRAM}</code></pre>', "c++"),
    "lines as <code>": ("<pre data-lang='java'>" + "".join(f"<code><span>{line or '<br>'}</span></code>" for line in PROGRAM.split("\n")) + "</pre>", "java"),
    "lines as list entries": ("<pre><ol>" + "".join(f"<li><span>{line}</span></li>" for line in PROGRAM.split("\n")) + "</ol></pre>", ""),
    "lines ended by <br>": ("<pre>" + PROGRAM.replace("\n", "<br>") + "</pre>", ""),
    "carriage returns": ("<pre>" + PROGRAM.replace("\n", "\r\n") + "</pre>", ""),
    "a gutter in a cell": (
        "<figure class='highlight python'><table><tr><td class=gutter><pre>" + "".join(f"<span class=line>{i}</span><br>" for i in range(1, 6))
        + f"</pre></td><td class=code><pre>{PROGRAM}</pre></td></tr></table></figure>", "python"),
    "a gutter of blocks": (
        "<table><tr><td>" + "".join(f"<div class='line number{i}'>{i}</div>" for i in range(1, 6)) + f"</td><td><pre>{PROGRAM}</pre></td></tr></table>", ""),
    "a gutter behind": (f"<pre><code>{PROGRAM}</code><ul class=pre-numbering>" + "".join(f"<li>{i}</li>" for i in range(1, 6)) + "</ul></pre>", ""),
    "numbers in the lines": ("<pre>" + "\n".join(f"<span class=linenos>{i:2}</span>{line}" for i, line in enumerate(PROGRAM.split("\n"), 8)) + "</pre>", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", CODE)
def test_code_comes_out_to_the_last_space(name: str) -> None:
    markup, language = CODE[name]
    text, markdown = both(markup)
    assert f"\n{PROGRAM}\n" in text
    assert f"\n\n```{language}\n{PROGRAM}\n```\n\n" in markdown


def test_a_fence_is_longer_than_those_in_the_code() -> None:
    _, markdown = both("<pre>a\n```\nb</pre>")
    assert "````\na\n```\nb\n````" in markdown


def test_numbers_that_are_data_stay() -> None:
    text, _ = both("<pre>1\n2\n3\n5\n8</pre><pre>10 台\n11 台\n13 台</pre>")
    assert "1\n2\n3\n5\n8" in text and "10 台\n11 台\n13 台" in text


ROWS = [
    ["年份", "产量（吨）", "备注"],
    ["2021", "1200", ""],
    ["2022", "", "受旱灾影响，当年没有统计数字，后来由县农业局根据各乡镇上报的材料重新估算过一次"],
    ["2023", "1500", "恢复"],
]


def table(rows: list[list[str]]) -> str:
    return (
        "<table>" + "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows) + "</table>"
    )


def test_an_empty_cell_keeps_its_column() -> None:
    text, markdown = both(table(ROWS))
    assert "\n".join("\t".join(row) for row in ROWS) in text
    lines = ["| " + " | ".join(row) + " |" for row in ROWS]
    assert "\n".join([lines[0], "| --- | --- | --- |", *lines[1:]]) in markdown


def test_spans_fill_up_and_bars_are_escaped() -> None:
    markup = (
        "<table><tr><th colspan=2>产地</th><th>数量</th></tr><tr><td rowspan=2>江城</td><td>东区</td><td>12 | 13</td></tr>"
        "<tr><td>西区</td><td>15</td></tr></table>"
    )
    text, markdown = both(markup)
    assert "产地\t\t数量\n江城\t东区\t12 | 13\n\t西区\t15" in text
    assert "| 江城 | 东区 | 12 \\| 13 |\n|  | 西区 | 15 |" in markdown


def test_a_layout_table_is_read_as_paragraphs() -> None:
    text, markdown = both(
        f"<table><tr><td>{SENTENCES[2]}{SENTENCES[3] * 20}</td><td>{SENTENCES[4]}</td></tr><tr><td>甲</td><td>{SENTENCES[5]}</td></tr></table>"
    )
    assert SENTENCES[4] in text.split("\n") and "| ---" not in markdown


def test_headings_lists_quotes_and_lines_of_verse() -> None:
    _, markdown = both(
        f"<h2>第一节</h2><p>{SENTENCES[2]}</p><ul><li>面粉二百克，过筛备用<ul><li>全麦粉也可以，水要多加</li></ul></li><li>清水一百毫升，温热最好</li></ul>"
        f"<ol start=3><li>和面，揉到表面光滑为止</li><li>醒面，盖上湿布放半小时</li></ol><blockquote><p>{SENTENCES[4]}</p></blockquote><p>床前明月光，<br>疑是地上霜。<br><br>举头望明月，<br>低头思故乡。</p>"
    )
    assert (
        f"\n\n## 第一节\n\n{SENTENCES[2]}\n\n- 面粉二百克，过筛备用\n    - 全麦粉也可以，水要多加\n- 清水一百毫升，温热最好\n"
        in markdown
    )
    assert "3. 和面，揉到表面光滑为止\n4. 醒面，盖上湿布放半小时\n\n> " + SENTENCES[4] in markdown
    assert "床前明月光，  \n疑是地上霜。\n\n举头望明月，  \n低头思故乡。" in markdown


def test_links_and_pictures_by_choice() -> None:
    html = article(
        '<p>详细做法见<a href="/w?a=1&amp;b=2">这篇<b>文章</b></a>，用命令 <code>pip install x</code> 安装，<a href="javascript:void(0)">点这里</a>也行。</p>'
        '<p><img data-src="//img.example.cn/a.png" src="blank.gif" alt="河边"></p>'
        f"<p>{SENTENCES[3]}</p>"
    )
    plain = extract(html, form=MARKDOWN).text
    assert "见这篇文章，用命令 `pip install x` 安装，点这里也行。" in plain and "](" not in plain
    rich = extract(html, "https://example.cn/x/y.html", form=Form("markdown", True, True)).text
    assert "见[这篇文章](https://example.cn/w?a=1&b=2)，用命令" in rich and "点这里也行" in rich
    assert "\n\n![河边](https://img.example.cn/a.png)\n\n" in rich


def test_every_fence_of_a_page_of_programs_parses() -> None:
    programs = [f"class A{i}:\n    def f(self):\n        return {i}\n\n\n    x = 1" for i in range(30)]
    _, markdown = both(
        "".join(
            f"<p>{SENTENCES[i % 6]}</p><pre><code class=language-python>{p}</code></pre>"
            for i, p in enumerate(programs)
        )
    )
    fences = markdown.split("```python\n")[1:]
    assert len(fences) == 30
    for fence in fences:
        ast.parse(fence.split("\n```")[0])


MARKUP = st.sampled_from(
    ["<pre>", "</pre>", "<code>", "</code>", "<table>", "<tr>", "<td colspan=9999 rowspan=9999>", "</td>", "</tr>", "</table>", "<li>", "<ol start=7>", "</ol>"]
    + ["<br>", "\n", "  ", "<a href=x>", "</a>", "<img src=b alt=c>", "<h2>", "</h2>", "<blockquote>", "</blockquote>", "1", "2", "3", "`", "|", "<sup>", "</sup>", "<rt>", "<p>"]
    + ["<div hidden>", "</div>", "<math>", "</math>", "<script type=math/tex>", "</script>", *SENTENCES]
)  # fmt: skip


@given(st.lists(MARKUP, max_size=80))
@settings(max_examples=150, deadline=None)
def test_any_markup_gives_the_same_words_in_both_forms(parts: list[str]) -> None:
    html = "".join(parts).encode()
    text, markdown = extract(html).text, extract(html, form=Form("markdown", True, True)).text
    assert bool(text) == bool(markdown)
    han = [character for character in text if "\u4e00" <= character <= "\u9fff"]
    assert han == [character for character in markdown if "\u4e00" <= character <= "\u9fff"]


def test_a_table_of_many_wide_cells_stays_small() -> None:
    chooser = random.Random(2)
    rows = "".join(
        "<tr>" + "".join(f"<td colspan=1000 rowspan=1000>{chooser.randint(0, 9)}</td>" for _ in range(20)) + "</tr>"
        for _ in range(2000)
    )
    assert len(extract(article(f"<table>{rows}</table>"), form=MARKDOWN).text) < 8_000_000


def test_a_further_paragraph_of_an_entry_stays_in_it() -> None:
    markup = "<ol><li><p>第一条说明。</p><p>第一条的又一段。</p><ul><li><p>内条。</p><p>内条又一段。</p></li></ul></li><li>第二条。</li></ol>"
    text = extract(article(markup), form=Form("markdown")).text
    assert "1. 第一条说明。\n\n    第一条的又一段。\n    - 内条。\n\n        内条又一段。\n2. 第二条。" in text
