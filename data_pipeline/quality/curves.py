"""What a classifier is worth: ROC and precision-recall curves, their areas, calibration, and figures at a threshold.

Everything is exact over the examples given: ties in the score are one point of a curve, areas are the trapezoidal one
under ROC (the Mann-Whitney statistic) and average precision (the step sum) under precision-recall.
"""

from dataclasses import dataclass

import numpy as np

from pangu.foundation.errors import UserError

CALIBRATION_BINS = 10


@dataclass(frozen=True)
class Quality:
    """The figures of a classifier on labelled examples, at one threshold."""

    roc_area: float
    average_precision: float
    brier: float  # mean squared error of the probability
    calibration_error: float  # mean |share of good - mean probability| over ten bins of equal width, by their size
    threshold: float
    accuracy: float
    precision: float
    recall: float
    f1: float
    false_positive_rate: float
    best_threshold: float  # the one of the greatest F1
    best_f1: float


@dataclass(frozen=True)
class Curves:
    """A point for each distinct score, from the strictest threshold to the loosest."""

    thresholds: np.ndarray
    true_positives: np.ndarray
    false_positives: np.ndarray
    positives: int
    negatives: int

    @property
    def recall(self) -> np.ndarray:
        return self.true_positives / self.positives

    @property
    def false_positive_rate(self) -> np.ndarray:
        return self.false_positives / self.negatives

    @property
    def precision(self) -> np.ndarray:
        return self.true_positives / (self.true_positives + self.false_positives)

    @property
    def f1(self) -> np.ndarray:
        return 2 * self.true_positives / (self.true_positives + self.false_positives + self.positives)


def curves(probabilities: np.ndarray, labels: np.ndarray) -> Curves:
    """Return the curves of `probabilities` (float[n]) against `labels` (1 good, 0 bad). UserError where a class is
    empty.
    """
    positives = int(labels.sum())
    if not 0 < positives < labels.size:
        missing = "good" if positives == 0 else "bad"
        raise UserError(f"there is no {missing} text among the {labels.size} examples; curves need both classes")
    order = np.argsort(-probabilities, kind="stable")
    ordered, good = probabilities[order], labels[order].astype(np.int64)
    last = np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True])
    true_positives = np.cumsum(good)[last]
    return Curves(ordered[last], true_positives, last + 1 - true_positives, positives, labels.size - positives)


def measure(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> Quality:
    """Return all figures; a text is called good from `threshold` on."""
    points = curves(probabilities, labels)
    recall = np.r_[0.0, points.recall]
    false_rate = np.r_[0.0, points.false_positive_rate]
    area = float(np.sum(np.diff(false_rate) * (recall[1:] + recall[:-1]) / 2))
    called, good = probabilities >= threshold, labels == 1
    hits = int((called & good).sum())
    best = int(np.argmax(points.f1))
    return Quality(
        roc_area=area,
        average_precision=float(np.sum(np.diff(recall) * points.precision)),
        brier=float(np.mean((probabilities - labels) ** 2)),
        calibration_error=_calibration_error(probabilities, labels),
        threshold=threshold,
        accuracy=float(np.mean(called == good)),
        precision=hits / called.sum() if called.any() else 1.0,
        recall=hits / good.sum(),
        f1=2 * hits / (called.sum() + good.sum()),
        false_positive_rate=float((called & ~good).sum() / (~good).sum()),
        best_threshold=float(points.thresholds[best]),
        best_f1=float(points.f1[best]),
    )


def calibration_bins(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return of each bin of equal width: examples, mean probability, share of good ones (NaN where a bin is empty)."""
    place = np.minimum((probabilities * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    count = np.bincount(place, minlength=CALIBRATION_BINS)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(place, probabilities, CALIBRATION_BINS) / count
        share = np.bincount(place, labels, CALIBRATION_BINS) / count
    return count, mean, share


def _calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    count, mean, share = calibration_bins(probabilities, labels)
    filled = count > 0
    return float(np.sum(count[filled] * np.abs(mean - share)[filled]) / labels.size)
