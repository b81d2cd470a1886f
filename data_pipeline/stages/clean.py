"""clean: the rules of the PanGu-α paper (section 3.1), each a small function, each with its threshold in the recipe.

1. Drop what has less than 60 % Chinese characters, less than 150 characters, or only a title.
2. Remove special symbols, and paragraphs that the document has had before.
3. Drop documents with the words of advertisements.
4. Traditional to simplified characters.
5. Remove navigation bars.

The paper names the rules and the first two numbers; the lists of words and symbols are not published and are ours.
Full-width punctuation stays as it is: ，。！？ are how Chinese sentences end. The text is changed first (2, 4, 5), then
measured (1, 3)."""

import functools
import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pydantic import Field

from data_pipeline import record
from data_pipeline.engine.steps import Map, StageSettings

# Phrases that an article does not use. Ours; kept short, because the paper drops a document for a single one.
ADVERTISEMENT_WORDS = (
    "加微信", "加我微信", "微信同号", "扫码加", "扫码关注", "扫描二维码关注", "代开发票", "开发票联系", "办证联系",
    "免费咨询热线", "咨询热线：", "全国统一热线", "在线客服QQ", "客服QQ", "招商加盟热线", "加盟热线", "点击购买",
    "立即购买", "立即抢购", "限时抢购", "包邮到家", "信用卡套现", "无抵押贷款", "贷款热线", "网上赌场", "真人娱乐",
    "六合彩特码", "私服发布", "刷单兼职", "月入过万",
)  # fmt: skip

# Words that a navigation bar is made of. Ours.
NAVIGATION_WORDS = frozenset(
    [
        "首页",
        "上一页",
        "下一页",
        "上一篇",
        "下一篇",
        "上一章",
        "下一章",
        "返回顶部",
        "返回首页",
        "回到顶部",
        "返回列表",
        "网站地图",
        "联系我们",
        "关于我们",
        "加入收藏",
        "设为首页",
        "登录",
        "注册",
        "退出",
        "搜索",
        "收藏",
        "分享",
        "打印",
        "更多",
        "更多>>",
        "举报",
        "投诉",
        "帮助",
        "帮助中心",
        "客服中心",
        "免责声明",
        "版权声明",
        "隐私政策",
        "友情链接",
        "广告服务",
        "网站首页",
        "新闻",
        "新闻中心",
        "产品中心",
        "在线留言",
        "人才招聘",
        "招贤纳士",
        "诚聘英才",
        "手机版",
        "电脑版",
        "客户端",
        "微博",
        "微信",
        "论坛",
        "博客",
        "视频",
        "图片",
        "专题",
        "财经",
        "体育",
        "娱乐",
        "科技",
        "汽车",
        "房产",
        "教育",
        "健康",
        "旅游",
        "军事",
        "国际",
        "国内",
        "社会",
        "目录",
        "导航",
        "菜单",
        "关闭",
        "展开",
        "收起",
        "点赞",
        "评论",
        "转发",
        "赞",
        "踩",
        "回复",
    ]
)

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af〇"
_WHITE = " \t\u00a0\u3000"
# what indents a paragraph; spaces indent code
_INDENT = "\t\u00a0\u3000"
_BLANK_LINES = re.compile(r"\n{3,}")
# Controls, zero-width and direction marks, private use, U+FFFD, box drawing, blocks, geometric shapes, dingbats, emoji.
# Not the arrows (they are words in manuals), not ○ (U+25CB: the zero of 二○○八年), not ①②③.
_SYMBOLS = re.compile(
    "[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ufe00-\ufe0f\ufeff\ufff0-\uffff\ue000-\uf8ff\u2500-\u25ca\u25cc-\u27bf\u2b00-\u2bff"
    "\U0001f000-\U0001faff\U000e0000-\U000e0fff\U000f0000-\U0010ffff]+"
)
_SEPARATORS = re.compile(r"\s*[|｜丨»›>·•/／]\s*|\s+")
_HARD_SEPARATORS = re.compile(r"[|｜丨»›>]")
_BRACKETS = re.compile(r"[【】\[\]]")
_SENTENCE_MARKS = re.compile("[。！？；，：…]")


class Settings(StageSettings):
    """The thresholds; the defaults are the paper's where it gives one."""

    minimum_han_share: float = Field(
        default=0.6, description="Chinese characters among all that are not white space; less is dropped", ge=0, le=1
    )
    minimum_characters: int = Field(
        default=150, description="characters that are not white space; fewer are dropped (reviews: about 15)", ge=0
    )
    drop_title_only: bool = Field(default=True, description="drop a page that has nothing but its title")
    remove_symbols: bool = Field(
        default=True, description="remove controls, private use, box drawing, dingbats and emoji"
    )
    remove_repeated_paragraphs: bool = Field(
        default=True, description="keep the first of equal paragraphs of a document"
    )
    repeated_paragraph_characters: int = Field(default=10, description="shorter paragraphs may repeat", ge=1)
    advertisement_words: tuple[str, ...] | None = Field(
        default=None, description="null: the built-in list; [] switches the rule off"
    )
    maximum_advertisements: int = Field(
        default=0, description="different advertisement words a document may hold", ge=0
    )
    simplify: bool = Field(default=True, description="traditional to simplified characters (OpenCC t2s)")
    remove_navigation: bool = Field(default=True, description="remove lines that are navigation bars")


SIGNALS = (
    "han_share",
    "characters",
    "symbols_removed",
    "repeated_paragraphs",
    "navigation_lines",
    "advertisements",
    "simplified",
)


@dataclass(frozen=True)
class Cleaned:
    """A document after the rules: its text, what was measured (by SIGNALS), and why it is dropped, if it is."""

    text: str
    signals: tuple[float, ...]
    drop_reason: str | None


def clean(batch: pa.RecordBatch, settings: Settings) -> pa.RecordBatch:
    """All rules, on every document of a batch."""
    rows = [
        clean_document(text, title, settings)
        for text, title in zip(batch.column("text").to_pylist(), batch.column("title").to_pylist(), strict=True)
    ]
    signals = np.array([row.signals for row in rows], np.float64).reshape(len(rows), len(SIGNALS))
    return record.replace(
        batch,
        columns={
            "text": pa.array([row.text for row in rows], pa.string()),
            "drop_reason": pa.array([row.drop_reason for row in rows], pa.string()),
        },
        signals={name: pa.array(np.ascontiguousarray(signals[:, index])) for index, name in enumerate(SIGNALS)},
    )


def clean_document(text: str, title: str | None, settings: Settings) -> Cleaned:
    """The rules in their order."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    symbols = navigation = repeated = 0
    if settings.remove_symbols:
        text, symbols = remove_symbols(text)
    text = tidy_lines(text)
    if settings.remove_navigation:
        text, navigation = remove_navigation(text)
    if settings.remove_repeated_paragraphs:
        text, repeated = remove_repeated_paragraphs(text, settings.repeated_paragraph_characters)
    converted = False
    if settings.simplify:
        text, converted = simplify(text)
    text = _BLANK_LINES.sub("\n\n", text).strip()
    characters, share = measure(text)
    words = ADVERTISEMENT_WORDS if settings.advertisement_words is None else settings.advertisement_words
    found = advertisements(text, words)
    reason = None
    if settings.drop_title_only and is_title_only(text, title):
        reason = "title_only"
    elif characters < settings.minimum_characters:
        reason = f"too_short:{characters} characters"
    elif share < settings.minimum_han_share:
        reason = f"han_share:{share:.3f}"
    elif len(found) > settings.maximum_advertisements:
        reason = f"advertisement:{found[0]}"
    return Cleaned(text, (share, characters, symbols, repeated, navigation, len(found), float(converted)), reason)


def measure(text: str) -> tuple[int, float]:
    """(characters that are not white space, share of Chinese characters among them). Rule 1."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    space = (points <= 0x20) | (points == 0x3000) | (points == 0xA0)
    characters = len(points) - int(np.count_nonzero(space))
    # one unsigned comparison for each range
    han = (
        (points - np.uint32(0x4E00) < 0x5200)
        | (points - np.uint32(0x3400) < 0x19C0)
        | (points - np.uint32(0xF900) < 0x200)
        | (points - np.uint32(0x20000) < 0x123B0)
        | (points == 0x3007)
    )
    return characters, int(np.count_nonzero(han)) / characters if characters else 0.0


def is_title_only(text: str, title: str | None) -> bool:
    """Whether a document has no more than its title. Rule 1."""
    if not title:
        return False
    return "".join(text.split()) in ("", "".join(title.split()))


def remove_symbols(text: str) -> tuple[str, int]:
    """(text, number of runs removed). Rule 2."""
    return _SYMBOLS.subn("", text)


def tidy_lines(text: str) -> str:
    """Lines without white space at their ends and without the indent of a paragraph; spaces that indent code stay."""
    return "\n".join([row.rstrip(_WHITE).lstrip(_INDENT) for row in text.split("\n")])


def remove_repeated_paragraphs(text: str, minimum_characters: int) -> tuple[str, int]:
    """(text, number of paragraphs removed): a line that occurred before in the document goes, if it is not short.
    Rule 2.
    """
    rows = text.split("\n")
    seen: set[str] = set()
    kept = []
    for row in rows:
        if len(row) >= minimum_characters:
            if row in seen:
                continue
            seen.add(row)
        kept.append(row)
    return ("\n".join(kept), len(rows) - len(kept)) if len(kept) < len(rows) else (text, 0)


def advertisements(text: str, words: tuple[str, ...]) -> list[str]:
    """The words that occur, in the order of the list. Rule 3."""
    if not words or not _advertisement_pattern(words).search(text):
        return []
    return [word for word in words if word in text]


@functools.lru_cache(maxsize=4)
def _advertisement_pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, words)))


def simplify(text: str) -> tuple[str, bool]:
    """(simplified text, whether anything changed). OpenCC is called only for text that holds one of its characters.
    Rule 4.
    """
    if _traditional_characters().isdisjoint(text):
        return text, False
    converted = _converter().convert(text)
    return converted, converted != text


@functools.cache
def _converter():
    from opencc import OpenCC

    return OpenCC("t2s")


@functools.cache
def _traditional_characters() -> frozenset[str]:
    """Every character that OpenCC changes when it stands alone (about 4,100)."""
    every = [
        chr(point)
        for first, last in ((0x3400, 0xA000), (0xF900, 0xFB00), (0x20000, 0x323B0))
        for point in range(first, last)
    ]
    changed = _converter().convert("\n".join(every)).split("\n")
    return frozenset(before for before, after in zip(every, changed, strict=True) if before != after)


def remove_navigation(text: str) -> tuple[str, int]:
    """(text, number of lines removed): lines that are navigation bars. Rule 5."""
    rows = text.split("\n")
    kept = [row for row in rows if not is_navigation(row)]
    return ("\n".join(kept), len(rows) - len(kept)) if len(kept) < len(rows) else (text, 0)


def is_navigation(row: str) -> bool:
    """Whether a line is a row of links.

    It has no sentence mark and is cut by separators into short items; either a hard separator (| » ›) stands between
    at least four items, or at least two items, and half of them, are words that navigation bars are made of. Spaces
    alone do not make a bar: a line of verse has them too. A line that is one such word and nothing else is a link as
    well."""
    if not row or len(row) > 200 or _SENTENCE_MARKS.search(row):
        return False
    items = [item for item in _SEPARATORS.split(_BRACKETS.sub(" ", row)) if item]
    if not items or max(map(len, items)) > 10:
        return False
    known = sum(item in NAVIGATION_WORDS for item in items)
    if len(items) == 1:
        return known == 1 and len(items[0]) >= 3
    if known >= 2 and 2 * known >= len(items):
        return True
    return len(items) >= 4 and len(_HARD_SEPARATORS.findall(row)) >= len(items) - 1 and known >= 1


STEPS = (Map("records", process=clean, signals=SIGNALS, libraries=("opencc",)),)
