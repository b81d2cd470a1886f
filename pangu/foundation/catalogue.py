"""A catalogue of messages: gettext's `.po` files, looked up by finished text.

The code writes its messages in English, with f-strings. `msgid` is the template of such a string, `{path}: cannot be
written: {reason}`. A finished message is matched against the templates, the one with the most letters of its own first;
what stood in the fields is put into the Chinese template, and is itself looked up. So the code needs no marks, and a
message that the catalogue lacks stays as it is. `tests/tools/catalogue.py` finds the templates in the code.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

LOCALE = Path(__file__).with_name("locale")
LONGEST = 4000  # characters of a text that is looked up
DEEPEST = 6  # of messages within messages
LEAST_CHARACTERS = 5  # of its own that a template must have
FIELD = re.compile(r"\{\{|\}\}|\{(\w+)\}")
_ENTRY = re.compile(r'^msgid ((?:"(?:[^"\\]|\\.)*"\s*)+)msgstr ((?:"(?:[^"\\]|\\.)*"\s*)+)', re.M)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")
_WORD = re.compile(r"[A-Za-z]{2,}")
_AMOUNT = re.compile(r"(-?[\d.,]+) ([a-zA-Z][\w ]*)")
# The form of all mistakes: `FILE:LINE: field 'x.y': what is wrong`.
_PLACE = re.compile(r"(?:(?P<file>[^\n]+?): )?(?P<field>field '[^'\n]*'): (?P<what>.+)", re.S)
_ASIDE = re.compile(r"(\S.*?) \((.+)\)", re.S)
_SENTENCES = re.compile(r"\. [A-Z]")  # several in one field: each is looked up by itself
_KIND = re.compile(r"(error|warning|note): (.+)", re.S)
_NAME = re.compile(r"(['\"`])(?:(?!\1).)*\1")  # in quotes: the user's own word
_EDGES = re.compile(r"([\s;,:.]*)(.*?)([\s;,:.]*)", re.S)
# Where a text is taken apart that no template matches as a whole, and what joins its parts in Chinese.
SEPARATORS = (("\n", "\n"), (". ", ""), ("; ", "；"), (": ", "："), (", ", "，"), (" or ", "或"))


def read_catalogue(path: Path) -> dict[str, str]:
    """Return {msgid: msgstr} of a `.po` file, without its head and what has no translation."""
    pairs = _ENTRY.findall(path.read_text(encoding="utf-8"))
    entries = {_unquoted(first): _unquoted(second) for first, second in pairs}
    return {key: value for key, value in entries.items() if key and value}


def _unquoted(text: str) -> str:
    joined = "".join(_QUOTED.findall(text))
    return _ESCAPE.sub(lambda match: {"n": "\n", "t": "\t"}.get(match[1], match[1]), joined)


def pieces(template: str) -> Iterator[tuple[bool, str]]:
    """Yield (whether it is a field, its name or the literal text)."""
    end = 0
    literal = ""
    for match in FIELD.finditer(template):
        literal += template[end : match.start()]
        end = match.end()
        if match[1] is None:
            literal += match[0][0]
            continue
        if literal:
            yield False, literal
        literal = ""
        yield True, match[1]
    if literal + template[end:]:
        yield False, literal + template[end:]


class MessageTemplate:
    """A message with fields, and its translation."""

    def __init__(self, source: str, target: str) -> None:
        self.source, self.target = source, target
        self.pieces = list(pieces(source))
        self.literal = "\0".join(text for is_field, text in self.pieces if not is_field)
        self.letters = sum(map(str.isalpha, self.literal))
        self.is_telling = len("".join(self.literal.replace("\0", "").split())) >= LEAST_CHARACTERS

    @property
    def words(self) -> list[str]:
        """Return the whole words of the template: none that a field touches."""
        found = []
        for index, (is_field, text) in enumerate(self.pieces):
            if not is_field:
                text = text if index == 0 else re.sub(r"^\w+", "", text)
                found += _WORD.findall(text if index == len(self.pieces) - 1 else re.sub(r"\w+$", "", text))
        return found

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        parts = [f"(?P<{text}>.*?)" if is_field else re.escape(text) for is_field, text in self.pieces]
        return re.compile("".join(parts), re.S)


class Catalogue:
    """Templates and their translations. A message is found by the rarest word of its template."""

    def __init__(self, entries: dict[str, str]) -> None:
        self.exact: dict[str, str] = {}
        self.with_fields: list[tuple[str, str]] = []
        for source, target in entries.items():
            if "{" not in source:
                self.exact[source] = target
            elif any(match[1] for match in FIELD.finditer(source)):
                self.with_fields.append((source, target))
            else:
                self.exact["".join(text for _, text in pieces(source))] = "".join(text for _, text in pieces(target))

    @cached_property
    def index(self) -> dict[str, list[MessageTemplate]]:
        """Return the templates by the rarest of their words; made when first asked for, since help does without."""
        templates = [MessageTemplate(source, target) for source, target in self.with_fields]
        count: Counter[str] = Counter(word for one in templates for word in set(one.words))
        found: dict[str, list[MessageTemplate]] = {}
        for one in templates:
            if one.words and one.is_telling:
                found.setdefault(min(one.words, key=count.__getitem__), []).append(one)
        return found

    @classmethod
    def of_language(cls, name: str) -> "Catalogue":
        """Read all files of a language. Where there is none, everything stays as it is."""
        entries: dict[str, str] = {}
        for path in sorted((LOCALE / name / "LC_MESSAGES").glob("*.po")):
            entries |= read_catalogue(path)
        return cls(entries)

    def translate(self, text: str) -> str:
        """Return a text in the language of the catalogue, as far as it is known."""
        if len(text) > LONGEST or not _WORD.search(text):
            return text
        return self._found(text, DEEPEST) or self._parts(text, DEEPEST)

    def _found(self, text: str, depth: int) -> str | None:
        """Return the translation of a text as a whole; None where no template matches it."""
        kind = _KIND.fullmatch(text)
        if kind and kind[1] in self.exact and depth > 0:
            return f"{self.exact[kind[1]]}：{self._inner(kind[2], depth - 1)}"
        place = _PLACE.fullmatch(text)
        if place and depth > 0:
            field = place["field"].replace("field", "字段", 1)
            file = f"{self._inner(place['file'], depth - 1)}：" if place["file"] else ""
            return f"{file}{field}：{self._inner(place['what'], depth - 1)}"
        start, middle, end = _EDGES.fullmatch(text).groups()  # type: ignore[union-attr]
        bare = text.strip()
        for whole, before, behind in ((text, "", ""), (bare, "", ""), (middle, _edge(start), _edge(end))):
            if whole in self.exact:
                return before + self.exact[whole] + behind
            for one in self._candidates(whole):
                match = one.pattern.fullmatch(whole)
                if match and not any(_SENTENCES.search(group) for group in match.groups()):
                    return before + self._filled(one, match, depth) + behind
        return None

    def _candidates(self, text: str) -> list[MessageTemplate]:
        found = [one for word in set(_WORD.findall(text)) for one in self.index.get(word, ())]
        return sorted(found, key=lambda one: -one.letters)

    def _filled(self, one: MessageTemplate, match: re.Match[str], depth: int) -> str:
        parts = []
        for is_field, text in pieces(one.target):
            if not is_field:
                parts.append(text)
                continue
            given = match.groupdict().get(text) or ""
            before = one.source.partition(f"{{{text}}}")[0]
            is_name = before.endswith(("'", '"', "`", "“", "/"))  # what is quoted is the user's own word
            parts.append(given if is_name else self._inner(given, depth - 1))
        return "".join(parts)

    def _inner(self, text: str, depth: int) -> str:
        """Return the translation of what stood in a field: another message, or a name that stays."""
        if depth < 0 or not _WORD.search(text) or text.isidentifier() or _NAME.fullmatch(text):
            return text
        amount = _AMOUNT.fullmatch(text)
        if amount and amount[2] in self.exact:
            return f"{amount[1]} {self.exact[amount[2]]}"
        return self._found(text, depth) or self._parts(text, depth)

    def _parts(self, text: str, depth: int) -> str:
        """Return a text whose parts are translated one by one, at the first separator where one of them is known."""
        if depth < 0:
            return text
        for separator, joint in SEPARATORS:
            if separator not in text.strip():
                continue
            if separator == ": ":  # a place before what is wrong: it stays as programs read it
                for place in re.finditer(": ", text):
                    what = self._found(text[place.end() :], depth)
                    if what is not None:
                        head = text[: place.start()]
                        return f"{self._found(head, depth) or self._parts(head, depth - 1)}：{what}"
                continue
            parts = text.split(separator)
            if separator == ". ":
                parts[:-1] = [f"{part}." for part in parts[:-1]]
            done = [self._inner(part, depth - 1) for part in parts]
            if done != parts:
                return joint.join(done)
        aside = _ASIDE.fullmatch(text)
        if aside:
            head, inside = self._inner(aside[1], depth - 1), self._inner(aside[2], depth - 1)
            return text if (head, inside) == aside.groups() else f"{head}（{inside}）"
        return text


def _edge(text: str) -> str:
    """Return the punctuation around a message as Chinese has it."""
    return text.replace("; ", "；").replace(", ", "，") if text.strip() else text


def entries_of(paths: Iterable[Path]) -> dict[str, str]:
    """Return the entries of several files as one mapping."""
    return {key: value for path in paths for key, value in read_catalogue(path).items()}
