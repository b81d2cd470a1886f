"""Scores of a validation as a table, predictions as a CSV file, and a scatter plot."""

import csv
import io
from pathlib import Path

from pangu.foundation.picture_font import caption, chinese_font
from parallel_strategy.calibrate.score import Outcome, Score
from parallel_strategy.report.output import write_whole


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value * 100:.2f}"


def print_scores(title: str, scores: list[Score], folds: list[tuple[str, Score]], residuals: list[Outcome]) -> None:
    from parallel_strategy.report.console import console as terminal
    from parallel_strategy.report.console import table

    console = terminal()
    console.print(f"{title}. Errors of step time and of memory in percent", highlight=False)
    columns = ("rows", "MAPE", "median", "worst", "bias", "order", "regret", "worst", "GiB", "worst", "OOM")
    rows = table("table", *columns, gap=1)
    for s in scores:
        rows.add_row(
            s.table,
            str(s.rows),
            *(_percent(x) for x in (s.mape, s.median, s.worst, s.bias)),
            "-" if s.spearman is None else f"{s.spearman:.3f}",
            *(("-", "-") if s.regret is None else (_percent(s.regret[0]), _percent(s.regret[1]))),
            _percent(s.memory_mape),
            _percent(s.memory_worst),
            "-" if s.oom is None else f"{s.oom[0]}/{s.oom[1]}",
        )
    console.print(rows)
    console.print(
        "order: Spearman; regret: of the predicted best, median and worst; GiB: of memory; OOM: calls that were right",
        style="dim",
        highlight=False,
    )
    if folds:
        parts = table("left out", "rows", "MAPE", "worst", title="folds")
        for size, s in folds:
            parts.add_row(size, str(s.rows), _percent(s.mape), _percent(s.worst))
        console.print(parts)
    for one in residuals:
        layout = one.row.setup.strategy
        mesh = layout.mesh
        memory = "" if one.row.gib is None else f", memory {one.row.gib} / {one.gib:.1f} GiB"
        console.print(
            f"{one.row.id} {one.row.model}: tp {mesh.tp} pp {mesh.pp} dp {mesh.dp} cp {mesh.cp} micro "
            f"{layout.batch.micro}, "
            f"measured {one.row.seconds} s, predicted {one.seconds:.4g} s ({_percent(one.error)} %)"
            f"{memory}" + (", impossible, not scored" if one.row.impossible else ""),
            highlight=False,
        )


def write_predictions(path: str, outcomes: list[Outcome], memory_only: dict[str, float] | None = None) -> None:
    """Write `id, predicted_s, predicted_gib, oom`, and the interval that holds 4 of 5 measured times. `memory_only`:
    GiB of rows that have no time."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "predicted_s", "predicted_gib", "oom", "low_s", "high_s"])
    for one in outcomes:
        writer.writerow(
            [
                one.row.id,
                f"{one.seconds:.6g}",
                f"{one.gib:.4g}",
                int(one.oom),
                f"{one.seconds / one.interval:.6g}",
                f"{one.seconds * one.interval:.6g}",
            ]
        )
    for name, gib in (memory_only or {}).items():
        writer.writerow([name, "", f"{gib:.4g}", "", "", ""])
    write_whole(Path(path), text.getvalue())


@chinese_font()
def write_scatter(path: str, outcomes: list[Outcome], title: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 7))
    tables: dict[str, list[Outcome]] = {}
    for one in outcomes:
        if one.error is not None and one.row.scored and not one.row.impossible:
            tables.setdefault(one.row.table, []).append(one)
    limits = [float("inf"), 0.0]
    for table, members in sorted(tables.items()):
        measured, predicted = [one.row.seconds or 0.0 for one in members], [one.seconds for one in members]
        mean = sum(abs(one.error or 0.0) for one in members) / len(members)
        axes.loglog(
            measured,
            predicted,
            "o",
            markersize=4,
            alpha=0.6,
            label=caption(f"{table}: {len(members)} rows, {mean:.1%}"),
        )
        limits = [min(limits[0], *measured, *predicted), max(limits[1], *measured, *predicted)]
    if tables:
        ends = [limits[0] * 0.8, limits[1] * 1.25]
        axes.plot(ends, ends, color="black", linewidth=1)
        axes.fill_between(
            ends,
            [x / 1.1 for x in ends],
            [x * 1.1 for x in ends],
            color="grey",
            alpha=0.15,
            label=caption("within 10 %"),
        )
        axes.legend(fontsize=8, loc="upper left")
    axes.set_xlabel(caption("measured step time, s"))
    axes.set_ylabel(caption("predicted step time, s"))
    axes.set_title(caption(title), fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, bbox_inches="tight")
    pyplot.close(figure)
    write_whole(Path(path), buffer.getvalue())
