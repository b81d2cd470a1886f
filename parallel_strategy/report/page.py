"""report.html: one self-contained page with timeline, memory, roofline, collectives and, after a search, the Pareto
front."""

import html
from typing import Any

from parallel_strategy.predict import Prediction
from parallel_strategy.report.details import memory_over_time, operators, traffic
from parallel_strategy.report.streams import Bar, bars
from parallel_strategy.report.tables import summary
from parallel_strategy.search.parts import parts_of

KINDS = {"F": "forward", "B": "backward", "W": "weight gradients", "idle": "idle", "tail": "end of the step"}
COLOURS = {"F": "#4c9f70", "B": "#3b6fb6", "W": "#8fb8de", "idle": "#f2a391", "tail": "#c9a227"}
LANES = ("#7d5ba6", "#d1495b", "#2e86ab", "#5f7a61", "#a0785a")
STYLE = (
    "body{font-family:system-ui,sans-serif;max-width:1200px;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;font-size:13px}td,th{padding:3px 10px;border-bottom:1px solid "
    "#ddd;text-align:right}"
    "td:first-child,th:first-child{text-align:left}h2{margin-top:2em}"
)
LIMIT = 6000  # bars that a browser still draws smoothly


def page(prediction: Prediction, front: list[tuple[float, float, Any]] | None = None) -> str:
    """The whole page as text."""
    from plotly import graph_objects as go
    from plotly.offline import get_plotlyjs

    data = summary(prediction)
    figures = [
        ("Timeline", timeline(prediction, go)),
        ("Memory of the stages", memory_bars(data, go)),
        ("Memory over the step", memory_lines(prediction, go)),
        ("Roofline", roofline(prediction, go)),
    ]
    if front:
        figures.append(("Time and memory of the searched strategies", pareto(prediction, front, go)))
    body = [
        f"<h1>{html.escape(data['model'])} on {data['devices']} devices of {html.escape(data['cluster'])}</h1>",
        _summary(data),
    ]
    body += [
        "<h2>Where the step goes</h2>",
        _table(
            ["part", "seconds", "share"],
            [[n, f"{s:.4g}", f"{s / data['step_seconds']:.1%}"] for n, s in parts_of(prediction).items()],
        ),
    ]
    for title, figure in figures:
        figure.update_layout(template="plotly_white", margin={"l": 60, "r": 20, "t": 20, "b": 50})
        body += [f"<h2>{title}</h2>", figure.to_html(full_html=False, include_plotlyjs=False)]
    body += [
        "<h2>Collectives of the busiest rank, by level of topology</h2>",
        _traffic_table(prediction),
        "<h2>Operators</h2>",
        _operator_table(prediction),
    ]
    head = f"<meta charset='utf-8'><title>{html.escape(data['model'])}</title><style>{STYLE}</style>"
    script = f"<script>{get_plotlyjs()}</script>"
    return f"<!doctype html><html lang='en'><head>{head}{script}</head><body>{''.join(body)}</body></html>"


def timeline(prediction: Prediction, go):
    """A band per stage: what it computes, with idle time in red, and below it a thin lane for each link it uses."""
    found = list(bars(prediction))
    end = prediction.seconds
    lanes = [level.level for level in prediction.question.cluster.topology]
    lanes = [name for name in (*lanes, "copy") if any(bar.stream == name for bar in found)]
    height = 0.3 / max(1, len(lanes))
    figure = go.Figure()
    for kind, title in KINDS.items():
        members = [bar for bar in found if bar.kind == kind and bar.stream == "compute"][:LIMIT]
        if members:
            _bars(figure, members, title, COLOURS[kind], 0.0 if lanes else 0.1, 0.56 if lanes else 0.8)
    for number, lane in enumerate(lanes):
        members = [bar for bar in found if bar.stream == lane][:LIMIT]
        place = 0.56 + height * number
        _bars(figure, members, f"link: {lane}" if lane != "copy" else lane, LANES[number % len(LANES)], place, height)
    figure.update_layout(
        barmode="overlay",
        height=max(300, 34 * prediction.program.pp + 140),
        xaxis_title="seconds",
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    )
    figure.update_xaxes(range=[0, end * 1.005])
    stages = list(range(prediction.program.pp))
    figure.update_yaxes(
        autorange="reversed",
        tickvals=[s + 0.43 for s in stages],
        ticktext=[f"stage {s}" for s in stages],
        zeroline=False,
    )
    return figure


def _bars(figure, members: list[Bar], title: str, colour: str, place: float, height: float) -> None:
    figure.add_bar(
        base=[bar.start for bar in members],
        x=[bar.seconds for bar in members],
        y=[bar.stage + place + height / 2 for bar in members],
        orientation="h",
        name=title,
        marker={"color": colour, "line_width": 0},
        hovertext=[f"{bar.name} {bar.detail}, {bar.seconds * 1e3:.3f} ms" for bar in members],
        hoverinfo="text",
        width=0.94 * height,
    )


def memory_bars(data: dict[str, Any], go):
    figure = go.Figure()
    stages = [row["stage"] for row in data["stages"]]
    for key in ("weights", "gradients", "optimizer", "activations", "other"):
        figure.add_bar(x=stages, y=[row[f"{key}_gib"] for row in data["stages"]], name=key)
    figure.add_hline(y=data["usable_gib"], line_dash="dash", annotation_text="usable")
    figure.update_layout(barmode="stack", height=340, xaxis_title="stage", yaxis_title="GiB")
    return figure


def memory_lines(prediction: Prediction, go):
    pp = prediction.program.pp
    figure = go.Figure()
    for stage in sorted({0, pp // 2, pp - 1}):
        times, levels = memory_over_time(prediction, stage)
        figure.add_scatter(x=times[:LIMIT], y=levels[:LIMIT], mode="lines", name=f"stage {stage}", line_width=1)
    figure.add_hline(y=prediction.memory.usable_gib(), line_dash="dash", annotation_text="usable")
    figure.update_layout(height=340, xaxis_title="seconds", yaxis_title="GiB")
    return figure


def roofline(prediction: Prediction, go):
    device = prediction.question.cluster.device
    peak = device.peak(prediction.question.model.compute_dtype) / 1e12
    bandwidth = device.hbm.gbps / 1e3
    figure = go.Figure()
    knee = peak / bandwidth
    figure.add_scatter(
        x=[0.1, knee, 1e4], y=[0.1 * bandwidth, peak, peak], mode="lines", name="roof", line_color="#888"
    )
    found = [o for o in operators(prediction) if o.tflops > 0]
    for bound in ("compute", "memory", "launch"):
        members = [o for o in found if o.bound == bound]
        if members:
            figure.add_scatter(
                x=[o.intensity for o in members],
                y=[o.tflops for o in members],
                mode="markers",
                name=f"bound by {bound}",
                text=[f"{o.block} {o.name}: {o.milliseconds:.3f} ms" for o in members],
                marker_size=[6 + 24 * (o.step_seconds / found[0].step_seconds) ** 0.5 for o in members],
            )
    figure.update_layout(
        height=420, xaxis_title="FLOP per byte", yaxis_title="TFLOP/s achieved", xaxis_type="log", yaxis_type="log"
    )
    return figure


def pareto(prediction: Prediction, front: list[tuple[float, float, Any]], go):
    figure = go.Figure()
    labels = [
        f"tp {s.mesh.tp} pp {s.mesh.pp} dp {s.mesh.dp} {s.pipeline.schedule} {s.recompute.mode}, ZeRO {s.zero.stage}"
        for _, _, s in front
    ]
    figure.add_scatter(
        x=[t for t, _, _ in front],
        y=[g for _, g, _ in front],
        mode="lines+markers",
        text=labels,
        name="Pareto front",
        line_shape="hv",
    )
    figure.add_scatter(x=[prediction.seconds], y=[prediction.gib], mode="markers", marker_size=12, name="this strategy")
    figure.add_hline(y=prediction.memory.usable_gib(), line_dash="dash", annotation_text="usable")
    figure.update_layout(height=380, xaxis_title="step, seconds", yaxis_title="GiB", xaxis_type="log")
    return figure


def _summary(data: dict[str, Any]) -> str:
    mesh = ", ".join(f"{axis} {size}" for axis, size in data["mesh"].items() if size > 1) or "one device"
    verdict = "does not fit" if data["out_of_memory"] else "fits"
    return (
        f"<p>{data['parameters'] / 1e9:.2f} billion parameters; {mesh}; schedule {data['schedule']}, "
        f"{data['micro_batches']} micro-batches; framework {html.escape(data['framework'])}.</p>"
        f"<p><b>{data['step_seconds']:.4g} s a step</b>, {data['tokens_per_second']:,.0f} tokens/s, "
        f"{data['model_flops_utilisation']:.1%} of peak in model FLOPs, "
        f"pipeline idle {data['bubble']:.1%}; <b>{data['memory_gib']:.1f} GiB</b> of {data['usable_gib']:.1f} "
        f"usable: {verdict}.</p>"
    )


def _table(header: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _traffic_table(prediction: Prediction) -> str:
    levels = ["device", *(level.level for level in prediction.question.cluster.topology)]
    found = sorted(traffic(prediction), key=lambda t: (levels.index(t.level), -t.seconds))
    rows = [
        [
            t.level,
            t.axis,
            t.op,
            str(t.group),
            str(t.count),
            f"{t.gib:.3f}",
            f"{t.seconds:.4g}",
            f"{t.seconds / prediction.seconds:.1%}",
            t.algorithm,
        ]
        for t in found
    ]
    return _table(["level", "axis", "operation", "ranks", "times", "GiB", "seconds", "of the step", "algorithm"], rows)


def _operator_table(prediction: Prediction) -> str:
    rows = [
        [
            f"{o.block}: {o.name}",
            f"{o.milliseconds:.3f}",
            f"{o.step_seconds:.4g}",
            f"{o.tflops:.1f}",
            f"{o.gbps:.0f}",
            o.bound,
        ]
        for o in operators(prediction)[:40]
    ]
    return _table(["operator", "ms", "seconds a step", "TFLOP/s", "GB/s", "bound by"], rows)
