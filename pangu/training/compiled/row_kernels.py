"""What a token needs apart from matrix products: layer norm, activation, dropout, the loss; forward and backward.

Rows are fp32 and contiguous. Sums may be taken in any order that the compiler likes, the same in every run.
"""

from math import floor, sqrt

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_f32 = np.float32
_ZERO, _HALF, _ONE = _f32(0), _f32(0.5), _f32(1)
EPSILON = _f32(1e-5)  # of the layer norms
GELU_TANH, GELU_ERF, FAST_GELU = range(3)
_LINEAR, _CUBIC = _f32(2 * sqrt(2 / np.pi)), _f32(2 * sqrt(2 / np.pi) * 0.044715)
_CUBIC_3 = _f32(3) * _CUBIC
_FAST = _f32(1.702)
_ROOT_HALF, _DENSITY = _f32(sqrt(0.5)), _f32(1 / sqrt(2 * np.pi))
# erf to 1.5e-7 (Abramowitz and Stegun 1964, formula 7.1.26).
_ERF_P = _f32(0.3275911)
_ERF_1, _ERF_2, _ERF_3, _ERF_4, _ERF_5 = map(_f32, (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429))
# e^r (Cephes), and log 2 in two parts (Cody and Waite).
_EXP_1, _EXP_2, _EXP_3, _EXP_4, _EXP_5 = map(
    _f32, (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1)
)
_LOG2_E, _LOG_2_HIGH, _LOG_2_LOW = _f32(1.4426950408889634), _f32(0.693359375), _f32(-2.12194440e-4)
_LARGEST, _SMALLEST = _f32(88.0), _f32(-87.3)

# Sums in any order, multiply-adds in one; but infinities and NaN stay what they are.
MATHS = {"reassoc", "contract", "nsz", "arcp"}
quick = numba.njit(nogil=True, error_model="numpy", fastmath=MATHS, no_cpython_wrapper=True, no_cfunc_wrapper=True)
# The largest number of a row where NaN may be overlooked: the sum over the row, which comes next, shows it.
_largest = numba.njit(nogil=True, fastmath=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)


@intrinsic
def _power_of_two(typing_context, exponent):
    """Return 2^exponent for a whole number between -126 and 127."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        whole = builder.fptosi(arguments[0], ir.IntType(32))
        bits = builder.shl(builder.add(whole, ir.IntType(32)(127)), ir.IntType(32)(23))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(types.float32), generate


@quick
def exponential(x):
    """Return e^x; a NaN stays one. 0 below -87, so that nothing is subnormal, and at most e^88."""
    if x < _SMALLEST:
        return _ZERO
    x = _LARGEST if x > _LARGEST else x
    whole = _f32(floor(x * _LOG2_E + _HALF))
    rest = x - whole * _LOG_2_HIGH
    rest = rest - whole * _LOG_2_LOW
    series = ((((_EXP_1 * rest + _EXP_2) * rest + _EXP_3) * rest + _EXP_4) * rest + _EXP_5) * rest + _HALF
    return (series * (rest * rest) + (rest + _ONE)) * _power_of_two(whole)


@quick
def add_bias(x, bias):
    """Add to every row."""
    for row in range(x.shape[0]):
        for place in range(x.shape[1]):
            x[row, place] += bias[place]


@quick
def normalise(x, gamma, beta, y, statistics):
    """Put gamma · (x - mean) / √(variance + eps) + beta of each row into y; mean and 1/√… into statistics [rows, 2]."""
    size = x.shape[1]
    share = _ONE / _f32(size)
    for row in range(x.shape[0]):
        total = _ZERO
        for place in range(size):
            total += x[row, place]
        mean = total * share
        total = _ZERO
        for place in range(size):
            distance = x[row, place] - mean
            total += distance * distance
        scale = _ONE / _f32(sqrt(total * share + EPSILON))
        statistics[row, 0], statistics[row, 1] = mean, scale
        for place in range(size):
            y[row, place] = (x[row, place] - mean) * scale * gamma[place] + beta[place]


@quick
def normalise_again(x, gamma, beta, y, statistics):
    """Do what `normalise` did, with its statistics."""
    for row in range(x.shape[0]):
        mean, scale = statistics[row, 0], statistics[row, 1]
        for place in range(x.shape[1]):
            y[row, place] = (x[row, place] - mean) * scale * gamma[place] + beta[place]


@quick
def normalise_backward(x, gamma, statistics, dy, dx, dgamma, dbeta):
    """Add the gradients of `normalise` to dx [rows, d], dgamma and dbeta [d] (Ba et al. 2016)."""
    size = x.shape[1]
    share = _ONE / _f32(size)
    for row in range(x.shape[0]):
        mean, scale = statistics[row, 0], statistics[row, 1]
        slope, product = _ZERO, _ZERO
        for place in range(size):
            normed = (x[row, place] - mean) * scale
            weighted = dy[row, place] * gamma[place]
            slope += weighted
            product += weighted * normed
        slope, product = slope * share, product * share
        for place in range(size):
            normed = (x[row, place] - mean) * scale
            given = dy[row, place]
            dx[row, place] += (given * gamma[place] - slope - normed * product) * scale
            dgamma[place] += given * normed
            dbeta[place] += given


@quick
def _sigmoid(z):
    return _ONE / (_ONE + exponential(-z))


@quick
def _normal_share(x):
    """Return Φ(x), the share of the normal distribution below x."""
    argument = x * _ROOT_HALF
    size = abs(argument)
    step = _ONE / (size * _ERF_P + _ONE)
    series = ((((_ERF_5 * step + _ERF_4) * step + _ERF_3) * step + _ERF_2) * step + _ERF_1) * step
    beyond = _HALF * series * exponential(-size * size)
    return beyond if argument < _ZERO else _ONE - beyond


@quick
def activate(x, bias, y, activation):
    """Add the bias to x, in place, and put the activation of it into y (`pangu.model.activation`)."""
    for row in range(x.shape[0]):
        if activation == GELU_TANH:
            for place in range(x.shape[1]):
                value = x[row, place] + bias[place]
                x[row, place] = value
                y[row, place] = value * _sigmoid(value * (_LINEAR + _CUBIC * value * value))
        elif activation == GELU_ERF:
            for place in range(x.shape[1]):
                value = x[row, place] + bias[place]
                x[row, place] = value
                y[row, place] = value * _normal_share(value)
        else:
            for place in range(x.shape[1]):
                value = x[row, place] + bias[place]
                x[row, place] = value
                y[row, place] = value * _sigmoid(_FAST * value)


@quick
def activate_backward(x, dy, dbias, activation):
    """Put into dy, which is the gradient of the activation, the activation itself; and into x, which is its argument,
    the gradient of that, whose sum over the rows is added to dbias."""
    for row in range(x.shape[0]):
        if activation == GELU_TANH:
            for place in range(x.shape[1]):
                value = x[row, place]
                square = value * value
                gate = _sigmoid(value * (_LINEAR + _CUBIC * square))
                slope = gate + value * gate * (_ONE - gate) * (_LINEAR + _CUBIC_3 * square)
                x[row, place] = dy[row, place] * slope
                dy[row, place] = value * gate
        elif activation == GELU_ERF:
            for place in range(x.shape[1]):
                value = x[row, place]
                below = _normal_share(value)
                slope = below + value * _DENSITY * exponential(-_HALF * value * value)
                x[row, place] = dy[row, place] * slope
                dy[row, place] = value * below
        else:
            for place in range(x.shape[1]):
                value = x[row, place]
                gate = _sigmoid(_FAST * value)
                x[row, place] = dy[row, place] * (gate + value * gate * (_ONE - gate) * _FAST)
                dy[row, place] = value * gate
        for place in range(x.shape[1]):
            dbias[place] += x[row, place]


@quick
def sum_rows(x, total):
    """Add the sum over the rows of x to total."""
    for row in range(x.shape[0]):
        for place in range(x.shape[1]):
            total[place] += x[row, place]


@quick
def _wrapped(number):
    """Return a whole number as 32 bits hold it."""
    return np.int64(np.int32(number))


@quick
def is_kept(index, threshold):
    """Return whether dropout keeps the element with this index plus start, by `pangu.model.dropout.Dropout.hash`."""
    bits = _wrapped(index)
    bits = _wrapped((bits ^ (bits >> 16)) * 0x45D9F3B)
    bits = _wrapped((bits ^ (bits >> 16)) * 0x119DE1F3)
    return ((bits ^ (bits >> 16)) & 0xFFFFFF) >= threshold


@quick
def drop(x, first_row, threshold, scale, start):
    """Apply dropout to rows, in place; the first is number first_row of all. threshold 0: there is none."""
    if threshold == 0:
        return
    width = x.shape[1]
    for row in range(x.shape[0]):
        index = start + (first_row + row) * width
        for place in range(width):
            x[row, place] = x[row, place] * scale if is_kept(index + place, threshold) else _ZERO


@quick
def add_residual(y, bias, x, first_row, threshold, scale, start):
    """Put x + dropout(y + bias) into y."""
    width = x.shape[1]
    for row in range(x.shape[0]):
        if threshold == 0:
            for place in range(width):
                y[row, place] += bias[place] + x[row, place]
        else:
            index = start + (first_row + row) * width
            for place in range(width):
                kept = (y[row, place] + bias[place]) * scale if is_kept(index + place, threshold) else _ZERO
                y[row, place] = kept + x[row, place]


@_largest
def largest(x):
    """Return the largest number of a row."""
    top = x[0]
    for place in range(1, x.shape[0]):
        top = max(top, x[place])
    return top


@quick
def softmax(x):
    """Put e^(x - max) into a row. Returns the largest number and the sum."""
    top = largest(x)
    total = _ZERO
    for place in range(x.shape[0]):
        power = exponential(x[place] - top)
        x[place] = power
        total += power
    return top, total
