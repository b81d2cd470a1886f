"""The prose of a text: what is left without code, addresses, markup and formulas, for what is measured of its language.

A text on technology is Chinese by its sentences. What it quotes (listings, addresses, names of fields) says nothing
about that, and would make it look foreign in any share of characters."""

import re

from data_pipeline.stages.clean import structure

# a text without any of these is its own prose
_HINT = re.compile(r"[`<$]|://|www\.|\]\(|\*\*|__|^[ \t]*(?:[#>|+=~:-]|\.\. |\* |\t)|^ {4}|\t", re.MULTILINE)
# each alternative begins with a character that the search can skip to
_INLINE = re.compile(
    r"``[^`\n]+``|`[^`\n]+`(?:_{0,2})"  # code
    r"|\$[^$\n]{1,200}\$"  # formulas
    r"|<!--[\s\S]*?-->|</?[A-Za-z][^<>\n]{0,400}>"  # tags
    r"|https?://[^\s，。；：！？、（）《》“”\u4e00-\u9fff]+|www\.[\w./?=&%#:-]+"  # addresses
    r"|\{\#[\w-]+\}"  # anchors of Markdown
)
_TARGETS = re.compile(r"\](?:\([^()\n]*(?:\([^()\n]*\)[^()\n]*)*\)|\[[^\]\n]*\])")
_WHOLE_LINES = re.compile(
    r"^(?:[ ]{0,3}\[[^\]\n]+\]:.*|(?:!!!|\?\?\?\+?|:::) ?[^\n]*"  # targets of links, admonitions of Markdown
    r"|[ \t]*\.\. [^\n]*|[ \t]+:[\w ]+:[^\n]*)$|:[a-z][\w:+-]*:(?=`)",  # directives, options and roles of reST
    re.MULTILINE,
)
_WHOLE_LINE_MARKS = ("]:", "!!!", "???", ":::", ".. ", ":`", " :")
_FRONT_MATTER = re.compile(r"\A---\n(?:.*\n){0,60}?---(?:\n|\Z)")
_LINE_MARKS = re.compile(
    r"^[ \t]*(?:[#>]+[ \t]*|[-*+][ \t]+|\|[ \t]*)+|^[ \t]*[-=~^*+_#|: ]{3,}$|\*\*|__|[ \t]*\|", re.MULTILINE
)


def prose(text: str, with_tables: bool = True) -> str:
    """Return the prose of a text; `with_tables`: the cells of its tables count as prose."""
    if not _HINT.search(text):
        return text
    text = _FRONT_MATTER.sub("", text)
    if structure.has_structure(text):
        lines, kinds = structure.lines_of(text)
        unwanted = (structure.CODE,) if with_tables else (structure.CODE, structure.TABLE)
        text = "\n".join([line for line, kind in zip(lines, kinds, strict=True) if kind not in unwanted])
    if any(mark in text for mark in _WHOLE_LINE_MARKS):
        text = _WHOLE_LINES.sub("", text)
    if "](" in text or "][" in text:
        text = _TARGETS.sub("]", text)
    return _LINE_MARKS.sub("", _INLINE.sub("", text))
