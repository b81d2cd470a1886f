"""The arguments that a shell script starts a program with: assignments, arrays and arithmetic, and nothing executed."""

import ast
import operator
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pangu.foundation.errors import PlacedError

_ASSIGNED = re.compile(r"([A-Za-z_]\w*)\+?=", re.ASCII)
_REFERENCE = re.compile(r"\$\{(\w+)(?:\[[@*]\])?(?::?[-=]([^}]*))?\}|\$(\w+)", re.ASCII)
_ARITHMETIC = re.compile(r"\$\(\(([^()]*(?:\([^()]*\)[^()]*)*)\)\)")
_COMMAND = re.compile(r"\$\([^()]*\)|`[^`]*`")
_OPERATORS: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.floordiv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip
_KEYWORDS = ("export", "local", "declare", "readonly", "then", "else", "do", "if", "fi", "done", "exec", "[", "[[")
MOST_WORDS = 20_000
DEEPEST = 8


@dataclass
class Script:
    """words: flags and their values, in order. variables: what the script sets, as far as it can be read."""

    where: str
    text: str
    words: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)

    def line(self, word: str) -> int:
        """Return the line of a flag."""
        found = re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", self.text)
        return self.text.count("\n", 0, found.start()) + 1 if found else 1

    def mistake(self, flag: str, what: str) -> PlacedError:
        """Return the error that points at a flag."""
        return PlacedError(f"{self.where}:{self.line(flag)}: field {flag!r}: {what}")


def read_script(text: str, where: str) -> Script:
    """Return the arguments of a line or a script. Raises PlacedError where quotes or brackets do not close."""
    script = Script(where, text)
    lists: dict[str, list[str]] = {}
    commands: list[str] = []
    tokens = _tokens(text, where)
    index = 0
    while index < len(tokens):
        token = tokens[index]
        assigned = _ASSIGNED.match(token)
        if assigned and not token.startswith("--"):
            name, value = assigned[1], token[assigned.end() :]
            values = [value] if value else []
            if not value and tokens[index + 1 : index + 2] == ["("]:
                end = _closing(tokens, index + 1)
                values, index = tokens[index + 2 : end], end
            before = lists.get(name, []) if token[assigned.end() - 2] == "+" else []
            lists[name] = before + values
        elif token == "(":  # one word with brackets, such as a pattern of layers
            end = _closing(tokens, index)
            commands.append("".join(tokens[index : end + 1]))
            index = end
        elif token not in _KEYWORDS:
            commands.append(token)
        index += 1
    script.variables = {name: " ".join(_expanded(values, lists)) for name, values in lists.items()}
    words = _expanded(commands, lists)
    if not any(word.startswith("--") for word in words):  # arguments, and no command that takes them
        words = [word for name in lists for word in _expanded(lists[name], lists)]
    script.words = words
    return script


def _tokens(text: str, where: str) -> list[str]:
    plain = text.replace("\r\n", "\n").replace("\\\n", " ")
    plain = _ARITHMETIC.sub(lambda found: "@" + found[1].encode().hex() + "@", plain)
    plain = _COMMAND.sub("@", plain)
    lexer = shlex.shlex(plain, posix=True, punctuation_chars="();")
    lexer.whitespace_split, lexer.commenters = True, "#"
    tokens: list[str] = []
    try:
        for token in lexer:
            tokens += list(token) if set(token) <= set("();") and token else [token]
            if len(tokens) > MOST_WORDS:
                raise PlacedError(f"{where}: more than {MOST_WORDS:,} words; give the arguments of the model only")
    except ValueError as error:
        raise PlacedError(f"{where}:{lexer.lineno}: cannot be read as shell words: {error}") from None
    return [token for token in tokens if token != ";"]


def _closing(tokens: list[str], index: int) -> int:
    """Return where the bracket that opens at `index` closes."""
    depth = 0
    for place in range(index, len(tokens)):
        depth += (tokens[place] == "(") - (tokens[place] == ")")
        if depth == 0:
            return place
    return len(tokens) - 1


def _expanded(words: list[str], lists: Mapping[str, list[str]], depth: int = 0) -> list[str]:
    """Return words with what variables stand for; one that is set nowhere stays as it is written."""
    result: list[str] = []
    for word in words:
        whole = _REFERENCE.fullmatch(word)
        if whole and depth < DEEPEST and (whole[1] or whole[3]) in lists:
            for inner in _expanded(lists[whole[1] or whole[3]], lists, depth + 1):
                result += inner.split() if " --" in f" {inner}" else [inner]
            continue
        text = _in_text(word, lists, depth)
        result += text.split() if text.startswith("--") and " " in text else [text]
        if len(result) > MOST_WORDS:
            break
    return result


def _in_text(word: str, lists: Mapping[str, list[str]], depth: int) -> str:
    def value(found: re.Match[str]) -> str:
        name, otherwise = found[1] or found[3], found[2]
        if name in lists and depth < DEEPEST:
            return " ".join(_expanded(lists[name], lists, depth + 1))
        return otherwise if otherwise is not None else found[0]

    text = _REFERENCE.sub(value, word)
    return re.sub(
        r"@((?:[0-9a-f]{2})+)@", lambda found: _computed(bytes.fromhex(found[1]).decode(), lists, depth), text
    )


def _computed(expression: str, lists: Mapping[str, list[str]], depth: int) -> str:
    """Return the value of shell arithmetic over whole numbers, or the expression where it is none."""
    named = re.sub(r"\$?\{?\b([A-Za-z_]\w*)\}?", lambda found: "${" + found[1] + "}", expression)
    text = _in_text(named, lists, depth + 1) if depth < DEEPEST else named
    try:
        return str(_number(ast.parse(text.strip(), mode="eval").body))
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return f"$(({expression}))"


def _number(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_number(node.left), _number(node.right))
    raise ValueError(ast.dump(node))


def layer_pattern(text: str) -> list[int] | None:
    """Return the ones and zeros of `([0]*3+[1]*58)`; None for what is none."""
    try:
        found = _listed(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return found if 0 < len(found) <= 10_000 else None


def _listed(node: ast.expr) -> list[int]:
    if isinstance(node, ast.List):
        return [_number(one) for one in node.elts]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _listed(node.left) + _listed(node.right)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        times = _number(node.right)
        if 0 <= times <= 10_000:
            return _listed(node.left) * times
    raise ValueError(ast.dump(node))
