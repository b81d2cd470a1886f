"""The negative log-likelihood of labels, and its gradient, where the logits are."""

from math import log

import numpy as np

from pangu.generation.compiled.vectors import entry
from pangu.training.compiled.row_kernels import quick, softmax

_f32 = np.float32


@quick
def _scale(row, factor):
    for place in range(row.shape[0]):
        row[place] *= factor


@entry
def negative_log_likelihood(begin, end, first, logits, labels, weights, factor, losses, differentiates):
    """Put weight · -log softmax(logits)[label] of rows begin..end into losses; the row in logits is number first + row
    of the others. Where `differentiates`, the logits become the gradient of factor · loss."""
    for row in range(begin, end):
        token = first + row
        label, weight = labels[token], weights[token]
        target = logits[row, label]
        top, total = softmax(logits[row])
        losses[token] = weight * (_f32(log(total)) + (top - target))
        if differentiates:
            _scale(logits[row], weight * factor / total)
            logits[row, label] -= weight * factor
