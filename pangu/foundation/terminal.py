"""Tables on a terminal of any width: where the columns have no room, they are stacked; no digit is ever cut."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.table import Table

from pangu.foundation.translation import translated

WIDE = 120  # columns of a pipe or a file
WORDS = 20  # columns below which a column of words is not narrowed


class TranslatingConsole(Console):
    """A console that prints text in the language of the process."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(translated(one) if isinstance(one, str) else one for one in objects), **options)

    def on_broken_pipe(self) -> None:
        """Let the command line end as it does wherever a reader, like `head`, has gone."""
        raise BrokenPipeError


def console() -> Console:
    """Return standard output, WIDE columns where it is no terminal and nothing says how wide it is."""
    found = TranslatingConsole()
    if not found.is_terminal and "COLUMNS" not in os.environ:
        found = TranslatingConsole(width=WIDE)
    return found


class StackedTable(Table):
    """A table whose columns go into several blocks, each with the first column, where one row would be too wide.

    Numbers stand to the right and are never broken; the first column, those named in `left` and those with a long name,
    such as a path, stand to the left, and may wrap.
    """

    def __init__(
        self, *columns: str, left: Sequence[str] = (), title: str | None = None, gap: int = 2, **style: Any
    ) -> None:
        super().__init__(
            box=None,
            padding=(0, gap, 0, 0),
            title=translated(title or "") or None,
            title_justify="left",
            title_style="bold",
            header_style="bold underline",
            **style,
        )
        self.gap = gap
        self.is_words = [index == 0 or name in left or cell_len(name) > WORDS for index, name in enumerate(columns)]
        for name, words in zip(columns, self.is_words, strict=True):
            self.add_column(translated(name), justify="left" if words else "right", no_wrap=not words, overflow="fold")

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row; a cell of several words is said in the language of the process."""
        super().add_row(
            *(translated(cell) if isinstance(cell, str) and " " in cell.strip() else cell for cell in cells), **options
        )

    def needed(self, shown: Console, options: ConsoleOptions) -> list[int]:
        """Return the width that each column needs, the gap too."""
        widths = []
        for column, words in zip(self.columns, self.is_words, strict=True):
            cells = [column.header, *column.cells]
            natural = max(shown.measure(cell, options=options).maximum for cell in cells)
            widths.append((min(natural, WORDS) if words else natural) + self.gap)
        return widths

    def blocks(self, widths: Sequence[int], room: int) -> list[list[int]]:
        """Return the columns of each block, the first one left out."""
        blocks: list[list[int]] = [[]]
        left = room - widths[0]
        for index in range(1, len(widths)):
            if blocks[-1] and widths[index] > left:
                blocks.append([])
                left = room - widths[0]
            blocks[-1].append(index)
            left -= widths[index]
        return blocks

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        wide = options.update(max_width=10**4)
        blocks = self.blocks(self.needed(console, wide), options.max_width)
        if len(blocks) == 1:
            yield from super().__rich_console__(console, options)
            return
        for number, block in enumerate(blocks):
            chosen = [0, *block]
            part = StackedTable(
                *(str(self.columns[index].header) for index in chosen),
                left=[str(self.columns[index].header) for index in chosen if self.is_words[index]],
                title=self.title if isinstance(self.title, str) and not number else None,
                gap=self.gap,
            )
            for cells in zip(*(list(self.columns[index].cells) for index in chosen), strict=True):
                part.add_row(*cells)
            yield from super(StackedTable, part).__rich_console__(console, options)
