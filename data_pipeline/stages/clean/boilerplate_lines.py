"""Lines that are no text: navigation bars, contact lines, and paragraphs that the document has had before.

Sources: PanGu-α, section 3.1 (navigation bars, repeated paragraphs); contact lines after WuDao (Yuan et al. 2021) and
the practice of MNBVC. The lists of words are ours."""

import re
from collections import Counter
from collections.abc import Callable, Sequence

from data_pipeline.stages.clean.privacy import find_private

# Words that a navigation bar is made of.
_NAVIGATION = """
首页 上一页 下一页 上一篇 下一篇 上一章 下一章 返回顶部 返回首页 回到顶部 返回列表 网站地图
联系我们 关于我们 加入收藏 设为首页 登录 注册 退出 搜索 收藏 分享 打印 更多 更多>> 举报 投诉
帮助 帮助中心 客服中心 免责声明 版权声明 隐私政策 友情链接 广告服务 网站首页 新闻 新闻中心 产品中心
在线留言 人才招聘 招贤纳士 诚聘英才 手机版 电脑版 客户端 微博 微信 论坛 博客 视频 图片 专题 财经
体育 娱乐 科技 汽车 房产 教育 健康 旅游 军事 国际 国内 社会 目录 导航 菜单 关闭 展开 收起
点赞 评论 转发 赞 踩 回复
"""
NAVIGATION_WORDS = frozenset(_NAVIGATION.split())
NAVIGATION_CHARACTERS, NAVIGATION_ITEM = 200, 10
_SEPARATORS = re.compile(r"\s*[|｜丨»›>·•/／]\s*|\s+")
_HARD_SEPARATORS = re.compile(r"[|｜丨»›>]")
_BRACKETS = re.compile(r"[【】\[\]]")
_SENTENCE_MARKS = re.compile("[。！？；，：…]")

CONTACT_CHARACTERS = 120
_CONTACT_LABELS = re.compile(
    "(?:联系|咨询|服务|投诉|客服|订购|商务|广告|合作|业务|投稿|举报|技术支持|公司|办公|固定|移动|值班)*"
    "(?:电话|手机|热线|传真|邮箱|信箱|E-?mail|邮件|地址|邮编|邮政编码|联系人|QQ群?号?|微信公众号|公众号|微信号?|网址|官网|Tel|Fax|Q群|QQ交流群|扣扣)"
    "(?:号码?|地址)?[ 　]*[：:]",
    re.IGNORECASE,
)
# what asks the reader to do something that is not reading
_CALLS = re.compile(
    "扫码(?:关注|加群?|添加|进群|下载|咨询)|扫一扫|扫描(?:下方|上方|左侧|右侧|上图|下图|以下)?(?:的)?二维码|长按(?:识别|扫描|关注|二维码|图片)"
    "|点击(?:上方|下方|蓝字|左下|右上|阅读原文|关注|购买|咨询|立即)|关注(?:我们的|本|官方)?(?:微信)?公众(?:号|平台)|加(?:我|客服|老师|小编)?(?:微信|[Vv][Xx]|QQ)"
    "|欢迎(?:来电|致电|加群|关注|加入QQ)|(?:来电|致电|在线)咨询|添加(?:客服|老师|小编)?微信"
)
# no contact line is without one of these; begins with a set of characters, which is what makes searching fast
HINT = re.compile(
    "[电手热传邮信地联公微QqＱ扣网官TtFfMmEe扫长点关加来致咨欢添]"
    "(?:话|机|线|真|箱|政|编|件|址|系|众|信|[Qq]|群|扣|网|[Ee][Ll]|[Aa][Xx]|[Aa][Ii][Ll]|-?[Mm]ail|码|一扫|描|按|击|注|[Vv]|我|客|老|小|询|迎)"
)
_CALL_CHARACTERS = 40
_SENTENCE_INSIDE = re.compile("[。；…].")
_REST_CHARACTERS = 24
_NOT_REST = re.compile(r"[\s\W_]+")


def remove_navigation(text: str) -> tuple[str, int]:
    """Return (text, number of lines removed): lines that are navigation bars."""
    return _without(text, is_navigation)


def is_navigation(row: str) -> bool:
    """Return whether a line is a row of links.

    It has no sentence mark and is cut by separators into short items; either a hard separator (| » ›) stands between
    at least four items, or at least two items, and half of them, are words that navigation bars are made of. Spaces
    alone do not make a bar: a line of verse has them too. A line that is one such word and nothing else is a link as
    well."""
    if not row or len(row) > NAVIGATION_CHARACTERS or _SENTENCE_MARKS.search(row):
        return False
    items = [item for item in _SEPARATORS.split(_BRACKETS.sub(" ", row)) if item]
    if not items or max(map(len, items)) > NAVIGATION_ITEM:
        return False
    known = sum(item in NAVIGATION_WORDS for item in items)
    if len(items) == 1:
        return known == 1 and len(items[0]) >= 3
    if known >= 2 and 2 * known >= len(items):
        return True
    return len(items) >= 4 and len(_HARD_SEPARATORS.findall(row)) >= len(items) - 1 and known >= 1


def remove_contact_lines(text: str) -> tuple[str, int]:
    """Return (text, number of lines removed): lines that say how to reach somebody."""
    unwanted = []
    end = -1
    for match in HINT.finditer(text):
        if match.start() > end:
            start = text.rfind("\n", 0, match.start()) + 1
            end = text.find("\n", match.start())
            end = len(text) if end < 0 else end
            if end - start <= CONTACT_CHARACTERS and is_contact(text[start:end]):
                unwanted.append((start, end))
    if not unwanted:
        return text, 0
    parts, position = [], 0
    for start, end in unwanted:
        parts.append(text[position:start])
        position = end + 1
    return "".join([*parts, text[position:]]).removesuffix("\n" if position > len(text) else ""), len(unwanted)


def is_contact(row: str) -> bool:
    """Return whether a line is there to be called, written to or followed.

    It calls upon the reader (扫码关注) and is short; or it has a label (电话：) with a number, or two labels, and not
    much else: without numbers and labels no more than _REST_CHARACTERS letters and digits are left. A sentence that
    mentions a telephone is none."""
    if not row or len(row) > CONTACT_CHARACTERS or not HINT.search(row):
        return False
    if len(row) <= _CALL_CHARACTERS and not _SENTENCE_INSIDE.search(row) and _CALLS.search(row):
        return True
    # a label ends with a colon
    labels = len(_CONTACT_LABELS.findall(row)) if "：" in row or ":" in row else 0
    if not labels:
        return False
    items = find_private(row)
    if not items and labels < 2:
        return False
    rest, position = [], 0
    for _, start, end in items:
        rest.append(row[position:start])
        position = end
    left = _CONTACT_LABELS.sub(" ", " ".join([*rest, row[position:]]))
    return len(_NOT_REST.sub("", left)) <= _REST_CHARACTERS


def remove_repeated_paragraphs(
    text: str,
    minimum_characters: int,
    kept_lines: Callable[[Sequence[str], Sequence[int]], Sequence[bool]] | None = None,
) -> tuple[str, int]:
    """Return (text, number of paragraphs removed): a line that occurred before in the document goes, if it is not short
    and none of `kept_lines`, which may repeat; these are asked for the lines that occur more than once.
    """
    rows = text.split("\n")
    long_rows = [row for row in rows if len(row) >= minimum_characters]
    counts = Counter(long_rows)
    if len(counts) == len(long_rows):
        return text, 0
    repeated = [place for place, row in enumerate(rows) if counts.get(row, 0) > 1]
    may_repeat = [False] * len(rows) if kept_lines is None else kept_lines(rows, repeated)
    seen: set[str] = set()
    gone = set()
    for place in repeated:
        if may_repeat[place]:
            continue
        if rows[place] in seen:
            gone.add(place)
        seen.add(rows[place])
    if not gone:
        return text, 0
    return "\n".join([row for place, row in enumerate(rows) if place not in gone]), len(gone)


def _without(text: str, is_unwanted) -> tuple[str, int]:
    rows = text.split("\n")
    kept = [row for row in rows if not is_unwanted(row)]
    return ("\n".join(kept), len(rows) - len(kept)) if len(kept) < len(rows) else (text, 0)
