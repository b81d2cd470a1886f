"""A classifier of texts, good or bad, of fastText's class: hashed n-grams, one pass a text, trained in seconds.

* **The model** is logistic regression: z = bias + Σ weight[bucket] / √n over the n n-grams of 1 to `gram` characters of
  the text; its two ends are characters, too. fastText (Joulin et al., "Bag of Tricks for Efficient Text
  Classification", 2016) averages the embeddings of hashed n-grams and puts a linear layer on top; for two classes that
  is a linear function of the same n-grams, so one weight an n-gram instead of a vector of 100 says the same. Dividing
  by √n instead of n keeps long texts from looking undecided.
* **Characters, not words**: measured (tests/benchmarks/quality.py), words from jieba's segmentation are worse,
  and segmentation costs ten times the rest.
* **Training** is AdaGrad (Duchi, Hazan and Singer 2011) on one text at a time, in an order drawn from the seed by one
  thread: the same examples, settings and seed give the same bytes. (fastText's threads race, so no two of its models
  are equal.)
* **The probability is calibrated**: a tenth of the examples, chosen by their text, is kept away from the training, and
  a logistic curve is fitted to the scores there (Platt 1999, with his smoothed targets). It is the probability for the
  mixture of good and bad texts that was trained on.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from pydantic import Field

from data_pipeline.kernels.compiled import compiled
from data_pipeline.kernels.minhash import mix
from data_pipeline.quality import model_file
from data_pipeline.quality.curves import Quality, measure
from data_pipeline.quality.reading import NEWLINE, read
from pangu.foundation.errors import UserError
from pangu.foundation.settings import Section

KIND = "classifier"
# fewer examples of a class than this say nothing about it
LEAST_EXAMPLES = 20
_BASE = np.uint64(0x9E3779B97F4A7C15)


class ClassifierSettings(Section):
    """How a classifier is trained. The defaults are what did best on held-out reviews and pages (docs/quality.md)."""

    gram: int = Field(default=4, description="n-grams of 1 to this many characters", ge=1, le=8)
    bits: int = Field(default=20, description="2^bits weights of 4 bytes; n-grams share them by hash", ge=8, le=26)
    epochs: int = Field(default=5, description="passes over the examples", ge=1, le=1000)
    learning_rate: float = Field(default=0.2, description="AdaGrad's step", gt=0, le=100)
    characters: int = Field(default=5000, description="of a longer text the beginning counts", ge=1)
    heldout: float = Field(default=0.1, description="share of the examples that calibrate and are measured", gt=0, lt=1)
    threshold: float = Field(default=0.5, description="good from here on (ChineseWebText: 0.5)", ge=0, le=1)
    seed: int = Field(default=1, description="of the order of the examples", ge=0, lt=2**32)


@dataclass(frozen=True)
class Classifier:
    """A trained classifier; `probabilities` says how good texts are."""

    settings: ClassifierSettings
    weights: np.ndarray  # float32[2^bits]
    bias: float
    slope: float
    """The calibrated log-odds are slope · z + intercept."""
    intercept: float
    figures: dict[str, Any]
    """How many examples it has seen, and what it was worth on those held out."""

    def log_odds(self, texts: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Return float64[rows]: calibrated log-odds of good against bad."""
        points = read(texts, self.settings.characters)
        out = np.empty(points.offsets.size - 1, np.float64)
        _score(points.values, points.offsets, self.settings.gram, self.settings.bits, self.weights, self.bias, out)
        return self.slope * out + self.intercept

    def probabilities(self, texts: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Return float64[rows]: the probability that each text is good. Row by row: other rows do not matter."""
        return sigmoid(self.log_odds(texts))

    def content(self) -> model_file.ModelContent:
        """Return the model as `model_file` keeps it."""
        about = {
            "settings": self.settings.model_dump(),
            "bias": self.bias,
            "slope": self.slope,
            "intercept": self.intercept,
            "figures": self.figures,
        }
        return model_file.ModelContent(KIND, about, {"weights": self.weights})

    def save(self, path: Path) -> str:
        """Write the model; returns its fingerprint."""
        return model_file.save(path, self.content())

    @classmethod
    def load(cls, path: Path) -> "Classifier":
        """Read a model that `save` wrote; UserError where it is none."""
        content = model_file.load(path, KIND)
        about = content.about
        settings = ClassifierSettings(**about["settings"])
        return cls(
            settings, content.arrays["weights"], about["bias"], about["slope"], about["intercept"], about["figures"]
        )


def sigmoid(values: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + e^-x) without overflow."""
    return np.where(values >= 0, 1, np.exp(np.minimum(values, 0))) / (1 + np.exp(-np.abs(values)))


def train(positives: Sequence[str], negatives: Sequence[str], settings: ClassifierSettings) -> Classifier:
    """Train on good and bad texts. UserError where there are too few of either, or the two are the same."""
    for name, examples in (("positives", positives), ("negatives", negatives)):
        if len(examples) < LEAST_EXAMPLES:
            raise UserError(f"{name}: {len(examples)} texts; at least {LEAST_EXAMPLES} of each class are needed")
    texts = pa.array([*positives, *negatives], pa.large_string())
    labels = np.repeat(np.array([1, 0], np.uint8), [len(positives), len(negatives)])
    heldout = _held_out(texts, labels, settings.heldout)
    points = read(texts, settings.characters)
    weights = np.zeros(1 << settings.bits, np.float32)
    squares = np.zeros(1 << settings.bits, np.float32)
    generator = np.random.Generator(np.random.Philox(settings.seed))
    seen = np.flatnonzero(~heldout)
    share = labels[seen].mean()
    bias = math.log(share / (1 - share))
    for epoch in range(settings.epochs):
        rate = settings.learning_rate * (1 - epoch / settings.epochs)
        order = generator.permutation(seen)
        bias = _train_epoch(
            points.values, points.offsets, labels, order, settings.gram, settings.bits, rate, weights, squares, bias
        )
    scores = np.empty(len(labels), np.float64)
    _score(points.values, points.offsets, settings.gram, settings.bits, weights, bias, scores)
    if not np.isfinite(scores).all():
        raise UserError(f"learning_rate {settings.learning_rate}: the training diverged; a smaller one would be right")
    slope, intercept = calibrate(scores[heldout], labels[heldout])
    measured = measure(sigmoid(slope * scores[heldout] + intercept), labels[heldout], settings.threshold)
    figures = _figures(labels, heldout, measured)
    return Classifier(settings, weights, float(bias), slope, intercept, figures)


def _figures(labels: np.ndarray, heldout: np.ndarray, measured: Quality) -> dict[str, Any]:
    counts = {
        "positives": int(labels.sum()),
        "negatives": int((1 - labels).sum()),
        "heldout_positives": int(labels[heldout].sum()),
        "heldout_negatives": int((1 - labels[heldout]).sum()),
    }
    return {**counts, "heldout": asdict(measured)}


def _held_out(texts: pa.Array, labels: np.ndarray, share: float) -> np.ndarray:
    """Return bool[texts]: those kept away: `share` of each class, the texts of smallest hash, so equal ones go
    together.
    """
    hashes = np.array([xxhash.xxh3_64_intdigest(text.encode()) for text in texts.to_pylist()], np.uint64)
    if np.array_equal(np.unique(hashes[labels == 1]), np.unique(hashes[labels == 0])):
        raise UserError("positives and negatives are the same texts; nothing can be learned from them")
    heldout = np.zeros(labels.size, bool)
    for label in (0, 1):
        own = np.sort(hashes[labels == label])
        count = min(max(math.ceil(share * own.size), LEAST_EXAMPLES // 4), own.size // 2)
        heldout |= (labels == label) & (hashes <= own[count - 1])
        if heldout[labels == label].all():
            raise UserError(f"{'positives' if label else 'negatives'}: {own.size} times the same text teaches nothing")
    return heldout


def calibrate(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return slope and intercept of P(good) = σ(slope · score + intercept): maximum likelihood by Newton's method, with
    Platt's targets (N₊+1)/(N₊+2) and 1/(N₋+2) in place of 1 and 0.
    """
    good = labels == 1
    target = np.where(good, (good.sum() + 1) / (good.sum() + 2), 1 / ((~good).sum() + 2))
    spread = max(float(np.std(scores)), 1e-12)
    center = float(np.mean(scores))
    design = np.stack([(scores - center) / spread, np.ones_like(scores)], axis=1)
    parameters = np.array([1.0, 0.0])

    def loss(values: np.ndarray) -> float:
        z = design @ values
        return float(np.sum(np.logaddexp(0, z) - target * z)) + 1e-6 * float(values @ values)

    for _ in range(100):
        probability = sigmoid(design @ parameters)
        gradient = design.T @ (probability - target) + 2e-6 * parameters
        curvature = (design * (probability * (1 - probability))[:, None]).T @ design + 2e-6 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        size, before = 1.0, loss(parameters)
        while size > 1e-6 and loss(parameters - size * step) > before:
            size /= 2
        parameters = parameters - size * step
        if np.abs(size * step).max() < 1e-10:
            break
    slope = max(float(parameters[0]) / spread, 1e-6)  # a classifier that is worse than chance is not turned round
    intercept = float(parameters[1]) - slope * center
    return slope, intercept


@compiled
def _buckets(text: np.ndarray, gram: int, bits: int, framed: np.ndarray, out: np.ndarray) -> int:
    """Write the bucket (uint32) of each n-gram of 1 to `gram` characters of the text between two line feeds; return how
    many there are, 0 for no text. `framed` has room for both.
    """
    if not text.size:
        return 0
    size = text.size + 2
    framed[0] = NEWLINE
    framed[1 : size - 1] = text
    framed[size - 1] = NEWLINE
    shift = np.uint64(64 - bits)
    written = 0
    for i in range(size):
        word = np.uint64(0)
        for n in range(min(gram, i + 1)):
            # leftwards from i; the length is part of the hash through the repeated multiplication
            word = (word + np.uint64(framed[i - n]) + np.uint64(1)) * _BASE
            out[written] = np.uint32(mix(word) >> shift)
            written += 1
    return written


@compiled
def _longest(offsets: np.ndarray) -> int:
    longest = 0
    for row in range(offsets.size - 1):
        longest = max(longest, offsets[row + 1] - offsets[row])
    return longest


@compiled
def _sum_weights(buckets: np.ndarray, count: int, weights: np.ndarray) -> float:
    total = 0.0
    for i in range(count):
        total += weights[buckets[i]]
    return total / math.sqrt(count) if count else 0.0


@compiled
def _score(
    values: np.ndarray, offsets: np.ndarray, gram: int, bits: int, weights: np.ndarray, bias: float, out: np.ndarray
) -> None:
    """Fill `out[row]` = the uncalibrated log-odds of each row of code points."""
    framed = np.empty(_longest(offsets) + 2, np.uint32)
    buckets = np.empty(framed.size * gram, np.uint32)
    for row in range(offsets.size - 1):
        count = _buckets(values[offsets[row] : offsets[row + 1]], gram, bits, framed, buckets)
        out[row] = bias + _sum_weights(buckets, count, weights)


@compiled
def _train_epoch(
    values: np.ndarray,
    offsets: np.ndarray,
    labels: np.ndarray,
    order: np.ndarray,
    gram: int,
    bits: int,
    rate: float,
    weights: np.ndarray,
    squares: np.ndarray,
    bias: float,
) -> float:
    """Return one pass over the rows `order`; changes `weights` and AdaGrad's sums of `squares`, returns the new
    bias."""
    framed = np.empty(_longest(offsets) + 2, np.uint32)
    buckets = np.empty(framed.size * gram, np.uint32)
    for row in order:
        count = _buckets(values[offsets[row] : offsets[row + 1]], gram, bits, framed, buckets)
        if not count:
            continue
        z = bias + _sum_weights(buckets, count, weights)
        error = 1 / (1 + math.exp(-max(-50.0, min(50.0, z)))) - labels[row]
        step = np.float32(error / math.sqrt(count))
        square = step * step
        for i in range(count):
            bucket = buckets[i]
            squares[bucket] += square
            weights[bucket] -= np.float32(rate) * step / (np.sqrt(squares[bucket]) + np.float32(1e-6))
        bias -= 0.01 * rate * error
    return bias
