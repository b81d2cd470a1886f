"""Experts in the compiled engine: tokens sorted by the expert they take, each expert's product, and their sum.

A token may take several experts (`choices`), and every shared one: these stand behind the others as experts of their
own. So each token has K entries. Nobody is dropped. Arrays are given by their addresses.
"""

import math

import numpy as np

from pangu.generation.compiled.products import narrow_rows
from pangu.generation.compiled.vectors import compiled, float_at, integer_at, put_float, put_integer


@compiled
def choose_experts(x, hidden, router, experts, choices, unit_gate, logits, entry, gate):
    """Choose one token's experts and gates by the router [experts, hidden]; logits: room for `experts` numbers."""
    narrow_rows(router, x, logits, 0, experts, hidden)
    largest = float_at(logits)
    for expert in range(1, experts):
        largest = max(largest, float_at(logits + 4 * expert))
    total = 0.0
    for expert in range(experts):
        weight = math.exp(float_at(logits + 4 * expert) - largest)
        total += weight
        put_float(logits + 4 * expert, np.float32(weight))
    kept = 0.0
    for choice in range(choices):
        best = 0
        for expert in range(1, experts):
            if float_at(logits + 4 * expert) > float_at(logits + 4 * best):
                best = expert
        p = float_at(logits + 4 * best)
        kept += p
        put_integer(entry + 8 * choice, best)
        put_float(gate + 4 * choice, np.float32(p / total))
        put_float(logits + 4 * best, np.float32(-1))
    if choices > 1:
        for choice in range(choices):
            put_float(gate + 4 * choice, np.float32(float_at(gate + 4 * choice) * total / kept))
    elif unit_gate:
        put_float(gate, np.float32(1))


@compiled
def sort_by_expert(tokens, each, groups, hidden, x, entry, start, sorted_rows):
    """Turn entries that name an expert, int64 [tokens, each], into numbers of rows of `sorted_rows`.

    The tokens of one expert lie together there. start int64 [2, groups + 1]: where each expert's rows begin; its second
    half is room.
    """
    for group in range(2 * (groups + 1)):
        put_integer(start + 8 * group, 0)
    for place in range(tokens * each):
        group = integer_at(entry + 8 * place)
        put_integer(start + 8 * (group + 1), integer_at(start + 8 * (group + 1)) + 1)
    for group in range(groups):
        put_integer(start + 8 * (group + 1), integer_at(start + 8 * (group + 1)) + integer_at(start + 8 * group))
    taken = start + 8 * (groups + 1)
    for place in range(tokens * each):
        group = integer_at(entry + 8 * place)
        row = integer_at(start + 8 * group) + integer_at(taken + 8 * group)
        put_integer(taken + 8 * group, integer_at(taken + 8 * group) + 1)
        put_integer(entry + 8 * place, row)
        source, target = x + 4 * (place // each) * hidden, sorted_rows + 4 * row * hidden
        for index in range(0, 4 * hidden, 4):
            put_float(target + index, float_at(source + index))


@compiled
def add_experts(first, last, each, hidden, entry, gate, out, stream):
    """Add to the residual stream of tokens first..last their experts' outputs times their gates."""
    for token in range(first, last):
        for index in range(0, 4 * hidden, 4):
            total = np.float32(0)
            for place in range(token * each, (token + 1) * each):
                row = integer_at(entry + 8 * place)
                total += float_at(gate + 4 * place) * float_at(out + 4 * row * hidden + index)
            target = stream + 4 * token * hidden + index
            put_float(target, float_at(target) + total)
