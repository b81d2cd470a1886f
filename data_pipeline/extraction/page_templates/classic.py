# ruff: noqa: E501 (words and markup)
"""Articles, threads, manuals, encyclopedias, shops, front pages, in the markup of twenty years."""

import html

from data_pipeline.extraction.page_templates.pages import NAMES, PLACES, REPLIES, SITES, TemplatePage, Text  # noqa: F401


def frame(page: TemplatePage, title: str, body: list) -> None:
    """Write head, navigation, the body's parts, side columns and footer, in one of the usual arrangements."""
    page.add(
        f"<!DOCTYPE html><html><head><meta charset=utf-8><title>{html.escape(title)}_{page.one(PLACES)}_{page.one(SITES)}</title></head><body>"
    )
    old = page.chance(0.2)
    for _ in range(page.random.randint(1, 3)):
        page.add("<table><tr><td>" if old else "")
        page.navigation()
        page.add("</td></tr></table>" if old else "")
    page.add(
        "<table><tr>" if old else f'<div class="{page.one(["wrap", "container", "main", "layout", "page", "box"])}">'
    )
    if page.chance(0.25):
        page.side()
    page.add(
        "<td>"
        if old
        else f'<div class="{page.one(["main", "left", "content-wrap", "col-md-8", "w660 fl", "center", "x1"])}">'
    )
    if page.chance(0.6):
        page.crumbs()
    for part in body:
        part()
    page.add("</td>" if old else "</div>")
    if page.chance(0.6):
        page.side()
    page.add("</tr></table>" if old else "</div>")
    if page.chance(0.3):
        page.headline_list()
    page.footer()
    page.add("</body></html>")


def article(page: TemplatePage) -> None:
    """Write news, a blog entry or an encyclopedia page: one text."""
    title = page.headline()

    def head() -> None:
        page.add(f"<h1>{html.escape(title)}</h1><div{page.name('meta')}>")
        page.add(
            page.one(
                [
                    f"{page.date()} 来源：{page.one(SITES)}",
                    f"作者：{page.one(NAMES)} 发布时间：{page.date()} 浏览：{page.random.randint(9, 999)} 次",
                    page.date(),
                    f"<span>{page.one(NAMES)}</span> <span>{page.date()}</span>",
                ]
            )
        )
        page.add("</div>")

    def text() -> None:
        end = page.block(page.one(["div", "article", "div", "section", "td"]), "content")
        page.article_body()
        page.add(end)

    parts = [head, text]
    for extra, probability in (
        (page.tools, 0.8),
        (page.headline_list, 0.5),
        (page.notice, 0.3),
        (page.comments, 0.4),
        (page.headline_list, 0.2),
    ):
        if page.chance(probability):
            parts.append(extra)
    frame(page, title, parts)


def thread(page: TemplatePage) -> None:
    """Write a forum thread or a question with its answers: several texts by several people, all wanted."""
    question = page.random.choice(page.texts)
    layout = page.one(["table", "post", "floor", "cell", "reply", "answer-item", "l_post", "css-77", "box"])
    post_name, user_name = page.name("post"), page.name("user")
    style = page.one(["br", "p", "div", "p", "plain"])
    is_terse = page.chance(0.35)

    def sentence() -> str:
        sentences = [part for part in page.one(page.random.choice(page.texts).paragraphs).split("。") if len(part) > 3]
        return page.one(sentences) + "。" if sentences else page.one(REPLIES)

    def head() -> None:
        page.add(f"<h1>{html.escape(question.title[:40])}</h1>")
        if page.chance(0.5):
            page.add(f"<div>查看: {page.random.randint(9, 9999)} | 回复: {page.random.randint(1, 99)}</div>")

    def posts() -> None:
        end = page.block("div", "comment") if page.chance(0.2) else page.block("div", "post")
        page.post(
            [sentence()] if is_terse else question.paragraphs[: page.random.randint(1, 8)],
            1,
            layout,
            post_name,
            user_name,
            style,
        )
        for number in range(2, page.random.randint(3, 20)):
            if is_terse and page.chance(0.8):
                words = [sentence()]
            elif page.chance(0.5):
                answer = page.random.choice(page.texts).paragraphs
                words = answer[: page.random.randint(1, 4)]
            else:
                words = [page.one(REPLIES)]
            page.post(words, number, layout, post_name, user_name, style)
        page.add(end)

    def answer_form() -> None:
        page.add(
            "<form><div>您需要登录后才可以回帖 <a href='#'>登录</a> | <a href='#'>立即注册</a></div><textarea></textarea><p>本版积分规则</p></form>"
        )

    parts = [head, posts]
    if page.chance(0.6):
        parts.append(answer_form)
    if page.chance(0.4):
        parts.append(page.headline_list)
    frame(page, question.title[:40], parts)


def manual(page: TemplatePage) -> None:
    """Write a page of documentation: its chapters on one side, headings, steps, code and tables in the text."""
    text = page.random.choice(page.texts)

    def contents() -> None:
        page.add(
            f'<{page.one(["div", "nav", "aside"])} class="{page.one(["toc", "catalog", "menu", "sidebar", "tree", "md-nav", "css-m"])}"><ul>'
        )
        for _ in range(page.random.randint(5, 40)):
            page.add(f'<li><a href="#h">{page.headline()[:20]}</a></li>')
        page.add("</ul></div>")

    def body() -> None:
        end = page.block(page.one(["div", "article", "main"]), "content")
        page.add(f"<h1>{html.escape(text.title)}</h1>")
        for start in range(0, min(len(text.paragraphs), 30), 3):
            page.add(f"<h{2 + start % 2}>{page.keep(page.headline()[:16])}</h{2 + start % 2}>")
            part = text.paragraphs[start : start + 3]
            if page.chance(0.3):
                page.add("<ol>" + "".join(f"<li>{page.keep(line)}</li>" for line in part) + "</ol>")
            else:
                page.paragraphs(part, "p")
            if page.chance(0.3):
                page.add(
                    f"<pre>{page.keep('sudo apt-get install build-essential')}\n{page.keep('make && make install')}</pre>"
                )
        page.add(end)

    parts = [contents, body] if page.chance(0.7) else [body, contents]
    if page.chance(0.5):
        parts.append(page.tools)
    frame(page, text.title, parts)


def encyclopedia(page: TemplatePage) -> None:
    """Write chapters with links in the sentences, tables and lists of facts that are links themselves, footnotes."""
    page.with_links = True
    text = page.random.choice(page.texts)

    def linked(words: str) -> str:
        kept = page.keep(words)
        return f'<a href="/w">{kept}</a>' if page.chance(0.6) else kept

    def body() -> None:
        end = page.block(page.one(["div", "article", "main"]), "content")
        page.add(f"<h1>{html.escape(text.title)}</h1>")
        for start in range(0, min(len(text.paragraphs), 24), 3):
            page.add(f"<h2>{page.keep(page.headline()[:10])}<span>[<a href='#'>编辑</a>]</span></h2>")
            page.paragraphs(text.paragraphs[start : start + 3], "p")
            if page.chance(0.4):
                rows = [
                    (str(page.random.randint(1980, 2022)), page.headline()[:12], page.one(PLACES))
                    for _ in range(page.random.randint(3, 25))
                ]
                page.add(
                    "<table>"
                    + "".join("<tr>" + "".join(f"<td>{linked(cell)}</td>" for cell in row) + "</tr>" for row in rows)
                    + "</table>"
                )
            if page.chance(0.4):
                page.add(
                    "<ul>"
                    + "".join(
                        f"<li>{page.keep(str(page.random.randint(1980, 2022)))}年：{linked(page.headline()[:16])}</li>"
                        for _ in range(page.random.randint(3, 15))
                    )
                    + "</ul>"
                )
        page.add(end)

    def categories() -> None:
        page.add(
            "<div class='catlinks'>分类："
            + " | ".join(f'<a href="/c">{page.one(PLACES)}</a>' for _ in range(6))
            + "</div>"
        )

    frame(page, text.title, [body, categories])


def product(page: TemplatePage) -> None:
    """Write a shop's or a company's page: a table of properties, a description, other goods around."""
    text = page.random.choice(page.texts)

    def properties() -> None:
        page.add(
            f"<h1>{html.escape(text.title)}</h1><div class='{page.one(['price', 'p-price', 'buy'])}'>价格：￥{page.random.randint(9, 999)} <a href='#'>立即购买</a> <a href='#'>加入购物车</a></div>"
        )
        rows = [
            (page.one(PLACES), page.one(["国产", "35cm×20cm", "不锈钢", "2年", "220V", "黑色", "1.5kg"]))
            for _ in range(page.random.randint(3, 9))
        ]
        if page.chance(0.5):
            page.add(
                "<table>"
                + "".join(f"<tr><td>{page.keep(key)}</td><td>{page.keep(value)}</td></tr>" for key, value in rows)
                + "</table>"
            )
        else:
            page.add("<ul>" + "".join(f"<li>{page.keep(key + '：' + value)}</li>" for key, value in rows) + "</ul>")

    def description() -> None:
        end = page.block("div", "content")
        page.paragraphs(text.paragraphs[:8], page.one(["p", "br", "div"]))
        page.add(end)

    frame(page, text.title, [properties, description, page.headline_list, page.tools])


def index(page: TemplatePage) -> None:
    """Write a front page or a list of headlines around one short notice."""

    def notice() -> None:
        page.add("<div>")
        page.paragraphs(page.random.choice(page.texts).paragraphs[:2], "p")
        page.add("</div>")

    frame(page, page.headline(), [page.headline_list, page.headline_list, notice, page.headline_list])
