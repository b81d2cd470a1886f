"""The terminal: its width, and tables that still read well in 80 columns."""

import os

from rich.console import Console
from rich.table import Table

WIDE = 120  # columns of a pipe or a file


def console() -> Console:
    found = Console()
    if not found.is_terminal and "COLUMNS" not in os.environ:
        found = Console(width=WIDE)
    return found


def table(*columns: str, left: tuple[str, ...] = (), title: str | None = None, gap: int = 2) -> Table:
    """Numbers to the right; the first column and those named in `left` to the left, and these may wrap. `gap`:
    blanks between columns."""
    result = Table(
        box=None,
        padding=(0, gap, 0, 0),
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="bold underline",
    )
    for index, name in enumerate(columns):
        words = index == 0 or name in left
        result.add_column(name, justify="left" if words else "right", no_wrap=not words, overflow="fold")
    return result


def lines(rows: list[tuple[str, str]]) -> Table:
    """What and why, side by side, without a frame."""
    result = Table.grid(padding=(0, 2, 0, 0))
    for ratio in (5, 4):
        result.add_column(ratio=ratio, overflow="fold")
    for what, why in rows:
        result.add_row(what, why)
    return result
