"""Draws what a classifier is worth: ROC, precision against recall, the scores of both classes, calibration."""

import base64
import html
import io
from dataclasses import asdict
from pathlib import Path

import numpy as np

from data_pipeline.engine.run_files import write_whole
from data_pipeline.quality.curves import Quality, calibration_bins, curves
from pangu.foundation.errors import UserError
from pangu.foundation.page import page
from pangu.foundation.picture_font import caption, chinese_font

GOOD, BAD, CHOSEN = "#2171b5", "#d94801", "#31a354"
# The picture keeps letters that can be read on a phone, and moves under the finger.
STYLE = """
.side { display: flex; flex-wrap: wrap; gap: 1rem 2rem; align-items: start } .chosen { font-weight: bold }
.scroll img { min-width: 760px }
"""


def draw(path: Path, title: str, name: str, scores: np.ndarray, labels: np.ndarray, measured: Quality) -> None:
    """Write a PNG, or a self-contained HTML page with the picture and a table. `name` is what the scores are."""
    if path.suffix not in (".png", ".html"):
        raise UserError(f"{path}: a picture is a .png or an .html")
    picture = _picture(title, name, scores, labels, measured)
    if path.suffix == ".html":
        write_whole(path, _page(title, scores, labels, measured, picture))
        return
    write_whole(path, picture)


@chinese_font()
def _picture(title: str, name: str, scores: np.ndarray, labels: np.ndarray, measured: Quality) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = curves(scores, labels)
    figure = Figure(figsize=(10, 8.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(caption(title), fontsize=12)
    roc, precision, histogram, calibration = figure.subplots(2, 2).flat

    roc.plot(np.r_[0, points.false_positive_rate], np.r_[0, points.recall], color=GOOD)
    roc.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8, linestyle="--")
    roc.plot(measured.false_positive_rate, measured.recall, "o", color=CHOSEN, label=_at(measured))
    roc.set(
        title=caption(f"ROC, area {measured.roc_area:.4f}"),
        xlabel=caption("bad texts let through"),
        ylabel=caption("good texts kept"),
    )
    roc.legend(loc="lower right")

    precision.step(np.r_[0, points.recall], np.r_[points.precision[0], points.precision], where="pre", color=GOOD)
    precision.axhline(points.positives / labels.size, color="#bbbbbb", linewidth=0.8, linestyle="--")
    precision.plot(measured.recall, measured.precision, "o", color=CHOSEN, label=_at(measured))
    precision.set(
        title=caption(f"precision against recall, average {measured.average_precision:.4f}"),
        xlabel=caption("good texts kept (recall)"),
        ylabel=caption("good among kept (precision)"),
        ylim=(min(0.5, float(points.precision.min())) - 0.02, 1.02),
    )
    precision.legend(loc="lower left")

    edges = np.linspace(0, max(1e-9, float(scores.max())) if name != "probability" else 1, 41)
    for label, colour, words in ((1, GOOD, caption("good texts")), (0, BAD, caption("bad texts"))):
        histogram.hist(scores[labels == label], edges, color=colour, alpha=0.6, label=words)
    histogram.axvline(measured.threshold, color=CHOSEN, label=_at(measured))
    histogram.set(title=caption("scores of both classes"), xlabel=caption(name), ylabel=caption("texts"), yscale="log")
    histogram.legend()

    if name == "probability":
        count, mean, share = calibration_bins(scores, labels)
        filled = count > 0
        calibration.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8, linestyle="--")
        calibration.plot(mean[filled], share[filled], "o-", color=GOOD)
        calibration.set(
            title=caption(f"calibration, error {measured.calibration_error:.3f}"),
            xlabel=caption("probability said"),
            ylabel=caption("share that is good"),
        )
    else:
        calibration.axis("off")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _at(measured: Quality) -> str:
    return caption(f"threshold {measured.threshold:.3g}")


def _page(title: str, scores: np.ndarray, labels: np.ndarray, measured: Quality, picture: bytes) -> str:
    """Return the picture, the figures, and what other thresholds would do."""
    figures = asdict(measured).items()
    rows = "".join(f"<tr><td>{name.replace('_', ' ')}<td>{value:.4g}" for name, value in figures)
    good, bad = (np.sort(scores[labels == label]) for label in (1, 0))
    thresholds = sorted({*np.round(np.arange(0.05, 1, 0.05), 2).tolist(), measured.threshold, measured.best_threshold})
    table = ""
    for threshold in thresholds:
        kept, passed = (1 - np.searchsorted(values, threshold) / values.size for values in (good, bad))
        chosen = ' class="chosen"' if threshold == measured.threshold else ""
        table += f"<tr{chosen}><td>{threshold:.3g}</td><td>{kept:.2%}</td><td>{passed:.2%}</td></tr>"
    image = base64.b64encode(picture).decode()
    body = (
        f"<main><h1>{html.escape(title)}</h1>"
        f'<div class="scroll"><img alt="curves; the figures stand below" src="data:image/png;base64,{image}"></div>'
        f'<div class="side">'
        f"<table><tr><th>figure</th><th>value</th></tr>{rows}</table>"
        f"<table><tr><th>threshold</th><th>good kept</th><th>bad let through</th></tr>{table}</table></div></main>"
    )
    return page(title, body, style=STYLE)
