"""Attention of one head of one row, a block of queries after the other: the scores of a block are all that is held.

Queries, keys, values, their gradients and the result are [tokens, d]; a head is `width` columns of them. Of a block's
keys only those from the first to the last that some query of the block sees are computed (`extents`): the score of
another is 10000 lower, and its probability 0 in fp32.
"""

import numpy as np

from pangu.generation.compiled.vectors import entry
from pangu.training.compiled.matrix_product import AS_IT_IS, TURNED, multiply
from pangu.training.compiled.row_kernels import exponential, is_kept, quick, softmax

BLOCK = 128  # queries
_f32 = np.float32
_ZERO, _ONE = _f32(0), _f32(1)
_HIDDEN = _f32(-5000)  # a bias below hides


@entry
def find_extents(bias, extents):
    """Put the first key that a block of queries sees, and the last plus 1, into extents [B, blocks, 2], for a bias
    [B, S, S]. A query that sees nothing attends to all keys alike, so its block needs them all."""
    batch, size, _ = bias.shape
    for row in range(batch):
        for block in range(extents.shape[1]):
            first, last = size, 0
            for query in range(block * BLOCK, min(size, (block + 1) * BLOCK)):
                begin, end = 0, size
                while begin < size and bias[row, query, begin] < _HIDDEN:
                    begin += 1
                while end > begin and bias[row, query, end - 1] < _HIDDEN:
                    end -= 1
                if begin == size:
                    begin, end = 0, size
                first, last = min(first, begin), max(last, end)
            extents[row, block, 0], extents[row, block, 1] = first, last


@quick
def _add(scores, bias):
    for place in range(scores.shape[0]):
        scores[place] += bias[place]


@quick
def _divide(scores, total):
    scale = _ONE / total
    for place in range(scores.shape[0]):
        scores[place] *= scale


@quick
def _drop(scores, index, threshold, scale):
    for place in range(scores.shape[0]):
        scores[place] = scores[place] * scale if is_kept(index + place, threshold) else _ZERO


@entry
def attend(
    sgemm, row, head, heads, query, key, value, bias, extents, factor, scratch, context, sums, threshold, scale, start
):
    """Put softmax(factor · q kᵀ + bias) v of one head into its columns of context, and the logarithms of the softmax's
    sums into sums [B, H, S]. scratch: [BLOCK·S]. threshold, scale, start: of dropout, as `row_kernels.drop` has
    them."""
    size, width = bias.shape[1], query.shape[1] // heads
    tokens, columns = row * size, slice(head * width, (head + 1) * width)
    for block in range(extents.shape[1]):
        begin, end = block * BLOCK, min(size, (block + 1) * BLOCK)
        first, last = extents[row, block]
        scores = scratch[: (end - begin) * (last - first)].reshape((end - begin, last - first))
        keys = slice(tokens + first, tokens + last)
        queries = slice(tokens + begin, tokens + end)
        multiply(sgemm, query[queries, columns], AS_IT_IS, key[keys, columns], TURNED, scores, factor, _ZERO)
        for asking in range(end - begin):
            place = begin + asking
            _add(scores[asking], bias[row, place, first:last])
            top, total = softmax(scores[asking])
            sums[row, head, place] = top + _f32(np.log(total))
            _divide(scores[asking], total)
            if threshold > 0:
                index = start + ((row * heads + head) * size + place) * size + first
                _drop(scores[asking], index, threshold, scale)
        multiply(sgemm, scores, AS_IT_IS, value[keys, columns], AS_IT_IS, context[queries, columns], _ONE, _ZERO)


@quick
def _again(scores, bias, log_sum):
    """Make the probabilities of scores."""
    for place in range(scores.shape[0]):
        scores[place] = exponential(scores[place] + bias[place] - log_sum)


@quick
def _product(x, y):
    total = _ZERO
    for place in range(x.shape[0]):
        total += x[place] * y[place]
    return total


@quick
def _score_gradients(probabilities, slopes, mean, index, threshold, scale):
    """Put the gradients of the scores into slopes, which are those of the probabilities behind dropout; and into
    probabilities what they are behind it."""
    for place in range(slopes.shape[0]):
        probability = probabilities[place]
        if threshold > 0:
            factor = scale if is_kept(index + place, threshold) else _ZERO
            slopes[place] = probability * (slopes[place] * factor - mean)
            probabilities[place] = probability * factor
        else:
            slopes[place] = probability * (slopes[place] - mean)


@entry
def attend_backward(
    sgemm, row, head, heads, query, key, value, bias, extents, factor, scratch, context, sums, threshold, scale, start,
    dcontext, dquery, dkey, dvalue,
):  # fmt: skip
    """Put the gradients of `attend` into the head's columns of dquery, dkey and dvalue. scratch: [2·BLOCK·S]."""
    size, width = bias.shape[1], query.shape[1] // heads
    tokens, columns = row * size, slice(head * width, (head + 1) * width)
    dkey[tokens : tokens + size, columns] = _ZERO
    dvalue[tokens : tokens + size, columns] = _ZERO
    for block in range(extents.shape[1]):
        begin, end = block * BLOCK, min(size, (block + 1) * BLOCK)
        first, last = extents[row, block]
        count = end - begin
        room = count * (last - first)
        scores = scratch[:room].reshape((count, last - first))
        slopes = scratch[room : 2 * room].reshape((count, last - first))
        keys = slice(tokens + first, tokens + last)
        queries = slice(tokens + begin, tokens + end)
        given = dcontext[queries, columns]
        multiply(sgemm, query[queries, columns], AS_IT_IS, key[keys, columns], TURNED, scores, factor, _ZERO)
        multiply(sgemm, given, AS_IT_IS, value[keys, columns], TURNED, slopes, _ONE, _ZERO)
        for asking in range(count):
            place = begin + asking
            _again(scores[asking], bias[row, place, first:last], sums[row, head, place])
            mean = _product(dcontext[tokens + place, columns], context[tokens + place, columns])
            index = start + ((row * heads + head) * size + place) * size + first
            _score_gradients(scores[asking], slopes[asking], mean, index, threshold, scale)
        multiply(sgemm, slopes, AS_IT_IS, key[keys, columns], AS_IT_IS, dquery[queries, columns], factor, _ZERO)
        multiply(sgemm, slopes, TURNED, query[queries, columns], AS_IT_IS, dkey[keys, columns], factor, _ONE)
        multiply(sgemm, scores, TURNED, given, AS_IT_IS, dvalue[keys, columns], _ONE, _ONE)
