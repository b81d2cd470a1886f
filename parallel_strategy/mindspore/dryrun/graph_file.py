"""Reads a compiled graph that MindSpore wrote as text (`..._validate_....ir`).

The file holds functions; a node is a line `%8(name) = Operator(%5, %7) {attributes}`, its types, and where it comes
from:

    subgraph @17_step_construct(%para1_rows, ...) {
      %24(equiv_401) = AllReduce(%23) {instance name: forward_op} primitive_attrs: {group_rank_ids: (0, 1), fusion: ...}
          : (<Tensor[Float32], (2, 32, 64)>) -> (<Tensor[Float32], (2, 32, 64)>)
          # Fullname with scope: (Default/network-Step/.../AllReduce-op0)
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pangu.foundation.errors import UserError
from parallel_strategy.mindspore.pangu_network import WEIGHTS

NODE = re.compile(r"^  (%\d+)\(.*?\) = (.*)$")
OPERATOR = re.compile(r"^(?:PrimFunc_)?(\w+)\(")
FUNCTION = re.compile(r"^subgraph @(\S+?)\((.*)$")
TENSOR = re.compile(r"Tensor\[(\w+)\](?:\[[^\]]*\])*\]?, \(([\d, ]*)\)")
CALL = re.compile(r"call @([^\s(,)]+)\(")
APPLIED = re.compile(r"^%\d+\[@(.+)\]\(")  # a function value that is called: one closure, or one of several
CLOSURE = re.compile(r"Partial\(@([^\s(,)]+)")
ATTRIBUTE = re.compile(r"(\w+): (?:\w+\()?(\"[^\"]*\"|\([^)]*\)|[-\w.]+)")
REDISTRIBUTION_STEPS = 4  # reshapes and slices before a collective that changes a layout


@dataclass(frozen=True)
class TensorType:
    dtype: str
    shape: tuple[int, ...]


@dataclass
class Node:
    """One operator that is of interest: its words as the file has them."""

    operator: str
    function: str
    operands: tuple[str, ...]
    instance: str
    attributes: dict[str, str]
    inputs: tuple[TensorType, ...] = ()
    output: TensorType | None = None
    scope: str = ""


@dataclass
class Graph:
    """Nodes of the operators that were asked for, how often each function runs, and from where values come."""

    nodes: list[Node] = field(default_factory=list)
    runs: Counter[str] = field(default_factory=Counter)
    sources: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)  # of (function, value): its operands
    recomputed: list[Node] = field(default_factory=list)
    repeated: set[tuple[str, str]] = field(default_factory=set)  # (function, value) of what runs again in backward

    def runs_again(self, node: Node) -> bool:
        """Return whether recomputation added the node. What changes a layout has no mark of its own: its operands
        have."""
        if "duplicated" in node.attributes:
            return True
        value = node.operands[0] if node.instance.startswith("redistribution") and node.operands else ""
        for _ in range(REDISTRIBUTION_STEPS):
            if (node.function, value) in self.repeated:
                return True
            value = self.sources.get((node.function, value), ("",))[0]
        return False

    def parameter(self, function: str, value: str) -> str | None:
        """Return the weight from which a value is made, through its first operands."""
        for _ in range(12):
            found = re.match(r"%para\d+_(?:▸)?(?:CR_)?(.+)", value)
            if found:
                name = found[1].removeprefix("accu_grads.")
                return name if name.startswith(WEIGHTS) else None
            operands = self.sources.get((function, value))
            if not operands:
                return None
            value = operands[0]
        return None


def read_graph(path: Path, operators: frozenset[str]) -> Graph:
    """Return the nodes with one of these operators, and those that run a second time in backward."""
    graph = Graph()
    function = entry = ""
    calls: list[tuple[str, str]] = []
    node: Node | None = None
    for line in _lines(path):
        if line.startswith("  %"):
            node = None
            matched = NODE.match(line)
            if matched is None:
                continue
            value, words = matched.groups()
            calls += [(function, target) for target in _called(words)]
            operator = OPERATOR.match(words)
            if operator is None:
                continue
            operands = tuple(re.findall(r"%(?:para)?\d+[^\s,)({]*", words.split(") ", 1)[0]))
            graph.sources[function, value] = operands or ("",)
            repeated = "duplicated: Bool(1)" in line
            if operator[1] in operators or repeated:
                instance = re.search(r"instance name: ([^}]*)}", words)
                node = Node(
                    operator[1],
                    function,
                    operands,
                    instance[1] if instance else "",
                    {name: text.strip('"') for name, text in ATTRIBUTE.findall(words[words.find("{") :])},
                )
                if operator[1] in operators:
                    graph.nodes.append(node)
                if repeated:
                    graph.repeated.add((function, value))
                    graph.recomputed.append(node)
        elif node is not None and line.startswith("      :"):
            before, _, after = line.partition(") -> (")
            node.inputs = tuple(_tensors(before))
            node.output = next(_tensors(after), None)
        elif node is not None and "Fullname with scope: (" in line:
            node.scope = line.split("Fullname with scope: (", 1)[1].rstrip().removesuffix(")")
        elif line.startswith("subgraph @"):
            node, header = None, FUNCTION.match(line)
            function = header[1] if header else ""
        elif line.startswith("# IR entry: @"):
            entry = line.split("@", 1)[1].strip()
    if not entry:
        raise UserError(f"{path}: is not a graph that MindSpore wrote")
    _count(graph, entry, calls)
    return graph


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="replace") as file:
        yield from file


def _called(words: str) -> list[str]:
    """Return the functions that a node runs; a branch is one of several, each of which is counted."""
    direct = CALL.search(words)
    if direct:
        return [direct[1]]
    applied = APPLIED.match(words)
    return CLOSURE.findall(applied[1]) or [applied[1]] if applied else []


def _tensors(text: str) -> Iterator[TensorType]:
    for dtype, sizes in TENSOR.findall(text):
        yield TensorType(dtype.lower(), tuple(int(size) for size in sizes.split(",") if size.strip()))


def _count(graph: Graph, entry: str, calls: list[tuple[str, str]]) -> None:
    """Count how often each function runs in a step: along every way from the entry."""
    callees: dict[str, Counter[str]] = {}
    for caller, target in calls:
        callees.setdefault(caller, Counter())[target] += 1

    def visit(function: str, times: int) -> None:
        graph.runs[function] += times
        for target, count in callees.get(function, {}).items():
            visit(target, times * count)

    visit(entry, 1)
