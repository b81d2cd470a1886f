"""What a weight needs: the square of its gradient, and AdamW."""

from math import sqrt

import numpy as np

from pangu.generation.compiled.vectors import entry
from pangu.training.compiled.row_kernels import quick

_f32 = np.float32
_ZERO, _ONE = _f32(0), _f32(1)
RUN = 1024  # numbers whose squares are added in fp32


@quick
def _squares(x):
    total = _ZERO
    for place in range(x.shape[0]):
        total += x[place] * x[place]
    return total


@entry
def sum_of_squares(x):
    """Return Σx² of a flat array, fp64 over runs of fp32."""
    total = 0.0
    for begin in range(0, x.shape[0], RUN):
        total += _squares(x[begin : begin + RUN])
    return total


@quick
def _adamw(weight, first, second, gradient, factor, beta1, beta2, rate, epsilon, kept):
    for place in range(weight.shape[0]):
        slope = gradient[place] * factor
        mean = first[place] + (slope - first[place]) * (_ONE - beta1)
        square = second[place] + (slope * slope - second[place]) * (_ONE - beta2)
        first[place], second[place] = mean, square
        weight[place] = weight[place] * kept - rate * mean / (_f32(sqrt(square)) + epsilon)


@entry
def adamw(weight, first, second, gradient, factor, beta1, beta2, rate, epsilon, kept):
    """Update flat arrays in place, as `training.optimizer.AdamW` does.

    factor: of the gradient; kept: 1 - rate·decay."""
    _adamw(weight, first, second, gradient, factor, beta1, beta2, rate, epsilon, kept)


@entry
def scatter_add(rows, places, table, begin, end):
    """Add row i of `rows` to row places[i] of a table, in columns begin to end."""
    for row in range(rows.shape[0]):
        target = places[row]
        for column in range(begin, end):
            table[target, column] += rows[row, column]
