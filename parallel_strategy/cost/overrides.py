"""What overridden operators cost: their own time under the other split, and the redistribution around them.

Everything is a difference to the table's splits, operator by operator along `mindspore.pangu_network`. An override is
laid over the devices as MindSpore lays it (`mindspore.device_matrix`): the devices of a stage are cut into prime axes,
outermost first, and every dimension that is split takes the next ones.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from parallel_strategy.cost.kernel import matmul_seconds
from parallel_strategy.cost.sharding import (
    COLUMNS,
    INNER,
    PRODUCT,
    ROWS,
    SCATTER,
    WHOLE,
    Axis,
    BlockSharding,
    Operator,
    mesh_axes,
)
from parallel_strategy.mindspore.device_matrix import COPIES, device_axes
from parallel_strategy.mindspore.operator_splits import OperatorSplits, operator_splits
from parallel_strategy.mindspore.pangu_network import (
    EMBEDDED,
    EMBEDDING_PARTS,
    LAYER_ROWS,
    NETWORK_ROWS,
    Row,
    is_executed,
    layer_path,
    sizes,
)
from parallel_strategy.spec.strategy import Setup

ALONG_ROWS = ("rows", "batch", "seq")
PASSES = {"Add": 3.0, "LayerNorm": 3.0}  # of a tensor, that a kernel reads and writes; others: 2
PREVIOUS = "output_add"  # what a layer gets from the one before it


def override_seconds(setup: Setup) -> dict[int | str, float]:
    """Return what the strategy's overrides add to one micro-batch, forward and backward: {number of a layer,
    "embedding" or "head": seconds}. Empty without overrides. Raises UserError for an override that cannot be."""
    splits = operator_splits(setup)
    return _Difference(setup, splits).by_part() if splits.overridden else {}


@dataclass(frozen=True, slots=True)
class _Layout:
    """What each axis does to an operator: the word of the dimension that it splits, or "" for copies."""

    words: tuple[str, ...]
    scatters: bool = False  # partial sums become rows, not a whole


class _Difference:
    """The difference that overrides make to one micro-batch."""

    def __init__(self, setup: Setup, splits: OperatorSplits) -> None:
        self.setup, self.splits = setup, splits
        strategy = setup.strategy
        self.sizes = sizes(setup.model, strategy.batch.micro * strategy.mesh.dp)
        self.devices = strategy.mesh.dp * strategy.mesh.tp
        self._moves: dict[tuple, float] = {}

    @cached_property
    def axes(self) -> list[Axis]:
        """Return the data and tensor axes, outermost first, cut into primes."""
        pieces = []
        for axis in mesh_axes(self.setup):
            size, prime = axis.size, 2
            while size > 1:
                while size % prime:
                    prime += 1
                size //= prime
                pieces.append(Axis(axis.name, prime, axis.stride * size))
        return pieces or [Axis("dp", 1, 1)]

    def by_part(self) -> dict[int | str, float]:
        model, overridden = self.setup.model, self.splits.overridden
        found: dict[int | str, float] = {}
        known: dict[tuple, float] = {}
        for layer in range(model.num_layers):
            where = f"{layer_path(model, layer)}."
            before = f"{layer_path(model, layer - 1)}.{PREVIOUS}" if layer else EMBEDDED
            ends = layer == model.num_layers - 1
            key = (ends, overridden.get(before), *(overridden.get(where + row.path) for row in LAYER_ROWS))
            if key not in known:
                known[key] = self._rows(LAYER_ROWS, where, before, ends)
            found[layer] = known[key]
        ends_of = {row.path.startswith(EMBEDDING_PARTS): row for row in NETWORK_ROWS}
        for first in ends_of:
            rows = tuple(row for row in NETWORK_ROWS if row.path.startswith(EMBEDDING_PARTS) == first)
            found["embedding" if first else "head"] = self._rows(rows, "", "", True)
        return {part: seconds for part, seconds in found.items() if seconds}

    def _rows(self, rows: tuple[Row, ...], where: str, before: str, ends: bool) -> float:
        """Return the difference of these operators, and of the edges that lead into them. `before`: the operator that
        gives a layer its input; `ends`: nobody here takes the output."""
        by_path = {row.path: row for row in rows if is_executed(self.setup.model, row.path)}
        takes = {path: _executed(row.takes, by_path) for path, row in by_path.items()}
        taken = {source for path, sources in takes.items() for source in sources if source != PREVIOUS or not ends}
        total = 0.0
        for path, row in by_path.items():
            here = self._layout(row, where + path)
            if where + path in self.splits.overridden:
                total += self._own(row, here) - self._own(row, self._base(row))
                if path not in taken:
                    total += self._move(row, here, row, self._base(row), None)
                if not row.takes and row.kind in ("LayerNorm", "MatMul"):
                    total += self._move(row, self._base(row), row, here, 0)
            for number, source in enumerate(takes[path]):
                producer = by_path[source]
                made = self._layout(producer, before if where and source == PREVIOUS else where + source)
                operand = _operand_of(row, number)
                if (made, here) != (self._base(producer), self._base(row)):
                    total += self._move(producer, made, row, here, operand)
                    total -= self._move(producer, self._base(producer), row, self._base(row), operand)
        return total

    def _base(self, row: Row) -> _Layout:
        """Return how the table's letters lie over the axes."""
        letters = {d.letter: d.size for operand in reversed(row.operands) for d in operand}
        sequence = self.splits.letters["S"] > 1
        words = []
        for axis in self.axes:
            if axis.name == "dp":
                words.append(next((letters[one] for one in "DTR" if one in letters), COPIES))
                continue
            vocabulary = letters.get("V") if self.splits.letters["V"] > 1 else None
            rows = (letters.get("S") or letters.get("R")) if sequence else None
            words.append(letters.get("M") or vocabulary or rows or COPIES)
        return _Layout(tuple(words), bool(row.outputs) and sequence)

    def _layout(self, row: Row, path: str) -> _Layout:
        """Return how an operator lies over the axes."""
        split = self.splits.overridden.get(path)
        table = OperatorSplits(self.splits.letters).of(path)
        if split is None or (table is not None and split == table.inputs):
            base = self._base(row)
            return base if split is None else _Layout(base.words)
        words = [COPIES] * len(self.axes)
        free = list(range(len(self.axes)))
        for word, parts in device_axes(row, split, self.devices):
            for index in list(free):
                if parts % self.axes[index].size == 0 and parts > 1:
                    parts //= self.axes[index].size
                    words[index] = word
                    free.remove(index)
        return _Layout(tuple(words))

    def _merged(self, *layouts: tuple[int, ...]) -> tuple[list[Axis], list[tuple[int, ...]]]:
        """Return the axes with neighbours of one axis of the mesh joined where every layout does the same to them."""
        axes: list[Axis] = []
        columns: list[tuple[int, ...]] = []
        for axis, column in zip(self.axes, zip(*layouts, strict=True), strict=True):
            if axes and columns[-1] == column and axes[-1].name == axis.name:
                axes[-1] = Axis(axis.name, axes[-1].size * axis.size, axis.stride)
            else:
                axes.append(axis)
                columns.append(column)
        return axes, list(zip(*columns, strict=True))

    def _move(self, producer: Row, made: _Layout, consumer: Row, read: _Layout, operand: int | None) -> float:
        """Return the seconds of bringing a result into the layout in which an operand is read."""
        words = _output_words(producer)
        source = tuple(self._role(word, words, made.scatters) for word in made.words)
        wanted = {d.size for d in consumer.operands[operand]} if operand is not None else _output_words(consumer)
        target = tuple(self._role(word, wanted, False) for word in read.words)
        elements = math.prod(self.sizes[word] for word in words)
        key = (source, target, elements)
        if key not in self._moves:
            axes, (one, other) = self._merged(source, target)
            block = BlockSharding(self.setup, axes, [])
            self._moves[key] = float(block.moving_seconds(elements, np.array([one]), np.array([other]))[0, 0])
        return self._moves[key]

    def _role(self, word: str, words: set[str], scatters: bool) -> int:
        """Return what an axis does to a tensor that has dimensions `words`."""
        if word == COPIES:
            return WHOLE
        if word not in words:
            return ROWS if scatters else WHOLE
        return ROWS if word in ALONG_ROWS else COLUMNS

    def _own(self, row: Row, layout: _Layout) -> float:
        """Return the operator's own seconds, with the collectives of a product."""
        if row.kind == "MatMul":
            rows, inner = (d.size for d in row.operands[0])
            (columns,) = {d.size for d in row.operands[1]} - {inner}
            does = {rows: ROWS, inner: SCATTER if layout.scatters else INNER, columns: COLUMNS}
            axes, (roles,) = self._merged(tuple(does.get(word, WHOLE) for word in layout.words))
            size = self.sizes[rows], self.sizes[columns], self.sizes[inner]
            operator = Operator(row.path, row.kind, (), *size, PRODUCT)
        else:
            if row.kind in ("BatchMatMul", "FlashAttentionScore"):
                return self._attention(row, layout)
            words = {d.size for operand in row.operands for d in operand}
            elements = math.prod(self.sizes[word] for word in words - {"vocab", "positions"})
            axes, (roles,) = self._merged(tuple(ROWS if word in words else WHOLE for word in layout.words))
            operator = Operator(row.path, row.kind, (), elements, 1, passes=PASSES.get(row.kind, 2.0))
        return float(BlockSharding(self.setup, axes, []).operator_seconds(operator, np.array([roles]))[0])

    def _attention(self, row: Row, layout: _Layout) -> float:
        """Return the seconds of a product of heads, forward and twice backward; the fused kernel is two of them."""
        model, device = self.setup.model, self.setup.cluster.device
        parts = math.prod(axis.size for axis, word in zip(self.axes, layout.words, strict=True) if word != COPIES)
        heads = self.sizes["batch"] * self.sizes["heads"] * self.sizes["seq"] / parts
        one = np.ones(1)
        seconds = matmul_seconds(device, model.compute_dtype, heads * one, self.sizes["keys"] * one,
                                 self.sizes["size"] * one, one)  # fmt: skip
        return 3 * float(seconds[0]) * (2 if row.kind == "FlashAttentionScore" else 1)


def _executed(takes: tuple[str, ...], by_path: dict[str, Row]) -> list[str]:
    """Return which results an operator reads: of `one/other` the last that is executed."""
    choices = ([path for path in source.split("/") if path in by_path] for source in takes)
    return [paths[-1] for paths in choices if paths]


def _operand_of(row: Row, number: int) -> int:
    """Return which operand the result number `number` of those that a row takes becomes."""
    weights = {operand for operand, _ in row.weights}
    tensors = [index for index, operand in enumerate(row.operands) if operand and index not in weights]
    return tensors[number] if len(tensors) == len(row.takes) else tensors[0]


def _output_words(row: Row) -> set[str]:
    """Return the dimensions of an operator's result."""
    words: Iterator[set[str]] = ({d.size for d in operand} for operand in row.operands)
    first, *others = words
    if row.kind == "MatMul" or row.kind == "BatchMatMul":
        contracted = (first & others[0]) - {"batch", "heads"}
        return (first | others[0]) - contracted
    if row.kind == "Gather":
        return (first - {"vocab", "positions"}) | others[0]
    return max((first, *others), key=len) if row.kind != "FlashAttentionScore" else first
