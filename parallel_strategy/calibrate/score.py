"""Scores of predictions against measured rows: errors, order, regret of the predicted best, out-of-memory calls."""

from dataclasses import dataclass

import numpy as np

from parallel_strategy.calibrate.fit import Calibration
from parallel_strategy.calibrate.measured_runs import MeasuredRow
from parallel_strategy.predict import Prediction


@dataclass(frozen=True, slots=True)
class Outcome:
    """A row and what was predicted for it."""

    row: MeasuredRow
    seconds: float
    gib: float
    oom: bool
    interval: float  # the measured time lies within this factor in 4 of 5 cases, as far as the calibration knows

    @property
    def error(self) -> float | None:
        return None if not self.row.seconds else self.seconds / self.row.seconds - 1.0

    @property
    def memory_error(self) -> float | None:
        return None if self.row.gib is None else self.gib / self.row.gib - 1.0


@dataclass(frozen=True, slots=True)
class Score:
    """Of one table. Shares, not percent; `None` where the table has nothing to say."""

    table: str
    rows: int
    mape: float | None
    median: float | None
    worst: float | None
    bias: float | None
    spearman: float | None
    regret: tuple[float, float, int] | None  # median, worst, number of groups with a choice
    memory_mape: float | None
    memory_worst: float | None
    oom: tuple[int, int] | None  # right, all


def outcome(row: MeasuredRow, calibration: Calibration | None) -> Outcome:
    calibration = calibration or Calibration()
    prediction = calibration.predict(row)
    return Outcome(
        row,
        prediction.seconds,
        comparable_gib(prediction, row.memory_kind),
        prediction.out_of_memory,
        prediction.interval,
    )


def comparable_gib(prediction: Prediction, kind: str) -> float:
    """Return the part of the predicted memory that a row's `mem_kind` speaks of: all of it unless the kind says
    otherwise."""
    first = prediction.stage_memory[0]
    if kind.startswith("params"):
        return first.weights + first.gradients + first.optimizer
    if kind.startswith("activations"):
        return first.activations
    return prediction.gib


def score(table: str, outcomes: list[Outcome]) -> Score:
    counted = [o for o in outcomes if o.row.scored]
    timed = [o for o in counted if o.error is not None and not o.row.impossible]
    errors = np.array([o.error for o in timed], dtype=float)
    memory = np.array(
        [o.memory_error for o in counted if o.memory_error is not None and "percent" not in o.row.memory_kind],
        dtype=float,
    )
    called = [o for o in counted if o.row.oom]
    fitting = [o for o in counted if o.row.gib is not None and "nvidia-smi" in o.row.memory_kind]
    judged = len(called) + len(fitting)
    right = sum(o.oom for o in called) + sum(not o.oom for o in fitting)
    spearman = _spearman(np.array([o.seconds for o in timed]), np.array([o.row.seconds for o in timed], dtype=float))
    return Score(
        table=table,
        rows=len(timed),
        mape=_mean_abs(errors) if len(errors) else None,
        median=float(np.median(np.abs(errors))) if len(errors) else None,
        worst=float(np.max(np.abs(errors))) if len(errors) else None,
        bias=float(np.mean(errors)) if len(errors) else None,
        spearman=spearman,
        regret=_regret(timed),
        memory_mape=_mean_abs(memory) if len(memory) else None,
        memory_worst=float(np.max(np.abs(memory))) if len(memory) else None,
        oom=(right, judged) if called else None,
    )


def _mean_abs(errors: np.ndarray) -> float:
    return float(np.mean(np.abs(errors)))


def _spearman(first: np.ndarray, second: np.ndarray) -> float | None:
    if len(first) < 3:
        return None
    ranks = [np.argsort(np.argsort(values)).astype(float) for values in (first, second)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _regret(outcomes: list[Outcome]) -> tuple[float, float, int] | None:
    """Return how much slower the predicted best is than the real best, over choices that somebody could have had:
    strategies for one model (its heads and number format too), on as many devices, with one batch and one release of
    the software.

    Runs of one strategy are one candidate, which takes their geometric mean: which of them is faster is no strategy's
    doing.
    """
    groups: dict[tuple, dict[str, list[Outcome]]] = {}
    for o in outcomes:
        setup = o.row.setup
        strategy, model = setup.strategy, setup.model.model_copy(update={"name": ""})
        choice = (
            o.row.table,
            o.row.group,
            o.row.software,
            model.model_dump_json(),
            strategy.mesh.devices,
            strategy.batch.global_,
        )
        groups.setdefault(choice, {}).setdefault(strategy.model_dump_json(), []).append(o)
    regrets = []
    for strategies in groups.values():
        if len(strategies) > 1:
            runs = list(strategies.values())
            predicted = [np.mean([np.log(o.seconds) for o in same]) for same in runs]
            measured = [np.mean([np.log(o.row.seconds or np.nan) for o in same]) for same in runs]
            regrets.append(float(np.exp(measured[int(np.argmin(predicted))] - min(measured))) - 1.0)
    return (float(np.median(regrets)), float(np.max(regrets)), len(regrets)) if regrets else None
