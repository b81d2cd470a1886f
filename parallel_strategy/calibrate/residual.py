"""What a shape's kernels do beside the model: a Gaussian process over shapes, with Student-t noise.

Libraries pick kernels and algorithms by shape, which no smooth model follows, and rows of one shape share what they do;
so do runs of one release of the software. The process is solved together with the figures: a figure of prior width w,
on which the logarithm of the step time depends by the derivative J, adds J w^2 J' to the covariance of the rows, so
that the rows themselves say what is the machine's and what is a shape's.
"""

import math
from dataclasses import dataclass

import numpy as np

from parallel_strategy.calibrate.measured_runs import MeasuredRow
from parallel_strategy.spec.model import ModelSpec
from parallel_strategy.spec.strategy import StrategySpec

FREEDOM = 4.0  # of the Student-t noise
# A correction may go so far (a logarithm) on the word of one row of the same shape, and so much farther with each other
# that says the same, `NEAR` of one counted as that
LONELY, EACH_MORE = 0.1, 0.15
# Octaves over which a residual is alike, in the order of `shape_features`: of the model's width and the tensor group;
# and of these with the number of tokens.
SCALES = (np.array([0.5, 0.5, np.inf, 3.0, 1.0]), np.array([0.5, 0.5, 1.0, 3.0, 1.0]))
RELEASE = 0.15  # amplitude of what all runs of one release of the software share
TRUST = 0.3  # of the likelihood by which the kinds of machine below are told apart


@dataclass(frozen=True, slots=True)
class Kind:
    """How far residuals go, as logarithms: the amplitudes of both kernels, and the noise of a single run."""

    amplitudes: tuple[float, float]
    noise: float


# machines whose shapes differ and whose runs repeat themselves, and the others
NORMAL_FIFTHS = (0.13, 0.39, 0.67, 1.04, 1.64)  # of the sizes of normal errors: 10, 30, 50, 70 and 90 % lie below
KINDS = (Kind((0.2, 0.1), 0.04), Kind((0.07, 0.05), 0.1))


@dataclass(frozen=True, slots=True)
class RowShapes:
    """What decides which kernels run, of a list of rows: `features` [rows, 5] as `shape_features` gives them, and the
    software [rows]."""

    features: np.ndarray
    software: np.ndarray

    @classmethod
    def of(cls, rows: list[MeasuredRow]) -> "RowShapes":
        return cls(
            np.array([shape_features(row.setup.model, row.setup.strategy) for row in rows]).round(4),
            np.array([row.software for row in rows]),
        )


@dataclass(frozen=True, slots=True)
class Solution:
    """`figures`: logarithms of the multipliers, and their standard deviations. `weights` [kinds, rows]: what
    `correction` multiplies. `left_out`: every row's residual when it is predicted by the others."""

    figures: np.ndarray
    deviations: np.ndarray
    weights: np.ndarray
    left_out: np.ndarray
    shares: tuple[float, float]


def shape_features(model: ModelSpec, strategy: StrategySpec) -> list[float]:
    """Return log2 of the hidden size, of the tensor group, of tokens, of stages; and how often the head size can be
    halved, up to 32."""
    mesh, width = strategy.mesh, model.head_width
    alignment = min(5, (width & -width).bit_length() - 1)
    tokens = strategy.batch.micro * model.seq_length / mesh.cp
    return [
        math.log2(model.hidden_size),
        math.log2(mesh.tp),
        math.log2(tokens),
        math.log2(mesh.pp),
        float(alignment),
    ]


def covariance(first: RowShapes, seen: RowShapes, kind: Kind) -> np.ndarray:
    """Return the covariance of the residuals of two lists of rows. Where all rows that were seen are of one release,
    what they share is the machine's."""
    release = RELEASE if len(set(seen.software)) > 1 else 0.0
    total = release**2 * (first.software[:, None] == seen.software[None, :]).astype(np.float64)
    for amplitude, scale in zip(kind.amplitudes, SCALES, strict=True):
        distance = ((first.features[:, None, :] - seen.features[None, :, :]) / scale) ** 2
        total += amplitude**2 * np.exp(-0.5 * distance.sum(axis=-1))
    return total


def correction(new: RowShapes, seen: RowShapes, weights: np.ndarray) -> float:
    """Return the logarithm of what rows of like shapes and the same software add to the prediction of one run; 0 far
    from all of them. It is capped by how many rows agree on its sign."""
    parts = sum((covariance(new, seen, kind) * w)[0] for kind, w in zip(KINDS, weights, strict=True))
    total = float(np.sum(parts))
    agreeing = float(likeness(new, seen)[0] @ (np.sign(parts) == np.sign(total)))
    farthest = LONELY + EACH_MORE * max(0.0, agreeing - 1.0)
    return min(farthest, max(-farthest, total))


def likeness(first: RowShapes, seen: RowShapes) -> np.ndarray:
    """Return how alike the shapes of two lists of rows are, from 0 to 1, tokens included."""
    distance = ((first.features[:, None, :] - seen.features[None, :, :]) / SCALES[1]) ** 2
    return np.exp(-0.5 * distance.sum(axis=-1))


def distance_deviation(nearest: np.ndarray | float, shares: tuple[float, float]) -> np.ndarray:
    """Return the standard deviation of a residual whose nearest row that was seen is so alike, by the kinds of machine.
    `shares`: of each kind."""
    noise = sum(share * kind.noise**2 for share, kind in zip(shares, KINDS, strict=True))
    shape = sum(share * float(np.square(kind.amplitudes).sum()) for share, kind in zip(shares, KINDS, strict=True))
    return np.sqrt(noise + shape * (1.0 - np.square(nearest)))


def reach_of_four_in_five(errors: np.ndarray, deviations: np.ndarray) -> float:
    """Return within how many of their deviations four of five left-out errors lie. Five errors of a normal distribution
    are added, so that a few rows say little."""
    ratios = np.concatenate([np.abs(errors) / deviations, NORMAL_FIFTHS])
    return float(np.quantile(ratios, min(1.0, 0.8 * (len(ratios) + 1) / len(ratios))))


@dataclass(frozen=True, eq=False)
class ShapeResidual:
    """What a calibration adds to its figures: `spec.strategy.Residual`. `reach`: deviations within which four of five
    left-out errors lay; `shares`: of each kind of machine."""

    seen: RowShapes
    weights: np.ndarray
    software: str
    reach: float
    shares: tuple[float, float]

    def _row(self, model: ModelSpec, strategy: StrategySpec) -> RowShapes:
        return RowShapes(np.array([shape_features(model, strategy)]).round(4), np.array([self.software]))

    def factor(self, model: ModelSpec, strategy: StrategySpec) -> float:
        if not len(self.seen.features):
            return 1.0
        return math.exp(correction(self._row(model, strategy), self.seen, self.weights))

    def interval(self, model: ModelSpec, strategy: StrategySpec) -> float:
        """Return the factor within which four of five measured times lie: wider, the farther all rows are that were
        seen."""
        nearest = float(likeness(self._row(model, strategy), self.seen).max()) if len(self.seen.features) else 0.0
        return math.exp(self.reach * float(distance_deviation(nearest, self.shares)))


def solve(residuals: np.ndarray, derivatives: np.ndarray, widths: np.ndarray, shapes: RowShapes) -> Solution:
    """Return `residuals` [rows]: ln(measured / predicted) before any figure is moved; `derivatives` [rows, figures].

    Every kind of machine is solved for, and weighted by how well it predicts each row from the others.
    """
    scaled = derivatives * widths
    parts = []
    for kind in KINDS:
        inverse, left_out, expected = _robust(scaled @ scaled.T + covariance(shapes, shapes, kind), residuals, kind)
        surprise = (FREEDOM + 1) / 2 * np.log1p(left_out**2 / (FREEDOM * expected)) + 0.5 * np.log(expected)
        known = np.eye(len(widths)) - scaled.T @ inverse @ scaled
        parts.append((TRUST * surprise.sum(), inverse @ residuals, np.diag(known), left_out))
    lowest = min(part[0] for part in parts)
    shares = np.array([math.exp(lowest - part[0]) for part in parts])
    shares /= shares.sum()
    weights = np.array([share * part[1] for share, part in zip(shares, parts, strict=True)])
    return Solution(
        figures=widths * (scaled.T @ weights.sum(axis=0)),
        deviations=widths * np.sqrt(sum(share * part[2] for share, part in zip(shares, parts, strict=True)).clip(0.0)),
        weights=weights,
        left_out=sum(share * part[3] for share, part in zip(shares, parts, strict=True)),
        shares=(float(shares[0]), float(shares[1])),
    )


def _robust(prior: np.ndarray, residuals: np.ndarray, kind: Kind) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (inverse covariance, residuals of rows left out, their expected squares). A residual that its neighbours
    contradict is noise and counts less; one that they share is the shape's."""
    base = kind.noise**2
    noise = np.full(len(residuals), base)

    def leave_out() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        inverse = np.linalg.inv(prior + np.diag(noise))
        alone = np.diag(inverse)
        return inverse, (inverse @ residuals) / alone, (1.0 / alone - noise + base).clip(min=1e-6)

    for _ in range(8):
        _, left_out, expected = leave_out()
        trust = np.minimum(1.0, (FREEDOM + 1) / (FREEDOM + left_out**2 / expected))
        noise = 0.5 * noise + 0.5 * base / trust**2
    return leave_out()
