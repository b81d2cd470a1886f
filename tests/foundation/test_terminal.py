"""Tables on terminals of any width: every digit is there."""

import io
import re

import pytest
from rich.console import Console

from pangu.foundation.terminal import StackedTable


def drawn(table: StackedTable, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(table)
    return out.getvalue()


def example() -> StackedTable:
    table = StackedTable("阶段", "forward", "backward", "note", "free", left=("note",), title="a title")
    table.add_row("0", "21536.19", "39213.34", "人民日报 and a long remark that may wrap", "-2857.43")
    table.add_row("15", "1.00", "2.00", "short", "0.01")
    return table


@pytest.mark.parametrize("width", [20, 24, 40, 60, 80, 120, 200])
def test_no_digit_is_cut_at_any_width(width: int) -> None:
    text = drawn(example(), width)
    for number in ("21536.19", "39213.34", "-2857.43", "1.00", "2.00", "0.01"):
        assert re.search(rf"(?<![\d.-]){re.escape(number)}(?![\d.])", text), (width, number)
    assert all(len(line) <= width for line in text.splitlines())


def test_a_wide_terminal_gets_one_block_and_a_narrow_one_several_each_with_the_first_column() -> None:
    assert drawn(example(), 120).count("阶段") == 1
    narrow = drawn(example(), 24)
    assert narrow.count("阶段") > 1 and narrow.count("a title") == 1
