"""How the operators of a network are split under a strategy: the table's splits, and the strategy's overrides.

`operator_splits` is the one place where overrides are applied. Prices, layouts, strategy files, `apply`, `compile` and
`export` ask it, so an override means the same to all of them, or is an error to all of them.

An override names operators by the name that `search` prints (`attention.query`, with the split of rows, inner dimension
and columns that `search` prints), or by MindSpore's path with `*` for any text (`*.attention.dense1.affine.matmul`,
with MindSpore's in_strategy). Of two overrides for one operator the last holds.
"""

import difflib
import fnmatch
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pangu.foundation.errors import UserError
from parallel_strategy.mindspore import pangu_network
from parallel_strategy.mindspore.device_matrix import Split, operand_layout
from parallel_strategy.mindspore.pangu_network import LAYER_OPERATORS, LayerOperator, Operand, Row, row_of
from parallel_strategy.spec.strategy import Override, Setup, StrategySpec

Written = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class OperatorSplit:
    """MindSpore's in_strategy, and its out_strategy where one has to be named."""

    inputs: Split
    outputs: Split | None = None


@dataclass(frozen=True)
class OperatorSplits:
    """The split of every operator. `letters`: the letters of the table as numbers; `overridden`: path -> split."""

    letters: Mapping[str, int]
    overridden: Mapping[str, Split] = field(default_factory=dict)

    def of(self, path: str) -> OperatorSplit | None:
        """Return the split of an operator by its path; None where the network has no such operator."""
        if path in self.overridden:
            return OperatorSplit(self.overridden[path])
        row = row_of(path)
        return None if row is None else split_of_row(row, self.letters)


def load_setup(path: Path | str, check: Callable[[Setup], None] | None = None, **options: Any) -> Setup:
    """Read a strategy file. Raises UserError in one line, also for an override that no operator obeys.

    check: what else must hold, such as `spec.capability.check_executed`. options: those of `Setup.load`."""
    setup = Setup.load(path, **options)
    try:
        operator_splits(setup)
        if check is not None:
            check(setup)
    except UserError as error:
        raise StrategySpec.read(path).mistake(str(error)) from None
    return setup


def degrees(setup: Setup) -> dict[str, int]:
    """Return the letters of the table as numbers."""
    mesh, tensor = setup.strategy.mesh, setup.strategy.tensor
    sequence = mesh.tp if tensor.sequence_parallel else 1
    return {
        "1": 1,
        "D": mesh.dp,
        "P": mesh.ep,
        "Q": mesh.dp // mesh.ep,
        "M": mesh.tp,
        "V": mesh.tp if tensor.vocab == "split" else 1,
        "C": mesh.cp,
        "T": mesh.dp * mesh.cp,
        "S": mesh.cp * sequence,
        "R": mesh.dp * mesh.cp * sequence,
    }


def split_of_row(row: Row, letters: Mapping[str, int]) -> OperatorSplit:
    """Return the table's split of an operator."""
    asked = _numbers(row.outputs, letters) if row.outputs and letters["S"] > letters["C"] else None
    return OperatorSplit(_numbers(row.operands, letters), asked)


def _numbers(operands: Sequence[Operand], letters: Mapping[str, int]) -> Split:
    return tuple(tuple(letters[dimension.letter] for dimension in operand) for operand in operands)


def operator_splits(setup: Setup) -> OperatorSplits:
    """Return the splits under a strategy. Raises UserError that names the field of an override which names no operator,
    or a split that its operator cannot have, with the nearest that would be right."""
    letters, strategy = degrees(setup), setup.strategy
    if not strategy.overrides:
        return OperatorSplits(letters)
    sizes = pangu_network.sizes(setup.model, strategy.batch.micro * strategy.mesh.dp)
    reader = _Reader(letters, sizes, strategy.mesh.devices // strategy.mesh.pp)
    known = dict(pangu_network.operators(setup.model))
    found: dict[str, Split] = {}
    for number, override in enumerate(strategy.overrides):
        for path, name in _named(override, known, f"overrides.{number}.operator").items():
            split, wrong, own = reader.read(known[path], name, override.strategy)
            if split is None:
                raise UserError(
                    f"overrides.{number}.strategy: {name or path} cannot have in_strategy {override.strategy}: "
                    f"{wrong}; nearest: {[list(parts) for parts in own]}"
                )
            found[path] = split
    splits = OperatorSplits(letters, found)
    _check_word_table(splits, reader.devices)
    return splits


def _named(override: Override, known: Mapping[str, Row], place: str) -> dict[str, str]:
    """Return the paths that an override names, each with the name of `search` by which it does, or "" for its path."""
    pattern = override.operator
    names = [pattern] if pattern in LAYER_OPERATORS else []
    if not names:
        if paths := [path for path in known if fnmatch.fnmatchcase(path, pattern)]:
            return dict.fromkeys(paths, "")
        names = [name for name in LAYER_OPERATORS if fnmatch.fnmatchcase(name, pattern)]
    if not names:
        possible = [*LAYER_OPERATORS, *known, *(f"*.{row.path}" for row in pangu_network.LAYER_ROWS)]
        nearest = difflib.get_close_matches(pattern, possible, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(LAYER_OPERATORS)}, and paths"
        raise UserError(f"{place}: {pattern!r} matches no operator of the network; {hint}")
    of_path = {path: name for name in names for path in LAYER_OPERATORS[name].paths}
    return {path: of_path[row.path] for path, row in known.items() if row.path in of_path and row.path != path}


@dataclass(frozen=True)
class _Reader:
    """Read the strategy of an override for one operator. `sizes`: words of dimensions as numbers."""

    letters: Mapping[str, int]
    sizes: Mapping[str, int]
    devices: int

    def read(self, row: Row, name: str, written: Written) -> tuple[Split | None, str, Split]:
        """Return (in_strategy of the operator, or None and what is wrong with it, the nearest as it may be written).

        `name`: the operator's name in `search`, if it is written as `search` prints it."""
        own = split_of_row(row, self.letters).inputs
        if name:
            operator = LAYER_OPERATORS[name]
            parts = _parts_by_name(operator, written)
            readings = [] if parts is None else [_spread(row, operator, parts, self.sizes["batch"])]
            own = _own_by_name(operator, self.letters)
        else:
            turned = [[written[0], written[1][::-1]]] if row.kind == "MatMul" and len(written) == 2 else []
            ranks = [len(operand) for operand in row.operands]
            readings = [fitted for one in (written, *turned) if (fitted := _fitted(one, ranks)) is not None]
        wrong = [self.complaint(row, split) for split in readings]
        for split, complaint in zip(readings, wrong, strict=True):
            if not complaint:
                return split, "", own
        return None, wrong[0] if wrong else "its operands and dimensions are others", own

    def complaint(self, row: Row, split: Split) -> str:
        """Return what is wrong with a split of an operator; empty: nothing."""
        parts_of: dict[str, int] = {}
        for operand, parts in zip(row.operands, split, strict=True):
            for dimension, number in zip(operand, parts, strict=True):
                word, size = dimension.size, self.sizes[dimension.size]
                if dimension.stays_whole and number > 1:
                    return f"dimension {word!r} must stay whole"
                if size % number:
                    return f"{number} does not divide {word} {size}"
                if parts_of.setdefault(word, number) != number:
                    return f"its operands split {word!r} differently"
        used = math.prod(parts_of.values())
        if self.devices % used:
            return f"{used} parts do not divide the {self.devices} devices of a stage"
        return _lookup_complaint(split, used == self.devices) if row.kind == "Gather" else ""


def _lookup_complaint(split: Split, on_all: bool) -> str:
    """Return what MindSpore does not do in a lookup whose table's rows are split."""
    (rows, columns), ids = split
    if rows > 1 and columns > 1 and (not on_all or math.prod(ids) > 1):
        return "a table that is split both ways needs all devices of a stage, and whole ids"
    if rows > 1 and math.prod(ids) > 1 and not on_all:
        return "beside a table's rows ids can be split on all devices of a stage only"
    return ""


def _fitted(written: Written, ranks: Sequence[int]) -> Split | None:
    """Return a strategy with so many operands and dimensions; ones at the end may be missing or too many."""
    padded = [*written, *[[]] * (len(ranks) - len(written))]
    beyond = [number for parts in padded[len(ranks) :] for number in parts]
    beyond += [number for parts, rank in zip(padded, ranks, strict=False) for number in parts[rank:]]
    if any(number > 1 for number in beyond):
        return None
    return tuple((*parts[:rank], *[1] * (rank - len(parts))) for parts, rank in zip(padded, ranks, strict=False))


def _parts_by_name(operator: LayerOperator, written: Written) -> dict[str, int] | None:
    """Return how many parts rows, columns and the inner dimension have in a split that is written as `search` prints
    it. A weight may be written transposed."""
    fitted = _fitted(written, operator.ranks)
    if fitted is None:
        return None
    rows, columns = fitted[0]
    if not operator.inner:
        alike = all(parts == fitted[0] for parts in fitted if len(parts) == 2)
        return {"rows": rows, operator.columns: columns} if alike else None
    weight = fitted[1] if fitted[1][0] == columns else fitted[1][::-1]
    return {"rows": rows, operator.inner: columns, operator.columns: weight[1]} if weight[0] == columns else None


def _spread(row: Row, operator: LayerOperator, parts: Mapping[str, int], sequences: int) -> Split:
    """Return the split of one of an operator's paths. Rows are split between sequences first, then within them."""
    batch = math.gcd(parts["rows"], sequences)
    by_word = {**parts, "batch": batch, "seq": parts["rows"] // batch}
    return tuple(tuple(by_word.get(dimension.size, 1) for dimension in operand) for operand in row.operands)


def _own_by_name(operator: LayerOperator, letters: Mapping[str, int]) -> Split:
    """Return the table's own split of an operator as `search` prints it."""
    row = next(row for row in pangu_network.LAYER_ROWS if row.path == operator.paths[0])
    found: dict[str, int] = {}
    for operand, parts in zip(row.operands, split_of_row(row, letters).inputs, strict=True):
        found |= {dimension.size: number for dimension, number in zip(operand, parts, strict=True)}
    rows, columns = found.get("rows", found.get("batch", 1) * found.get("seq", 1)), found.get(operator.columns, 1)
    inner = found.get(operator.inner, 1)
    if operator.inner:
        return (rows, inner), (inner, columns)
    return tuple((rows, columns)[:rank] if rank == 2 else (1,) for rank in operator.ranks)


def _check_word_table(splits: OperatorSplits, devices: int) -> None:
    """Raise UserError where the two operators that read the word table would have it split differently: MindSpore
    gives both of them one part, which is wrong for one."""
    readers = ((pangu_network.WORD_LOOKUP, 0), (pangu_network.HEAD, 1))
    layouts, written = set(), []
    for path, operand in readers:
        row, split = row_of(path), splits.of(path)
        assert row is not None and split is not None
        layouts.add(operand_layout(row, split.inputs, operand, devices))
        written.append(f"{path} {[list(parts) for parts in split.inputs]}")
    if len(layouts) > 1:
        raise UserError(
            f"overrides: {' and '.join(written)} read one table, and must split it alike; override both or none"
        )
