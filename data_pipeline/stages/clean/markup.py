"""HTML that was left in a text: tags go, entities become their characters, blocks and line breaks become lines.

A text is taken for one with such remains where it has a tag that no sentence has: a closing one, one with attributes,
`<br>`, or an entity with a name. A tag that a text speaks of (`<div> 标签`) stays, and so does everything in code."""

import html
import re

_BLOCK_NAMES = (
    "address|article|aside|blockquote|center|dd|details|div|dl|dt|fieldset|figcaption|figure|footer|form|h[1-6]|header|hr"
    "|li|main|nav|ol|p|section|summary|table|tbody|tfoot|thead|tr|ul|pre"
)
_INLINE_NAMES = (
    "a|abbr|b|big|button|cite|code|del|dfn|em|embed|font|i|iframe|img|input|ins|kbd|label|mark|nobr|q|s|small|span|strike"
    "|strong|sub|sup|tt|u|wbr|video|audio|source|center|colgroup|col|caption|o:p"
)
_NAMES = f"(?:{_BLOCK_NAMES}|{_INLINE_NAMES}|br|td|th)"
# names without a value are few: in `a<b and b>c` there is no tag
_ALONE = (
    "allowfullscreen|async|autofocus|autoplay|checked|compact|controls|defer|disabled|download|hidden|inert|ismap"
    "|itemscope|loop|multiple|muted|nohref|noresize|noshade|novalidate|nowrap|open|playsinline|readonly|required|reversed"
    "|selected|data-[a-z0-9-]+|v-[a-z-]+"
)
_ATTRIBUTES = (
    r"""(?:\s+(?:[A-Za-z_:@.-][\w:@.-]*\s*=\s*(?:"[^"<>]*"|'[^'<>]*'|[^\s"'<>=]+)"""
    rf"""|(?:{_ALONE})(?=[\s/>])))*"""
)
_SPOKEN_OF = r"(?!\s{0,2}(?:(?:也?是|为|和|与|或|这个|这种|块级|行内)\s?)?(?:标签|元素|标记|tag|element))"
_REMAINS = re.compile(
    rf"</{_NAMES}\s*>|<{_NAMES}(?:\s+[\w:@.-]+\s*=\s*[^<>]*)>|<br\s*/?>"
    r"|&(?:nbsp|amp|lt|gt|quot|apos|hellip|mdash|ndash|ldquo|rdquo|lsquo|rsquo|middot|bull|copy|emsp|ensp|#\d{2,6}|#x[\da-fA-F]{2,5});",
    re.IGNORECASE,
)
_HIDDEN = re.compile(r"<(script|style|noscript|template)\b[^<>]*>[\s\S]*?</\1\s*>|<!--[\s\S]*?-->", re.IGNORECASE)
_LINE_TAG = re.compile(
    rf"[ \t]*(?:</?(?:{_BLOCK_NAMES}){_ATTRIBUTES}\s*/?>|<br\s*/?>){_SPOKEN_OF}[ \t]*", re.IGNORECASE
)
_CELL_TAG = re.compile(rf"\s*</(?:td|th)\s*>\s*(?:<(?:td|th){_ATTRIBUTES}\s*>)?", re.IGNORECASE)
_OTHER_TAG = re.compile(rf"</?(?:{_INLINE_NAMES}|td|th){_ATTRIBUTES}\s*/?>{_SPOKEN_OF}", re.IGNORECASE)
_SCRIPT = re.compile(rf"<(sup|sub){_ATTRIBUTES}\s*>\s*([^<>\n]{{1,24}}?)\s*</\1\s*>", re.IGNORECASE)
_RAISED = str.maketrans("0123456789+-=()ni−", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ⁻")
_LOWERED = str.maketrans("0123456789+-=()ni−", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₙᵢ₋")
_NUMERIC = re.compile(r"[0-9+\-=()ni−]+")
_WORD = re.compile(r"[A-Za-z]{2,}")
_SPACE = r"(?:[ \t\u3000]|&(?:nbsp|emsp|ensp|#160|#12288);)"
_INDENT = re.compile(rf"^{_SPACE}*&(?:nbsp|emsp|ensp|#160|#12288);{_SPACE}*", re.MULTILINE | re.IGNORECASE)
_ENTITY = re.compile(r"&(?:[A-Za-z]{2,8}|#\d{1,7}|#[xX][\da-fA-F]{1,6});")
_INLINE_CODE = re.compile(r"(``[^`\n]+``|`[^`\n]+`)")
_MANY_LINES = re.compile(r"\n{3,}")


def has_remains(text: str) -> bool:
    """Return whether a text has a tag or an entity that no sentence has."""
    return ("<" in text or "&" in text) and _REMAINS.search(text) is not None


def remove_markup(text: str) -> tuple[str, int]:
    """Return (text, tags and entities that went)."""
    if not has_remains(text):
        return text, 0
    parts = _INLINE_CODE.split(text)
    total = 0
    for place in range(0, len(parts), 2):
        parts[place], count = _without_tags(parts[place])
        total += count
    if not total:
        return text, 0
    return _MANY_LINES.sub("\n\n", "".join(parts)), total


def _without_tags(text: str) -> tuple[str, int]:
    text, tags = _strip_tags(text)
    text, indents = _INDENT.subn("", text)
    text, entities = _ENTITY.subn(_character, text)
    if tags and entities:  # escaped twice
        text, more = _strip_tags(text)
        tags += more
    return text, tags + indents + entities


def _strip_tags(text: str) -> tuple[str, int]:
    text, total = _SCRIPT.subn(_script, text)
    for pattern, instead in ((_HIDDEN, ""), (_CELL_TAG, "\t"), (_LINE_TAG, "\n"), (_OTHER_TAG, "")):
        text, count = pattern.subn(instead, text)
        total += count
    return text, total


def _script(match: re.Match[str]) -> str:
    """Return what is raised or lowered so that it still shows: 10⁸, H₂O, x^{a+b}; [3], 1st and TM are as they are."""
    is_raised, words = match[1].lower() == "sup", html.unescape(match[2])
    if _NUMERIC.fullmatch(words):
        return words.translate(_RAISED if is_raised else _LOWERED)
    if not words.isascii() or words.startswith("[") or (is_raised and _WORD.fullmatch(words)):
        return words
    mark = "^" if is_raised else "_"
    return f"{mark}{words}" if len(words) == 1 else f"{mark}{{{words}}}"


def _character(match: re.Match[str]) -> str:
    """Return the character of an entity; a no-break space as a space, what is no entity as it stands."""
    found = html.unescape(match[0])
    return " " if found == "\u00a0" else found
