"""Fits the figures of one machine and framework to measured step times, together with what its shapes do beside them.

The logarithms of the multipliers have normal priors around the file's figures, the residuals of the rows a covariance
over shapes, and single runs Student-t noise (`residual`). So a handful of rows moves a figure only as far as they
agree, many rows of one shape count little more than one of them, and a row that nothing explains does not drag the
rest. Links and network cards are never fitted.
"""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from pydantic import ConfigDict

from pangu.foundation.best_effort import reason_of
from pangu.foundation.errors import UserError
from pangu.foundation.settings import checked, nearest_name
from pangu.foundation.yaml_document import YamlDocument, shown
from parallel_strategy.calibrate.figures import FIGURES, NAMES, apply
from parallel_strategy.calibrate.measured_runs import MeasuredRow
from parallel_strategy.calibrate.residual import (
    RowShapes,
    ShapeResidual,
    distance_deviation,
    likeness,
    reach_of_four_in_five,
    solve,
)
from parallel_strategy.predict import FOUR_OF_FIVE, Prediction
from parallel_strategy.spec.strategy import Setup

SHIPPED = Path(__file__).parent / "shipped.json"
VERSION = 2  # of the file
STEP = 0.05  # of a logarithm, for derivatives
FARTHEST = 2.5  # prior widths that a figure may move


@dataclass(slots=True)
class GroupFit:
    """What was fitted for one cluster/framework pair."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    multipliers: dict[str, float]
    deviations: dict[str, float]  # standard deviation of ln multiplier
    rows: list[str]  # ids that the fit saw
    reach: float  # deviations within which four of five rows lie that the others predict
    shares: list[float]  # of the kinds of machine
    shapes: list[list[float]] = field(default_factory=list)  # features of the rows, for `correction`
    software: list[str] = field(default_factory=list)  # of the rows
    weights: list[list[float]] = field(default_factory=list)  # of the rows, for each kind of machine
    memory: dict[str, float] = field(default_factory=dict)  # context_gib, fragmentation, where memory was measured


@dataclass(slots=True)
class Calibration:
    """A calibration file: fits by group, and which rows they saw."""

    groups: dict[str, GroupFit] = field(default_factory=dict)
    version: int = VERSION

    def save(self, path: Path | str) -> None:
        from parallel_strategy.report.output import write_whole

        write_whole(Path(path), json.dumps(asdict(self), sort_keys=True) + "\n")

    @classmethod
    def load(cls, path: Path | str) -> "Calibration":
        path = SHIPPED if str(path) == "shipped" else path
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path}: is not a calibration file: {reason_of(error)}") from None
        if not isinstance(data, dict) or not isinstance(data.get("groups"), dict):
            raise UserError(f"{path}: is not a calibration file: it has no groups")
        document = YamlDocument(str(path), data)
        if (found := data.get("version", VERSION)) != VERSION:
            hint = "; an older file is made anew by `calibrate`" if found in range(1, VERSION) else ""
            raise document.mistake(f"{shown(found)} is not known; nearest: {VERSION}{hint}", ("version",))
        groups = {}
        for name, fit in data["groups"].items():
            groups[name] = checked(GroupFit, document, ("groups", name), fit)
            for figure, value in groups[name].multipliers.items():
                place = ("groups", name, "multipliers", figure)
                if figure not in NAMES:
                    raise document.mistake(f"is unknown{nearest_name(figure, NAMES)}", place)
                if value <= 0:
                    raise document.mistake(f"{value:g} must be above 0; nearest: 1", place)
        return cls(groups)

    def rows_seen(self) -> set[str]:
        return {row for fit in self.groups.values() for row in fit.rows}

    def applied(self, setup: Setup, group: str = "", software: str = "") -> Setup:
        """Return the setup with the figures of its group, and with what its shapes do beside them. `group`: absent,
        its cluster and framework; `software`: the framework and its release, where they are known."""
        fit = self.groups.get(group or f"{setup.cluster.name}/{setup.framework.name}")
        if fit is None:
            return setup
        moved = apply(setup, fit.multipliers)
        seen = RowShapes(np.array(fit.shapes), np.array(fit.software))
        shares = (fit.shares[0], fit.shares[1])
        residual = ShapeResidual(seen, np.array(fit.weights), software, fit.reach, shares)
        framework = moved.framework.model_copy(update=fit.memory)
        return moved.model_copy(update={"framework": framework, "residual": residual})

    def predict(self, row: MeasuredRow) -> Prediction:
        """Return the prediction of a row as its group's fit gives it; without one, as the files do."""
        return Prediction(self.applied(row.setup, row.group, row.software))


def fit_group(rows: list[MeasuredRow]) -> GroupFit:
    """Fit one group's figures to its rows with a measured time: Gauss-Newton steps, each of them a linear problem."""
    timed = [row for row in rows if row.seconds]
    if not timed:
        return GroupFit({}, {}, sorted(row.id for row in rows), FOUR_OF_FIVE, [0.5, 0.5], memory=fit_memory(rows))
    predictions = [Prediction(row.setup) for row in timed]
    measured = np.log([row.seconds or 1.0 for row in timed])
    used = _used(timed)
    free = [index for index, name in enumerate(NAMES) if used[name]]
    widths = np.array([FIGURES[index].width for index in free])
    shapes = RowShapes.of(timed)

    def logarithms(values: np.ndarray) -> np.ndarray:
        multipliers = {NAMES[index]: math.exp(value) for index, value in zip(free, values, strict=True)}
        return np.log([p.with_figures(apply(p.setup, multipliers)).closed_form_seconds for p in predictions])

    values = np.zeros(len(free))
    for _ in range(4):
        here = logarithms(values)
        derivatives = np.array([logarithms(values + step) - here for step in STEP * np.eye(len(free))]).T / STEP
        solution = solve(measured - here + derivatives @ values, derivatives, widths, shapes)
        before, values = values, solution.figures.clip(-FARTHEST * widths, FARTHEST * widths)
        if np.abs(values - before).max() < 0.01:
            break
    alike = likeness(shapes, shapes) - np.eye(len(timed))
    deviations = distance_deviation(alike.max(axis=1), solution.shares)
    reach = reach_of_four_in_five(solution.left_out, deviations)
    return GroupFit(
        {NAMES[index]: round(math.exp(value), 5) for index, value in zip(free, values, strict=True)},
        {NAMES[index]: round(float(value), 5) for index, value in zip(free, solution.deviations, strict=True)},
        sorted(row.id for row in rows),
        round(reach, 5),
        [round(share, 5) for share in solution.shares],
        shapes.features.tolist(),
        shapes.software.tolist(),
        solution.weights.round(5).tolist(),
        fit_memory(rows),
    )


def _used(rows: list[MeasuredRow]) -> dict[str, bool]:
    """Return the figures that some row depends on; the rest stay as the files have them."""
    frameworks = [row.setup.framework for row in rows]
    used = dict.fromkeys(NAMES, True)
    used["flash_eff"] = any(framework.attention == "flash" for framework in frameworks)
    used["exposed"] = any(
        max(f.dp_overlap, f.gather_overlap, f.tp_overlap, f.tp_backward_overlap) > 0 for f in frameworks
    )
    return used


def fit_memory(rows: list[MeasuredRow]) -> dict[str, float]:
    """Return runtime context and allocator loss from measured memory: least absolute deviations on a grid around the
    file."""
    measured = [
        row
        for row in rows
        if row.gib is not None and row.memory_kind != "params+optimizer" and "percent" not in row.memory_kind
    ]
    if len(measured) < 2:
        return {}
    parts = []
    for row in measured:
        prediction = Prediction(row.setup)
        fullest = max(prediction.stage_memory, key=lambda memory: memory.total)
        lost = 1.0 + row.setup.framework.fragmentation
        active = (fullest.activations + fullest.recompute) / lost
        parts.append((fullest.total - fullest.context - active * lost, active, row.gib))
    static, moving, seen = (np.array(column) for column in zip(*parts, strict=True))
    first = measured[0].setup.framework
    best: tuple[float, float, float] | None = None
    for fragmentation in np.arange(0.0, 0.51, 0.02):
        for context in np.arange(0.0, 12.1, 0.25):
            error = np.abs(static + context + moving * (1 + fragmentation) - seen) / seen
            # a row's error of 1 % weighs as much as 0.4 GiB or 2 % of the activations away from the file's figures
            prior = abs(context - first.context_gib) / 40 + abs(fragmentation - first.fragmentation) / 2
            cost = float(np.minimum(error, 0.25).sum()) + prior
            if best is None or cost < best[0]:
                best = (cost, float(context), float(fragmentation))
    assert best is not None
    return {"context_gib": round(best[1], 3), "fragmentation": round(best[2], 3)}


def calibrate(rows: list[MeasuredRow]) -> Calibration:
    """Fit every group that the rows belong to."""
    groups: dict[str, list[MeasuredRow]] = {}
    for row in rows:
        if row.scored and not row.impossible and (row.seconds or row.gib is not None):
            groups.setdefault(row.group, []).append(row)
    return Calibration({name: fit_group(members) for name, members in sorted(groups.items())})
