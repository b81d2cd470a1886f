"""Exact minimum of a sum of small tables over shared variables, by eliminating one variable after another.

This is dynamic programming on any graph: on a chain it is the usual one, on a transformer block, whose residual and
whose queries, keys and values join again, the tables never have more than four variables.
"""

import numpy as np


class Tables:
    """Costs that are added: each a table over some variables, in the order in which they are named."""

    def __init__(self, sizes: dict[str, int]) -> None:
        self.sizes = sizes
        self.tables: list[tuple[tuple[str, ...], np.ndarray]] = []

    def add(self, variables: tuple[str, ...], table: np.ndarray) -> None:
        assert table.shape == tuple(self.sizes[name] for name in variables)
        if len(set(variables)) < len(variables):  # a variable with itself: its diagonal
            first, table = variables[0], np.diagonal(table)
            variables = (first,)
        self.tables.append((variables, table))

    def total(self, choice: dict[str, int]) -> float:
        return float(sum(table[tuple(choice[name] for name in names)] for names, table in self.tables))

    def minimum(self) -> tuple[float, dict[str, int]]:
        """Return the least total and one choice of every variable that has it."""
        tables, left = list(self.tables), list(self.sizes)
        undo: list[tuple[str, tuple[str, ...], np.ndarray]] = []
        constant = 0.0
        while left:
            name = min(left, key=lambda one: self._joined_size(one, tables))
            left.remove(name)
            mine = [(names, table) for names, table in tables if name in names]
            tables = [(names, table) for names, table in tables if name not in names]
            neighbours = tuple(dict.fromkeys(other for names, _ in mine for other in names if other != name))
            joined = np.zeros((*(self.sizes[other] for other in neighbours), self.sizes[name]))
            for names, table in mine:
                joined = joined + self._spread(names, table, (*neighbours, name))
            undo.append((name, neighbours, joined.argmin(axis=-1)))
            least = joined.min(axis=-1)
            if neighbours:
                tables.append((neighbours, least))
            else:
                constant += float(least)
        choice: dict[str, int] = {}
        for name, neighbours, best in reversed(undo):
            choice[name] = int(best[tuple(choice[other] for other in neighbours)])
        return constant, choice

    def _joined_size(self, name: str, tables: list[tuple[tuple[str, ...], np.ndarray]]) -> int:
        size = 1
        for other in {other for names, _ in tables if name in names for other in names}:
            size *= self.sizes[other]
        return size

    def _spread(self, names: tuple[str, ...], table: np.ndarray, onto: tuple[str, ...]) -> np.ndarray:
        """Return the table with its axes where `onto` has them, and axes of one where it has none."""
        order = sorted(range(len(names)), key=lambda index: onto.index(names[index]))
        shape = tuple(self.sizes[other] if other in names else 1 for other in onto)
        return table.transpose(order).reshape(shape)
