# ruff: noqa: E501, SIM905 (words and markup)
"""The portals of today: lists of hot words before the article, whole other articles and streams of teasers behind it,
players, dialogs, declarations; questions with the furniture of their sites; posts with comments; encyclopedias with
boxes and tables of contents."""

import html

from data_pipeline.extraction.page_templates.pages import NAMES, PLACES, REPLIES, SITES, TemplatePage, Text

_COOKIES = [
    "本网站使用Cookie来改善您的体验。继续浏览即表示您同意我们使用Cookie。", "我们使用 cookie 为您提供更好的服务，了解更多请阅读隐私政策。",
    "当サイトではクッキーを使用しています。閲覧を続けることにより、当社のポリシーに同意したものとみなされます。",
]  # fmt: skip
_PLAYER = [
    "正在为您切换到高清 480P,请稍候...", "播放速度：2X", "设置成功", "00:00", "00:00 / 01:45", "很抱歉，当前视频播放失败", "错误代码：{n}", "点击重试", "小窗播放", "弹幕 开",
    "倍速 1.0X 1.25X 1.5X 2.0X", "清晰度 超清 高清 标清", "视频加载失败，点击刷新重试", "为您推荐更多视频", "自动播放下一个", "您的浏览器不支持播放该视频", "直播", "投屏",
]  # fmt: skip
_DIALOGS = [
    "不喜欢", "减少或屏蔽此类内容推荐", "已标记为不喜欢内容，系统将减少此类推荐", "举报", "内容质量差", "虚假信息", "标题夸张", "请选择举报理由", "提交成功，感谢您的反馈", "取消 确定", "文章不错，点个赞吧",
    "分享至：", "微信扫一扫，分享给好友", "打开APP，看更多精彩内容", "下载客户端，独家抢先看", "已关注", "加关注", "点击右上角微信好友", "朋友圈", "点击浏览器下方“”分享微信好友Safari浏览器请点击“”按钮",
    "调查问题加载中，请稍候。", "若长时间无响应，请刷新本页面", "登录后可以收藏文章，随时查看", "复制成功", "返回顶部", "意见反馈", "听全文", "生成海报", "大号字体 标准字体",
]  # fmt: skip
_DECLARATIONS = [
    "特别声明：以上内容(如有图片或视频亦包括在内)为自媒体平台“{site}号”用户上传并发布，本平台仅提供信息存储服务。",
    "以上内容（包括图片及视频）为创作者平台\"{site}号\"用户上传并发布，本平台仅提供信息存储服务", "Notice: The content above (including the pictures and videos if any) is uploaded and posted by a user.",
    "本文为{site}作者原创，未经授权不得转载。", "{site}专稿，未经书面授权请勿转载。", "声明：本文由入驻媒体平台的作者撰写，观点仅代表作者本人，不代表{site}立场。",
    "[ 责编：{user} ]", "责任编辑：{user}", "（责任编辑：{user} HN{n}）", "【责任编辑:{user}】", "编辑：{user} 校对：{user} 审核：{user}", "来源：{site}", "原标题：{title}", "阅读剩余全文（）", "展开阅读全文", "展开全文",
    "本文来源：{site} 作者：{user}", "（本文来自{site}，更多原创资讯请下载APP）", "返回搜狐，查看更多", "举报/反馈", "阅读 ({n})", "关键词：{tag} {tag} {tag}", "标签： {tag} {tag}",
    "欢迎关注官方微信公众号，获取更多精彩内容。", "广告声明：文内含有的对外跳转链接（包括不限于超链接、二维码、口令等形式），用于传递更多信息，结果仅供参考。",
]  # fmt: skip
_BOX_TITLES = [
    "热搜榜", "热门推荐", "大家都在看", "为您推荐", "猜你喜欢", "相关阅读", "24小时热文", "实时热点", "推荐阅读", "今日要闻", "精彩视频", "更多精彩", "频道推荐", "延伸阅读", "关联新闻", "最新资讯",
    "关注热点", "頭條", "関連記事", "おすすめ記事", "アクセスランキング", "外部サイト", "人気記事", "其他类似问题", "为你推荐：",
]  # fmt: skip
_AGES = [
    "{d}分钟前",
    "{d}小时前",
    "昨天 12:{d}",
    "{d}天前",
    "2024-05-{d}",
    "{d} 分鐘前",
    "{d}時間前",
    "05月{d}日",
    "刚刚",
]
_TERMS = (
    "css sc jsx style module index wrapper inner box cell row col item card view flex grid block area part unit".split()
)


def _class(page: TemplatePage) -> str:
    """Return a class name that a build tool made up, or a plain word, or none."""
    kind = page.random.random()
    if kind < 0.2:
        return ""
    word = page.one(_TERMS)
    if kind < 0.6:
        word = f"{word}-{page.random.randint(100, 99999):x}" + page.one(
            ["", "", f" {page.one(_TERMS)}_{page.random.randint(1, 99)}"]
        )
    return f' class="{word}"'


def _short(page: TemplatePage) -> str:
    """Return a headline of the kind that lists of hot words have."""
    return page.headline()[: page.random.randint(6, 24)]


def _wrapped(page: TemplatePage, part) -> None:
    depth = page.random.randint(0, 3)
    for _ in range(depth):
        page.add(f"<div{_class(page)}>")
    part()
    page.add("</div>" * depth)


def _hot_list(page: TemplatePage) -> None:
    """Write short headlines, often without addresses, because a script follows the click."""
    if page.chance(0.6):
        tag = page.one(["div", "h3", "h2", "p", "span"])
        page.add(f"<{tag}>{page.one(_BOX_TITLES)}</{tag}>")
    count, linked = page.random.randint(5, 45), page.chance(0.45)
    words = [_short(page) for _ in range(count)]
    rank, own, item = page.chance(0.3), _class(page), page.one(["div", "li", "li", "p", "a"])
    for _ in range(2 if page.chance(0.25) else 1):  # a list that scrolls stands there twice
        page.add("<ul>" if item == "li" else f"<div{_class(page)}>")
        for number, text in enumerate(words, 1):
            text = html.escape(text)
            number_of = f"<span>{number}</span>" if rank else ""
            inner = f'<a href="/h/{number}">{text}</a>' if linked else text
            page.add(f"<{item}{own}>{number_of}{inner}</{item}>")
        page.add("</ul>" if item == "li" else "</div>")


def _stream(page: TemplatePage) -> None:
    """Write teasers of other articles: headline, first sentences, source and age."""
    if page.chance(0.5):
        page.add(f"<h3>{page.one(_BOX_TITLES)}</h3>")
    item, linked, with_teaser, own = (
        page.one(["li", "div", "article"]),
        page.chance(0.7),
        page.chance(0.7),
        _class(page),
    )
    heading, teaser_tag = page.one(["h4", "h3", "p", "div", "a"]), page.one(["p", "div", "span"])
    page.add(f"<ul{_class(page)}>" if item == "li" else f"<div{_class(page)}>")
    for _ in range(page.random.choice([3, 6, 10, 20, 30, 60])):
        text = page.random.choice(page.texts)
        source = f"{page.one(SITES)}{page.one(['•', ' · ', ' ', '-'])}{page.fill(page.one(_AGES))}"
        title = html.escape(text.title[:40])
        title = f'<a href="/s">{title}</a>' if linked and heading != "a" else title
        head = f"<{heading}{' href=/x' if heading == 'a' else ''}>{title}</{heading}>"
        teaser = html.escape(text.paragraphs[0][: page.random.randint(30, 120)]) + page.one(
            ["", "...", "…", "…【详细】", "[详细]"]
        )
        parts = [f"<div>{source}</div>", head, f"<{teaser_tag}>{teaser}</{teaser_tag}>" if with_teaser else ""]
        if page.chance(0.4):
            parts.append(parts.pop(0))
        if page.chance(0.1):
            parts = [
                f"<div>Ad•{page.one(SITES)}</div>",
                f"<h4><a href=/ad>{html.escape(_short(page))}！立即了解</a></h4>",
                "<p>免费体验，名额有限，点击了解详情！</p>",
                "<ul><li><a href=#>为什么显示这个广告？</a></li></ul><h4>为什么你不喜欢这个广告？</h4>",
            ]
        page.add(
            f"<{item}{own}>{''.join(parts)}{page.one(['', '', '<span>' + str(page.random.randint(1, 999)) + '评论</span>'])}</{item}>"
        )
    page.add("</ul>" if item == "li" else "</div>")


def _byline(page: TemplatePage) -> None:
    parts = [
        page.date(),
        page.one(SITES),
        page.fill("作者：{user}"),
        page.fill("来源：{site}"),
        "关注",
        "播报文章",
        "已编辑",
        page.fill("时长：01:{d}"),
        page.fill("{n}阅读"),
        "来自北京",
        "字号：A- A+",
        "公开",
        "写评论",
        "语音播报",
    ]
    chosen = page.random.sample(parts, page.random.randint(1, 5))
    style = page.one(["span", "div", "p", "em"])
    page.add(f"<div{_class(page)}>" + "".join(f"<{style}>{part}</{style}> " for part in chosen) + "</div>")


def _lines_of(page: TemplatePage, words: list[str], most: int) -> None:
    tag, own = page.one(["div", "div", "span", "p", "li"]), _class(page)
    chosen = page.random.sample(words, min(len(words), page.random.randint(1, most)))
    page.add(f"<div{_class(page)}>" + "".join(f"<{tag}{own}>{page.fill(line)}</{tag}>\n" for line in chosen) + "</div>")


def _plain_paragraphs(page: TemplatePage, text: Text, count: int, style: str) -> None:
    """Write paragraphs of a text that is not wanted."""
    for line in text.paragraphs[:count]:
        words = html.escape(line)
        page.add(
            f"<p>{words}</p>"
            if style in ("p", "section")
            else f"<p><span>{words}</span></p>"
            if style == "span"
            else f"<div>{words}</div>"
        )


def _other_articles(page: TemplatePage, style: str, own: str, name: str) -> None:
    """Write whole articles behind the one that the page is about, in the same markup."""
    for _ in range(page.random.randint(1, 4)):
        text = page.random.choice(page.texts)
        tag = "h1" if page.chance(0.6) else "h2"
        page.add(f"<div{own}><{tag}{name}>{html.escape(text.title)}</{tag}>")
        _byline(page)
        _plain_paragraphs(page, text, page.random.randint(2, 25), style)
        if page.chance(0.5):
            _lines_of(page, ["展开阅读全文", "举报", "不喜欢"], 3)
        page.add("</div>")


def _comments(page: TemplatePage, kept: bool) -> None:
    say = page.keep if kept else html.escape
    if not kept and page.chance(0.85):
        words = page.one(
            ["网友评论", "热门评论", "全部评论", "最新评论", "评论", "精彩评论", "大家都在说", "网友跟贴", "评论区"]
        )
        page.add(
            f"<{page.one(['h3', 'div', 'span'])}>{words} {page.random.randint(1, 999)}</div><div>理性发言，友善互动</div>"
        )
    own, inner = _class(page), page.one(["div", "p", "span"])
    style = page.random.randint(0, 2)
    for _ in range(page.random.randint(2, 30)):
        line = (
            page.one(REPLIES)
            if page.chance(0.5)
            else page.random.choice(page.texts).paragraphs[0][: page.random.randint(8, 80)]
        )
        name, when = page.one(NAMES), page.fill(page.one(_AGES))
        if style == 0 and kept:
            words = f"<div><a href=/u>{page.keep(name)}</a>:{page.keep(line)}</div><div>{page.keep(when)} {page.keep('来自' + page.one(PLACES)[:2])}</div>"
        else:
            words = f"<a href=/u>{name}</a><{inner}>{say(line)}</{inner}><span>{when}</span>"
        page.add(
            f"<div{own}>{words}<div>{page.one(['回复', '赞 ' + str(page.random.randint(1, 99)), '举报 回复', ''])}</div></div>"
        )


def _around(page: TemplatePage, title: str, main, behind: list) -> None:
    """Write the page around its main part: cookies, menus, hot words before, boxes behind, footer."""
    site = page.one(SITES)
    title = title if page.chance(0.92) else site
    page.add(
        f"<!DOCTYPE html><html><head><meta charset=utf-8><title>{html.escape(title)}{page.one(['_' + site, '-' + site, ' - ' + page.one(PLACES) + ' - ' + site, '', '_' + page.one(PLACES) + '_' + site])}</title></head><body>"
    )
    if page.chance(0.2):
        page.add(f"<div{_class(page)}><p>{page.one(_COOKIES)}</p><p>同意 拒绝</p></div>")
    for _ in range(page.random.randint(1, 2)):
        page.navigation()
    before = [
        lambda: _hot_list(page),
        lambda: _lines_of(page, _DIALOGS, 4),
        page.crumbs,
        page.headline_list,
        lambda: _stream(page),
    ]
    for part, probability in zip(before, (0.35, 0.3, 0.5, 0.1, 0.08), strict=True):
        if page.chance(probability):
            _wrapped(page, part)
    page.add(f"<div{_class(page)}><div{_class(page)}>")
    main()
    page.add("</div>")
    for part in behind:
        _wrapped(page, part)
    page.add("</div>")
    page.footer()
    page.add("</body></html>")


def portal(page: TemplatePage) -> None:
    """Write one article, often a short one, on a page that is mostly something else."""
    title = page.headline()
    style = page.one(["p", "p", "p", "span", "div", "section", "br"])
    own, name = _class(page), _class(page)

    def main() -> None:
        if page.chance(0.25):
            _lines_of(page, _PLAYER, 6)
        page.add(f"<div{own}>")
        if page.chance(0.9):
            page.add(f"<h1{name}>{html.escape(title)}</h1>")
        if page.chance(0.85):
            _byline(page)
        if page.chance(0.12):  # the lead stands with the headline, apart from the text
            page.add(
                f"<div{_class(page)}>{page.keep(page.random.choice(page.texts).paragraphs[0][:120])}</div></div><div{_class(page)}>"
            )
        if page.chance(0.2):
            _lines_of(page, _PLAYER, 8)
        tag = page.one(["div", "article", "div", "section"])
        page.add(f"<{tag}{page.name('content') if page.chance(0.5) else _class(page)}>")
        if page.chance(0.5):
            text = page.random.choice(page.texts)
            page.paragraphs(text.paragraphs[: page.random.randint(1, 4)], style)
        else:
            page.article_body()
        tail = [page.fill(line) for line in page.random.sample(_DECLARATIONS, page.random.randint(0, 4))]
        if page.chance(0.5):
            page.add("".join(f"<p>{line}</p>" for line in tail))
            tail = []
        page.add(f"</{tag}>" + "".join(f"<div>{line}</div>" for line in tail))
        if page.chance(0.5):
            _lines_of(page, _DIALOGS, 8)
        page.add("</div>")

    behind = []
    for part, probability in (
        (lambda: _other_articles(page, style, own if page.chance(0.7) else _class(page), name), 0.35),
        (page.tools, 0.3),
        (lambda: _stream(page), 0.45),
        (lambda: _hot_list(page), 0.45),
        (lambda: _comments(page, kept=False), 0.3),
        (page.headline_list, 0.4),
        (lambda: _stream(page), 0.2),
        (page.side, 0.3),
        (page.notice, 0.2),
    ):
        if page.chance(probability):
            behind.append(part)
    _around(page, title, main, behind)


def question(page: TemplatePage) -> None:
    """Write a question and its answers: both are wanted, the furniture around each is not."""
    asked = page.random.choice(page.texts)
    title = asked.title[:30] + "？"

    def main() -> None:
        page.add(f"<h1>{page.keep(title)}</h1>")
        _lines_of(
            page,
            [
                "搜索资料",
                "我来答",
                "分享",
                "举报",
                "{d}个回答",
                "#热议# {title}",
                "写回答",
                "邀请回答",
                "好问题 {d}",
                "浏览量 {n}",
                "关注问题",
                "{d}人关注",
                "可选中1个或多个下面的关键词，搜索相关资料。",
            ],
            7,
        )
        own, text_name = _class(page), page.name("post")
        for _ in range(page.random.choice([1, 1, 2, 3, 6])):
            page.add(f"<div{own}>")
            _lines_of(
                page,
                [
                    "{user}",
                    "{tag}领域创作者",
                    "向TA提问 私信TA",
                    "关注",
                    "2023-06-{d} · 分享身边故事、身边知识、身边乐趣。",
                    "已采纳 {d}级",
                    "知道大有可为答主",
                    "回答量：{n} 采纳率：{d}%",
                    "贡献了超过{n}个回答",
                    "展开全部",
                    "推荐于2017-{d}-{d}",
                    "高赞答主",
                ],
                6,
            )
            page.add(f"<div{text_name}>")
            page.paragraphs(
                page.random.choice(page.texts).paragraphs[: page.random.randint(1, 8)], page.one(["p", "br", "div"])
            )
            page.add("</div>")
            _lines_of(
                page,
                [
                    "已赞过 已踩过",
                    "你对这个回答的评价是？",
                    "评论 收起",
                    "赞同 {n}",
                    "{d} 条评论",
                    "喜欢 收藏",
                    "编辑于 2023-{d}-{d}",
                    "本回答被网友采纳",
                    "抢首赞",
                    "分享 复制链接",
                ],
                5,
            )
            page.add("</div>")

    behind = [part for part in (
        lambda: _lines_of(page, ["推荐律师服务： 若未解决您的问题，请您详细描述您的问题，通过平台进行免费专业咨询", "下载知道APP，抢鲜体验", "扫描二维码下载", "类别 我们会通过消息、邮箱等方式尽快将举报结果通知您。"], 3),
        lambda: _hot_list(page), page.headline_list, lambda: _stream(page),
    ) if page.chance(0.6)]  # fmt: skip
    _around(page, title, main, behind)


def microblog(page: TemplatePage) -> None:
    """Write a post and what others say to it: all of that is wanted, the boxes around are not."""
    text = page.random.choice(page.texts)

    def main() -> None:
        _lines_of(page, ["公开", "{user}", "24-5-13 17:07", "来自 微博视频号", "已编辑", "关注", "头条新闻"], 5)
        page.add(f"<div{_class(page)}>")
        if page.chance(0.5):
            page.add(f"<h1>{page.keep(text.title)}</h1>")
        page.paragraphs(text.paragraphs[: page.random.randint(1, 5)], page.one(["br", "p", "div"]))
        page.add("</div>")
        _lines_of(page, ["转发 {n}", "评论 {n}", "赞 {n}", "收藏", "按热度 按时间", "同时转发"], 5)
        _comments(page, kept=True)

    behind = [part for part in (
        lambda: _lines_of(page, ["{user}官方账号", "每日播报全球各类重要资讯、突发新闻，全天24小时即时发布。欢迎报料、投稿。", "新媒体-移动媒体{tag}", "粉丝 {n}万", "查看更多"], 4),
        lambda: _hot_list(page),
    ) if page.chance(0.7)]  # fmt: skip
    _around(page, text.title[:30], main, behind)


def wiki(page: TemplatePage) -> None:
    """Write an entry of an encyclopedia: its table of contents, box of facts, notes and categories are not its text."""
    text = page.random.choice(page.texts)
    page.with_links = True
    title = text.title[:16]
    headings = [page.headline()[: page.random.randint(4, 10)] for _ in range(page.random.randint(2, 9))]

    def contents() -> None:
        numbered = page.chance(0.5)
        page.add(f"<div{page.one([' class=toc', ' id=toc', _class(page)])}><div>目录</div><ul>")
        for number, heading in enumerate(headings, 1):
            label = f"{number} {html.escape(heading)}" if numbered else html.escape(heading)
            page.add(f'<li><a href="#{number}">{label}</a></li>')
        page.add("</ul></div>")

    def main() -> None:
        page.add(f"<h1>{html.escape(title)}</h1>")
        if page.chance(0.5):
            _lines_of(
                page,
                [
                    "维基百科，自由的百科全书",
                    "[编辑]",
                    "播报 编辑 讨论 上传视频",
                    "开关目录",
                    "收藏",
                    "查看我的收藏",
                    "此条目讲述中国大陆处于施工或详细规划阶段的工程。",
                    "本词条由“科普中国”科学百科词条编写与应用工作项目 审核 。",
                    "需要此页的更多来源，无可靠来源的内容可能会被移除。",
                ],
                5,
            )
        if page.chance(0.6):
            facts = [(page.one(PLACES), page.headline()[:12]) for _ in range(page.random.randint(4, 20))]
            if page.chance(0.6):
                rows = "".join(f"<tr><th>{key}</th><td>{html.escape(value)}</td></tr>" for key, value in facts)
                page.add(
                    f"<table{page.one([' class=infobox', _class(page)])}><tr><th colspan=2>{html.escape(title)}</th></tr>{rows}</table>"
                )
            else:
                page.add(
                    "<dl>" + "".join(f"<dt>{key}</dt><dd>{html.escape(value)}</dd>" for key, value in facts) + "</dl>"
                )
        end = page.block("div", "content")
        first = page.chance(0.5)
        page.paragraphs(text.paragraphs[:2], "p")
        if first:
            contents()
        for heading in headings:
            page.add(
                f"<h2>{page.keep(heading)}{page.one(['', '<span>[<a href=#>编辑</a>]</span>', '<span>播报</span><a>编辑</a>'])}</h2>"
            )
            page.paragraphs(page.random.choice(page.texts).paragraphs[: page.random.randint(1, 5)], "p")
        page.add(end)

    behind = [part for part in (
        lambda: page.add("<h2>参考文献</h2><ol>" + "".join(f"<li>^ <a href=#>{html.escape(_short(page))}</a>．{page.one(SITES)} [{page.date()}]</li>" for _ in range(page.random.randint(3, 30))) + "</ol>"),
        lambda: page.add(f"<div>词条标签：{page.one(PLACES)} ， {page.one(PLACES)}</div>"), page.headline_list, lambda: _hot_list(page),
    ) if page.chance(0.6)]  # fmt: skip

    def main_behind_contents() -> None:
        contents()
        main()

    _around(page, title, main if page.chance(0.5) else main_behind_contents, behind)
