"""The table of `goodput`: strategies side by side."""

from collections.abc import Callable
from typing import Any

from parallel_strategy.report.console import console, table

Row = dict[str, Any]


def _time(seconds: float) -> str:
    """Return a duration in the unit that suits it."""
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


LINES: list[tuple[str, Callable[[Row], str]]] = [
    ("devices", lambda row: f"{row['devices']:,}"),
    ("step", lambda row: f"{row['step_seconds']:.4g} s" + ("" if row["fits"] else " (does not fit)")),
    ("between failures", lambda row: _time(row["job_mtbf_hours"] * 3600)),
    ("checkpoint", lambda row: f"{row['checkpoint_gb']:,.4g} GB, stops {_time(row['checkpoint_stall_seconds'])}"),
    ("save every", lambda row: f"{row['interval_steps']:,} steps, {_time(row['interval_seconds'])}"),
    ("Young / Daly", lambda row: f"{_time(row['young_seconds'])} / {_time(row['daly_seconds'])}"),
    ("useful time", lambda row: f"{row['useful_share']:.1%}"),
    ("failures", lambda row: f"{row['failures']:,.3g}"),
    ("days without any", lambda row: f"{row['days_without_failures']:,.4g}"),
    ("days", lambda row: f"{row['days']:,.4g}"),
    ("device hours", lambda row: f"{row['device_hours']:,.0f}"),
]
IF_GIVEN: list[tuple[str, str, Callable[[Row], str]]] = [
    ("cost", "cost", lambda row: f"{row['cost']:,.0f}"),
    ("energy_mwh", "energy", lambda row: f"{row['energy_mwh']:,.4g} MWh"),
]


def print_goodput(rows: list[Row]) -> None:
    """Print a column for each strategy, and what was taken for granted."""
    shown = table("", *(row["file"] for row in rows))
    for name, text in LINES:
        shown.add_row(name, *map(text, rows))
    for key, name, text in IF_GIVEN:
        if rows[0][key] is not None:
            shown.add_row(name, *map(text, rows))
    taken = rows[0]["assumed"]
    terminal = console()
    terminal.print(shown)
    terminal.print(
        f"{taken['tokens']:.4g} tokens; a device fails every {taken['mtbf_hours']:,.0f} h; storage "
        f"{taken['storage_gbps']:g} GB/s{', beside the training' if taken['asynchronous'] else ''}; restart "
        f"{taken['restart_seconds']:g} s",
        highlight=False,
    )
