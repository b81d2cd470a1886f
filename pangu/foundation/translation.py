"""The language of what a person reads: English as the code has it, or Chinese by the catalogue.

Messages leave through a few doors: `command_line` (mistakes, help), `best_effort` (notices), `progress`, `terminal`
(tables) and `page` (HTML). Each asks `translated` here. What programs read stays English: keys of JSON, names of files
and fields, exit codes. A program that imports the packages gets English, whatever the machine says.
"""

import os
import re
import sys
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache

from pangu.foundation.catalogue import Catalogue

LANGUAGES = ("en", "zh")
OPTION = "--lang"
# What looks like prose between the tags of a page, and the attributes that are read out.
_TAGS = re.compile(r"(<(?:script|style|pre|code|textarea)\b.*?</(?:script|style|pre|code|textarea)>|<[^<>]*>)", re.S)
_ATTRIBUTE = re.compile(r'(\b(?:title|alt|aria-label|placeholder)=")([^"]+)(")')
_chosen = "en"


def language() -> str:
    """Return the language of this process: `en` or `zh`."""
    return _chosen


def use_language(name: str) -> None:
    """Choose the language of all that follows."""
    global _chosen
    _chosen = name


def language_of_environment(environment: Mapping[str, str] = os.environ) -> str:
    """Return what the variables of POSIX say, in their order. An unknown language is English."""
    named = next((environment[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if environment.get(name)), "")
    if named.partition(".")[0] not in ("", "C", "POSIX") and environment.get("LANGUAGE"):
        named = environment["LANGUAGE"].partition(":")[0]
    return "zh" if re.match(r"zh(?![a-z])", named, re.I) else "en"


def can_show_chinese() -> bool:
    """Return whether the encodings of standard output and standard error have Chinese characters."""
    for stream in (sys.stdout, sys.stderr):
        try:
            "中文，；".encode(getattr(stream, "encoding", None) or "utf-8")
        except (UnicodeEncodeError, LookupError):
            return False
    return True


def taken_option(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return what `--lang` says, and the words without it. What stands behind `--` is not looked at."""
    given, words = None, list(argv)
    rest: list[str] = []
    while words:
        word = words.pop(0)
        if word == "--":
            return given, [*rest, word, *words]
        if word == OPTION:
            given = words.pop(0) if words else ""
        elif word.startswith(f"{OPTION}="):
            given = word.partition("=")[2]
        else:
            rest.append(word)
    return given, rest


def translated(text: str) -> str:
    """Return a finished message in the language of this process, as far as the catalogue has it."""
    return text if _chosen == "en" or not text else _catalogue().translate(text)


def translated_paragraphs(text: str, width: int = 100) -> str:
    """Return a docstring, paragraph by paragraph. Examples, which are indented, stay as they are."""
    if _chosen == "en":
        return text
    return "\n\n".join(_paragraph(part, width) for part in text.strip("\n").split("\n\n"))


def _paragraph(part: str, width: int) -> str:
    head, line, examples = part.partition("\n")
    if re.fullmatch("examples?:", head):
        return f"{translated(head)}{line}{examples}"
    given = " ".join(part.split())
    found = translated(given)
    return part if found == given else "\n".join(wrapped(found, width))


def translated_html(text: str) -> str:
    """Return HTML with its text and what is read out of it translated; code, scripts and `translate="no"` stay."""
    if _chosen == "en":
        return text
    parts, silent = _TAGS.split(text), 0
    for index, part in enumerate(parts):
        if index % 2:  # a tag
            silent = _silent_depth(part, silent)
            parts[index] = part if silent else _ATTRIBUTE.sub(lambda m: m[1] + translated(m[2]) + m[3], part)
        elif not silent and part.strip():
            core = part.strip()
            start = part.index(core)
            parts[index] = part[:start] + translated(" ".join(core.split())) + part[start + len(core) :]
    return "".join(parts)


def _silent_depth(tag: str, depth: int) -> int:
    """Return how many elements that are not translated are open behind a tag."""
    if tag.endswith("/>") or tag.startswith(("<!", "<br", "<img", "<meta", "<link", "<input", "<script", "<style")):
        return depth
    if depth:
        return depth - 1 if tag.startswith("</") else depth + (not tag.startswith(("<pre", "<code", "<textarea")))
    return 1 if 'translate="no"' in tag else 0


def width_of(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def wrapped(text: str, width: int) -> list[str]:
    """Return lines of at most `width` columns; Chinese breaks between any two characters, but not before a comma."""
    if text.isascii():
        return textwrap.wrap(text, width, break_on_hyphens=False) or [""]
    lines, line = [], ""
    for word in re.findall(r"[!-~]+[，。；：、！？）》”’]*\s*|\S[，。；：、！？）》”’]*\s*|\s+", text):
        if line and width_of(line) + width_of(word.rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        line += word
    return [*lines, line.rstrip()]


@cache
def _catalogue() -> Catalogue:
    return Catalogue.of_language("zh_CN")


if __name__ == "__main__":  # run_scripts/words.sh: what the shell scripts say
    use_language(language_of_environment() if can_show_chinese() else "en")
    print(translated(sys.argv[1]))
