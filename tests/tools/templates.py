"""Templates of the messages that the sources hold: f-strings as `msgid`s, a field for whatever is filled in.

A string is a message where it reads as prose, or where it stands at a door: help, a heading, a unit.
"""

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

# Arguments of these calls are shown, also a single word: by name, and of some by place.
SHOWN_NAMES = {"help", "description", "status", "title", "unit", "epilog", "heading"}
SHOWN_CALLS = {
    "warn", "say", "print_translated", "mistake",
    "StackedTable", "Table", "add_column", "add_argument_group", "Progress",
    "UserError", "PlacedError", "translated", "caption",
}  # fmt: skip
# Calls whose strings nobody reads as text.
SILENT_CALLS = {
    "compile", "execute", "sql", "AssertionError", "TypeError", "KeyError", "NotImplementedError", "sub", "search",
    "fullmatch", "findall", "getattr", "get", "startswith", "endswith", "removeprefix", "removesuffix", "find",
    "re_compile", "Literal", "encode", "split", "partition", "rpartition",
}  # fmt: skip
MOST_FORMS = 8  # of one expression with alternatives
_PROSE = re.compile(r"[A-Za-z][a-z]+[,;:]? (?:[a-z]{2,}|\{\w+\})|\{\w+\}[,;:]? [a-z]{2,}|[a-z]{2,} [A-Z]{2,}")
_TAG_NAMES = (
    "a|b|body|br|button|details|div|figure|figcaption|footer|form|g|h[1-6]|head|header|html|i|img|input|label|legend|li|"
    "main|meta|nav|ol|p|path|rect|section|small|span|summary|svg|table|tbody|td|text|th|thead|title|tr|ul|aside|kbd|polyline|line|mark|textarea|select|option|link|circle|!doctype|!DOCTYPE"
)
_TAG = re.compile(
    rf"<(?:script|style|pre|code)\b.*?</(?:script|style|pre|code)>|</?(?:{_TAG_NAMES}|code|pre)\b[^<>]*>|<!--.*?-->",
    re.S,
)
_ATTRIBUTE = re.compile(r"""\b(?:title|alt|aria-label|placeholder)=["']([^"']+)["']""")
_LETTERS = re.compile(r"[A-Za-z]{2,}")


class Field(str):
    """The name of a field of a template, as opposed to literal text."""


def name_of(node: ast.expr) -> str:
    """Return a short name for what an expression puts into a message."""
    match node:
        case ast.Name():
            return node.id
        case ast.Attribute():
            return node.attr
        case ast.Call():
            named = name_of(node.func)
            return name_of(node.args[0]) if named in ("str", "len", "repr", "fspath", "escape") and node.args else named
        case ast.Subscript():
            return name_of(node.value)
    return "value"


def forms(node: ast.expr) -> list[tuple[str, ...]]:
    """Return every form that a string expression may take, as literal pieces and fields."""
    match node:
        case ast.Constant(value=str() as text):
            return [(text,)]
        case ast.JoinedStr():
            return _product([forms(value) for value in node.values])
        case ast.FormattedValue():
            return forms(node.value) if _is_text(node.value) else [(Field(name_of(node.value)),)]
        case ast.IfExp():
            return [*forms(node.body), *forms(node.orelse)]
        case ast.BinOp(op=ast.Add()):
            return _product([forms(node.left), forms(node.right)])
        case ast.BinOp(op=ast.Mult()) if _is_text(node.left):
            return [("",), *forms(node.left)]
    return [(Field(name_of(node)),)]


def _is_text(node: ast.expr) -> bool:
    """Return whether an expression is made of strings that stand here."""
    match node:
        case ast.Constant():
            return isinstance(node.value, str)
        case ast.JoinedStr():
            return True
        case ast.IfExp():
            return _is_text(node.body) and _is_text(node.orelse)
        case ast.BinOp(op=ast.Add()):
            return _is_text(node.left) or _is_text(node.right)
        case ast.BinOp(op=ast.Mult()):
            return _is_text(node.left)
    return False


def _product(parts: list[list[tuple[str, ...]]]) -> list[tuple[str, ...]]:
    count = 1
    kept = []
    for part in parts:
        if count * len(part) > MOST_FORMS:
            part = [(Field("value"),)]
        count *= len(part)
        kept.append(part)
    return [tuple(itertools.chain.from_iterable(choice)) for choice in itertools.product(*kept)]


def template(pieces: tuple[str, ...]) -> str:
    """Return a msgid: literal text with braces doubled, and fields whose names differ."""
    seen: dict[str, int] = {}
    parts = []
    for piece in pieces:
        if isinstance(piece, Field):
            seen[piece] = seen.get(piece, 0) + 1
            parts.append(f"{{{piece}{seen[piece] if seen[piece] > 1 else ''}}}")
        else:
            parts.append(piece.replace("{", "{{").replace("}", "}}"))
    return "".join(parts)


def normal(text: str) -> str:
    """Return a msgid without the punctuation and the space around it."""
    return text.strip(" \n;,:.") if not text.rstrip().endswith((".", "…")) else text.strip(" \n;,:").removesuffix("..")


def is_prose(text: str) -> bool:
    return bool(_PROSE.search(text))


def has_words(text: str) -> bool:
    """Return whether a template has words of its own."""
    return bool(_LETTERS.search(re.sub(r"\{\w+\}", " ", text)))


def texts_of_html(text: str) -> Iterator[str]:
    """Yield the text nodes of a piece of HTML, and the attributes that are read out."""
    for tag in _TAG.findall(text):
        yield from _ATTRIBUTE.findall(tag)
    for part in _TAG.split(text):
        if part.strip():
            yield " ".join(part.split())


class Messages(ast.NodeVisitor):
    """Collects the messages of one module."""

    def __init__(self) -> None:
        self.found: dict[str, int] = {}
        self.is_shown = False

    def add(self, node: ast.expr) -> None:
        for pieces in forms(node):
            text = template(pieces)
            is_html = bool(_TAG.search(text))
            for part in texts_of_html(text) if is_html else [text]:
                part = normal(part)
                if has_words(part) and (is_prose(part) or self.is_shown or (is_html and not part.startswith("{"))):
                    self.found.setdefault(part, node.lineno)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Take the first line of what a section of settings says of itself: `init` writes it."""
        document = ast.get_docstring(node)
        has_fields = any(isinstance(one, ast.Call) and name_of(one.func) == "Field" for one in ast.walk(node))
        if document and (has_fields or any(name_of(base) == "Section" for base in node.bases)):
            line = document.split("\n")[0].split(" (`")[0].rstrip(".")
            self.found.setdefault(normal(line.replace("{", "{{").replace("}", "}}")), node.lineno)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self.add(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        self.add(node)
        for value in node.values:
            if isinstance(value, ast.FormattedValue) and not _is_text(value.value):
                self._with(False, value.value)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if isinstance(node.op, ast.Add) and _is_text(node):
            self.add(node)
            self._filled_in(node)
        else:
            self.generic_visit(node)

    def _filled_in(self, node: ast.expr) -> None:
        """Visit what is put into a text: fields, and the sides of a sum that are no strings, such as calls."""
        match node:
            case ast.BinOp(op=ast.Add()):
                self._filled_in(node.left)
                self._filled_in(node.right)
            case ast.JoinedStr():
                for value in node.values:
                    if isinstance(value, ast.FormattedValue) and not _is_text(value.value):
                        self._with(False, value.value)
            case ast.Constant():
                pass
            case _:
                self._with(False, node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._with(False, node.test)
        self.visit(node.body)
        self.visit(node.orelse)

    def visit_Compare(self, node: ast.Compare) -> None:
        return

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # no docstrings
            self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        name = name_of(node.func) if isinstance(node.func, ast.Name | ast.Attribute) else ""
        if name in SILENT_CALLS:
            return
        self.visit(node.func)
        for argument in node.args:
            self._with(name in SHOWN_CALLS, argument)
        for keyword in node.keywords:
            self._with(keyword.arg in SHOWN_NAMES, keyword.value)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self.visit(node.value)

    def visit_Assert(self, node: ast.Assert) -> None:
        return

    def visit_arguments(self, node: ast.arguments) -> None:
        return

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value:
            self.visit(node.value)

    def _with(self, is_shown: bool, node: ast.AST) -> None:
        before, self.is_shown = self.is_shown, is_shown
        self.visit(node)
        self.is_shown = before


def messages_of(file: Path) -> dict[str, int]:
    """Return {msgid: line} of a module."""
    visitor = Messages()
    visitor.visit(ast.parse(file.read_text(encoding="utf-8")))
    return visitor.found


_TOLD = re.compile(r'\b(?:tell|die|headline|fail) "((?:[^"\\]|\\.)*)"')
_TEXT = re.compile(r'\btell "\$\(cat <<EOF\n(.*?)\nEOF\n', re.S)
_HEAD = re.compile(r"#!.*\n((?:#.*\n)+)set ")
_VALUE = re.compile(r"\$\(\([^()]*(?:\([^()]*\)[^()]*)*\)\)|\$\([^()]*\)|\$\{(\w+)[^}]*\}|\$(\w+)")


def messages_of_script(file: Path) -> dict[str, int]:
    """Return {msgid: line} of a shell script: what it tells, and its head, which is its help."""
    text = file.read_text(encoding="utf-8")
    found = {}
    head = _HEAD.match(text)
    if head and re.search(r"\busage( ;;|$)", text, re.M):
        found["\n".join(line[1:].removeprefix(" ") for line in head[1].splitlines())] = 2
    for match in (*_TOLD.finditer(text), *_TEXT.finditer(text)):
        told = match[1].removeprefix("error: ")
        if told.startswith("$(") or told.endswith("$*"):
            continue
        pieces, end = [], 0
        for value in _VALUE.finditer(told):
            name = value[1] or value[2] or ""
            pieces += [told[end : value.start()], Field(name if name.isidentifier() else "value")]
            end = value.end()
        found[normal(template((*pieces, told[end:])))] = text.count("\n", 0, match.start()) + 1
    return found


def paragraphs_of(document: str) -> Iterator[str]:
    """Yield the paragraphs of a docstring as msgids; examples, which are indented, are none."""
    for part in document.strip("\n").split("\n\n"):
        given = " ".join(part.split())
        is_example = all(line.startswith((" ", "\t", "python -m ", "example")) or not line for line in part.split("\n"))
        if not is_example and _LETTERS.search(given):
            yield given.replace("{", "{{").replace("}", "}}")
