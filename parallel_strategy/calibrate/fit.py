"""Fits the figures of one machine and framework to measured step times: robust least squares around the file's figures.

Minimises sum rho((ln predicted - ln measured) / noise) + sum (ln multiplier / width)^2 with a soft-L1 rho, so that a
handful of rows moves a figure only as far as they agree, and a row that nothing explains does not drag the rest.
"""

import json
import math
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from parallel_strategy.calibrate.figures import FIGURES, NAMES, apply
from parallel_strategy.calibrate.rows import Row
from parallel_strategy.errors import UserError
from parallel_strategy.predict import Prediction
from parallel_strategy.spec.cluster import ClusterSpec
from parallel_strategy.spec.strategy import Question

SHIPPED = Path(__file__).parent / "shipped.json"
# What a shape's kernels do beside the model: (share of the amplitude, octaves over which it is alike, in the order of
# `shape_features`): of the width of the matrices alone, and of the width with the number of tokens.
SHAPE_KINDS = {
    "fine": (
        (1.0, np.array([0.5, 0.5, 3.0, 8.0, 8.0, 1.0])),
        (1.5, np.array([0.5, 0.5, 0.5, 3.0, 8.0, 1.0])),
    ),
    "broad": (
        (1.0, np.array([0.5, 0.5, 5.0, 8.0, 8.0, 1.0])),
        (1.5, np.array([0.7, 0.7, 1.5, 3.0, 8.0, 1.0])),
    ),
}
# A machine's rows say themselves how far a shape's residual reaches, and how much of it comes back.
AMPLITUDES = (0.01, 0.05, 0.1, 0.2)
NOISE = 0.05  # run-to-run noise of measured step times, as repeated rows show


# devices whose presets have nothing but data sheets behind their matrix products
UNMEASURED = ("B200", "GB200", "B300", "GB300")
BORROWED_WIDTH = 0.2  # how far such a preset may be off, as a logarithm


@lru_cache(maxsize=64)
def _cluster_device(group: str) -> str:
    """Name of the device of a group's cluster preset; nothing where the group is a file's."""
    cluster = group.split("/")[0]
    return ClusterSpec.preset(cluster).device.name if cluster in ClusterSpec.preset_names() else ""


@dataclass(slots=True)
class GroupFit:
    """What was fitted for one cluster/framework pair."""

    multipliers: dict[str, float]
    deviations: dict[str, float]  # standard deviation of ln multiplier
    rows: list[str]  # ids that the fit saw
    spread: float  # of ln(predicted / measured) on those rows: robust standard deviation
    shapes: list[list[float]] = field(default_factory=list)  # features of the rows, for `correction`
    reach: str = "fine"  # of SHAPE_KINDS
    remains: list[float] = field(default_factory=list)  # ln(measured / predicted) that the figures leave, weighted
    memory: dict[str, float] = field(default_factory=dict)  # context_gib, fragmentation, where memory was measured


@dataclass(slots=True)
class Calibration:
    """A calibration file: fits by group, and which rows they saw."""

    groups: dict[str, GroupFit] = field(default_factory=dict)
    version: int = 1

    def save(self, path: Path | str) -> None:
        from parallel_strategy.report.output import write_whole

        write_whole(Path(path), json.dumps(asdict(self), sort_keys=True) + "\n")

    @classmethod
    def load(cls, path: Path | str) -> "Calibration":
        path = SHIPPED if str(path) == "shipped" else path
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            groups = {name: GroupFit(**fit) for name, fit in data["groups"].items()}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: is not a calibration file: {error}") from None
        for name, fit in groups.items():
            for figure in fit.multipliers:
                if figure not in NAMES:
                    raise UserError(f"{path}: group {name!r}: figure {figure!r} is not one of {', '.join(NAMES)}")
        return cls(groups, data.get("version", 1))

    def rows_seen(self) -> set[str]:
        return {row for fit in self.groups.values() for row in fit.rows}

    def correction(self, row: Row) -> float:
        """Factor on the step time that rows of like shapes suggest: a Gaussian process on what the figures leave.

        Libraries pick kernels by shape, which no smooth model follows; a shape far from all rows seen gets 1.
        """
        fit = self.groups.get(row.group)
        if fit is None or not fit.shapes:
            return 1.0
        near = _likeness(np.array([shape_features(row)]), np.array(fit.shapes), fit.reach)
        return float(np.exp(near @ np.array(fit.remains))[0])

    def borrowed(self, question: Question) -> dict[str, float]:
        """Figures for a cluster and framework that no row was seen of: the sustained speed of matrix products that
        others showed on devices of the same generation, drawn towards the file's.

        Only where the file's figure is a data sheet's word: the other devices' come from matmul benchmarks.
        """
        if not question.cluster.device.name.startswith(UNMEASURED):
            return {}
        weighted = total = 0.0
        for name, fit in self.groups.items():
            if "gemm_eff" in fit.multipliers and _cluster_device(name).startswith(UNMEASURED):
                weight = 1.0 / (fit.deviations["gemm_eff"] ** 2 + 0.1**2)
                weighted += weight * math.log(fit.multipliers["gemm_eff"])
                total += weight
        return {"gemm_eff": math.exp(weighted / (total + 1.0 / BORROWED_WIDTH**2))} if total else {}

    def predict(self, row: Row) -> Prediction:
        """The prediction of a row with its group's figures; without a fit, with borrowed ones or those of the files."""
        fit = self.groups.get(row.group)
        if fit is None:
            figures = self.borrowed(row.question)
            return Prediction(apply(row.question, figures) if figures else row.question)
        question = apply(row.question, fit.multipliers)
        if fit.memory:
            framework = question.framework.model_copy(update=fit.memory)
            question = question.model_copy(update={"framework": framework})
        return Prediction(question)


def shape_features(row: Row) -> list[float]:
    """What decides which kernels run: log2 of hidden size per rank, of the tensor group, of tokens, of stages, of
    devices; and how often the head size can be halved, up to 32."""
    question = row.question
    mesh = question.strategy.mesh
    width = question.model.head_width
    alignment = min(5, (width & -width).bit_length() - 1)
    tokens = question.strategy.batch.micro * question.model.seq_length / mesh.cp
    return [
        math.log2(question.model.hidden_size / mesh.tp),
        math.log2(mesh.tp),
        math.log2(tokens),
        math.log2(mesh.pp),
        math.log2(mesh.devices),
        float(alignment),
    ]


def _likeness(first: np.ndarray, second: np.ndarray, reach: str) -> np.ndarray:
    """Covariance of the residuals of two lists of shapes, for an amplitude of 1."""
    total = np.zeros((len(first), len(second)))
    for width, scale in SHAPE_KINDS[reach]:
        distance = ((first[:, None, :] - second[None, :, :]) / scale) ** 2
        total += width**2 * np.exp(-0.5 * distance.sum(axis=-1))
    return total


def fit_group(rows: list[Row]) -> GroupFit:
    """Fit one group's figures to its rows with a measured time."""
    from scipy.optimize import least_squares

    timed = [row for row in rows if row.seconds]
    predictions = [Prediction(row.question) for row in timed]
    measured = np.log([row.seconds or 1.0 for row in timed])
    widths = np.array([figure.width for figure in FIGURES])
    used = _used(timed)
    free = [index for index, name in enumerate(NAMES) if used[name]]

    def logarithms(values: np.ndarray) -> np.ndarray:
        multipliers = {NAMES[index]: math.exp(value) for index, value in zip(free, values, strict=True)}
        return np.log([p.with_figures(apply(p.question, multipliers)).closed_form_seconds for p in predictions])

    def residuals(values: np.ndarray) -> np.ndarray:
        error = (logarithms(values) - measured) / NOISE
        robust = np.sign(error) * np.sqrt(2.0 * (np.sqrt(1.0 + error**2) - 1.0))  # soft L1, as a residual
        return np.concatenate([robust, values / widths[free]])

    start = np.zeros(len(free))
    if not timed:
        return GroupFit({}, {}, sorted(row.id for row in rows), 0.0, memory=fit_memory(rows))
    result = least_squares(residuals, start, diff_step=0.02, xtol=1e-3, ftol=1e-4, max_nfev=20)
    information = result.jac.T @ result.jac
    deviations = np.sqrt(np.diag(np.linalg.inv(information + 1e-9 * np.eye(len(free)))))
    error = logarithms(result.x) - measured
    spread = 1.4826 * float(np.median(np.abs(error - np.median(error)))) if len(timed) > 1 else NOISE
    shapes = np.array([shape_features(row) for row in timed])
    candidates = {reach: _weights_of_residuals(_likeness(shapes, shapes, reach), -error) for reach in SHAPE_KINDS}
    reach = min(candidates, key=lambda name: candidates[name][0])
    remains = candidates[reach][1]
    return GroupFit(
        {NAMES[index]: round(math.exp(value), 5) for index, value in zip(free, result.x, strict=True)},
        {NAMES[index]: round(float(value), 5) for index, value in zip(free, deviations, strict=True)},
        sorted(row.id for row in rows),
        round(max(spread, 0.01), 5),
        [[round(float(x), 4) for x in shape] for shape in shapes],
        reach,
        [round(float(x), 5) for x in remains],
        fit_memory(rows),
    )


def _weights_of_residuals(likeness: np.ndarray, residuals: np.ndarray) -> tuple[float, np.ndarray]:
    """(leave-one-out error, w): `_likeness(new, seen) @ w` is what a Gaussian process with Student-t noise expects of a
    new shape.

    A residual that its neighbours contradict is noise and counts less; one that they share is the shape's. The
    amplitude is the one whose leave-one-out errors are smallest.
    """
    freedom, count = 4.0, len(residuals)
    best: tuple[float, np.ndarray] | None = None
    for amplitude in AMPLITUDES:
        covariance = amplitude**2 * likeness
        noise = np.full(count, NOISE**2)
        for _ in range(6):
            inverse = np.linalg.inv(covariance + np.diag(noise))
            left_out = (inverse @ residuals) / np.diag(inverse)
            expected = 1.0 / np.diag(inverse) - noise + NOISE**2
            trust = np.minimum(1.0, (freedom + 1) / (freedom + left_out**2 / expected))
            noise = 0.5 * noise + 0.5 * (NOISE / trust) ** 2
        inverse = np.linalg.inv(covariance + np.diag(noise))
        left_out = (inverse @ residuals) / np.diag(inverse)
        # of two amplitudes that are as good, the smaller
        cost = float(np.abs(left_out).mean()) * (1.0 + 0.4 * amplitude)
        if best is None or cost < best[0]:
            best = (cost, amplitude**2 * (inverse @ residuals))
    assert best is not None
    return best


def _used(rows: list[Row]) -> dict[str, bool]:
    """Figures that some row depends on; the rest stay as the files have them."""
    frameworks = [row.question.framework for row in rows]
    used = dict.fromkeys(NAMES, True)
    used["flash_eff"] = any(framework.attention == "flash" for framework in frameworks)
    used["exposed"] = any(
        max(f.dp_overlap, f.gather_overlap, f.tp_overlap, f.tp_backward_overlap) > 0 for f in frameworks
    )
    return used


def fit_memory(rows: list[Row]) -> dict[str, float]:
    """Runtime context and allocator loss from measured memory: least absolute deviations on a small grid around the
    file's."""
    measured = [
        row
        for row in rows
        if row.gib is not None and row.memory_kind != "params+optimizer" and "percent" not in row.memory_kind
    ]
    if len(measured) < 2:
        return {}
    parts = []
    for row in measured:
        prediction = Prediction(row.question)
        fullest = max(prediction.stage_memory, key=lambda memory: memory.total)
        lost = 1.0 + row.question.framework.fragmentation
        active = (fullest.activations + fullest.recompute) / lost
        parts.append((fullest.total - fullest.context - active * lost, active, row.gib))
    static, moving, seen = (np.array(column) for column in zip(*parts, strict=True))
    first = measured[0].question.framework
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


def calibrate(rows: list[Row]) -> Calibration:
    """Fit every group that the rows belong to."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.scored and not row.impossible and (row.seconds or row.gib is not None):
            groups.setdefault(row.group, []).append(row)
    return Calibration({name: fit_group(members) for name, members in sorted(groups.items())})
