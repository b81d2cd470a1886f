"""What a run writes down: one JSON line a step, TensorBoard events, and the loss as a picture.

`metrics.jsonl` holds only what the computation decides, so a run that was interrupted and resumed ends with the same
bytes. Speed goes to TensorBoard and to the progress bar.
"""

import json
import math
from pathlib import Path

from pangu.foundation.atomic_file import whole_file, write_whole

METRICS = "metrics.jsonl"


def read_metrics(run: Path) -> list[dict]:
    """The records of a run; a last line that a crash cut off is left out."""
    path = run / METRICS
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


class MetricsWriter:
    """Appends to the metrics of a run that has done `step` updates; it first forgets what came after them."""

    def __init__(self, run: Path, step: int) -> None:
        from tensorboardX import SummaryWriter

        kept = [record for record in read_metrics(run) if record["step"] <= step]
        write_whole(run / METRICS, b"".join(self.line(record) for record in kept))
        self.file = (run / METRICS).open("ab")
        self.tensorboard = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1, flush_secs=10)

    @staticmethod
    def line(record: dict) -> bytes:
        return json.dumps(record, separators=(",", ":")).encode() + b"\n"

    def write(self, record: dict) -> None:
        """One record; `step` says after how many updates it was taken."""
        self.file.write(self.line(record))
        self.file.flush()
        for key, value in record.items():
            if key != "step" and isinstance(value, int | float):
                self.tensorboard.add_scalar(key, value, record["step"])

    def speed(self, step: int, tokens_per_second: float) -> None:
        self.tensorboard.add_scalar("tokens_per_second", tokens_per_second, step)

    def close(self) -> None:
        self.file.close()
        self.tensorboard.close()


def draw_losses(run: Path, unigram: float | None) -> Path:
    """Draw training and held-out loss, and the unigram baseline, into `RUN/loss.png`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records = read_metrics(run)
    training = [(record["step"], record["loss"]) for record in records if "loss" in record]
    heldout = [(record["step"], record["heldout_loss"]) for record in records if "heldout_loss" in record]
    figure = Figure(figsize=(8, 4.5), dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if training:
        axes.plot(*zip(*training), color="#9ecae1", linewidth=0.8, label="training, each step")
        axes.plot(*zip(*smoothed(training)), color="#2171b5", linewidth=1.6, label="training, smoothed")
    if heldout:
        axes.plot(*zip(*heldout), color="#d94801", marker="o", markersize=4, label="held out")
        step, loss = heldout[-1]
        axes.annotate(
            f"perplexity {math.exp(loss):,.0f}", (step, loss), (0, -14), textcoords="offset points", ha="right"
        )
    if unigram is not None:
        axes.axhline(unigram, color="#666666", linestyle="--", linewidth=1, label="unigram model, held out")
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats a token)")
    axes.set_title(f"PanGu-α: {run.name}")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.tight_layout()
    path = run / "loss.png"
    with whole_file(path) as file:
        figure.savefig(file, format="png")
    return path


def smoothed(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """An exponential mean over about a fiftieth of the run, bias-corrected."""
    decay = 1 - 1 / max(2, len(points) / 50)
    mean, weight, result = 0.0, 0.0, []
    for step, value in points:
        mean = decay * mean + (1 - decay) * value
        weight = decay * weight + (1 - decay)
        result.append((step, mean / weight))
    return result
