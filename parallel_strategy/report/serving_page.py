"""A page about answering: what a machine writes a second, for every size, and what limits it.

The pictures are drawn here, as SVG in the page's own colours: they need no library and no script.
"""

import html
import math
from collections.abc import Sequence
from typing import Any

from pangu.foundation import page as html_page
from parallel_strategy.cost.serving import Serving
from parallel_strategy.report.serving_table import rounded
from parallel_strategy.spec.cluster import ClusterSpec
from parallel_strategy.spec.model import ModelSpec

Row = dict[str, Any]
COLOURS = ("#3b6fb6", "#e08a3c", "#4c9f70", "#b23a48", "#7d5ba6", "#5f7a61", "#a0785a")
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 480, 300, 80, 40, 12, 12
MOST_ROWS = 512
STYLE = """
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 16px }
figure { margin: 0; background: var(--paper); border: 1px solid var(--line); border-radius: 8px; padding: 12px }
figcaption { font-weight: 600 } figure p { margin: 4px 0; color: var(--soft); font-size: 13px }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif } svg .grid { stroke: var(--line) }
@media (max-width: 480px) { svg text { font-size: 15px } }
.key { display: inline-block; width: 18px; height: 3px; margin: 0 6px 3px 0; vertical-align: middle }
.keys span { margin-right: 14px; white-space: nowrap; font-size: 13px }
"""


def page(
    rows: Sequence[Row], models: Sequence[ModelSpec], clusters: Sequence[ClusterSpec], batches: Sequence[int]
) -> str:
    """Return the whole page as text. rows: as `serving_table.row_of` makes them, of each model on each machine."""
    first = rows[0]
    body = [
        "<h1>What limits answering</h1>",
        f"<p>Tokens a second of all rows together, by how many rows are written at once; a row has "
        f"{first['context']} tokens, half of them on average. Every step reads all weights once. So few rows wait for "
        "memory: the curve rises with the number of rows, until keys and values, products or the end of memory stop "
        "it. Dashed: the limit of memory alone, were weights all that is read.</p>",
        '<div class="charts">',
    ]
    for cluster in clusters:
        mine = [row for row in rows if row["machine"] == cluster.name]
        body.append(chart(cluster, mine, {model.name: model for model in models}))
    body.append("</div>")
    for cluster in clusters:
        mine = [row for row in rows if row["machine"] == cluster.name]
        body += [f"<h2>{html.escape(cluster.name)}</h2>", limits(cluster), rows_table(mine, batches)]
    body.append(
        "<p>Predicted from the cluster files' figures: each kernel takes the longer one of its bytes at the memory's "
        "rate and its products at theirs, with launches and all-reduces. Nothing here was measured.</p>"
    )
    return html_page.page("What limits answering", f"<main>{''.join(body)}</main>", style=STYLE)


def limits(cluster: ClusterSpec) -> str:
    """Return a sentence about a machine."""
    device, memory = cluster.device, cluster.device.hbm
    peak = max(device.peak_tflops.values())
    return (
        f"<p>{html.escape(device.name)}: {memory.gbps * memory.eff:,.4g} GB/s of {memory.gbps:,.4g} are reached, "
        f"{peak * device.gemm.eff_max:,.4g} TFLOP/s of {peak:,.4g}, {memory.usable_gb or memory.gb:g} GB of memory can "
        f"be used. {html.escape(cluster.sources)}</p>"
    )


def rows_table(rows: Sequence[Row], batches: Sequence[int]) -> str:
    """Return the table of a machine."""
    names = ["model", "weights", "tp", "weights GiB", "row GiB", f"prompt of {rows[0]['prompt']}"]
    head = "".join(
        f"<th>{name}</th>" for name in [*names, *(f"{size} rows" for size in batches), "most rows", "bound by"]
    )
    body = ""
    for row in rows:
        found = {one["batch"]: one for one in row["batches"]}
        cells = [row["model"], row["weights"], str(row["tp"] or "-"), f"{row['weights_gib']:.3g}"]
        cells += [f"{row['cache_gib_per_row']:.3g}", f"{row['prefill_seconds']:.3g} s" if row["fits"] else "-"]
        cells += [rounded(found[size]["tokens_per_second"]) if size in found else "-" for size in batches]
        cells += [f"{row['most_rows']:,}", row["batches"][0]["bound"]] if row["fits"] else ["does not fit", "-"]
        body += "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def chart(cluster: ClusterSpec, rows: Sequence[Row], models: dict[str, ModelSpec]) -> str:
    """Return the roofline of one machine: a curve for each network, for the first way to store its weights."""
    shown = list({row["model"]: row for row in reversed(rows)}.values())[::-1]
    curves, keys = [], []
    for number, row in enumerate(shown):
        colour = COLOURS[number % len(COLOURS)]
        tp = f", tp {row['tp']}" if (row["tp"] or 1) > 1 else ""
        told = f"{row['model']} {row['weights']}{tp}" + ("" if row["fits"] else ": does not fit")
        keys.append(f'<span><i class="key" style="background:{colour}"></i>{html.escape(told)}</span>')
        if row["fits"]:
            serving = Serving(models[row["model"]], cluster, row["weights"], row["tp"])
            curves.append((colour, points(serving, row), limit(serving, row)))
    picture = drawn(curves) if curves else "<p>None of the networks fits.</p>"
    return (
        f"<figure><figcaption>{html.escape(cluster.name)}</figcaption>{picture}"
        f'<p class="keys">{"".join(keys)}</p></figure>'
    )


def points(serving: Serving, row: Row) -> list[tuple[float, float]]:
    """Return (rows, tokens/s) up to the most rows that fit."""
    most = min(row["most_rows"], MOST_ROWS)
    sizes = sorted({min(most, round(2 ** (step / 2))) for step in range(2 * MOST_ROWS.bit_length())})
    return [(size, size / serving.step_seconds(size, row["context"] // 2)) for size in sizes]


def limit(serving: Serving, row: Row) -> list[tuple[float, float]]:
    """Return the same where nothing but weights were read."""
    most = min(row["most_rows"], MOST_ROWS)
    return [(size, size * serving.bytes_a_second / serving.weight_bytes) for size in (1, most)]


def drawn(curves: Sequence[tuple[str, list[tuple[float, float]], list[tuple[float, float]]]]) -> str:
    """Return curves with their dashed limits on logarithmic axes."""
    values = [value for _, curve, _ in curves for _, value in curve]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values) * 1.05))
    right = math.log2(max(size for _, curve, _ in curves for size, _ in curve) or 2) or 1.0

    def x(size: float) -> float:
        return LEFT + math.log2(size) / right * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        share = (math.log10(value) - low) / (high - low)
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="tokens a second by rows written at once">'
        f'<clipPath id="box"><rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" '
        f'height="{HEIGHT - TOP - BOTTOM}"/></clipPath>'
    ]
    for power in range(low, high + 1):
        place = y(10.0**power)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place:.1f}" y2="{place:.1f}"/>')
        shown = f"{10.0**power:,.{max(0, -power)}f}"
        parts.append(f'<text x="{LEFT - 6}" y="{place + 4:.1f}" text-anchor="end">{shown}</text>')
    for power in range(math.floor(right) + 1):
        parts.append(f'<text x="{x(2**power):.1f}" y="{HEIGHT - 22}" text-anchor="middle">{2**power}</text>')
    middle = (WIDTH + LEFT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">tokens/s by rows at once</text>')
    for colour, curve, bound in curves:
        for line, style in (
            (bound, 'stroke-dasharray="4 4" stroke-width="1" opacity="0.7"'),
            (curve, 'stroke-width="2"'),
        ):
            places = " ".join(f"{x(size):.1f},{y(value):.1f}" for size, value in line)
            parts.append(f'<polyline clip-path="url(#box)" points="{places}" fill="none" stroke="{colour}" {style}/>')
        end = curve[-1]
        parts.append(f'<circle cx="{x(end[0]):.1f}" cy="{y(end[1]):.1f}" r="3.5" fill="{colour}"/>')
    return "".join(parts) + "</svg>"
