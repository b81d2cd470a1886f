"""What a run writes down: one JSON line a step, TensorBoard events, and the loss as a picture.

`metrics.jsonl` holds only what the computation decides, so a run that was interrupted and resumed ends with the same
bytes. `speed.jsonl` holds the time of each step, in the order in which the steps were computed.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pangu.foundation.atomic_file import atomic_file
from pangu.foundation.best_effort import BestEffortFile, reason_of, warn
from pangu.foundation.json_text import dumps
from pangu.foundation.picture_font import caption, chinese_font, drawable
from pangu.parameters import ROUTING_FIGURES, ExpertShape

if TYPE_CHECKING:
    from pangu.training.tracker import Tracker

METRICS = "metrics.jsonl"
SPEED = "speed.jsonl"


def read_metrics(run: Path) -> list[dict]:
    """Return the records of a run; a last line that a crash cut off is left out."""
    return [record for record, _ in records_with_ends(run / METRICS)]


def records_with_ends(path: Path) -> list[tuple[dict, int]]:
    """Return every record up to the first damaged line, with the byte behind its line."""
    try:
        content = path.read_bytes()
    except OSError:
        return []
    records, end = [], 0
    for line in content.splitlines(keepends=True):
        end += len(line)
        try:
            record = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n") or not isinstance(record, dict) or not isinstance(record.get("step"), int):
            break
        records.append((record, end))
    return records


def is_number(value: object) -> bool:
    """Return whether a value can be drawn: JSON has no NaN and no infinity, so they are null in a record."""
    return isinstance(value, int | float) and math.isfinite(value)


def routing_metrics(told: np.ndarray, predictions: float, experts: ExpertShape) -> dict:
    """Return what a step's record says of experts, from what `loss.ToldLoss` tells.

    The loss is of the predictions alone. Figures are means over layers, before any weight: 1 is an even balance.
    Loads: of each layer with experts, each expert's share of the choices; the largest over an even share.
    """
    told = np.asarray(told, np.float64) / predictions
    layers = told[1:].reshape(len(experts.layers), -1)
    figures, loads = layers[:, : len(ROUTING_FIGURES)].mean(0), layers[:, len(ROUTING_FIGURES) :]
    record: dict = {"loss": float(told[0])}
    record |= {name: float(value) for name, value in zip(ROUTING_FIGURES, figures, strict=True)}
    if not experts.has_router:
        for name in ("balance_loss", "z_loss", "router_entropy"):
            del record[name]
    record["largest_load"] = float(loads.max() * experts.count)
    return record | {"expert_loads": [[round(float(share), 4) for share in layer] for layer in loads]}


class MetricsWriter:
    """Appends to the metrics of a run that has done `step` updates; it first forgets what came after them.

    Nothing that goes wrong here ends the run.
    """

    def __init__(self, run: Path, step: int, tracker: "Tracker | None" = None) -> None:
        """tracker: a service that is told the same."""
        from pangu.training.tensorboard import TensorBoardFile

        size = 0
        for record, end in records_with_ends(run / METRICS):
            if record["step"] > step:
                break
            size = end
        self.file = BestEffortFile(run / METRICS, size)
        self.file.flush()
        known = records_with_ends(run / SPEED)
        self.speeds = BestEffortFile(run / SPEED, known[-1][1] if known else 0)
        self.tensorboard = TensorBoardFile(run / "tensorboard", step)
        self.tracker = tracker

    @staticmethod
    def line(record: dict) -> bytes:
        """Return a record as a line of JSON, in which a number that is not finite is null."""
        return dumps(record, separators=(",", ":")).encode() + b"\n"

    def write(self, record: dict) -> None:
        """Write one record; `step` says after how many updates it was taken."""
        self.file.append(self.line(record))
        values = {key: float(value) for key, value in record.items() if key != "step" and is_number(value)}
        self.tensorboard.scalars(record["step"], values)
        if self.tracker:
            self.tracker.log(record["step"], values)

    def speed(self, step: int, seconds: float, tokens_per_second: float) -> None:
        """Write how long a step took and the mean speed, which no computation decides."""
        record = {"step": step, "seconds": round(seconds, 4), "tokens_per_second": round(tokens_per_second, 1)}
        self.speeds.append(self.line(record))
        self.tensorboard.scalars(step, {"tokens_per_second": tokens_per_second})

    def flush(self) -> None:
        """Try once more to write what could not be written."""
        self.file.flush()

    def close(self) -> None:
        self.file.close()
        self.speeds.close()
        self.tensorboard.close()
        if self.tracker:
            self.tracker.close()


def draw_losses(run: Path, unigram: float | None) -> Path | None:
    """Draw the losses into `RUN/loss.png`. None where that fails, which is said: a picture never costs a run."""
    try:
        return draw(run, unigram)
    except Exception as error:
        warn(f"warning: {run / 'loss.png'}: cannot be drawn: {reason_of(error)}")
        return None


@chinese_font()
def draw(run: Path, unigram: float | None) -> Path:
    """Draw training and validation loss, and the unigram baseline."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records = read_metrics(run)
    training = [(record["step"], record["loss"]) for record in records if is_number(record.get("loss"))]
    heldout = [(record["step"], record["heldout_loss"]) for record in records if is_number(record.get("heldout_loss"))]
    figure = Figure(figsize=(8, 4.5), dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if training:
        axes.plot(*zip(*training), color="#9ecae1", linewidth=0.8, label=caption("training, each step"))
        axes.plot(*zip(*smoothed(training)), color="#2171b5", linewidth=1.6, label=caption("training, smoothed"))
    if heldout:
        axes.plot(*zip(*heldout), color="#d94801", marker="o", markersize=4, label=caption("validation"))
        step, loss = heldout[-1]
        said = f"perplexity {math.exp(min(loss, 700)):,.0f}" if loss < 50 else f"a loss of {loss:.3g}"
        axes.annotate(caption(said), (step, loss), (0, -14), textcoords="offset points", ha="right")
    if unigram is not None and math.isfinite(unigram):
        axes.axhline(unigram, color="#666666", linestyle="--", linewidth=1, label=caption("unigram model, validation"))
    axes.set_xlabel(caption("step"))
    axes.set_ylabel(caption("loss (nats a token)"))
    axes.set_title(f"PanGu-α: {drawable(run.absolute().name)}")
    axes.grid(alpha=0.25)
    if axes.lines:
        axes.legend(frameon=False)
    figure.tight_layout()
    path = run / "loss.png"
    with atomic_file(path) as file:
        figure.savefig(file, format="png")
    return path


def smoothed(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return an exponential mean over about a fiftieth of the run, bias-corrected."""
    decay = 1 - 1 / max(2, len(points) / 50)
    mean, weight, result = 0.0, 0.0, []
    for step, value in points:
        mean = decay * mean + (1 - decay) * value
        weight = decay * weight + (1 - decay)
        result.append((step, mean / weight))
    return result
