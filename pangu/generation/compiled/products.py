"""The arithmetic of one decoding step as compiled functions: products with stored weights, norms, GELU, attention.

Every function takes addresses of row-major fp32 rows, unless it says otherwise. Weights are [out, in]. A sum over the
inputs has one order, whichever kernel makes it: 16 lanes, added as a tree, then what is left of a row one by one. So a
token's numbers do not depend on the tokens beside it, on where a prompt is cut, or on the number of threads.
"""

from math import sqrt

import numpy as np

from pangu.generation.compiled.vectors import (
    add,
    bfloat_at,
    byte_at,
    compiled,
    divide,
    every_fourth,
    exponential,
    first_lane,
    float_at,
    fma,
    fold_1,
    fold_2,
    fold_4,
    fold_8,
    half_at,
    integer_at,
    keep_first,
    larger,
    largest_lane,
    load_bf16,
    load_fp16,
    load_fp32,
    load_high_nibbles,
    load_int8,
    load_low_nibbles,
    multiply,
    prefetch,
    put_float,
    spread,
    store,
    store_quarter_0,
    store_quarter_1,
    store_quarter_2,
    store_quarter_3,
    subtract,
)

# How a matrix is stored. INT4: groups of 32 inputs in 16 bytes, the first 16 in the lower halves, each plus 8.
FP32, FP16, BF16, INT8, INT4 = range(5)
GROUP = 32
# Columns of a table of matrices.
ADDRESS, KIND, OUTPUTS, INPUTS, SCALES, BIAS, COLUMNS = range(7)
# What follows a product.
NOTHING, GELU_TANH, GELU_ERF, FAST_GELU = range(4)

_f32 = np.float32
EPSILON = _f32(1e-5)  # of the layer norms
_ONE, _HALF, _ZERO = _f32(1), _f32(0.5), _f32(0)
_TANH_SCALE, _TANH_CUBIC = _f32(2 * sqrt(2 / np.pi)), _f32(2 * sqrt(2 / np.pi) * 0.044715)
_FAST_SCALE = _f32(1.702)
_ROOT_HALF = _f32(sqrt(0.5))
# erf to 1.5e-7 (Abramowitz and Stegun 1964, formula 7.1.26).
_ERF_P = _f32(0.3275911)
_ERF_1, _ERF_2, _ERF_3, _ERF_4, _ERF_5 = map(_f32, (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429))
UNSEEN = _f32(-1e30)
# Patterns of attention.
FULL, SLIDING_WINDOW, STRIDED, FIXED = range(4)
AHEAD = 20480  # bytes
# Many tokens: rows of weights and inputs of a part that stay in the first cache, and tokens whose sums wait in the
# second for the next part.
MANY = 16
PART_ROWS, PART_INPUTS, PART_TOKENS = 8, 512, 128
# Inputs from which on 128 tokens no longer fit the second cache beside the rest, and rows that share a part of them.
# Measured, 128 tokens, Xeon with AVX-512, one thread: 1024 x 4096 94 -> 105 GFLOP/s, 2048 x 8192 79 -> 108.
MANY_INPUTS, BLOCK_ROWS = 4096, 64
# Where the tokens' part and the sums lie in the scratch, behind the rows.
PACKED = PART_ROWS * PART_INPUTS
SUMS = PACKED + PART_TOKENS * PART_INPUTS
MANY_SCRATCH = SUMS + BLOCK_ROWS * PART_TOKENS * 16


@compiled
def sum_4(first, second, third, fourth):
    """Return the sums of four vectors, in lanes 0 to 3."""
    halves = fold_4(fold_8(first, third), fold_8(second, fourth))
    quarters = fold_2(halves, halves)
    return every_fourth(fold_1(quarters, quarters))


@compiled
def add_rest(weights, x, y, rows, inputs):
    """Add the inputs behind the last whole vector to y[0..rows]."""
    start = inputs // 16 * 16
    for row in range(rows):
        rest = _ZERO
        for place in range(start, inputs):
            rest += float_at(weights + 4 * (row * inputs + place)) * float_at(x + 4 * place)
        put_float(y + 4 * row, float_at(y + 4 * row) + rest)


@compiled
def one_row(weights, x, y, inputs):
    """Return one row of fp32 weights times x."""
    total = spread(_ZERO)
    for place in range(0, inputs // 16 * 64, 64):
        total = fma(load_fp32(weights + place), load_fp32(x + place), total)
    put_float(y, first_lane(sum_4(total, total, total, total)))
    if inputs % 16:
        add_rest(weights, x, y, 1, inputs)


@compiled
def ahead_of(weights, row_bytes):
    """Return where to ask for weights that come later, while four rows are multiplied: behind the next four.

    Processors see by themselves that one row goes on, but four at once, short or of small numbers, come too late:
    int8 took two to three times as long.
    """
    return weights + max(AHEAD, 4 * row_bytes)


@compiled
def four_rows_fp32(weights, x, y, inputs):
    """Multiply four neighbouring rows of weights with x -> y[0..4]."""
    row_0, row_1 = weights, weights + 4 * inputs
    row_2, row_3 = row_1 + 4 * inputs, row_1 + 8 * inputs
    ahead = ahead_of(weights, 4 * inputs)
    sum_0 = spread(_ZERO)
    sum_1, sum_2, sum_3 = sum_0, sum_0, sum_0
    for place in range(0, inputs // 16 * 64, 64):
        prefetch(ahead + 4 * place)
        prefetch(ahead + 4 * place + 64)
        prefetch(ahead + 4 * place + 128)
        prefetch(ahead + 4 * place + 192)
        value = load_fp32(x + place)
        sum_0 = fma(load_fp32(row_0 + place), value, sum_0)
        sum_1 = fma(load_fp32(row_1 + place), value, sum_1)
        sum_2 = fma(load_fp32(row_2 + place), value, sum_2)
        sum_3 = fma(load_fp32(row_3 + place), value, sum_3)
    store_quarter_0(y, sum_4(sum_0, sum_1, sum_2, sum_3))
    if inputs % 16:
        add_rest(weights, x, y, 4, inputs)


@compiled
def four_rows_fp16(weights, x, y, inputs):
    """Do the same for fp16 weights. Like the next three: inputs are a multiple of 16."""
    row_0, row_1 = weights, weights + 2 * inputs
    row_2, row_3 = row_1 + 2 * inputs, row_1 + 4 * inputs
    ahead = ahead_of(weights, 2 * inputs)
    sum_0 = spread(_ZERO)
    sum_1, sum_2, sum_3 = sum_0, sum_0, sum_0
    for place in range(0, 2 * inputs, 32):
        prefetch(ahead + 4 * place)
        prefetch(ahead + 4 * place + 64)
        value = load_fp32(x + 2 * place)
        sum_0 = fma(load_fp16(row_0 + place), value, sum_0)
        sum_1 = fma(load_fp16(row_1 + place), value, sum_1)
        sum_2 = fma(load_fp16(row_2 + place), value, sum_2)
        sum_3 = fma(load_fp16(row_3 + place), value, sum_3)
    store_quarter_0(y, sum_4(sum_0, sum_1, sum_2, sum_3))


@compiled
def four_rows_bf16(weights, x, y, inputs):
    """Do the same for bf16 weights."""
    row_0, row_1 = weights, weights + 2 * inputs
    row_2, row_3 = row_1 + 2 * inputs, row_1 + 4 * inputs
    ahead = ahead_of(weights, 2 * inputs)
    sum_0 = spread(_ZERO)
    sum_1, sum_2, sum_3 = sum_0, sum_0, sum_0
    for place in range(0, 2 * inputs, 32):
        prefetch(ahead + 4 * place)
        prefetch(ahead + 4 * place + 64)
        value = load_fp32(x + 2 * place)
        sum_0 = fma(load_bf16(row_0 + place), value, sum_0)
        sum_1 = fma(load_bf16(row_1 + place), value, sum_1)
        sum_2 = fma(load_bf16(row_2 + place), value, sum_2)
        sum_3 = fma(load_bf16(row_3 + place), value, sum_3)
    store_quarter_0(y, sum_4(sum_0, sum_1, sum_2, sum_3))


@compiled
def four_rows_int8(weights, x, y, inputs):
    """Do the same for int8 weights, without their scales."""
    row_0, row_1 = weights, weights + inputs
    row_2, row_3 = row_1 + inputs, row_1 + 2 * inputs
    ahead = ahead_of(weights, inputs)
    sum_0 = spread(_ZERO)
    sum_1, sum_2, sum_3 = sum_0, sum_0, sum_0
    for place in range(0, inputs, 16):
        prefetch(ahead + 4 * place)
        value = load_fp32(x + 4 * place)
        sum_0 = fma(load_int8(row_0 + place), value, sum_0)
        sum_1 = fma(load_int8(row_1 + place), value, sum_1)
        sum_2 = fma(load_int8(row_2 + place), value, sum_2)
        sum_3 = fma(load_int8(row_3 + place), value, sum_3)
    store_quarter_0(y, sum_4(sum_0, sum_1, sum_2, sum_3))


@compiled
def group_int4(codes, scale, first, second, total):
    """Return one group of one row: its 32 weights times the two vectors of x, added to `total`."""
    factor = spread(half_at(scale))
    total = fma(multiply(load_low_nibbles(codes), factor), first, total)
    return fma(multiply(load_high_nibbles(codes), factor), second, total)


@compiled
def four_rows_int4(weights, scales, x, y, inputs):
    """Do the same for int4 weights with one fp16 scale a group."""
    width, groups = inputs // 2, inputs // GROUP
    ahead = ahead_of(weights, width)
    sum_0 = spread(_ZERO)
    sum_1, sum_2, sum_3 = sum_0, sum_0, sum_0
    for group in range(groups):
        prefetch(ahead + 64 * group)
        first, second = load_fp32(x + 128 * group), load_fp32(x + 128 * group + 64)
        codes, scale = weights + 16 * group, scales + 2 * group
        sum_0 = group_int4(codes, scale, first, second, sum_0)
        sum_1 = group_int4(codes + width, scale + 2 * groups, first, second, sum_1)
        sum_2 = group_int4(codes + 2 * width, scale + 4 * groups, first, second, sum_2)
        sum_3 = group_int4(codes + 3 * width, scale + 6 * groups, first, second, sum_3)
    store_quarter_0(y, sum_4(sum_0, sum_1, sum_2, sum_3))


@compiled
def load_four(address):
    """Return four neighbouring vectors."""
    return load_fp32(address), load_fp32(address + 64), load_fp32(address + 128), load_fp32(address + 192)


@compiled
def store_four(address, vectors):
    """Store four neighbouring vectors."""
    store(address, vectors[0])
    store(address + 64, vectors[1])
    store(address + 128, vectors[2])
    store(address + 192, vectors[3])


@compiled
def fold_tokens(first, second, third, fourth):
    """Return half of the tree that adds up the sums of one row with four tokens: those of token t in lanes 4t.. ."""
    return fold_4(fold_8(first, third), fold_8(second, fourth))


@compiled
def store_sixteen(sums, y_0, y_1, y_2, y_3):
    """Store the sums of four times four vectors at four addresses."""
    a, b, c, d = sums
    row_0, row_1 = fold_tokens(a[0], b[0], c[0], d[0]), fold_tokens(a[1], b[1], c[1], d[1])
    row_2, row_3 = fold_tokens(a[2], b[2], c[2], d[2]), fold_tokens(a[3], b[3], c[3], d[3])
    totals = fold_1(fold_2(row_0, row_2), fold_2(row_1, row_3))
    store_quarter_0(y_0, totals)
    store_quarter_1(y_1, totals)
    store_quarter_2(y_2, totals)
    store_quarter_3(y_3, totals)


@compiled
def multiply_sixteen(sums, rows, step, x, steps, ahead, ahead_step, ahead_lines):
    """Add the products of four rows of weights with four tokens to sixteen sums: four tuples of four, one a token.

    rows, x: addresses of the first vectors; step: bytes from a vector of weights to the next of its row. ahead: weights
    to ask for meanwhile, ahead_lines (1 or 4) cache lines every ahead_step bytes; an address of 0: none.
    """
    a_0, a_1, a_2, a_3 = sums[0]
    b_0, b_1, b_2, b_3 = sums[1]
    c_0, c_1, c_2, c_3 = sums[2]
    d_0, d_1, d_2, d_3 = sums[3]
    row_0, row_1, row_2, row_3 = rows
    x_0, x_1, x_2, x_3 = x
    for place in range(0, 64 * steps, 64):
        if ahead:
            prefetch(ahead)
            if ahead_lines == 4:
                prefetch(ahead + 64)
                prefetch(ahead + 128)
                prefetch(ahead + 192)
            ahead += ahead_step
        weight_0, weight_1, weight_2, weight_3 = load_fp32(row_0), load_fp32(row_1), load_fp32(row_2), load_fp32(row_3)
        row_0, row_1, row_2, row_3 = row_0 + step, row_1 + step, row_2 + step, row_3 + step
        value = load_fp32(x_0 + place)
        a_0, a_1 = fma(weight_0, value, a_0), fma(weight_1, value, a_1)
        a_2, a_3 = fma(weight_2, value, a_2), fma(weight_3, value, a_3)
        value = load_fp32(x_1 + place)
        b_0, b_1 = fma(weight_0, value, b_0), fma(weight_1, value, b_1)
        b_2, b_3 = fma(weight_2, value, b_2), fma(weight_3, value, b_3)
        value = load_fp32(x_2 + place)
        c_0, c_1 = fma(weight_0, value, c_0), fma(weight_1, value, c_1)
        c_2, c_3 = fma(weight_2, value, c_2), fma(weight_3, value, c_3)
        value = load_fp32(x_3 + place)
        d_0, d_1 = fma(weight_0, value, d_0), fma(weight_1, value, d_1)
        d_2, d_3 = fma(weight_2, value, d_2), fma(weight_3, value, d_3)
    return (a_0, a_1, a_2, a_3), (b_0, b_1, b_2, b_3), (c_0, c_1, c_2, c_3), (d_0, d_1, d_2, d_3)


@compiled
def sixteen_zeros():
    """Return sums to begin with."""
    zero = spread(_ZERO)
    four = zero, zero, zero, zero
    return four, four, four, four


@compiled
def four_by_four(weights, x, y, y_width, inputs, ahead):
    """Multiply four rows of fp32 weights with four tokens of x -> four numbers in each of four rows of y.

    ahead: where weights lie that come later, or 0.
    """
    width = 4 * inputs
    rows = weights, weights + width, weights + 2 * width, weights + 3 * width
    tokens = x, x + width, x + 2 * width, x + 3 * width
    sums = multiply_sixteen(sixteen_zeros(), rows, 64, tokens, inputs // 16, ahead, 256, 4)
    store_sixteen(sums, y, y + 4 * y_width, y + 8 * y_width, y + 12 * y_width)
    if inputs % 16:
        for token in range(4):
            add_rest(weights, x + 4 * token * inputs, y + 4 * token * y_width, 4, inputs)


@compiled
def number_at(kind, address, place):
    """Number `place` of a row that is stored as fp32, fp16, bf16 or int8."""
    if kind == FP32:
        return float_at(address + 4 * place)
    if kind == FP16:
        return half_at(address + 2 * place)
    if kind == BF16:
        return bfloat_at(address + 2 * place)
    return _f32(byte_at(address + place))


@compiled
def widen(kind, address, scales, row, inputs, out):
    """Write one row of a matrix as fp32, in the numbers that its product is made of (int8: without the scale)."""
    if kind == INT4:
        codes, scale = address + row * (inputs // 2), scales + 2 * row * (inputs // GROUP)
        for group in range(inputs // GROUP):
            factor = spread(half_at(scale + 2 * group))
            store(out + 128 * group, multiply(load_low_nibbles(codes + 16 * group), factor))
            store(out + 128 * group + 64, multiply(load_high_nibbles(codes + 16 * group), factor))
        return
    whole = inputs // 16 * 16
    if kind == FP32:
        start = address + 4 * row * inputs
        for place in range(0, whole, 16):
            store(out + 4 * place, load_fp32(start + 4 * place))
    elif kind == FP16:
        start = address + 2 * row * inputs
        for place in range(0, whole, 16):
            prefetch(start + 2 * place + AHEAD)
            store(out + 4 * place, load_fp16(start + 2 * place))
    elif kind == BF16:
        start = address + 2 * row * inputs
        for place in range(0, whole, 16):
            prefetch(start + 2 * place + AHEAD)
            store(out + 4 * place, load_bf16(start + 2 * place))
    else:
        start = address + row * inputs
        for place in range(0, whole, 16):
            prefetch(start + place + AHEAD)
            store(out + 4 * place, load_int8(start + place))
    for place in range(whole, inputs):
        put_float(out + 4 * place, number_at(kind, start, place))


@compiled
def one_token(kind, address, scales, row, inputs, x, y):
    """Multiply four rows with one token, straight from where the weights are stored."""
    if kind == FP32:
        four_rows_fp32(address + 4 * row * inputs, x, y, inputs)
    elif kind == FP16:
        four_rows_fp16(address + 2 * row * inputs, x, y, inputs)
    elif kind == BF16:
        four_rows_bf16(address + 2 * row * inputs, x, y, inputs)
    elif kind == INT8:
        four_rows_int8(address + row * inputs, x, y, inputs)
    else:
        groups = inputs // GROUP
        four_rows_int4(address + row * (inputs // 2), scales + 2 * row * groups, x, y, inputs)


@compiled
def column(matrix, number):
    """Return one of the columns of a matrix's row in a table."""
    return integer_at(matrix + 8 * number)


@compiled
def rows_together(inputs):
    """Return rows that are multiplied with a few tokens before the next tokens come: what the first cache holds."""
    return 8 if inputs <= 512 else 4


@compiled
def several_tokens(weights, rows, inputs, x, count, y, outputs, is_far):
    """Multiply `rows` rows of fp32 weights, a multiple of four, with `count` tokens; y at the first of the rows.

    is_far: the weights are where they are stored, and those of the next rows may be asked for.
    """
    token = 0
    while token + 4 <= count:
        for row in range(0, rows, 4):
            target = y + 4 * (token * outputs + row)
            start = weights + 4 * row * inputs
            ahead = start + max(AHEAD, 4 * rows * inputs) if is_far and token == 0 else 0
            four_by_four(start, x + 4 * token * inputs, target, outputs, inputs, ahead)
        token += 4
    while token < count:
        for row in range(0, rows, 4):
            target = y + 4 * (token * outputs + row)
            four_rows_fp32(weights + 4 * row * inputs, x + 4 * token * inputs, target, inputs)
        token += 1


@compiled
def load_number_vector(kind, address, place):
    """Return 16 numbers from `place` on of a row that is stored as fp32, fp16, bf16 or int8."""
    if kind == FP32:
        return load_fp32(address + 4 * place)
    if kind == FP16:
        return load_fp16(address + 2 * place)
    if kind == BF16:
        return load_bf16(address + 2 * place)
    return load_int8(address + place)


@compiled
def bytes_a_row(kind, inputs):
    """Return bytes of a row of weights."""
    if kind == FP32:
        return 4 * inputs
    if kind == INT8:
        return inputs
    return inputs // 2 if kind == INT4 else 2 * inputs


@compiled
def pack(kind, address, scales, row, inputs, start, steps, out):
    """Write 16 · steps inputs of four rows from `start` on as fp32: a vector of each row in turn."""
    width = bytes_a_row(kind, inputs)
    for number in range(4):
        source, target = address + (row + number) * width, out + 64 * number
        if kind == INT4:
            scale = scales + 2 * (row + number) * (inputs // GROUP)
            for step in range(0, steps, 2):
                group = (start + 16 * step) // GROUP
                factor = spread(half_at(scale + 2 * group))
                store(target + 256 * step, multiply(load_low_nibbles(source + 16 * group), factor))
                store(target + 256 * step + 256, multiply(load_high_nibbles(source + 16 * group), factor))
        else:
            for step in range(steps):
                store(target + 256 * step, load_number_vector(kind, source, start + 16 * step))


@compiled
def tile(weights, x_0, x_1, x_2, x_3, steps, sums, is_first, is_last, y_0, y_1, y_2, y_3, ahead, ahead_step):
    """Multiply one part of four packed rows with four tokens: onto the sums of the parts before, or at last to y.

    ahead, ahead_step: weights to ask for meanwhile, and bytes of 16 of them; an address of 0: none.
    """
    found = sixteen_zeros()
    if not is_first:
        found = load_four(sums), load_four(sums + 256), load_four(sums + 512), load_four(sums + 768)
    rows = weights, weights + 64, weights + 128, weights + 192
    found = multiply_sixteen(found, rows, 256, (x_0, x_1, x_2, x_3), steps, ahead, ahead_step, 1)
    if is_last:
        store_sixteen(found, y_0, y_1, y_2, y_3)
    else:
        store_four(sums, found[0])
        store_four(sums + 256, found[1])
        store_four(sums + 512, found[2])
        store_four(sums + 768, found[3])


@compiled
def pack_tokens(x, inputs, count, steps, out):
    """Write 16 · steps inputs of every token one behind the other."""
    for token in range(count):
        source, target = x + 4 * token * inputs, out + 64 * steps * token
        for place in range(0, 64 * steps, 64):
            store(target + place, load_fp32(source + place))


@compiled
def many_tokens(kind, address, scales, row, rows, inputs, x, count, y, outputs, scratch):
    """Multiply rows row..row + rows of weights, at most BLOCK_ROWS, a multiple of 4, with many tokens; y at the first
    of the rows.

    Where a token has MANY_INPUTS, a part of the inputs of all tokens is brought together first, and stays in the second
    cache for all of the rows: whole tokens would not, and lie a power of two apart. Every part of PART_ROWS rows is
    widened once for all tokens, and read from the first cache by every four of them. Where tokens are no multiple of
    four, the last one is computed again, to the same bits.
    """
    packed, last, width = scratch + 4 * PACKED, count - 1, bytes_a_row(kind, inputs)
    whole = inputs // 16 * 16
    for start in range(0, whole, PART_INPUTS):
        steps = min(PART_INPUTS, inputs - start) // 16
        is_last = start + PART_INPUTS >= whole
        values, stride = x + 4 * start, 4 * inputs
        if inputs >= MANY_INPUTS:
            pack_tokens(values, inputs, count, steps, packed)
            values, stride = packed, 64 * steps
        place = scratch + 4 * SUMS
        for group in range(0, rows, PART_ROWS):
            together = min(PART_ROWS, rows - group)
            for number in range(0, together, 4):
                pack(
                    kind,
                    address,
                    scales,
                    row + group + number,
                    inputs,
                    start,
                    steps,
                    scratch + 4 * number * PART_INPUTS,
                )
            # While the first tokens are multiplied, the next rows come from memory: a row of the part with each tile.
            next_row, next_start = row + group + PART_ROWS, start
            if next_row >= row + rows:
                next_row, next_start = (row + rows, 0) if is_last else (row, start + PART_INPUTS)
            ahead, ahead_rows = address + next_row * width + next_start * width // inputs, PART_ROWS
            for token in range(0, count, 4):
                token_1, token_2, token_3 = min(token + 1, last), min(token + 2, last), min(token + 3, last)
                x_0, x_1 = values + stride * token, values + stride * token_1
                x_2, x_3 = values + stride * token_2, values + stride * token_3
                for number in range(0, together, 4):
                    target = y + 4 * (group + number)
                    tile(
                        scratch + 4 * number * PART_INPUTS, x_0, x_1, x_2, x_3, steps, place, start == 0, is_last,
                        target + 4 * token * outputs, target + 4 * token_1 * outputs,
                        target + 4 * token_2 * outputs, target + 4 * token_3 * outputs,
                        ahead if ahead_rows > 0 else 0, 16 * width // inputs,
                    )  # fmt: skip
                    ahead, ahead_rows = ahead + width, ahead_rows - 1
                    place += 1024
    if inputs % 16:
        for token in range(count):
            for number in range(0, rows, 4):
                weights, target = address + 4 * (row + number) * inputs, y + 4 * (token * outputs + number)
                add_rest(weights, x + 4 * token * inputs, target, 4, inputs)


@compiled
def product(matrix, x, count, y, first, last, scratch):
    """Compute outputs first..last of W x, without scales and bias, for `count` tokens of x [count, in] -> y [count,
    out].

    matrix: the address of its row in a table. `first` is a multiple of four. scratch: room for `rows_together` rows of
    fp32 weights, and for MANY_SCRATCH numbers. Each weight is read once for all tokens, or for PART_TOKENS of many.
    """
    address, kind, outputs = column(matrix, ADDRESS), column(matrix, KIND), column(matrix, OUTPUTS)
    inputs, scales = column(matrix, INPUTS), column(matrix, SCALES)
    from_stored = kind == FP32 or inputs % 16 == 0
    alone, many = count == 1 and from_stored, count >= MANY and from_stored and inputs >= 16
    row = first
    while row + 4 <= last:
        together = rows_together(inputs)
        if many:
            together = BLOCK_ROWS if inputs >= MANY_INPUTS else PART_ROWS
        rows = 4 if alone else min(together, (last - row) // 4 * 4)
        if many:
            for token in range(0, count, PART_TOKENS):
                here, target = x + 4 * token * inputs, y + 4 * (token * outputs + row)
                tokens = min(PART_TOKENS, count - token)
                many_tokens(kind, address, scales, row, rows, inputs, here, tokens, target, outputs, scratch)
        elif alone:
            one_token(kind, address, scales, row, inputs, x, y + 4 * row)
        else:
            weights = address + 4 * row * inputs
            if kind != FP32:
                weights = scratch
                for number in range(rows):
                    widen(kind, address, scales, row + number, inputs, scratch + 4 * number * inputs)
            several_tokens(weights, rows, inputs, x, count, y + 4 * row, outputs, kind == FP32)
        row += rows
    while row < last:
        widen(kind, address, scales, row, inputs, scratch)
        for token in range(count):
            one_row(scratch, x + 4 * token * inputs, y + 4 * (token * outputs + row), inputs)
        row += 1


@compiled
def sigmoid_times(x, slope):
    """Return x / (1 + e^-slope)."""
    one = spread(_ONE)
    return divide(x, add(one, exponential(subtract(spread(_ZERO), slope))))


@compiled
def gelu_erf(x):
    """Return x Φ(x)."""
    zero, one = spread(_ZERO), spread(_ONE)
    argument = multiply(x, spread(_ROOT_HALF))
    size = larger(argument, subtract(zero, argument))
    step = divide(one, fma(size, spread(_ERF_P), one))
    series = spread(_ERF_5)
    series = fma(series, step, spread(_ERF_4))
    series = fma(series, step, spread(_ERF_3))
    series = fma(series, step, spread(_ERF_2))
    series = fma(series, step, spread(_ERF_1))
    # half of erfc(|x|/√2), the share of the normal distribution beyond |x|
    beyond = multiply(multiply(series, step), exponential(subtract(zero, multiply(size, size))))
    beyond = multiply(beyond, spread(_HALF))
    # x Φ(x) = max(x, 0) - |x| · beyond
    return subtract(larger(x, zero), multiply(larger(x, subtract(zero, x)), beyond))


@compiled
def activate(activation, x):
    """Return one of the three functions that PanGu-α's code calls gelu (`pangu.model.activation`)."""
    if activation == GELU_TANH:
        return sigmoid_times(x, multiply(x, fma(spread(_TANH_CUBIC), multiply(x, x), spread(_TANH_SCALE))))
    if activation == GELU_ERF:
        return gelu_erf(x)
    if activation == FAST_GELU:
        return sigmoid_times(x, multiply(x, spread(_FAST_SCALE)))
    return x


@compiled
def finish(matrix, y, first, last, extra, activation, onto):
    """Finish outputs first..last of one token of `product`: scales, bias, an adapter's part, activation; in y itself.

    y, extra and onto [out]; an address of 0: there is none. onto: where the outputs are added, instead of kept in y.
    """
    bias = column(matrix, BIAS)
    scales = column(matrix, SCALES) if column(matrix, KIND) == INT8 else 0
    target = onto if onto else y
    place = first
    while place + 16 <= last:
        value = load_fp32(y + 4 * place)
        if scales:
            value = multiply(value, load_fp32(scales + 4 * place))
        if bias:
            value = add(value, load_fp32(bias + 4 * place))
        if extra:
            value = add(value, load_fp32(extra + 4 * place))
        value = activate(activation, value)
        if onto:
            value = add(value, load_fp32(onto + 4 * place))
        store(target + 4 * place, value)
        place += 16
    while place < last:
        number = float_at(y + 4 * place)
        if scales:
            number *= float_at(scales + 4 * place)
        if bias:
            number += float_at(bias + 4 * place)
        if extra:
            number += float_at(extra + 4 * place)
        number = first_lane(activate(activation, spread(number)))
        if onto:
            number += float_at(onto + 4 * place)
        put_float(target + 4 * place, number)
        place += 1


@compiled
def narrow_rows(matrix, x, y, first, last, inputs):
    """Multiply rows first..last of a matrix [out, in] of any shape with x -> y[first..last]."""
    for row in range(first, last):
        one_row(matrix + 4 * row * inputs, x, y + 4 * row, inputs)


@compiled
def layer_norm(x, gamma, beta, size, y):
    """Compute gamma · (x - mean) / √(variance + 1e-5) + beta, over one row. y may be x."""
    whole = size // 16 * 64
    total = spread(_ZERO)
    for place in range(0, whole, 64):
        total = add(total, load_fp32(x + place))
    mean = first_lane(sum_4(total, total, total, total))
    for place in range(whole, 4 * size, 4):
        mean += float_at(x + place)
    mean /= _f32(size)
    centre, total = spread(mean), spread(_ZERO)
    for place in range(0, whole, 64):
        distance = subtract(load_fp32(x + place), centre)
        total = fma(distance, distance, total)
    variance = first_lane(sum_4(total, total, total, total))
    for place in range(whole, 4 * size, 4):
        rest = float_at(x + place) - mean
        variance += rest * rest
    scale = _ONE / np.sqrt(variance / _f32(size) + EPSILON)
    factor = spread(scale)
    for place in range(0, whole, 64):
        normed = multiply(subtract(load_fp32(x + place), centre), factor)
        store(y + place, fma(normed, load_fp32(gamma + place), load_fp32(beta + place)))
    for place in range(whole, 4 * size, 4):
        normed_rest = (float_at(x + place) - mean) * scale
        put_float(y + place, normed_rest * float_at(gamma + place) + float_at(beta + place))


@compiled
def keep_key_value(key, value, keys, values, slot, head_size, slots, value_width):
    """Put one token's key and value of one head [head_size] into its caches.

    keys [head_size, slots], values [slots, value_width]: scores are then sums over rows of 16 neighbouring slots.
    """
    for place in range(head_size):
        put_float(keys + 4 * (place * slots + slot), float_at(key + 4 * place))
        put_float(values + 4 * (slot * value_width + place), float_at(value + 4 * place))


@compiled
def score_slots(query, keys, slot, seen, head_size, slots, scale, top, scores):
    """Compute query · key of slots slot..seen, times scale, -1e30 behind them up to a multiple of 16.

    slot: a multiple of 16. Returns the largest in each lane, or `top` where that is larger.
    """
    factor = spread(scale)
    while slot < seen:
        start = keys + 4 * slot
        sum_0 = spread(_ZERO)
        if slot + 64 <= seen:
            sum_1, sum_2, sum_3 = sum_0, sum_0, sum_0
            for place in range(head_size):
                value, column = spread(float_at(query + 4 * place)), start + 4 * place * slots
                # of the next 64 slots, which lie behind these and far from the next place
                prefetch(column + 256)
                prefetch(column + 320)
                prefetch(column + 384)
                prefetch(column + 448)
                sum_0 = fma(load_fp32(column), value, sum_0)
                sum_1 = fma(load_fp32(column + 64), value, sum_1)
                sum_2 = fma(load_fp32(column + 128), value, sum_2)
                sum_3 = fma(load_fp32(column + 192), value, sum_3)
            top = larger(store_scores(scores + 4 * slot, factor, sum_0, sum_1, sum_2, sum_3), top)
            slot += 64
        else:
            for place in range(head_size):
                column = start + 4 * place * slots
                sum_0 = fma(load_fp32(column), spread(float_at(query + 4 * place)), sum_0)
            sum_0 = keep_first(multiply(sum_0, factor), seen - slot, UNSEEN)
            store(scores + 4 * slot, sum_0)
            top = larger(sum_0, top)
            slot += 16
    return top


@compiled
def store_scores(target, factor, first, second, third, fourth):
    """Store four vectors times a factor. Returns the largest of each lane."""
    first, second = multiply(first, factor), multiply(second, factor)
    third, fourth = multiply(third, factor), multiply(fourth, factor)
    store_four(target, (first, second, third, fourth))
    return larger(larger(first, second), larger(third, fourth))


@compiled
def score_two(query, other, keys, seen, head_size, slots, scale, scores, other_scores):
    """Do the first of `score_slots` for two queries that both see slots 0..seen, 64 slots at a time.

    Returns the slot behind, and the largest of each. A key is loaded once for both, and sums of one need not wait for
    those of the other.
    """
    factor, top = spread(scale), spread(UNSEEN)
    other_top, slot = top, 0
    while slot + 64 <= seen:
        a_0 = spread(_ZERO)
        a_1, a_2, a_3, b_0, b_1, b_2, b_3 = a_0, a_0, a_0, a_0, a_0, a_0, a_0
        for place in range(head_size):
            key_0, key_1, key_2, key_3 = load_four(keys + 4 * (place * slots + slot))
            value = spread(float_at(query + 4 * place))
            a_0, a_1, a_2, a_3 = (
                fma(key_0, value, a_0),
                fma(key_1, value, a_1),
                fma(key_2, value, a_2),
                fma(key_3, value, a_3),
            )
            value = spread(float_at(other + 4 * place))
            b_0, b_1, b_2, b_3 = (
                fma(key_0, value, b_0),
                fma(key_1, value, b_1),
                fma(key_2, value, b_2),
                fma(key_3, value, b_3),
            )
        top = larger(store_scores(scores + 4 * slot, factor, a_0, a_1, a_2, a_3), top)
        other_top = larger(store_scores(other_scores + 4 * slot, factor, b_0, b_1, b_2, b_3), other_top)
        slot += 64
    return slot, top, other_top


@compiled
def mix_row(row, weight, sum_0, sum_1, sum_2, sum_3):
    """Add 64 places of a value times its weight to four sums."""
    value_0, value_1, value_2, value_3 = load_four(row)
    return (
        fma(value_0, weight, sum_0),
        fma(value_1, weight, sum_1),
        fma(value_2, weight, sum_2),
        fma(value_3, weight, sum_3),
    )


@compiled
def mix_four(values, scores, seen, width, share, out):
    """Sum over the slots of score · value, times share, for 64 neighbouring places of a head -> out [64].

    Even slots have one sum and odd ones another, so that they need not wait for each other.
    """
    even_0 = spread(_ZERO)
    even_1, even_2, even_3, odd_0, odd_1, odd_2, odd_3 = even_0, even_0, even_0, even_0, even_0, even_0, even_0
    for slot in range(0, seen - 1, 2):
        row, weight = values + 4 * slot * width, spread(float_at(scores + 4 * slot))
        prefetch(row + 16 * width)
        prefetch(row + 16 * width + 128)
        prefetch(row + 20 * width)
        prefetch(row + 20 * width + 128)
        even_0, even_1, even_2, even_3 = mix_row(row, weight, even_0, even_1, even_2, even_3)
        row, weight = row + 4 * width, spread(float_at(scores + 4 * slot + 4))
        odd_0, odd_1, odd_2, odd_3 = mix_row(row, weight, odd_0, odd_1, odd_2, odd_3)
    if seen % 2:
        row, weight = values + 4 * (seen - 1) * width, spread(float_at(scores + 4 * (seen - 1)))
        even_0, even_1, even_2, even_3 = mix_row(row, weight, even_0, even_1, even_2, even_3)
    store_mixed((even_0, even_1, even_2, even_3), (odd_0, odd_1, odd_2, odd_3), share, out)


@compiled
def store_mixed(even, odd, share, out):
    """Store the sums of even and odd slots, times share."""
    factor = spread(share)
    mixed = (
        multiply(add(even[0], odd[0]), factor),
        multiply(add(even[1], odd[1]), factor),
        multiply(add(even[2], odd[2]), factor),
        multiply(add(even[3], odd[3]), factor),
    )
    store_four(out, mixed)


@compiled
def mix_four_of_two(values, scores, other_scores, seen, width, share, other_share, out, other_out):
    """Do `mix_four` for two neighbouring tokens: the first sees slots 0..seen, the other one more."""
    a_0 = spread(_ZERO)
    a_1, a_2, a_3, b_0, b_1, b_2, b_3 = a_0, a_0, a_0, a_0, a_0, a_0, a_0
    c_0, c_1, c_2, c_3, d_0, d_1, d_2, d_3 = a_0, a_0, a_0, a_0, a_0, a_0, a_0, a_0
    for slot in range(0, seen - 1, 2):
        row, place = values + 4 * slot * width, 4 * slot
        a_0, a_1, a_2, a_3 = mix_row(row, spread(float_at(scores + place)), a_0, a_1, a_2, a_3)
        c_0, c_1, c_2, c_3 = mix_row(row, spread(float_at(other_scores + place)), c_0, c_1, c_2, c_3)
        row, place = row + 4 * width, place + 4
        b_0, b_1, b_2, b_3 = mix_row(row, spread(float_at(scores + place)), b_0, b_1, b_2, b_3)
        d_0, d_1, d_2, d_3 = mix_row(row, spread(float_at(other_scores + place)), d_0, d_1, d_2, d_3)
    row, place = values + 4 * seen * width, 4 * seen
    if seen % 2:
        before = row - 4 * width
        a_0, a_1, a_2, a_3 = mix_row(before, spread(float_at(scores + place - 4)), a_0, a_1, a_2, a_3)
        c_0, c_1, c_2, c_3 = mix_row(before, spread(float_at(other_scores + place - 4)), c_0, c_1, c_2, c_3)
        d_0, d_1, d_2, d_3 = mix_row(row, spread(float_at(other_scores + place)), d_0, d_1, d_2, d_3)
    else:
        c_0, c_1, c_2, c_3 = mix_row(row, spread(float_at(other_scores + place)), c_0, c_1, c_2, c_3)
    store_mixed((a_0, a_1, a_2, a_3), (b_0, b_1, b_2, b_3), share, out)
    store_mixed((c_0, c_1, c_2, c_3), (d_0, d_1, d_2, d_3), other_share, other_out)


@compiled
def is_seen(asking, slot, pattern, span, summary):
    """Return whether a place sees a slot before it (`pangu.model.attention_pattern`)."""
    if pattern == SLIDING_WINDOW:
        return asking - slot < span
    if pattern == STRIDED:
        return asking - slot < span or (asking - slot) % span == 0
    return asking // span == slot // span or slot % span >= span - summary


@compiled
def hide_slots(scores, seen, pattern, span, summary):
    """Put -1e30 in the slots that the last of `seen` does not see. Returns the largest of the others."""
    top = UNSEEN
    for slot in range(seen):
        if is_seen(seen - 1, slot, pattern, span, summary):
            top = max(top, float_at(scores + 4 * slot))
        else:
            put_float(scores + 4 * slot, UNSEEN)
    return top


@compiled
def weigh(scores, seen, top):
    """Replace scores of slots by e^(score - top). Returns one over their sum."""
    largest, total = spread(top), spread(_ZERO)
    for slot in range(0, seen, 16):
        weight = exponential(subtract(load_fp32(scores + 4 * slot), largest))
        store(scores + 4 * slot, weight)
        total = add(total, weight)
    return _ONE / first_lane(sum_4(total, total, total, total))


@compiled
def mix_rest(values, scores, seen, head_size, value_width, share, out):
    """Do `mix_four` for the places of a head behind the last 64. The scores are not needed any more."""
    # What is behind the head size in a row of values is zero.
    for place in range(head_size // 64 * 64, value_width, 16):
        column = values + 4 * place
        even, odd = spread(_ZERO), spread(_ZERO)
        for slot in range(0, seen - 1, 2):
            even = fma(load_fp32(column + 4 * slot * value_width), spread(float_at(scores + 4 * slot)), even)
            odd = fma(load_fp32(column + 4 * (slot + 1) * value_width), spread(float_at(scores + 4 * slot + 4)), odd)
        if seen % 2:
            slot = seen - 1
            even = fma(load_fp32(column + 4 * slot * value_width), spread(float_at(scores + 4 * slot)), even)
        mixed = multiply(add(even, odd), spread(share))
        if place + 16 <= head_size:
            store(out + 4 * place, mixed)
        else:
            store(scores, mixed)  # this is the last column
            for rest in range(place, head_size):
                put_float(out + 4 * rest, float_at(scores + 4 * (rest - place)))


@compiled
def attend(query, keys, values, seen, head_size, slots, value_width, scale, scores, out, pattern, span, summary):
    """Compute softmax(query · keys · scale) values over the first `seen` slots -> out [head_size].

    scores: room for `slots` numbers. pattern: which of the slots are seen, FULL: all.
    """
    largest = largest_lane(score_slots(query, keys, 0, seen, head_size, slots, scale, spread(UNSEEN), scores))
    share = weigh(scores, seen, hide_slots(scores, seen, pattern, span, summary) if pattern != FULL else largest)
    for place in range(0, head_size // 64 * 256, 256):
        mix_four(values + place, scores, seen, value_width, share, out + place)
    mix_rest(values, scores, seen, head_size, value_width, share, out)


@compiled
def attend_two(query, other, keys, values, seen, head_size, slots, value_width, scale, scores, out, other_out):
    """Do `attend` for two neighbouring tokens of one row, to the same bits; the other sees one slot more.

    scores: room for twice `slots` numbers.
    """
    other_scores = scores + 4 * slots
    slot, top, other_top = score_two(query, other, keys, seen, head_size, slots, scale, scores, other_scores)
    top = score_slots(query, keys, slot, seen, head_size, slots, scale, top, scores)
    other_top = score_slots(other, keys, slot, seen + 1, head_size, slots, scale, other_top, other_scores)
    share, other_share = weigh(scores, seen, largest_lane(top)), weigh(other_scores, seen + 1, largest_lane(other_top))
    for place in range(0, head_size // 64 * 256, 256):
        mix_four_of_two(
            values + place, scores, other_scores, seen, value_width, share, other_share, out + place, other_out + place
        )
    mix_rest(values, scores, seen, head_size, value_width, share, out)
    mix_rest(values, other_scores, seen + 1, head_size, value_width, other_share, other_out)
