# ruff: noqa: SIM905 (lists of names)
"""Presentation MathML as LaTeX, for pages that have no source of their formulas.

The common elements of MathML Core (W3C): tokens, rows, fractions, roots, scripts, fences, tables. What is unknown
gives its text. Depth and size are capped, so no page can make it slow."""

import html
import re

MAX_DEPTH = 60
_TAG = re.compile(r"<(/?)(?:\w{1,10}:)?(\w{1,20})([^>]{0,2000})>")
_OPERATORS = {
    "≤": r"\le", "≥": r"\ge", "≠": r"\ne", "×": r"\times", "÷": r"\div", "·": r"\cdot", "⋅": r"\cdot", "±": r"\pm",
    "∓": r"\mp", "∞": r"\infty", "∑": r"\sum", "∏": r"\prod", "∫": r"\int", "∂": r"\partial", "∇": r"\nabla",
    "∈": r"\in", "∉": r"\notin", "⊂": r"\subset", "⊆": r"\subseteq", "∪": r"\cup", "∩": r"\cap", "∀": r"\forall",
    "∃": r"\exists", "→": r"\to", "⇒": r"\Rightarrow", "⇔": r"\Leftrightarrow", "↦": r"\mapsto", "≈": r"\approx",
    "≡": r"\equiv", "∼": r"\sim", "∝": r"\propto", "√": r"\surd", "−": "-", "∗": "*", "…": r"\ldots", "⋯": r"\cdots",
    "′": "'", "∥": r"\|", "⊥": r"\perp", "∠": r"\angle", "°": r"^\circ", "{": r"\{", "}": r"\}", "%": r"\%",
    "\u2061": "", "\u2062": "", "\u2063": ",", "\u2064": "",
}  # fmt: skip
_GREEK = dict(
    zip(
        "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΦΨΩϵϕ",
        (
            "alpha beta gamma delta varepsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon "
            "varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega epsilon phi"
        ).split(),
        strict=True,
    )
)
_FUNCTIONS = set("sin cos tan cot sec csc log ln exp lim max min sup inf det dim gcd arg ker deg".split())
_ACCENTS = {
    "^": "hat",
    "ˆ": "hat",
    "¯": "bar",
    "‾": "bar",
    "˜": "tilde",
    "~": "tilde",
    "→": "vec",
    "˙": "dot",
    "¨": "ddot",
}
_ENDING = re.compile(r"\\[A-Za-z]+$")


class _Node:
    __slots__ = ("children", "name", "text")

    def __init__(self, name: str):
        self.name = name
        self.text = ""
        self.children: list[_Node] = []


def to_latex(markup: str) -> str:
    """Return the LaTeX of what stands between `<math>` and `</math>`."""
    return _join([_latex(child) for child in _parse(markup).children]).strip()


def _parse(markup: str) -> _Node:
    root = _Node("mrow")
    stack, place = [root], 0
    for tag in _TAG.finditer(markup):
        stack[-1].text += html.unescape(markup[place : tag.start()])
        place = tag.end()
        name = tag[2].lower()
        if tag[1]:
            names = [node.name for node in stack[1:]]
            if name in names:
                del stack[len(names) - names[::-1].index(name) :]
        elif len(stack) <= MAX_DEPTH:
            node = _Node(name)
            stack[-1].children.append(node)
            if not tag[3].endswith("/"):
                stack.append(node)
    return root


def _join(parts: list[str]) -> str:
    """Put parts beside each other; a space where a command would run into a letter."""
    text = ""
    for part in parts:
        if part and _ENDING.search(text) and part[0].isalnum():
            text += " "
        text += part
    return text


def _token(node: _Node) -> str:
    words = " ".join(node.text.split())
    if node.name == "mtext":
        return rf"\text{{{words}}}" if words else " "
    if words in _FUNCTIONS:
        return f"\\{words}"
    if node.name == "mi" and len(words) > 1 and words.isalpha() and words.isascii():
        return rf"\mathrm{{{words}}}"
    return _join(
        [_OPERATORS.get(c) or (f"\\{_GREEK[c]}" if c in _GREEK else "" if c in _OPERATORS else c) for c in words]
    )


def _group(latex: str) -> str:
    return f"{{{latex}}}"


def _base(latex: str) -> str:
    """Return the base of a script, in braces where it is more than one symbol."""
    return latex if len(latex) <= 1 or re.fullmatch(r"\\[A-Za-z]+|\d+", latex) else _group(latex)


def _latex(node: _Node) -> str:
    name, children = node.name, node.children
    if name in ("mi", "mn", "mo", "mtext", "ms"):
        return _token(node)
    if name in ("annotation", "annotation-xml", "mphantom"):
        return ""
    if name == "mtable":
        rows = [" & ".join(_latex(cell) for cell in row.children) for row in children]
        return r"\begin{matrix}" + r" \\ ".join(rows) + r"\end{matrix}"
    parts = [_latex(child) for child in children]
    if name == "mfrac" and len(parts) == 2:
        return rf"\frac{_group(parts[0])}{_group(parts[1])}"
    if name == "msqrt":
        return rf"\sqrt{_group(_join(parts))}"
    if name == "mroot" and len(parts) == 2:
        return rf"\sqrt[{parts[1]}]{_group(parts[0])}"
    if name == "msup" and len(parts) == 2:
        return f"{_base(parts[0])}^{_script(parts[1])}"
    if name == "msub" and len(parts) == 2:
        return f"{_base(parts[0])}_{_script(parts[1])}"
    if name in ("msubsup", "munderover") and len(parts) == 3:
        return f"{_base(parts[0])}_{_script(parts[1])}^{_script(parts[2])}"
    if name == "munder" and len(parts) == 2:
        return f"{_base(parts[0])}_{_script(parts[1])}"
    if name == "mover" and len(parts) == 2:
        accent = _ACCENTS.get(children[1].text.strip())
        return rf"\{accent}{_group(parts[0])}" if accent else rf"\overset{_group(parts[1])}{_group(parts[0])}"
    if name == "mfenced":
        return f"({', '.join(parts)})"
    return _join(parts) if parts else " ".join(node.text.split())


def _script(latex: str) -> str:
    return latex if len(latex) == 1 else _group(latex)
