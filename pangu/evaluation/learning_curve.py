"""Scores of every checkpoint of a run: how the tasks go on while the loss falls."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pangu.checkpoint.open import checkpoints_directory, step_directories, step_of
from pangu.foundation.atomic_file import write_whole
from pangu.foundation.errors import UserError
from pangu.foundation.json_text import dumps
from pangu.training.step_metrics import read_metrics

if TYPE_CHECKING:
    from pangu.evaluation.evaluate import Score

CURVE = "learning_curve.json"


def chosen_checkpoints(run: Path, asked: str) -> list[Path]:
    """Return checkpoints of a run, oldest first: `all`, or steps with commas between. Raises UserError."""
    found = {step_of(path): path for path in step_directories(run)}
    if not found:
        raise UserError(f"{checkpoints_directory(run)}: holds no checkpoint; --checkpoints is for a run")
    if asked == "all":
        return [found[step] for step in sorted(found)]
    known = ", ".join(map(str, sorted(found)))
    steps = []
    for word in asked.split(","):
        if not word.strip().isdigit() or int(word) not in found:
            raise UserError(f"--checkpoints {asked}: {word.strip()!r} is no step of {run}; there are {known}, or all")
        steps.append(int(word))
    return [found[step] for step in sorted(set(steps))]


def heldout_losses(run: Path) -> dict[int, float]:
    """Return {step: validation loss in nats a token} of what the run itself has measured."""
    records = read_metrics(run)
    return {one["step"]: one["heldout_loss"] for one in records if one.get("heldout_loss") is not None}


def learning_curve(
    run: Path, checkpoints: Sequence[Path], evaluate: "Callable[[Path], list[Score]]", out: Path
) -> list[dict[str, Any]]:
    """Evaluate checkpoints one after the other -> [{step, heldout_loss, scores: {task: {metric: value}}}].

    Written to OUT/learning_curve.json after each, whole or not at all.
    """
    losses, points = heldout_losses(run), []
    for checkpoint in checkpoints:
        step = step_of(checkpoint)
        scores = {score.task: score.scores for score in evaluate(checkpoint)}
        points.append({"step": step, "heldout_loss": losses.get(step), "scores": scores})
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / CURVE, dumps(points, ensure_ascii=False, indent=1) + "\n")
    return points


def table_of(points: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line for each checkpoint, with the first metric of every task, under a heading."""
    tasks = list(dict.fromkeys(task for point in points for task in point["scores"]))
    rows = [["step", "validation", *tasks]]
    for point in points:
        loss = point["heldout_loss"]
        firsts = [next(iter(point["scores"].get(task, {}).values()), None) for task in tasks]
        cells = [f"{value:.2f}" if value is not None else "" for value in firsts]
        rows.append([f"{point['step']}", "" if loss is None else f"{loss:.3f}", *cells])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [" ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
