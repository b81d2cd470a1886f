"""The terminal of the planner: tables that still read well in few columns."""

from rich.table import Table

from pangu.foundation.terminal import StackedTable as table
from pangu.foundation.terminal import console

__all__ = ["console", "lines", "table"]


def lines(rows: list[tuple[str, str]]) -> Table:
    """Return what and why, side by side, without a frame."""
    result = Table.grid(padding=(0, 2, 0, 0))
    for ratio in (5, 4):
        result.add_column(ratio=ratio, overflow="fold")
    for what, why in rows:
        result.add_row(what, why)
    return result
