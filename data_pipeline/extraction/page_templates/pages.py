# ruff: noqa: E501, SIM905 (lists of words and phrases of web pages)
"""An invented page under construction: its parts, and the words that stand around texts on Chinese sites."""

import html
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

PLACES = "首页 新闻 国内 国际 军事 财经 股票 基金 科技 数码 汽车 房产 体育 娱乐 明星 电影 教育 留学 健康 美食 旅游 时尚 女性 亲子 游戏 视频 图片 博客 论坛 微博 招聘 " \
    "彩票 天气 地图 读书 历史 文化 收藏 公益 专题 问答 文库 政务公开 办事服务 互动交流 机构设置 通知公告 产品中心 关于我们 新闻动态 联系我们 解决方案 客户案例 下载 帮助 社区 " \
    "前端 后端 数据库 算法 面试 开源 云计算 人工智能 安卓 标签 归档 友链 留言板".split()  # fmt: skip
FOOTERS = [
    "Copyright © 2003-2021 {site} 版权所有", "京ICP备1200{n}号-1", "京公网安备1101050200{n}号", "地址：北京市朝阳区东三环中路{n}号 邮编：100020",
    "增值电信业务经营许可证：京B2-2017{n}", "违法和不良信息举报电话：010-8888{n}", "未经{site}书面授权，不得转载或建立镜像", "Powered by Discuz! X3.4",
    "GMT+8, 2021-3-{d} 12:{d} , Processed in 0.04{n} second(s), 8 queries .", "关于我们 | 广告服务 | 联系方式 | 诚聘英才 | 网站地图 | 隐私政策",
    "主办单位：{site} 技术支持：{site}信息中心", "建议使用IE8.0以上浏览器，1024*768分辨率浏览本站", "Theme by NexT Powered by Hexo", "客服热线：400-820-{n}",
    "本站内容均来自网友分享，如有侵权请联系管理员删除，我们会在第一时间处理。", "声明：本站所有文章，如无特殊说明或标注，均为本站原创发布。任何个人或组织，在未征得本站同意时，禁止复制、盗用、采集。",
]  # fmt: skip
TOOLS = [
    "分享到：微信 微博 QQ空间", "扫一扫分享到朋友圈", "打印 关闭", "【字体：大 中 小】", "点赞 {d}", "收藏 {n}", "举报", "打赏作者", "扫描二维码关注公众号", "阅读全文",
    "赞 {d} 踩 0", "复制链接", "用微信扫码二维码分享至好友和朋友圈", "本文来自投稿，不代表本站立场。", "特别声明：以上内容为自媒体平台用户上传并发布，本平台仅提供信息存储服务。",
    "关注我们的公众号，每天获取最新的资讯", "上一篇：{title}", "下一篇：{title}", "责任编辑：{user}", "标签：{tag} {tag} {tag}", "版权声明：本文为博主原创文章，转载请附上原文出处链接和本声明。",
]  # fmt: skip
NOTICES = [
    "免责声明：本文仅代表作者个人观点，与{site}无关。其原创性以及文中陈述文字和内容未经本站证实，对本文以及其中全部或者部分内容、文字的真实性、完整性、及时性本站不作任何保证或承诺，请读者仅作参考，并请自行核实相关内容。",
    "凡本网注明“来源：{site}”的所有作品，版权均属于{site}，未经本网授权不得转载、摘编或利用其它方式使用上述作品。已经本网授权使用作品的，应在授权范围内使用，并注明来源。违反上述声明者，本网将追究其相关法律责任。",
    "{site}版权与免责声明：转载目的在于传递更多信息，并不代表本网赞同其观点和对其真实性负责。如因作品内容、版权和其它问题需要同本网联系的，请在30日内进行。",
    "遵守中华人民共和国有关法律、法规，尊重网上道德，承担一切因您的行为而直接或间接引起的法律责任。您在{site}发表的言论，{site}有权在网站内保留、转载、引用或者删除。",
    "关注{site}官方微信，每天为您推送最新鲜的资讯，更有精美礼品等您来拿！欢迎投稿，稿件一经采用，即付稿酬，联系电话：010-6688{n}。",
    "您的浏览器版本过低，可能导致部分功能无法使用，建议您升级浏览器，或者使用谷歌、火狐等浏览器访问本站。",
]
USER_LINES = [
    "注册时间 2011-{d}-{d}", "积分 {n}", "帖子 {n}", "主题 {d}", "精华 0", "威望 {d} 点", "金钱 {n}", "在线时间 {n} 小时", "最后登录 2021-{d}-{d}", "阅读权限 {d}", "发消息", "加好友",
    "新手上路", "高级会员", "论坛元老", "当前离线", "Lv.{d}", "粉丝 {n}", "关注", "UID {n}", "来自 北京", "听众数 {d}", "签到天数: {d} 天", "[LV.{d}]常住居民I", "升级 {d}%",
]  # fmt: skip
POST_TOOLS = [
    "回复",
    "举报",
    "支持 反对",
    "使用道具 举报",
    "只看该作者",
    "回复 引用",
    "赞 {d}",
    "收起 展开",
    "倒序浏览",
    "点评",
    "TOP",
    "评论 收藏 感谢",
    "添加评论",
    "写回复",
    "感谢回复者",
]
RELATED = [
    "相关阅读",
    "热门推荐",
    "猜你喜欢",
    "最新文章",
    "热门文章",
    "推荐阅读",
    "相关新闻",
    "24小时排行",
    "延伸阅读",
    "精彩图集",
    "大家都在看",
    "本版最新",
    "热帖",
    "相关问题",
    "热门标签",
]
SITES = "新浪网 青年在线 华夏论坛 江南社区 数码之家 天涯海角 科技日报网 南方门户 长江在线 程序员之家 市人民政府 健康问答网 家居商城".split()
NAMES = "小鱼 老王 风中的叶子 linux_fan 程序猿 abc123 木子李 阿杰 云淡风轻 海阔天空 zhangsan 七月 张伟 王芳 李娜 admin 游客 匿名用户 逍遥 大米 胖胖的猫".split()
REPLIES = ["顶一下", "谢谢楼主分享！", "沙发", "好东西，收藏了。", "不错，支持一下", "同问，有知道的吗？", "学习了", "我也遇到过这个问题，后来重装就好了。", "mark", "说得有道理，赞一个。",
    "路过，帮顶", "楼主说的是哪个版本？", "已解决，谢谢各位大神", "这个方法我试过，不行啊。", "哈哈，笑死我了", "求链接", "坐等更新……", "那你要看预算了，便宜没好货。"]  # fmt: skip
CLASSES = {
    "content": "content article-content article_content post-content entry-content main-content artibody content_detail TRS_Editor news_text "
    "rich_media_content markdown-body detail-content article-body text cont neirong newsContent txt_con arc_body blog-content zoom con_txt RichText "
    "ql-editor a1 box wrapper_2 x7f css-1yuhvjn inner",
    "list": "list related-list hot-list news_list ul_list sidebar-list recommend rank side-box mod_list box2 tuijian css-9x2 relate about_list panel",
    "nav": "nav navbar header-nav menu topnav main-nav channel nav_box css-k1 hd clearfix top subnav",
    "footer": "footer foot copyright bottom page-footer ft site-footer css-f2 links",
    "side": "sidebar side right aside widget-area col-md-4 right_box r_side css-s9 fr w300",
    "meta": "info meta article-info post-meta source date time author pub_info byline css-m1 headinfo",
    "tools": "share bdsharebuttonbox tool article-tool copyright-box reward operate post-actions css-t5 page-nav",
    "post": "post t_f d_post_content reply_content postmessage comment-content message-content topic-content floor-content answer-content "
    "RichContent-inner markdown_body css-p4 post-text reply-text bbs-content msg ContentItem aw-question-detail",
    "user": "pls user-info author avatar profile userinfo d_author authi reply-author css-u3 postauthor member",
    "comment": "comment comments comment-list cmt pinglun review-list css-c8 feedback reply-list",
}


@dataclass
class Text:
    """One text of the caller's: a headline and the paragraphs under it."""

    title: str
    paragraphs: list[str]


@dataclass
class TemplatePage:
    """A page under construction: its markup, and the text that an extractor should find."""

    texts: Sequence[Text]
    random: random.Random
    markup: list[str] = field(default_factory=list)
    gold: list[str] = field(default_factory=list)
    with_links: bool = False  # words of the text are links, as in encyclopedias and on portals

    def one(self, choices: Sequence[str]) -> str:
        return self.random.choice(choices)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def name(self, kind: str) -> str:
        """Return an attribute for an element of this kind; some sites name nothing."""
        if self.chance(0.15):
            return ""
        attribute = "id" if self.chance(0.15) else "class"
        return f' {attribute}="{self.one(CLASSES[kind].split())}"'

    def fill(self, pattern: str) -> str:
        values = {
            "n": lambda: str(self.random.randint(100, 9999)), "d": lambda: str(self.random.randint(1, 28)), "site": lambda: self.one(SITES),
            "user": lambda: self.one(NAMES), "tag": lambda: self.one(PLACES), "title": lambda: self.headline(),
        }  # fmt: skip
        for key, value in values.items():
            while "{" + key + "}" in pattern:
                pattern = pattern.replace("{" + key + "}", value(), 1)
        return pattern

    def headline(self) -> str:
        return self.random.choice(self.texts).title[:40]

    def date(self) -> str:
        r = self.random
        day = f"{r.randint(2003, 2023)}-{r.randint(1, 12):02}-{r.randint(1, 28):02}"
        clock = f"{r.randint(0, 23):02}:{r.randint(0, 59):02}"
        return self.one(
            [
                f"{day} {clock}",
                day,
                day.replace("-", "年", 1).replace("-", "月", 1) + "日",
                f"{day} {clock}:{r.randint(10, 59)}",
                f"{r.randint(2, 23)}小时前",
            ]
        )

    def add(self, markup: str) -> None:
        self.markup.append(markup)

    def keep(self, text: str) -> str:
        self.gold.append(text)
        return html.escape(text, quote=False)

    def block(self, tag: str, kind: str) -> str:
        self.add(f"<{tag}{self.name(kind)}>")
        return f"</{tag}>"

    # --- what is not the text

    def navigation(self) -> None:
        end = self.block(self.one(["div", "nav", "header", "ul", "td"]), "nav")
        links = [f'<a href="/{i}">{self.one(PLACES)}</a>' for i in range(self.random.randint(4, 30))]
        if self.chance(0.5):
            self.add("".join(f"<li>{link}</li>" for link in links))
        else:
            self.add(self.one([" | ", " ", "\n", "&nbsp;"]).join(links))
        self.add(end)

    def crumbs(self) -> None:
        self.add(self.one(['<div class="crumb">', "<div>", '<div class="location">', "<p>"]))
        self.add(
            self.one(["当前位置：", "您的位置：", "", "您现在的位置："])
            + " &gt; ".join(f'<a href="#">{self.one(PLACES)}</a>' for _ in range(3))
            + self.one([" &gt; 正文", "", " &gt; " + self.headline()])
        )
        self.add("</div>")

    def headline_list(self, linked: bool = True) -> None:
        end = self.block(self.one(["div", "section", "aside", "div"]), "list")
        self.add(f"<{self.one(['h3', 'div', 'h2', 'p', 'b'])}>{self.one(RELATED)}</div>")
        self.add("<ul>")
        teasers = self.chance(0.25)
        for i in range(self.random.randint(3, 14)):
            text = self.random.choice(self.texts)
            title = (
                f'<a href="/a/{i}.html">{html.escape(text.title[:40])}</a>' if linked else html.escape(text.title[:40])
            )
            teaser = f"<p>{html.escape(text.paragraphs[0][:60])}...</p>" if teasers and text.paragraphs else ""
            self.add(f"<li>{title}{self.one(['', '', '<span>' + self.date() + '</span>'])}{teaser}</li>")
        self.add("</ul>" + end)

    def side(self) -> None:
        end = self.block(self.one(["div", "aside", "td", "div"]), "side")
        for _ in range(self.random.randint(1, 4)):
            self.headline_list(self.chance(0.9))
        if self.chance(0.3):
            self.add(
                f"<div>{self.fill('关于作者 {user} 文章 {n} 粉丝 {n}')}</div><p>个人简介：热爱生活，喜欢分享，欢迎大家多多交流。</p>"
            )
        self.add(end)

    def footer(self) -> None:
        end = self.block(self.one(["div", "footer", "td"]), "footer")
        for line in self.random.sample(FOOTERS, self.random.randint(1, 6)):
            self.add(f"<p>{self.fill(line)}</p>" if self.chance(0.7) else self.fill(line) + "<br>")
        self.add(end)

    def tools(self) -> None:
        end = self.block(self.one(["div", "p", "section"]), "tools")
        for line in self.random.sample(TOOLS, self.random.randint(1, 5)):
            line = self.fill(line)
            self.add(
                self.one(
                    [
                        f"<span>{line}</span> ",
                        f'<a href="javascript:;">{line}</a>',
                        f"<p>{line}</p>",
                        f"<div>{line}</div>",
                    ]
                )
            )
        self.add(end)

    def notice(self) -> None:
        end = self.block(self.one(["div", "p", "td"]), "tools")
        for line in self.random.sample(NOTICES, self.random.randint(1, 2)):
            self.add(f"<p>{self.fill(line)}</p>")
        self.add(end)

    def comments(self) -> None:
        end = self.block(self.one(["div", "section", "ul"]), "comment")
        self.add(
            f"<h3>{self.one(['网友评论', '全部评论', '评论', '最新评论', '精彩评论'])}（{self.random.randint(0, 99)}条）</h3>"
        )
        item = self.one(["comment-item", "cmt", "item", "row"])
        long_ones = self.chance(0.4)
        for number in range(self.random.choice([0, 2, 4, 8, 40])):
            words = (
                self.random.choice(self.texts).paragraphs[-1][:150]
                if long_ones and self.chance(0.4)
                else self.one(REPLIES)
            )
            who = f'<a href="/u">{self.one(NAMES)}</a> <span>{self.date()}</span>'
            line = self.one([f"{who}<p>{words}</p>", f"<div>{number}楼 {who}</div><div>{words}</div>"])
            self.add(f'<div class="{item}">{line}<a href="#">回复</a></div>')
        self.add("<textarea>说两句</textarea><p>登录后才能发表评论</p>" + end)

    # --- what is

    def paragraphs(self, paragraphs: Sequence[str], style: str) -> None:
        for text in paragraphs:
            kept = self.keep(text)
            if self.with_links and len(text) > 30 and "&" not in kept:
                cuts = sorted(self.random.sample(range(len(kept) - 6), self.random.randint(1, 3)), reverse=True)
                for cut in cuts:
                    if "<" not in kept[cut : cut + 5]:
                        kept = f'{kept[:cut]}<a href="/wiki/{cut}">{kept[cut : cut + 5]}</a>{kept[cut + 5 :]}'
            if style == "br":
                self.add(f"　　{kept}<br>" + self.one(["<br>", "\n"]))
            elif style == "div":
                self.add(f"<div>{kept}</div>")
            elif style == "span":
                self.add(f'<p style="margin:0"><span style="font-size:16px">{kept}</span></p>')
            elif style == "plain":
                self.add(kept + "\n")
            elif style == "section":
                self.add(f'<section style="line-height:2"><p><span>{kept}</span></p></section>')
            else:
                self.add(f"<p>{kept}</p>")
            if self.chance(0.04):
                self.add(f'<p><img src="/p.jpg" alt="{self.headline()}"></p>')

    def article_body(self) -> None:
        text = self.random.choice(self.texts)
        self.with_links = self.chance(0.2)
        style = self.one(["p", "p", "p", "br", "div", "span", "section"])
        paragraphs = text.paragraphs[: self.random.randint(2, 40)]
        sections = self.chance(0.25)
        for start in range(0, len(paragraphs), 4):
            if sections and start:
                heading = self.random.choice(self.texts).title[:14]
                self.add(
                    self.one(["<h2>{}</h2>", "<h3>{}</h3>", "<p><strong>{}</strong></p>"]).format(self.keep(heading))
                )
            self.paragraphs(paragraphs[start : start + 4], style)
        if self.chance(0.15):
            self.add(
                "<ul>"
                + "".join(f"<li>{self.keep(line[:50])}</li>" for line in self.random.choice(self.texts).paragraphs[:6])
                + "</ul>"
            )
        if self.chance(0.12):
            rows = [
                [self.one(PLACES), str(self.random.randint(1, 900)), self.one(PLACES)]
                for _ in range(self.random.randint(2, 8))
            ]
            self.add(
                "<table>"
                + "".join("<tr>" + "".join(f"<td>{self.keep(cell)}</td>" for cell in row) + "</tr>" for row in rows)
                + "</table>"
            )
        if self.chance(0.12):
            code = "\n".join(
                self.keep(line)
                for line in [
                    "import os",
                    "def main(path):",
                    "    for name in os.listdir(path):",
                    "        print(name)",
                    "main('.')",
                ]
            )
            self.add(f"<pre><code>{code}</code></pre>")

    def post(
        self, paragraphs: Sequence[str], number: int, layout: str, post_name: str, user_name: str, style: str
    ) -> None:
        user = f'<a href="/space-uid-{number}">{self.one(NAMES)}</a>'
        facts = [self.fill(line) for line in self.random.sample(USER_LINES, self.random.randint(0, 8))]
        user_block = user + "".join(f"<p>{fact}</p>" for fact in facts)
        head = self.one(
            [
                f"发表于 {self.date()} | 只看该作者",
                f"{number}楼 {self.date()}",
                self.date(),
                f"#{number} 发表于 {self.date()}",
                f"回答于 {self.date()}",
            ]
        )
        tools = "".join(
            f'<a href="#">{self.fill(word)}</a> ' for word in self.random.sample(POST_TOOLS, self.random.randint(1, 4))
        )
        if layout == "table":
            self.add(f'<table><tr><td{user_name}>{user_block}</td><td><div class="pi">{head}</div><div{post_name}>')
            self.paragraphs(paragraphs, style)
            self.add(f"</div><div>{tools}</div></td></tr></table>")
        else:
            self.add(f'<div class="{layout}"><div{user_name}>{user_block}</div><div>{head}</div><div{post_name}>')
            self.paragraphs(paragraphs, style)
            self.add(f"</div><div>{tools}</div></div>")
