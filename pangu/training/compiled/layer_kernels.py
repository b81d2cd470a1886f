"""What one layer does with some of the tokens, apart from attention: products, norms, activation; forward and backward.

Tokens are rows; a call does the rows from begin to end of arrays [tokens, ...]. Matrices lie as the checkpoint has
them: those of queries, keys and values [out, in], the others [in, out].

Gradients of vectors (biases, norms) are sums over rows: those of a call stand in one row of `partial`, in the order of
`vector_places`.
"""

import numpy as np

from pangu.generation.compiled.vectors import entry
from pangu.training.compiled.matrix_product import AS_IT_IS, TURNED, multiply
from pangu.training.compiled.row_kernels import (
    activate,
    activate_backward,
    add_bias,
    add_residual,
    drop,
    normalise,
    normalise_again,
    normalise_backward,
    sum_rows,
)

_f32 = np.float32
_ZERO, _ONE = _f32(0), _f32(1)

# Of one layer, with widths in `hidden_size`; the inner bias comes first, as wide as the feed-forward layer.
VECTORS = (
    "output.projection.bias", "layernorm2.gamma", "layernorm2.beta", "attention.projection.bias",
    "layernorm1.gamma", "layernorm1.beta", "attention.dense1.bias", "attention.dense2.bias", "attention.dense3.bias",
)  # fmt: skip


@entry
def embed(begin, end, ids, words, positions, position_table, threshold, scale, start, hidden):
    """Put words[ids] + position_table[positions], with dropout, into hidden."""
    for token in range(begin, end):
        word, place = words[ids[token]], position_table[positions[token]]
        for column in range(hidden.shape[1]):
            hidden[token, column] = word[column] + place[column]
    drop(hidden[begin:end], begin, threshold, scale, start)


@entry
def add_table(begin, end, places, table, hidden):
    """Add table[places] to hidden."""
    for token in range(begin, end):
        row = table[places[token]]
        for column in range(hidden.shape[1]):
            hidden[token, column] += row[column]


@entry
def take_table(begin, end, places, table, hidden):
    """Put table[places] into hidden."""
    for token in range(begin, end):
        row = table[places[token]]
        for column in range(hidden.shape[1]):
            hidden[token, column] = row[column]


@entry
def project(begin, end, sgemm, x, weight, bias, y):
    """Put x weightᵀ + bias into y, for the queries that the table asks."""
    multiply(sgemm, x[begin:end], AS_IT_IS, weight, TURNED, y[begin:end], _ONE, _ZERO)
    add_bias(y[begin:end], bias)


@entry
def norm(begin, end, x, gamma, beta, y, statistics):
    """Put the norm of x into y."""
    normalise(x[begin:end], gamma, beta, y[begin:end], statistics[begin:end])


@entry
def norm_backward(begin, end, chunk, x, gamma, statistics, dy, dx, partial):
    """Put the gradient of a norm into dx, and those of gamma and beta, one after the other, into partial."""
    size = x.shape[1]
    dx[begin:end] = _ZERO
    partial[chunk] = _ZERO
    normalise_backward(
        x[begin:end], gamma, statistics[begin:end], dy[begin:end], dx[begin:end],
        partial[chunk, :size], partial[chunk, size : 2 * size],
    )  # fmt: skip


@entry
def layer_begin(
    begin, end, sgemm, x, gamma, beta, statistics, normed,
    query_weight, query_bias, key_weight, key_bias, value_weight, value_bias, query, key, value, asks,
):  # fmt: skip
    """Put queries, keys and values of the normed x into their arrays; queries only where `asks`."""
    rows = normed[begin:end]
    normalise(x[begin:end], gamma, beta, rows, statistics[begin:end])
    if asks:
        multiply(sgemm, rows, AS_IT_IS, query_weight, TURNED, query[begin:end], _ONE, _ZERO)
        add_bias(query[begin:end], query_bias)
    multiply(sgemm, rows, AS_IT_IS, key_weight, TURNED, key[begin:end], _ONE, _ZERO)
    add_bias(key[begin:end], key_bias)
    multiply(sgemm, rows, AS_IT_IS, value_weight, TURNED, value[begin:end], _ONE, _ZERO)
    add_bias(value[begin:end], value_bias)


@entry
def layer_end(
    begin, end, sgemm, x, context, weight, bias, middle, gamma, beta, statistics, normed,
    up_weight, up_bias, inner, active, down_weight, down_bias, y, activation,
    threshold, scale, attention_start, output_start,
):  # fmt: skip
    """Put the layer's result for x and its attention's context into y; keep `middle` and the argument `inner` of the
    activation."""
    half, rows, within, acting = middle[begin:end], normed[begin:end], inner[begin:end], active[begin:end]
    multiply(sgemm, context[begin:end], AS_IT_IS, weight, AS_IT_IS, half, _ONE, _ZERO)
    add_residual(half, bias, x[begin:end], begin, threshold, scale, attention_start)
    normalise(half, gamma, beta, rows, statistics[begin:end])
    multiply(sgemm, rows, AS_IT_IS, up_weight, AS_IT_IS, within, _ONE, _ZERO)
    activate(within, up_bias, acting, activation)
    multiply(sgemm, acting, AS_IT_IS, down_weight, AS_IT_IS, y[begin:end], _ONE, _ZERO)
    add_residual(y[begin:end], down_bias, half, begin, threshold, scale, output_start)


@entry
def layer_end_backward(
    begin, end, chunk, sgemm, dy, weight, middle, gamma, beta, statistics, normed,
    up_weight, inner, active, down_weight, activation, threshold, scale, attention_start, output_start,
    dropped_dy, dmiddle, dropped_dmiddle, dcontext, partial,
):  # fmt: skip
    """Put the gradients of `layer_end` into dmiddle and dcontext.

    Afterwards `inner` holds its own gradient, `active` and `normed` the inputs of both matrices, dropped_dy and
    dropped_dmiddle the gradients behind them; without dropout these are dy and dmiddle.
    """
    size, wide = middle.shape[1], inner.shape[1]
    own = partial[chunk]
    own[:] = _ZERO
    vectors = own[wide:]
    given, half, within, acting = dropped_dy[begin:end], middle[begin:end], inner[begin:end], active[begin:end]
    if threshold > 0:
        given[:] = dy[begin:end]
        drop(given, begin, threshold, scale, output_start)
    sum_rows(given, vectors[:size])
    multiply(sgemm, given, AS_IT_IS, down_weight, TURNED, acting, _ONE, _ZERO)
    activate_backward(within, acting, own[:wide], activation)
    normalise_again(half, gamma, beta, normed[begin:end], statistics[begin:end])
    slope = dcontext[begin:end]
    multiply(sgemm, within, AS_IT_IS, up_weight, TURNED, slope, _ONE, _ZERO)
    dhalf = dmiddle[begin:end]
    dhalf[:] = dy[begin:end]
    normalise_backward(
        half, gamma, statistics[begin:end], slope, dhalf, vectors[size : 2 * size], vectors[2 * size : 3 * size]
    )
    back = dropped_dmiddle[begin:end]
    if threshold > 0:
        back[:] = dhalf
        drop(back, begin, threshold, scale, attention_start)
    sum_rows(back, vectors[3 * size : 4 * size])
    multiply(sgemm, back, AS_IT_IS, weight, TURNED, slope, _ONE, _ZERO)


@entry
def layer_begin_backward(
    begin, end, chunk, sgemm, x, gamma, beta, statistics, normed, query_weight, key_weight, value_weight,
    dquery, dkey, dvalue, asks, dmiddle, slope, dx, partial,
):  # fmt: skip
    """Put the gradient of a layer's x into dx, from those of its queries, keys, values and middle; `normed` is what
    their matrices take. slope: room."""
    size = x.shape[1]
    vectors = partial[chunk, partial.shape[1] - 9 * size :]
    rows = slope[begin:end]
    sum_rows(dquery[begin:end], vectors[6 * size : 7 * size])
    sum_rows(dkey[begin:end], vectors[7 * size : 8 * size])
    sum_rows(dvalue[begin:end], vectors[8 * size :])
    multiply(sgemm, dkey[begin:end], AS_IT_IS, key_weight, AS_IT_IS, rows, _ONE, _ZERO)
    multiply(sgemm, dvalue[begin:end], AS_IT_IS, value_weight, AS_IT_IS, rows, _ONE, _ONE)
    if asks:
        multiply(sgemm, dquery[begin:end], AS_IT_IS, query_weight, AS_IT_IS, rows, _ONE, _ONE)
    normalise_again(x[begin:end], gamma, beta, normed[begin:end], statistics[begin:end])
    dx[begin:end] = dmiddle[begin:end]
    normalise_backward(
        x[begin:end], gamma, statistics[begin:end], rows, dx[begin:end],
        vectors[4 * size : 5 * size], vectors[5 * size : 6 * size],
    )  # fmt: skip


@entry
def embed_backward(begin, end, slope, threshold, scale, start):
    """Make the gradient of what `embed` looks up out of that of its result, in place."""
    drop(slope[begin:end], begin, threshold, scale, start)
