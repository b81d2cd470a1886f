"""report.html: one self-contained page with timeline, memory, roofline, collectives and, after a search, the Pareto
front."""

import html
from typing import Any

from pangu.foundation import page as html_page
from pangu.foundation.translation import translated
from parallel_strategy.predict import Prediction
from parallel_strategy.report.details import memory_over_time, operators, traffic
from parallel_strategy.report.streams import Bar, bars
from parallel_strategy.report.terminal_tables import summary
from parallel_strategy.search.parts import parts_of

KINDS = {"F": "forward", "B": "backward", "W": "weight gradients", "idle": "idle", "tail": "end of the step"}
COLOURS = {"F": "#4c9f70", "B": "#3b6fb6", "W": "#8fb8de", "idle": "#f2a391", "tail": "#c9a227"}
LANES = ("#7d5ba6", "#d1495b", "#2e86ab", "#5f7a61", "#a0785a")
# Nothing is sent to a foreign server: the button that would is off.
CONFIG = {"displaylogo": False, "responsive": True, "showSendToCloud": False}
# The charts take the colours of the page, light or dark.
PAINT = """
const scheme = matchMedia("(prefers-color-scheme: dark)");
function paint() {
  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const axes = {};
  for (const axis of ["xaxis", "yaxis"])
    for (const part of ["gridcolor", "linecolor", "zerolinecolor"]) axes[`${axis}.${part}`] = colour("--line");
  for (const chart of document.querySelectorAll(".js-plotly-plot"))
    Plotly.relayout(chart, {"font.color": colour("--ink"), ...axes});
}
scheme.addEventListener("change", paint);
paint();
"""
# On a phone the buttons of a chart would lie on its legend.
NARROW = "@media (max-width: 600px) { .modebar { display: none } }"
MOST_BARS = 12_000  # that a browser still draws smoothly
MOST_STAGES = 16  # that fit on a screen
MOST_POINTS = 20_000  # of a line
BOUNDS = {"compute": "#3b6fb6", "memory": "#e08a3c", "launch": "#b23a48"}
BOUND_NAMES = {"compute": "bound by compute", "memory": "bound by memory", "launch": "bound by launch"}
PARTS = {
    "weights": "#3b6fb6",
    "gradients": "#8fb8de",
    "optimizer": "#4c9f70",
    "activations": "#e08a3c",
    "other": "#8a8a8a",
}


def page(prediction: Prediction, front: list[tuple[float, float, Any]] | None = None) -> str:
    """Return the whole page as text."""
    from plotly import graph_objects as go
    from plotly.offline import get_plotlyjs

    data = summary(prediction)
    stages = shown_stages(prediction)
    title = "Timeline"
    if len(stages) < prediction.program.pp:
        title += f" of {len(stages)} of {prediction.program.pp} stages"
    figures = [
        (title, timeline(prediction, stages, go)),
        ("Memory of the stages", memory_bars(data, go)),
        ("Memory over the step", memory_lines(prediction, go)),
        ("Roofline of the operators", roofline(prediction, go)),
        ("Where the kernels' time goes", operator_bars(prediction, go)),
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
        figure.update_layout(
            template="plotly_white",
            margin={"l": 60, "r": 20, "t": 48, "b": 50},
            paper_bgcolor="rgba(0,0,0,0)",
            plot_bgcolor="rgba(0,0,0,0)",
        )
        say_in_language(figure)
        body += [f"<h2>{title}</h2>", figure.to_html(full_html=False, include_plotlyjs=False, config=CONFIG)]
    body += [
        "<h2>Collectives of the busiest rank, by level of topology</h2>",
        _traffic_table(prediction),
        "<h2>Operators</h2>",
        _operator_table(prediction),
    ]
    return html_page.page(
        f"{data['model']} on {data['devices']} devices",
        f"<main>{''.join(body)}</main>",
        head=f"<script>{get_plotlyjs()}</script>",
        style=NARROW,
        script=PAINT,
    )


def say_in_language(figure) -> None:
    """Put legends, axes, marks and notes of a chart into the language of the process. Names of kernels stay."""
    for trace in figure.data:
        if trace.name:
            trace.name = translated(trace.name)
        if trace.type == "bar" and trace.text is not None:
            trace.text = [translated(text) for text in trace.text]
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        if axis.title.text:
            axis.title.text = translated(axis.title.text)
        if axis.ticktext is not None:
            axis.ticktext = [translated(text) for text in axis.ticktext]
    for note in figure.layout.annotations:
        note.text = translated(note.text)


def shown_stages(prediction: Prediction) -> list[int]:
    """Return all stages, or of very many the first, the last and as many between as can be looked at."""
    pp, tasks = prediction.program.pp, sum(map(len, prediction.order))
    room = max(2, min(MOST_STAGES, MOST_BARS * pp // (4 * tasks))) if pp > MOST_STAGES else pp
    return sorted({round(index * (pp - 1) / max(1, room - 1)) for index in range(room)})


def timeline(prediction: Prediction, stages: list[int], go):
    """Draw a band per stage: what it computes, with idle time in red, and below it a thin lane for each link it
    uses."""
    row = {stage: index for index, stage in enumerate(stages)}
    found = [bar for bar in bars(prediction) if bar.stage in row]
    end = prediction.seconds
    lanes = [level.level for level in prediction.setup.cluster.topology]
    lanes = [name for name in (*lanes, "copy") if any(bar.stream == name for bar in found)]
    height = 0.3 / max(1, len(lanes))
    figure = go.Figure()
    for kind, title in KINDS.items():
        members = [bar for bar in found if bar.kind == kind and bar.stream == "compute"]
        if members:
            _bars(figure, members, row, title, COLOURS[kind], 0.0 if lanes else 0.1, 0.56 if lanes else 0.8)
    for number, lane in enumerate(lanes):
        members = [bar for bar in found if bar.stream == lane]
        place, title = 0.56 + height * number, f"link: {lane}" if lane != "copy" else "copies to and from the host"
        _bars(figure, members, row, title, LANES[number % len(LANES)], place, height)
    figure.update_layout(
        barmode="overlay",
        height=max(300, 38 * len(stages) + 150),
        xaxis_title="seconds",
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    )
    figure.update_xaxes(range=[0, end * 1.005])
    figure.update_yaxes(
        autorange="reversed",
        tickvals=[index + 0.43 for index in row.values()],
        ticktext=[f"stage {stage}" for stage in stages],
        zeroline=False,
    )
    return figure


def _bars(
    figure, members: list[Bar], row: dict[int, int], title: str, colour: str, place: float, height: float
) -> None:
    figure.add_bar(
        base=[round(bar.start, 7) for bar in members],
        x=[round(bar.seconds, 7) for bar in members],
        y=[round(row[bar.stage] + place + height / 2, 4) for bar in members],
        orientation="h",
        name=title,
        marker={"color": colour, "line_width": 0},
        hovertext=[f"{bar.name} {bar.detail}, {bar.seconds * 1e3:.3f} ms" for bar in members],
        hoverinfo="text",
        width=0.94 * height,
    )


def _usable(figure, gib: float, most: float) -> None:
    """Draw a line where memory ends, and room above it."""
    figure.update_yaxes(range=[0, 1.1 * max(gib, most)])
    figure.add_hline(
        y=gib, line_dash="dash", line_color="#b23a48", annotation_text=f"usable: {gib:g} GiB",
        annotation_position="bottom left",
    )  # fmt: skip


def memory_bars(data: dict[str, Any], go):
    figure = go.Figure()
    stages = [row["stage"] for row in data["stages"]]
    for key, colour in PARTS.items():
        sizes = [row[f"{key}_gib"] for row in data["stages"]]
        figure.add_bar(x=stages, y=sizes, name=key, marker_color=colour, hovertemplate=f"{key} %{{y:.2f}} GiB")
    _usable(figure, data["usable_gib"], data["memory_gib"])
    figure.update_layout(barmode="stack", height=340, xaxis_title="stage", yaxis_title="GiB")
    return figure


def memory_lines(prediction: Prediction, go):
    pp = prediction.program.pp
    figure = go.Figure()
    for stage in sorted({0, pp // 2, pp - 1}):
        times, levels = memory_over_time(prediction, stage)
        every = max(1, len(times) // MOST_POINTS)
        figure.add_scatter(x=times[::every], y=levels[::every], mode="lines", name=f"stage {stage}", line_width=1.5)
    _usable(figure, prediction.usable_gib, prediction.gib)
    figure.update_layout(height=340, xaxis_title="seconds", yaxis_title="GiB")
    return figure


def roofline(prediction: Prediction, go):
    device = prediction.setup.cluster.device
    peak = device.peak(prediction.setup.model.compute_dtype) / 1e12
    bandwidth = device.hbm.gbps / 1e3
    figure = go.Figure()
    knee = peak / bandwidth
    found = [o for o in operators(prediction) if o.tflops > 0]
    left, right = min(knee / 8, *(o.intensity / 2 for o in found)), max(knee * 4, *(o.intensity * 2 for o in found))
    figure.add_scatter(
        x=[left, knee, right],
        y=[left * bandwidth, peak, peak],
        mode="lines",
        name=f"{peak:.0f} TFLOP/s, {bandwidth:.2g} TB/s",
        line_color="#888",
    )
    for bound, colour in BOUNDS.items():
        members = [o for o in found if o.bound == bound]
        if members:
            figure.add_scatter(
                x=[o.intensity for o in members],
                y=[o.tflops for o in members],
                mode="markers",
                name=BOUND_NAMES[bound],
                text=[f"{o.block} {o.name}: {o.milliseconds:.3f} ms, {o.tflops / peak:.0%} of peak" for o in members],
                hoverinfo="text",
                marker_color=colour,
                marker_size=[6 + 24 * (o.step_seconds / found[0].step_seconds) ** 0.5 for o in members],
            )
    figure.update_layout(
        height=420, xaxis_title="FLOP per byte", yaxis_title="TFLOP/s achieved", xaxis_type="log", yaxis_type="log"
    )
    return figure


def operator_bars(prediction: Prediction, go):
    """Return the most expensive kernels, coloured by what bounds them, with what they reach of it."""
    device = prediction.setup.cluster.device
    peak, bandwidth = device.peak(prediction.setup.model.compute_dtype) / 1e12, device.hbm.gbps
    figure = go.Figure()
    found = operators(prediction)[:20]
    for bound, colour in BOUNDS.items():
        members = [o for o in found if o.bound == bound]
        if members:
            share = [
                f"{o.tflops / peak:.0%} of peak" if bound == "compute" else f"{o.gbps / bandwidth:.0%} of bandwidth"
                for o in members
            ]
            figure.add_bar(
                x=[o.step_seconds for o in members],
                y=[f"{o.block}: {o.name}" for o in members],
                orientation="h",
                name=BOUND_NAMES[bound],
                marker_color=colour,
                text=share,
                textposition="auto",
            )
    figure.update_layout(height=120 + 24 * len(found), xaxis_title="seconds a step, busiest stage")
    names = [f"{o.block}: {o.name}" for o in found]
    figure.update_yaxes(autorange="reversed", categoryorder="array", categoryarray=names, automargin=True)
    return figure


def pareto(prediction: Prediction, front: list[tuple[float, float, Any]], go):
    figure = go.Figure()
    labels = [
        f"{t:.4g} s, {g:.1f} GiB: tp {s.mesh.tp} pp {s.mesh.pp} dp {s.mesh.dp}, {s.pipeline.schedule}, "
        f"recompute {s.recompute.mode}, ZeRO {s.zero.stage}"
        + (f", {s.offload.activation:.0%} of activations on the host" if s.offload.activation else "")
        + (", optimizer on the host" if s.offload.optimizer else "")
        for t, g, s in front
    ]
    figure.add_scatter(
        x=[t for t, _, _ in front],
        y=[g for _, g, _ in front],
        mode="lines+markers",
        text=labels,
        hoverinfo="text",
        name="Pareto front",
        line_shape="hv",
    )
    figure.add_scatter(x=[prediction.seconds], y=[prediction.gib], mode="markers", marker_size=12, name="this strategy")
    _usable(figure, prediction.usable_gib, max(prediction.gib, *(g for _, g, _ in front)))
    figure.update_layout(height=380, xaxis_title="seconds a step (logarithmic)", yaxis_title="GiB", xaxis_type="log")
    return figure


def _summary(data: dict[str, Any]) -> str:
    mesh = ", ".join(f"{axis} {size}" for axis, size in data["mesh"].items() if size > 1) or "one device"
    return (
        f"<p>{data['parameters'] / 1e9:.2f} billion parameters; {mesh}; schedule {data['schedule']}, "
        f"{data['micro_batches']} micro-batches; framework {html.escape(data['framework'])}.</p>"
        f"<p><b>{data['step_seconds']:.4g} s a step</b>, {data['tokens_per_second']:,.0f} tokens/s, "
        f"{data['model_flops_utilisation']:.1%} of peak in model FLOPs, "
        f"pipeline idle {data['bubble']:.1%}; <b>{data['memory_gib']:.1f} GiB</b> of {data['usable_gib']:.1f} "
        f"usable: {'does not fit' if data['out_of_memory'] else 'fits'}.</p>"
    )


def _table(header: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _traffic_table(prediction: Prediction) -> str:
    levels = ["device", *(level.level for level in prediction.setup.cluster.topology)]
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
