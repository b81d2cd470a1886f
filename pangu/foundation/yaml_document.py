"""YAML text as plain data in which every value knows its line.

The text is checked before anything is built from it: no key twice, no references that unfold without end, no nesting
without end, no number that is none, and no word that YAML 1.1 reads as another one than a person does.
"""

import datetime
import math
import re
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pangu.foundation.errors import PlacedError

MOST_BYTES = 16 << 20  # of a file
MOST_VALUES = 100_000  # in one file, repeated references counted each time
DEEPEST = 50  # levels
LARGEST = 10**15  # of any number: beyond it nothing is a size, a count or a rate
LONGEST_NUMBER = 400  # digits

NO_NAMES = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:null")  # of a field, or of anything that a file names

Location = tuple[str | int, ...]

# The C parser reads the same YAML five times faster. It is missing where PyYAML was built without libyaml.
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_CONSTRUCTOR = yaml.constructor.SafeConstructor()


class _Short(reprlib.Repr):
    """Values as YAML spells them, cut where they are long."""

    def __init__(self, longest: int) -> None:
        super().__init__()
        self.maxstring = self.maxother = longest
        self.maxlist = 8
        self.maxlevel = 3

    def repr_str(self, x: str, level: int) -> str:
        """Return text in quotes, in which a backslash is itself; what cannot be printed is escaped."""
        return super().repr_str(x, level).replace("\\\\", "\\")

    def repr_NoneType(self, x: None, level: int) -> str:
        return "null"

    def repr_bool(self, x: bool, level: int) -> str:
        return str(x).lower()

    def repr_date(self, x: datetime.date, level: int) -> str:
        return x.isoformat()

    def repr_datetime(self, x: datetime.datetime, level: int) -> str:
        return x.isoformat(" ")

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        """Return the entries in their order, names without quotes where they need none."""
        if level <= 0 and x:
            return "{...}"
        names = [
            str(name) if re.fullmatch(r"\w[\w.-]*", str(name)) else self.repr1(name, level - 1)
            for name in [*x][: self.maxdict]
        ]
        parts = [f"{name}: {self.repr1(value, level - 1)}" for name, value in zip(names, x.values())]
        return f"{{{', '.join([*parts, '...'] if len(x) > self.maxdict else parts)}}}"


_OCTAL = re.compile(r"[-+]?0[0-7_]+")
_BASE_60 = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")


def shown(value: Any, longest: int = 60) -> str:
    """Return a value as it stands in a message: in YAML's spelling, cut where it is longer. longest: characters."""
    return _Short(longest).repr(value)


def dotted(location: Location) -> str:
    """Return `mesh.order.0`: the name of a field in messages and in `--set`."""
    return ".".join(str(step) for step in location)


def _named(location: Location) -> str:
    """Return `: field 'x.y'`, what a message says behind the file or the option."""
    name = dotted(location)
    return f": field {name if len(name) < 200 else name[:200] + '...'!r}" if location else ""


@dataclass
class YamlDocument:
    """Plain data, and where it came from: `where` names the file, `node` knows the lines.

    `changes` are the fields that the command line has set, each with the words that name it there; `texts` is what it
    has written for them.
    """

    where: str
    data: Any
    node: yaml.Node | None = None
    changes: dict[Location, str] = field(default_factory=dict)
    texts: dict[Location, str] = field(default_factory=dict)

    def nodes(self, location: Location) -> Iterator[yaml.Node]:
        """Yield the nodes on the way to a value, as far as it is in the file."""
        node = self.node
        if node is not None:
            yield node
        for step in location:
            node = _child(node, step)
            if node is None:
                return
            yield node

    def line(self, location: Location) -> int | None:
        """Return the line of a value, or that of what should hold it."""
        *_, last = [None, *self.nodes(location)]
        if isinstance(last, yaml.Node):
            return last.start_mark.line + 1
        return None

    def text(self, location: Location) -> str | None:
        """Return a value as it is written: `no` where the data says False."""
        if any(location[:size] in self.changes for size in range(1, len(location) + 1)):
            return self.texts.get(location)
        found = list(self.nodes(location))
        last = found[-1] if len(found) == len(location) + 1 else None
        return last.value if isinstance(last, yaml.ScalarNode) and not last.style else None

    def place(self, location: Location) -> str:
        """Return `FILE:LINE: field 'x.y'`, the beginning of every message."""
        for size in range(len(location), 0, -1):
            if location[:size] in self.changes:
                return self.changes[location[:size]] + _named(location[size:])
        below = [words for place, words in self.changes.items() if place[: len(location)] == location]
        if location and below and len(list(self.nodes(location))) <= len(location):  # the file does not have it
            return below[0]
        line = self.line(location)
        return (self.where if line is None else f"{self.where}:{line}") + _named(location)

    def mistake(self, what: str, location: Location = ()) -> PlacedError:
        """Return the error that says what is wrong with a value.

        Where `what` begins with the name of a field below `location`, as the messages of rules that join two fields do,
        the error points at that field.
        """
        named = re.match(r"([A-Za-z_][\w.]*\w)(?:: | (?=\S))", what)
        if named:
            steps = tuple(int(step) if step.isdigit() else step for step in named[1].split("."))
            if self.has((*location, *steps)):
                return PlacedError(f"{self.place((*location, *steps))}: {what[named.end() :]}")
        return PlacedError(f"{self.place(location)}: {what}")

    def has(self, location: Location) -> bool:
        """Return whether the file gives this field a value."""
        try:
            self.value(location)
        except (KeyError, IndexError, TypeError):
            return False
        return True

    def value(self, location: Location) -> Any:
        """Return a value. Raises KeyError, IndexError or TypeError where there is none."""
        value: Any = self.data
        for step in location:
            if isinstance(value, Mapping):
                value = value[step]
                continue
            if not isinstance(value, list | tuple) or isinstance(step, str):
                raise TypeError(step)
            value = value[step]
        return value


def read_document(path: Path | str, hint: str = "") -> YamlDocument:
    """Read a YAML file. `hint` says what would help where there is none.

    Raises PlacedError that names the file, the line and what is wrong.
    """
    short = shown(str(path), 200)[1:-1]
    help_ = f"; {hint}" if hint else ""
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise PlacedError(f"{short}: cannot be read: {error.strerror or error}{help_}") from None
    except ValueError as error:  # a null character in the name
        raise PlacedError(f"{short}: cannot be read: {error}") from None
    if len(content) > MOST_BYTES:
        raise PlacedError(f"{path}: cannot be read: is larger than {MOST_BYTES >> 20} MiB; settings are small")
    return parse_document(_decoded(content, str(path)), str(path), hint)


def parse_document(
    text: str, where: str, hint: str = "", changes: Mapping[Location, str] | None = None
) -> YamlDocument:
    """Read YAML text whose top is a mapping. `where` is named in errors.

    changes: the words for fields that come from the command line, where this text does; it has no lines then.
    """
    document = YamlDocument(where, None, changes=dict(changes or {}))
    try:
        _check_depth(text, document)
        loader = Loader(text.removeprefix("\ufeff"))
        try:
            document.node = loader.get_single_node()
            if document.node is None:
                raise PlacedError(
                    f"{where}: is empty; must be a YAML mapping of fields to values{hint and '; ' + hint}"
                )
            _check_nodes(document)
            document.data = loader.construct_document(document.node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise PlacedError(_not_yaml(error, text, document)) from None
    except (ValueError, RecursionError) as error:
        raise PlacedError(f"{where}: is not YAML: {shown(str(error))}") from None
    if not isinstance(document.data, dict):
        raise document.mistake("must be a YAML mapping of fields to values")
    return document


def parse_value(text: str, where: str) -> Any:
    """Read the YAML text of one value, as it is given to `--set`."""
    lines = f"value: {text}" if "\n" not in text else f"value:\n  {text}"
    document = parse_document(lines, where, changes={("value",): where})
    if set(document.data) != {"value"}:
        raise PlacedError(f"{where}: {shown(text)} is not one YAML value")
    return document.data["value"]


def _decoded(content: bytes, where: str) -> str:
    """Return the text of a file, which must be UTF-8, with or without a mark at its beginning."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        kind = "UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        if not kind:
            try:
                content.decode("gb18030")
                kind = "perhaps GB18030"
            except UnicodeDecodeError:
                kind = "no text"
        raise PlacedError(
            f"{where}:{line}: cannot be read: byte {error.start} is not UTF-8 text ({kind}); save the file as UTF-8"
        ) from None


def _head(document: YamlDocument, line: int | None) -> str:
    """Return `FILE:LINE` of a text that is being read; what the command line says has no lines."""
    return document.where if line is None or document.changes else f"{document.where}:{line}"


def _check_depth(text: str, document: YamlDocument) -> None:
    """Refuse too deep a document: the parser goes through any depth. What builds nodes of its events calls itself for
    each level."""
    depth = 0
    for event in yaml.parse(text.removeprefix("\ufeff"), Loader=Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            line = event.start_mark.line + 1 if event.start_mark else 1
            head = _head(document, line)
            raise PlacedError(f"{head}: is not YAML of settings: nested more than {DEEPEST} levels deep")


def _check_nodes(document: YamlDocument) -> None:
    """Check keys and values, each reference as often as it is used."""
    assert document.node is not None
    waiting: list[tuple[Location, yaml.Node]] = [((), document.node)]
    count = 0
    while waiting:
        location, node = waiting.pop()
        count += 1
        if count > MOST_VALUES or len(location) > DEEPEST:
            raise PlacedError(f"{document.where}: holds more than {MOST_VALUES:,} values, or one that holds itself")
        if isinstance(node, yaml.ScalarNode):
            _check_scalar(document, location, node)
        elif isinstance(node, yaml.SequenceNode):
            waiting += [((*location, index), value) for index, value in enumerate(node.value)]
        else:
            _check_keys(document, node)
            waiting += [((*location, getattr(key, "value", "?")), value) for key, value in node.value]


def _check_keys(document: YamlDocument, node: yaml.Node) -> None:
    """Refuse two equal keys, of which YAML would silently take the last one, and those that are read as no name."""
    seen: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.tag in NO_NAMES:
                head, word = _head(document, key.start_mark.line + 1), key.value or "null"
                raise PlacedError(f"{head}: YAML reads the key {word} as no name; quote it: '{word}'")
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                line = key.start_mark.line + 1
                head = _head(document, line)
                raise PlacedError(f"{head}: the key {shown(key.value)} stands twice; keep one")
            seen.add(key.value)


def _check_scalar(document: YamlDocument, location: Location, node: yaml.ScalarNode) -> None:
    """Refuse numbers and dates that are none, and what YAML 1.1 reads in base 8 or 60."""
    kind, text = node.tag.rpartition(":")[2], node.value
    if kind in ("int", "float"):
        if len(text) > LONGEST_NUMBER:
            raise document.mistake(f"is larger than any size; nearest: {LARGEST}", location)
        number = _number(kind, text)
        if number is None:
            return  # the constructor says it
        if _OCTAL.fullmatch(text) and kind == "int":
            plain = text.replace("_", "").lstrip("+-0") or "0"
            raise document.mistake(f"YAML reads {text} in base 8, as {number}; write {plain}, or {number}", location)
        if _BASE_60.fullmatch(text):
            raise document.mistake(f"YAML reads {text} in base 60, as {number}; write '{text}', or {number}", location)
        if number != number or number in (math.inf, -math.inf):
            raise document.mistake(f"{text} is not a finite number", location)
        if abs(number) > LARGEST:
            raise document.mistake(f"{shown(text)[1:-1]} is larger than any size; nearest: {LARGEST}", location)
    elif kind == "timestamp":
        try:
            _CONSTRUCTOR.construct_yaml_timestamp(node)
        except ValueError as error:
            raise document.mistake(f"{text} is not a date: {error}; quote what is none", location) from None


def _number(kind: str, text: str) -> float | int | None:
    node = yaml.ScalarNode(f"tag:yaml.org,2002:{kind}", text)
    try:
        return _CONSTRUCTOR.construct_yaml_int(node) if kind == "int" else _CONSTRUCTOR.construct_yaml_float(node)
    except (ValueError, IndexError):
        return None


def _not_yaml(error: yaml.YAMLError, text: str, document: YamlDocument) -> str:
    """Return the parser's complaint in one line."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    position = getattr(error, "position", None)
    line = mark.line + 1 if mark else text.count("\n", 0, position) + 1 if isinstance(position, int) else None
    said = [getattr(error, "context", None), getattr(error, "problem", None)]
    problem = " ".join(part for part in said if part) or getattr(error, "reason", None) or str(error)
    lines = text.splitlines()
    if line is not None and line <= len(lines) and re.match(r" *\t", lines[line - 1]):
        problem = "a tab indents this line; YAML is indented by blanks"
    problem = " ".join(str(problem).split())
    head = _head(document, line)
    return f"{head}: is not YAML: {problem if len(problem) < 300 else problem[:300] + '...'}"


def _child(node: yaml.Node | None, step: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if getattr(key, "value", None) == str(step)), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step]
    return None
