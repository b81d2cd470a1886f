"""Which rows of the caches hold which tokens, so that a prompt's known beginning is copied and not read again.

Nothing is kept beside the rows: a row that has ended keeps what it has read until another sequence takes it, the one
that was used longest ago first. So memory is bounded by the number of rows. Keys and values of a token depend on the
tokens before it and on the adapter alone, and they are copied bit by bit: an answer is the same with and without.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pangu.generation.speculation import common

LEAST = 8  # tokens that are worth a copy


@dataclass
class Held:
    """The tokens whose keys and values a row holds, and when the row was used last."""

    ids: Sequence[int]
    adapter: int | None
    used: int


class PrefixCache:
    """What the rows hold. is_on: False: nothing is ever found."""

    def __init__(self, is_on: bool = True) -> None:
        self.is_on = is_on
        self.rows: dict[int, Held] = {}
        self.clock = 0

    def note(self, row: int, ids: Sequence[int], adapter: int | None) -> None:
        """Remember what a row holds now."""
        self.clock += 1
        self.rows[row] = Held(ids, adapter, self.clock)

    def forget(self, row: int) -> None:
        """Trust nothing in a row."""
        self.rows.pop(row, None)

    def find(self, ids: Sequence[int], adapter: int | None, known: int = 0) -> tuple[int, int]:
        """Return the row that holds the longest beginning of some ids, and its length; -1, 0: none is worth it.

        known: as many of the ids are there already.
        """
        best = (0, -1)
        for row, held in self.rows.items():
            is_more = self.is_on and held.adapter == adapter and min(len(held.ids), len(ids)) > known
            if is_more and held.ids[known] == ids[known]:
                best = max(best, (common(held.ids, ids), row))
        length, row = best
        if length < known + LEAST:
            return -1, 0
        self.clock += 1
        self.rows[row].used = self.clock
        return row, length

    def oldest(self, free: Iterable[int], kept: int) -> int:
        """Return the free row that was used longest ago; `kept` only where there is no other."""
        return min(free, key=lambda row: (row == kept, self.rows[row].used if row in self.rows else 0, row))
