"""Lines that a publisher's template adds: the path to the page, the editor, and whose rights they are."""

import re

PATH_CHARACTERS, CREDIT_CHARACTERS = 120, 100
_LOCATION = re.compile(
    "^[ \t\u3000]*(?:(?:您?的?|你)?(?:现在|当前)?(?:所在)?(?:的)?位置|当前(?:位置|页面))[ ]*(?:是|为)?[ ]*[：:]?[ ]*"
)
_PATH_SEPARATOR = re.compile(r"\s*(?:>>|»|›|＞|>|→|/|／|-&gt;|&gt;)\s*")
_HOME = frozenset({"首页", "主页", "网站首页", "本站首页", "返回首页"})
_PATH_ITEM = 12
_SENTENCE_MARKS = re.compile("[。！？；]")

_PEOPLE = "责任编辑|责编|(?:本文|网络|值班|执行|实习)?编辑|审核|[初复终一二三]审|校对|监制|排版|供稿|稿件来源"
_LABEL = re.compile(f"^[ \t\u3000]*[（(【\\[]?(?:{_PEOPLE})[ \u3000]*[：:/|]")
_AT_END = re.compile(
    f"[ \t\u3000]*[（(【\\[](?:{_PEOPLE})[ \u3000]*[：:][^（()）【】\\[\\]\n]{{1,24}}[)）】\\]][ \t]*$", re.MULTILINE
)
_CLOSING = (")", "）", "】", "]", " ", "\t")
_RIGHTS = re.compile(
    "版权(?:归[^，。]{1,20})?所有|未经[^，。]{0,12}(?:许可|授权|允许|同意)[，,]?[^，。]{0,12}(?:不得|禁止|严禁|请勿|谢绝)[^，。]{0,12}"
    "|(?:转载|摘编)(?:请|须|需|必须|务必)(?:注明|标明|保留|联系)|禁止(?:任何形式的?)?转载"
    "|Copyright\\b|All [Rr]ights [Rr]eserved"
)
_CREDIT_SENTENCE = 40
# no such line is without one of these pairs; kernels/survey.py looks for them
_TEMPLATE_WORDS = """
首页 主页 位置 当前 责任 责编 编辑 审核 初审 复审 终审 一审 二审 三审 校对 监制 排版 供稿 稿件 版权 未经 转载 摘编 Co Al
"""
PAIRS = tuple(_TEMPLATE_WORDS.split())
_PAIR = re.compile("|".join(PAIRS))


def remove_publisher_lines(text: str) -> tuple[str, int]:
    """Return (text, lines and ends of lines that went)."""
    parts: list[str] = []
    end = position = -1
    total = 0
    for match in _PAIR.finditer(text):
        if match.start() < end:  # in the line that was just looked at
            continue
        start = text.rfind("\n", 0, match.start()) + 1
        end = text.find("\n", match.end())
        end = len(text) if end < 0 else end
        row = text[start:end]
        if len(row) <= PATH_CHARACTERS and (is_path(row) or is_credit(row)):
            parts.append(text[max(position, 0) : start])
            position = end + 1
            total += 1
        elif row.endswith(_CLOSING) and (found := _AT_END.search(row)):
            parts.append(text[max(position, 0) : start + found.start()])
            position = end
            total += 1
    if not total:
        return text, 0
    left = "".join([*parts, text[position:]])
    return (left.removesuffix("\n") if position > len(text) else left), total


def is_path(row: str) -> bool:
    """Return whether a line is the path to a page: 首页 > 新闻 > 正文, with or without 当前位置.

    Its first item is the site's first page, or 当前位置 stands before it; the others are short, but for the last,
    which may be the title of the page.
    """
    if not 4 <= len(row) <= PATH_CHARACTERS or row.lstrip().startswith("|"):
        return False
    location = _LOCATION.match(row)
    items = [item.strip(" \t\u3000") for item in _PATH_SEPARATOR.split(row[location.end() :] if location else row)]
    items = [item for item in items if item]
    if len(items) < 2 or any(len(item) > _PATH_ITEM for item in items[:-1]) or _SENTENCE_MARKS.search(row):
        return False
    return location is not None or items[0] in _HOME


def is_credit(row: str) -> bool:
    """Return whether a line names the editor, or claims rights, and says little else."""
    if len(row) > CREDIT_CHARACTERS:
        return False
    rights = _RIGHTS.search(row)
    if _LABEL.match(row):
        return rights is not None or (len(row) <= _CREDIT_SENTENCE and not _SENTENCE_MARKS.search(row))
    if rights is None:
        return False
    rest = _RIGHTS.sub("", row)
    return len(re.sub(r"[\s\W_]+", "", rest)) <= _CREDIT_SENTENCE
