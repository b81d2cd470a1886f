"""Formulas of a page as LaTeX between `$`: MathML, MathJax, KaTeX, pictures whose description is TeX.

This runs on the markup before the page is read, and only on pages that have such markup (`signs_of`). The rendered
copy that MathJax and KaTeX leave beside the source is hidden. A formula keeps its source where the page has it
(`annotation`, `alttext`, `math/tex`, `alt`); MathML without a source is translated."""

import html
import re
from urllib.parse import unquote

from data_pipeline.extraction.mathml import to_latex

MAX_FORMULA = 20_000  # characters of markup; longer ones stay as they are
_MATH = re.compile(rf"<math\b([^<>]{{0,2000}})>((?:(?!<math\b).){{0,{MAX_FORMULA}}}?)</math\s*>", re.I | re.S)
_ANNOTATION = re.compile(
    r"<annotation\b[^<>]{0,200}\b(?:tex|latex)\b[^<>]{0,200}>((?:(?!<annotation).)*?)</annotation", re.I | re.S
)
_ALTTEXT = re.compile(r"""\balttext\s*=\s*(?:"([^"]*)"|'([^']*)')""", re.I)
_BLOCK = re.compile(r"""\bdisplay\s*=\s*["']?block|mode\s*=\s*["']?display""", re.I)
_SCRIPT = re.compile(
    rf"""<script\b([^<>]{{0,200}}\bmath/tex\b[^<>]{{0,200}})>((?:(?!<script\b).){{0,{MAX_FORMULA}}}?)</script\s*>""",
    re.I | re.S,
)
# what the typesetters of MathJax 2, MathJax 3 and KaTeX add beside the source
_RENDERED = re.compile(
    r"""<(span|div)\b(?=[^<>]{0,300}?["'\s=](?:katex-html|MathJax_Preview|MathJax(?:_SVG|_CHTML|_Display|_SVG_Display)?
    (?=["'\s>])|MJX-TeX|mjx-chtml))""",
    re.I | re.X,
)
_TYPESET_TAG = re.compile(r"</?mjx-[a-z-]{1,30}(?:\s[^<>]{0,2000})?>", re.I)
_DATA_TEX = re.compile(
    r"""<(span|i|em|b)\b[^<>]{0,400}?\bdata-(?:tex|latex|formula)\s*=\s*(?:"([^"]{1,4000})"|'([^']{1,4000})')""", re.I
)
_IMAGE = re.compile(r"<img\b[^<>]{0,3000}(?:<(?!img\b)[^<>]{0,3000}){0,8}>", re.I)  # "<" may stand in a description
_IMAGE_ALT = re.compile(r"""\balt\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s>"']+))""", re.I)
_IMAGE_SIGN = re.compile(
    r"""\beeimg\b|equation\?tex=|latex\.codecogs|/(?:latex|mathtex|mimetex)\b|/math/render/|cht=tx&
    |\bclass\s*=\s*["']?[^"'>]{0,200}\b(?:latex|tex|math|formula|mwe-math[\w-]*|katex|equation)\b""",
    re.I | re.X,
)
_IMAGE_QUERY = re.compile(r"""(?:\?tex=|[?&]chl=|latex\.codecogs\.com/[\w.]+\?)([^"'\s&>]{1,4000})""", re.I)
_STYLED = re.compile(r"^\{\\(?:displaystyle|textstyle)\s*(.*)\}$", re.S)
_LIMITS = re.compile(r"^(?:\\\(|\\\[|\$\$?|%\s*)\s*|\s*(?:\\\)|\\\]|\$\$?)$")


def mark_formulas(markup: str) -> str:
    """Return the markup with each formula as text, `$x^2$`, or `$$x^2$$` where it stands alone."""
    has_source = _SCRIPT.search(markup) is not None or _MATH.search(markup) is not None
    if has_source or "katex" in markup:
        markup = _RENDERED.sub(r"<\1 hidden", markup)
    markup = _SCRIPT.sub(_from_script, markup)
    markup = _MATH.sub(_from_mathml, markup)
    markup = _TYPESET_TAG.sub("", markup)
    markup = _DATA_TEX.sub(_from_data, markup)
    return _IMAGE.sub(_from_image, markup)


def _formula(latex: str, alone: bool, original: str) -> str:
    """Return LaTeX as a piece of markup; `original` where there is none."""
    latex = " ".join(html.unescape(latex).split())
    latex = _LIMITS.sub("", latex)
    styled = _STYLED.match(latex)
    if styled and styled[1].count("{") == styled[1].count("}"):
        latex = styled[1].strip()
    if not latex:
        return original
    sign = "$$" if alone else "$"
    return html.escape(f"{sign}{latex}{sign}", quote=False)


def _from_mathml(match: re.Match[str]) -> str:
    annotation = _ANNOTATION.search(match[2])
    alttext = _ALTTEXT.search(match[1])
    if annotation:
        latex = annotation[1]
    elif alttext and (alttext[1] or alttext[2]):
        latex = alttext[1] or alttext[2]
    else:
        latex = html.escape(to_latex(match[2]), quote=False)
    return _formula(latex, bool(_BLOCK.search(match[1])), "")


def _from_script(match: re.Match[str]) -> str:
    # inside <script> entities are no entities
    return _formula(html.escape(match[2], quote=False), bool(_BLOCK.search(match[1])), "")


def _from_data(match: re.Match[str]) -> str:
    formula = _formula(match[2] or match[3], False, "")
    return f"{formula}<{match[1]} hidden" if formula else match[0]


def _from_image(match: re.Match[str]) -> str:
    tag = match[0]
    if not _IMAGE_SIGN.search(tag):
        return tag
    alt, query = _IMAGE_ALT.search(tag), _IMAGE_QUERY.search(html.unescape(tag))
    words = next((part for part in (alt.groups() if alt else ()) if part), "")
    if not words.strip() and query:
        words = html.escape(unquote(query[1]), quote=False)
    # a description in words is no formula
    has_words = re.search(r"[\u4e00-\u9fff]{2}", words) and "\\" not in words
    return _formula(words, False, tag) if words.strip() and not has_words else tag
