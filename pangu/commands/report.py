"""A run's page: one HTML file that needs nothing else, with configuration, data, losses, samples and cost.

    python -m pangu report runs/first
    python -m pangu report runs/first --out page.html

It reads what the run has written so far, so it may be made while the run goes on.
"""

import argparse
import html
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from pangu.foundation.errors import UserError

WIDTH, HEIGHT, LEFT, BOTTOM = 760, 260, 64, 28
COLOURS = ("#5b8fd6", "#d94801", "#238b45")
STYLE = """
pre { background: var(--paper); border: 1px solid var(--line); padding: 10px; overflow-x: auto; font-size: 13px }
svg { background: var(--paper); border: 1px solid var(--line); min-width: 600px }
svg text { fill: var(--soft); font-size: 11px; paint-order: stroke; stroke: var(--paper); stroke-width: 4px }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px } dd { margin: 0 }
td.text { text-align: left; white-space: pre-wrap }
"""

Points = Sequence[tuple[float, float]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="directory of a run")
    parser.add_argument("--out", type=Path, help="file to write (default: RUN/report.html)")
    parser.add_argument("--json", action="store_true", help="say where it is as JSON")


def run(arguments: argparse.Namespace) -> int:
    from pangu.foundation.atomic_file import write_whole
    from pangu.foundation.best_effort import print_translated
    from pangu.foundation.page import page

    folder = arguments.run
    if not (folder / "metrics.jsonl").is_file():
        raise UserError(f"{folder}: is no run: it has no metrics.jsonl")
    out = arguments.out or folder / "report.html"
    name = folder.absolute().name
    write_whole(out, page(f"{name}: training", f"<main>{body(folder, name)}</main>", style=STYLE).encode())
    print_translated(json.dumps({"out": str(out)}) if arguments.json else f"wrote {out}")
    return 0


def body(folder: Path, name: str) -> str:
    """Return everything that stands on the page."""
    from pangu.training.step_metrics import SPEED, read_metrics, records_with_ends

    records = read_metrics(folder)
    parts = [f"<h1>{html.escape(name)}</h1>", facts(folder, records), "<h2>Loss</h2>", losses(records)]
    for title, key, scale in (("Learning rate", "learning_rate", None), ("Gradient norm", "global_norm", math.log10)):
        found = points(records, key)
        if found:
            parts += [f"<h2>{title}</h2>", chart([(key, found)], scale)]
    parts.append(experts(records))
    speeds = points([record for record, _ in records_with_ends(folder / SPEED)], "tokens_per_second")
    if speeds:
        parts += ["<h2>Speed</h2>", chart([("tokens/s", speeds)])]
    parts += [samples(folder), scores(folder)]
    for file, title in (("train.yaml", "Configuration"), ("model.yaml", "Network")):
        if (folder / file).is_file():
            text = (folder / file).read_text(encoding="utf-8", errors="replace")
            parts.append(f"<h2>{title}</h2><pre>{html.escape(text)}</pre>")
    return "".join(parts)


def points(records: Sequence[dict], key: str) -> Points:
    """Return (step, value) where there is one that can be drawn."""
    from pangu.training.step_metrics import is_number

    return [(record["step"], float(record[key])) for record in records if is_number(record.get(key))]


def facts(folder: Path, records: Sequence[dict]) -> str:
    """Return how far the run is, what it has read, and what that cost."""
    from pangu.checkpoint.open import best_checkpoint, newest_checkpoint, step_directories

    rows: list[tuple[str, str]] = [("steps", f"{max((r['step'] for r in records), default=0):,}")]
    heldout, training = points(records, "heldout_loss"), points(records, "loss")
    if training:
        rows.append(("training loss", f"{training[-1][1]:.4f} nats a token"))
    if heldout:
        step, best = min(heldout, key=lambda point: point[1])
        rows.append(("validation loss", f"{heldout[-1][1]:.4f}; best {best:.4f} at step {step:,}"))
    skipped = sum(record.get("updated") is False for record in records)
    if skipped:
        rows.append(("updates skipped", f"{skipped:,}"))
    try:
        saved = newest_checkpoint(folder)
    except UserError as error:
        rows.append(("checkpoints", str(error)))
        saved = None
    if saved:
        flops = saved.model.training_flops_per_token * saved.state.tokens
        rows += [
            ("parameters", f"{saved.model.num_parameters:,}"),
            (
                "tokens read",
                f"{saved.state.tokens:,}; {saved.state.tokens / saved.model.num_parameters:.3g} a parameter",
            ),
            (
                "cost",
                f"{flops:.3g} FLOPs, {flops / 8.64e19:.3g} petaflop/s-days (matrix products, 6·N·tokens and scores)",
            ),
            ("checkpoints", ", ".join(path.name for path in step_directories(folder))),
        ]
        if found := best_checkpoint(folder):
            rows.append(("best checkpoint", found.name))
    told = "".join(f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>" for key, value in rows)
    return f"<dl>{told}</dl>"


def losses(records: Sequence[dict]) -> str:
    from pangu.training.step_metrics import smoothed

    training, heldout = points(records, "loss"), points(records, "heldout_loss")
    lines = [("training, smoothed", smoothed(training))] if training else []
    return chart([*lines, *([("validation", heldout)] if heldout else [])])


def experts(records: Sequence[dict]) -> str:
    """Return how a network's experts are used; nothing where it has none."""
    found = [(record["step"], record["expert_loads"]) for record in records if record.get("expert_loads")]
    if not found:
        return ""
    parts = []
    for title, key in (("Experts: dropped share of choices", "dropped_share"), ("Router entropy", "router_entropy")):
        if told := points(records, key):
            parts += [f"<h2>{title}</h2>", chart([(key, told)])]
    for layer in range(len(found[-1][1])):
        count = len(found[-1][1][layer])
        lines = [(f"expert {i}", [(step, loads[layer][i]) for step, loads in found]) for i in range(min(count, 16))]
        more = f", the first 16 of {count}" if count > 16 else ""
        parts += [f"<h2>Loads of layer {layer + 1} with experts{more}</h2>", chart(lines)]
    return "".join(parts)


def chart(lines: Sequence[tuple[str, Points]], scale: Callable[[float], float] | None = None) -> str:
    """Return lines over steps as an SVG. scale: of the values, where they are drawn."""
    drawn = [
        (name, [(x, scale(y) if scale else y) for x, y in found if not scale or y > 0])
        for name, found in lines
        if found
    ]
    every = [point for _, found in drawn for point in found]
    if not every:
        return "<p>nothing to draw yet</p>"
    xs, ys = [x for x, _ in every], [y for _, y in every]
    left, right, low, high = min(xs), max(xs), min(ys), max(ys)
    right, high = (right if right > left else left + 1), (high if high > low else low + 1)

    def place(x: float, y: float) -> str:
        across = LEFT + (x - left) / (right - left) * (WIDTH - LEFT - 10)
        down = 10 + (high - y) / (high - low) * (HEIGHT - BOTTOM - 10)
        return f"{across:.1f},{down:.1f}"

    parts = []
    for number in range(5):
        value = low + (high - low) * number / 4
        y = float(place(left, value).split(",")[1])
        text = number_of(10**value if scale else value)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{y}" y2="{y}" stroke="var(--line)"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{text}</text>')
    for x in (left, (left + right) / 2, right):
        across = place(x, low).split(",")[0]
        parts.append(f'<text x="{across}" y="{HEIGHT - 8}" text-anchor="middle">{x:,.0f}</text>')
    for number, (name, found) in enumerate(drawn):
        colour, thinned = COLOURS[number % len(COLOURS)], found[:: max(1, len(found) // 2000)]
        line = " ".join(place(x, y) for x, y in thinned)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        parts.append(
            f'<text x="{WIDTH - 16}" y="{24 + 14 * number}" text-anchor="end" style="fill:{colour}">{name}</text>'
        )
    return f'<div class="scroll"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg></div>'


def number_of(value: float) -> str:
    """Return a figure of an axis with its digits, such as `4,580`; powers of ten only for very small and large ones."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 10**6 else f"{value:.3g}"


def samples(folder: Path) -> str:
    """Return what the model wrote at each evaluation, the newest first."""
    from pangu.training.step_metrics import records_with_ends

    found = [record for record, _ in records_with_ends(folder / "samples.jsonl")]
    if not found:
        return ""
    rows = "".join(
        f'<tr><td>{record["step"]:,}</td><td class="text"><b>{html.escape(str(record.get("prompt", "")))}</b>'
        f"{html.escape(str(record.get('text', '')))}</td></tr>"
        for record in reversed(found[-200:])
    )
    return f'<h2>Samples</h2><div class="scroll"><table><tr><th>step</th><th>text</th></tr>{rows}</table></div>'


def scores(folder: Path) -> str:
    """Return the results of evaluations that lie in the run's directory."""
    parts = []
    for path in sorted(folder.glob("evaluation*.json")):
        try:
            text = json.dumps(json.loads(path.read_text(encoding="utf-8")), indent=1, ensure_ascii=False)
        except (OSError, ValueError):
            continue
        parts.append(f"<h3>{html.escape(path.stem)}</h3><pre>{html.escape(text[:20_000])}</pre>")
    return "<h2>Evaluation</h2>" + "".join(parts) if parts else ""
