"""The charts of the report as SVG: no script, sizes in the units of their view boxes, colours by the page's style."""

import math
from collections.abc import Sequence

import numpy as np

from data_pipeline.report.collect import Histogram
from data_pipeline.report.escape import text

_WIDTH, _HEIGHT = 340, 128
_LEFT, _RIGHT, _TOP, _BOTTOM = 8, 8, 20, 20


def histogram(found: Histogram) -> str:
    """Return kept documents and, on top of them, dropped ones; a dashed line at each threshold."""
    most = max(int((found.kept + found.dropped).max()), 1)
    inner = _WIDTH - _LEFT - _RIGHT
    height = _HEIGHT - _TOP - _BOTTOM
    bins = found.edges.size - 1
    step = inner / bins
    scale = math.sqrt if has_root_scale(found) else float
    bars = []
    for place in range(bins):
        kept, dropped = int(found.kept[place]), int(found.dropped[place])
        if not kept + dropped:
            continue
        low, high = found.edges[place], found.edges[place + 1]
        title = f"{number(low)} to {number(high)}: {kept:,} kept, {dropped:,} dropped"
        whole = height * scale((kept + dropped) / most)
        tall_kept, tall_dropped = (_tall(count, kept + dropped, whole) for count in (kept, dropped))
        x, base = _LEFT + place * step, _HEIGHT - _BOTTOM
        parts = ""
        if kept:
            parts += _bar("kept", x, base - tall_kept, step, tall_kept)
        if dropped:
            parts += _bar("dropped", x, base - tall_kept - tall_dropped, step, tall_dropped)
        bars.append(f"<g><title>{text(title)}</title>{parts}</g>")
    lines = "".join(
        _threshold(found, bound)
        for rule in found.thresholds
        for bound in (rule.minimum, rule.maximum)
        if bound is not None
    )
    label = f"{found.signal} at {found.stage}{', logarithmic' if found.is_logarithmic else ''}"
    middle = found.edges[bins // 2]
    return (
        f'<svg class="chart histogram" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{text(label)}">'
        f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{_HEIGHT - _BOTTOM}" y2="{_HEIGHT - _BOTTOM}"/>'
        f"{''.join(bars)}{lines}"
        f'<text x="{_LEFT}" y="{_HEIGHT - 6}">{text(number(found.edges[0]))}</text>'
        f'<text x="{_WIDTH / 2:g}" y="{_HEIGHT - 6}" text-anchor="middle">{text(number(middle))}</text>'
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 6}" text-anchor="end">{text(number(found.edges[-1]))}</text>'
        "</svg>"
    )


def has_root_scale(found: Histogram) -> bool:
    """Return whether one bin towers above all others, so that only the roots of the counts can be seen side by side."""
    counts = found.kept + found.dropped
    return bool(counts.max() > 0.5 * counts.sum())


def _tall(count: int, most: int, height: float) -> float:
    # one document among a million must still be seen
    return max(1.5, height * count / most) if count else 0.0


def _bar(kind: str, x: float, y: float, width: float, height: float) -> str:
    place = f'x="{x + 0.4:.2f}" y="{y:.2f}" width="{max(width - 0.8, 0.8):.2f}" height="{height:.2f}"'
    return f'<rect class="{kind}" {place}/>'


def _threshold(found: Histogram, bound: float) -> str:
    low, high = found.edges[0], found.edges[-1]
    if found.is_logarithmic:
        share = (math.log1p(max(bound, 0)) - math.log1p(low)) / (math.log1p(high) - math.log1p(low))
    else:
        share = (bound - low) / (high - low)
    x = _LEFT + min(max(share, 0.0), 1.0) * (_WIDTH - _LEFT - _RIGHT)
    anchor = "end" if share > 0.7 else "start"
    return (
        f'<line class="threshold" x1="{x:.2f}" x2="{x:.2f}" y1="{_TOP - 6}" y2="{_HEIGHT - _BOTTOM}"/>'
        f'<text class="threshold" x="{x + (-4 if anchor == "end" else 4):.2f}" y="{_TOP - 8}" text-anchor="{anchor}">'
        f"{text(number(bound))}</text>"
    )


def funnel(rows: Sequence[tuple[str, int, int, Sequence[tuple[str, int]]]]) -> str:
    """Return (stage, documents in, documents out, dropped by reason): a bar for each stage as wide as what went in;
    what was dropped at its end, a piece for each reason.
    """
    if not rows:
        return ""
    most = max((max(before, after) for _, before, after, _ in rows), default=1) or 1
    width, line, left, right = 960.0, 40.0, 150.0, 210.0
    inner = width - left - right
    parts = []
    for place, (stage, before, after, reasons) in enumerate(rows):
        y = place * line + 6
        tall = line - 14
        kept_width = inner * min(after, before or after) / most
        parts.append(
            f'<text class="stage" x="{left - 12:g}" y="{y + tall / 2 + 4:g}" text-anchor="end">{text(stage)}</text>'
        )
        parts.append(
            f'<g><title>{text(f"{after:,} kept")}</title><rect class="kept" x="{left:g}" y="{y:g}" rx="3" '
            f'width="{max(kept_width, 1):.2f}" height="{tall:g}"/></g>'
        )
        x = left + max(kept_width, 1) + 1
        for number_of, (reason, count) in enumerate(reasons):
            piece = inner * count / most
            if piece < 0.2:
                continue
            parts.append(
                f'<g><title>{text(f"{reason}: {count:,}")}</title><rect class="dropped d{number_of % 4}" x="{x:.2f}" '
                f'y="{y:g}" width="{max(piece - 0.8, 0.6):.2f}" height="{tall:g}"/></g>'
            )
            x += piece
        share = (f"{100 * after / before:.1f} %" if after <= before else f"× {after / before:.2f}") if before else ""
        end = left + inner + 14
        parts.append(f'<text class="value" x="{end:g}" y="{y + tall / 2 + 4:g}">{after:,}</text>')
        parts.append(
            f'<text class="share" x="{width:g}" y="{y + tall / 2 + 4:g}" text-anchor="end">{text(share)}</text>'
        )
    height = len(rows) * line + 4
    return (
        f'<svg class="chart funnel" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="documents by stage">'
        f"{''.join(parts)}</svg>"
    )


def bar(share: float, kind: str = "kept") -> str:
    """Return a small bar for a cell of a table."""
    return (
        f'<svg class="chart cell" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="track" width="100" height="8" rx="2"/>'
        f'<rect class="{kind}" width="{100 * min(max(share, 0.0), 1.0):.2f}" height="8" rx="2"/></svg>'
    )


def number(value: float) -> str:
    """Return a figure for an axis: three digits that count."""
    value = float(value)
    if not np.isfinite(value):
        return str(value)
    if abs(value) >= 10_000:
        for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
            if abs(value) >= size:
                return f"{value / size:.3g}{unit}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
