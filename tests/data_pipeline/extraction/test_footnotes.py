# ruff: noqa: E501 (markup)
"""Notes that the text refers to, and programs in the cells of tables: both stand where the model of lines sees little."""

import pytest

from data_pipeline.extraction.extract import Form, extract
from tests.data_pipeline.extraction.pages import SENTENCES

NOTES = ["见霍珀的回忆，第三章。", "科诺斯认为更早的是格伦尼的自动编码。"]
TEXT = "".join(f"<p>{sentence}</p>" for sentence in SENTENCES)
LONG = TEXT * 4


def page(body: str) -> bytes:
    return f"<!DOCTYPE html><html><head><meta charset=utf-8><title>河边小镇的春天</title></head><body><nav><ul><li><a href=/>首页</a></li><li><a href=/a>归档</a></li></ul></nav><main><article><h1>河边小镇的春天</h1>{body}</main><footer>© 2026 河边网 Powered by Hexo</footer></body></html>".encode()


def references(target: str) -> str:
    first, second = (f"<sup><a href='#{target.format(i)}'>{i}</a></sup>" for i in (1, 2))
    return f"<p>据说第一个编译器写于一九五二年{first}，但也有人不同意{second}。</p>"


# name -> (what the text links to, the element around the notes, one note)
SOFTWARE = {
    "pandoc": ("fn{}", "<section class=footnotes role=doc-endnotes><hr><ol>{}</ol></section>", "<li id=fn{i}><p>{note}<a href='#fnref{i}' class=footnote-back>↩︎</a></p></li>"),
    "hugo": ("fn:{}", "<div class=footnotes><hr><ol>{}</ol></div>", "<li id='fn:{i}'><p>{note}&#160;<a href='#fnref:{i}' class=footnote-backref>↩</a></p></li>"),
    "mediawiki": ("cite_note-{}", "<h2>注释<span>[<a href=/e>编辑</a>]</span></h2><ol class=references>{}</ol>", "<li id=cite_note-{i}><span class=mw-cite-backlink><b><a href='#cite_ref-{i}'>^</a></b></span> <span class=reference-text>{note}</span></li>"),
    "sphinx": ("id{}", "<aside class='footnote-list brackets'>{}</aside>", "<aside class='footnote brackets' id=id{i} role=doc-footnote><span class=label><span>[</span><a href='#r{i}'>{i}</a><span>]</span></span><p>{note}</p></aside>"),
    "docutils": ("id{}", "{}", "<table class='docutils footnote' id=id{i}><tbody><tr><td class=label><a href='#r{i}'>[{i}]</a></td><td>{note}</td></tr></tbody></table>"),
    "word": ("_ftn{}", "<div><br clear=all><hr align=left size=1 width=33%>{}</div>", "<div id=ftn{i}><p class=MsoFootnoteText><a href='#_ftnref{i}' name='_ftn{i}' title=''><span>[{i}]</span></a> {note}</p></div>"),
    "wordpress": ("easy-footnote-bottom-{}", "<ol class=easy-footnotes-wrapper>{}</ol>", "<li class=easy-footnote-single><span id=easy-footnote-bottom-{i} class=m></span>{note}<a class=easy-footnote-to-top href='#easy-footnote-{i}'></a></li>"),
    "definitions": ("note{}", "<dl>{}</dl>", "<dt id=note{i}><a href='#r{i}'>[{i}]</a></dt><dd>{note}</dd>"),
    "paragraphs": ("zhu{}", "<p>注释</p>{}", "<p id=zhu{i}><a href='#r{i}'>[{i}]</a> {note}</p>"),
}  # fmt: skip


@pytest.mark.parametrize("is_inside", [True, False], ids=["in the article", "behind it"])
@pytest.mark.parametrize("software", SOFTWARE)
def test_notes_are_text_without_the_marks_that_lead_back(software: str, is_inside: bool) -> None:
    target, around, one = SOFTWARE[software]
    notes = around.format("".join(one.format(i=i, note=note) for i, note in enumerate(NOTES, 1)))
    body = TEXT + references(target) + LONG + (f"{notes}</article>" if is_inside else f"</article><div>{notes}</div>")
    for form in ("text", "markdown"):
        found = extract(page(body), form=Form(form)).text
        assert [note for note in NOTES if note not in found] == []
        assert "一九五二年[1]" in found and "不同意[2]" in found
        assert not any(mark in found for mark in ("↩", "^", "编辑", "Powered"))


def test_a_list_of_links_is_no_list_of_notes() -> None:
    sources = "".join(f"<li id=cite-{i}><a href='#r{i}'>^</a> <a href='https://a.example/{i}'>编译器的历史与发展：从自动编码到今天的第{i}部分</a></li>" for i in (1, 2))  # fmt: skip
    body = TEXT + references("cite-{}") + LONG + f"</article><h2>外部链接</h2><ol>{sources}</ol>"
    assert "编译器的历史" not in extract(page(body)).text


def test_a_number_that_leads_to_a_chapter_is_no_reference() -> None:
    other = "<div id=c2><h2>其它文章</h2><p>另一篇文章的摘要，讲的是山里的秋天。</p></div>"
    body = f"<p>目录：<a href='#c2'>2</a></p>{LONG}</article><aside class=related>{other}</aside>"
    assert "山里的秋天" not in extract(page(body)).text


CALLS = [("malloc", "分配内存", "int *p = malloc(4);"), ("free", "释放内存", "free(p);"), ("calloc", "分配并清零", "p = calloc(1, 4);")]  # fmt: skip


@pytest.mark.parametrize("head", ["<tr><th>函数</th><th>说明</th><th>例子</th></tr>", ""])
@pytest.mark.parametrize("behind", [TEXT, ""], ids=["inside", "at the end"])
def test_a_program_of_one_line_is_a_cell(head: str, behind: str) -> None:
    rows = "".join(f"<tr><td>{a}</td><td>{b}</td><td><pre><code>{c}</code></pre></td></tr>" for a, b, c in CALLS)
    body = f"{TEXT}<h2>常用函数</h2><table>{head}{rows}</table>{behind}</article>"
    lines = extract(page(body)).text.split("\n")
    expected = ([("函数", "说明", "例子")] if head else []) + CALLS
    assert [line for line in lines if "\t" in line] == ["\t".join(row) for row in expected]
    assert "| free | 释放内存 | `free(p);` |" in extract(page(body), form=Form("markdown")).text


def test_programs_of_several_lines_keep_their_lines_and_the_words_beside_them() -> None:
    program = "for (i = 0; i < {0}; i++) {{\n    sum += i;\n}}"
    rows = "".join(
        f"<tr><td>例{i}</td><td><pre>{program.format(i).replace('<', '&lt;')}</pre></td></tr>" for i in (1, 2, 3)
    )
    body = f"{TEXT}<h2>例子</h2><table><tr><th>名称</th><th>程序</th></tr>{rows}</table></article>"
    text = extract(page(body)).text
    assert text.endswith("名称\n程序\n" + "\n".join(f"例{i}\n{program.format(i)}" for i in (1, 2, 3)))
    fences = [f"例{i}\n\n```\n{program.format(i)}\n```" for i in (1, 2, 3)]
    assert extract(page(body), form=Form("markdown")).text.endswith("\n\n".join(fences))


def test_numbers_beside_the_lines_of_a_program_are_no_table() -> None:
    rows = "".join(f"<tr><td class=n><pre>{i}</pre></td><td><pre>line({i});</pre></td></tr>" for i in range(1, 6))
    text = extract(page(f"{TEXT}<table class=highlight>{rows}</table>{TEXT}</article>")).text
    assert "\t" not in text and "line(3);" in text
