"""Peaks that MindSpore's dry-run reports for mixtures of experts under MindFormers: read, predicted, scored.

What a table of such peaks shows, and what is built on here:

* Experts are spread over data x tensor ranks and not split themselves. Weight and gradient take 6 bytes an element;
  both moments and the fp32 copy take 12, cut over the ranks that hold the same experts, but only where their first
  dimension (the experts of a rank) divides by them.
* Everything else of a layer is split over the tensor group, activations too.
* Embedding, head and prediction layers count as layers when stages are filled.
* The fullest stage has three micro-batches fewer in flight than there are stages, and at least one.

Two figures are fitted: how much of a layer's activations is kept, relative to the program's own count (routing masks
and copies of dispatched tokens come on top of it), and a constant.
"""

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pangu.foundation.errors import UserError
from parallel_strategy.calibrate.score import Score
from parallel_strategy.graph.layer import Shard, build_layer
from parallel_strategy.spec.framework import FrameworkSpec
from parallel_strategy.spec.model import ModelSpec

COLUMN = "peak_mb_dryrun"
REQUIRED = ("model", "dp", "tp", "pp", "ep", COLUMN)
MODELS = {"DeepSeek-V3-671B": "deepseek-v3"}
RESIDENT, STATES = 6.0, 12.0  # bytes of an element: weight and gradient; fp32 copy and both moments
IN_FLIGHT_LESS = 3


@dataclass(frozen=True, slots=True)
class DryRun:
    """One row: a layout and the peak of its fullest rank, in MB (10^6 bytes)."""

    id: str
    model: str
    dp: int
    tp: int
    pp: int
    ep: int
    megabytes: float
    development: bool  # one of those that the shipped figures were fitted to


@dataclass(frozen=True, slots=True)
class DryRunFit:
    """Share of the counted activations that is kept, and bytes that every rank holds."""

    activations: float
    constant: float


# fitted to the development rows of `mindspore_dryrun_deepseek3_671b_memory`, which `validate` then does not score
SHIPPED = DryRunFit(activations=1.5833, constant=1604247976.0)


def is_dryrun_table(path: str) -> bool:
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            return COLUMN in next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return False  # whoever reads the table says what is wrong


def read_dryruns(path: str) -> list[DryRun]:
    rows = []
    with Path(path).open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in REQUIRED if name not in (reader.fieldnames or ())]
        if missing:
            raise UserError(f"{path}: column {missing[0]!r} is missing from a table of dry-run peaks")
        for number, record in enumerate(reader, start=2):
            if record["model"] not in MODELS:
                raise UserError(f"{path}: line {number}: model {record['model']!r}; known: {', '.join(MODELS)}")
            try:
                sizes = [int(record[name]) for name in ("dp", "tp", "pp", "ep")]
                peak = float(record[COLUMN])
            except ValueError:
                raise UserError(f"{path}: line {number}: dp, tp, pp, ep and {COLUMN} must be numbers") from None
            name = "_".join(f"{axis}{size}" for axis, size in zip(("dp", "tp", "pp", "ep"), sizes, strict=True))
            seen = record.get("split", "") == "dev"
            dp, tp, pp, ep = sizes
            rows.append(DryRun(f"{Path(path).stem}_{name}", record["model"], dp, tp, pp, ep, peak, seen))
    return rows


def parts(row: DryRun) -> tuple[float, float]:
    """Return (bytes of weights, gradients and states; bytes of activations as the program counts them) of the fullest
    rank."""
    model = ModelSpec.preset(MODELS[row.model])
    experts = model.experts
    assert experts is not None
    block = build_layer(model, FrameworkSpec.preset("mindformers"), Shard(micro=1), experts=True)
    layers = (model.num_layers + model.prediction_layers + 2) / row.pp
    copies = max(1, row.dp * row.tp // row.ep)
    cut = copies if (experts.count // row.ep) % copies == 0 else 1
    static = layers * block.elements(True) / row.ep * (RESIDENT + STATES / cut)
    static += layers * block.elements(False) / row.tp * RESIDENT
    flying = max(1, row.pp - IN_FLIGHT_LESS)
    return static, layers * flying * block.saved_bytes / row.tp


def fit_dryruns(rows: list[DryRun]) -> DryRunFit:
    """Return least squares of relative errors."""
    peaks = np.array([row.megabytes * 1e6 for row in rows])
    static, moving = np.array([parts(row) for row in rows]).T
    columns = np.stack([moving, np.full(len(rows), 1e9)], axis=1) / peaks[:, None]
    found, *_ = np.linalg.lstsq(columns, (peaks - static) / peaks, rcond=None)
    return DryRunFit(round(float(found[0]), 4), round(float(found[1]) * 1e9))


def predict_dryrun(row: DryRun, fit: DryRunFit) -> float:
    """Return bytes."""
    static, moving = parts(row)
    return static + fit.activations * moving + fit.constant


def run_dryruns(rows: list[DryRun], protocol: str) -> list[tuple[DryRun, float]]:
    """Return rows with their predictions, none by a fit that saw it. P1 fits a fifth; CV, P2 and P3 fit four fifths,
    five times, since nothing can be said of a dry-run without any; `shipped` takes the figures of this module."""
    if protocol == "shipped":
        return [(row, predict_dryrun(row, SHIPPED)) for row in rows]
    order = sorted(rows, key=lambda row: hashlib.sha256(row.id.encode()).digest())
    if protocol == "P1":
        count = max(2, len(order) // 5)
        fit = fit_dryruns(order[:count])
        return [(row, predict_dryrun(row, fit)) for row in order[count:]]
    found = []
    for part in range(min(5, len(order))):
        fit = fit_dryruns([row for index, row in enumerate(order) if index % 5 != part])
        found += [(row, predict_dryrun(row, fit)) for row in order[part::5]]
    return found


def score_dryruns(table: str, found: list[tuple[DryRun, float]]) -> Score:
    errors = np.abs([predicted / (row.megabytes * 1e6) - 1.0 for row, predicted in found])
    nothing = (None,) * 6  # no times
    return Score(table, len(found), *nothing, float(errors.mean()), float(errors.max()), None)
