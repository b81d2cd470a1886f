"""One call of the network as a list of phases that several threads carry out together.

Every thread runs `forward` on the same job. A phase is cut into blocks; a thread claims a block, computes it and counts
it as done; when all are done every thread goes on to the next phase. Nobody waits for a thread that has claimed
nothing: where the machine is busy and the helpers get no time, the first thread does everything by itself, and a helper
that wakes up late finds nothing to claim. Blocks never share a sum, so the bits do not depend on who did what.

A job is one int64 table of sizes and addresses: the names below are places in it.
"""

import numpy as np

from pangu.generation.compiled.expert_phases import add_experts, choose_experts, sort_by_expert
from pangu.generation.compiled.products import (
    ADDRESS,
    COLUMNS,
    FULL,
    GELU_TANH,
    INPUTS,
    KIND,
    OUTPUTS,
    attend,
    attend_two,
    column,
    finish,
    keep_key_value,
    layer_norm,
    narrow_rows,
    product,
    widen,
)
from pangu.generation.compiled.vectors import (
    LINE,
    add,
    claim,
    compiled,
    count_up,
    entry,
    float_at,
    integer_at,
    let_others_run,
    load_fp32,
    put_float,
    put_integer,
    read_shared,
    store,
    wait_a_moment,
    write_shared,
)

# The matrices of a layer, in the order of the table; behind those of all layers come HEAD and the tables.
QUERY, KEY, VALUE, PROJECT, MAPPING, PROJECTION, PARTS = range(7)
HEAD, WORDS, POSITIONS, QUERIES, TARGETS, TABLES = range(6)

# Sizes. ROWS: of the caches; SLOTS: of a row, a multiple of 16; VALUE_WIDTH: the head size as a multiple of 16;
# AFTER_QUERY: the final norm follows the query layer; RANK: room for an adapter's inner numbers.
# EXPERTS, SHARED: of a layer; the matrices of experts, two each, stand behind the tables.
# PATTERN, SPAN, SUMMARY: which slots are seen (`is_seen`). TARGET_IN_TRUNK: the input says which position is asked for.
# TOKENS, RUNS, WANTED, ADAPTED: of a call: tokens, runs of neighbouring tokens of one row, tokens whose logits are
# wanted, and whether any token has an adapter.
SIZES = (
    "LAYERS HIDDEN HEADS HEAD_SIZE INNER VOCABULARY SLOTS VALUE_WIDTH ROWS QUERY_LAYER AFTER_QUERY ACTIVATION RANK "
    "PATTERN SPAN SUMMARY TARGET_IN_TRUNK THREADS EXPERTS CHOICES SHARED UNIT_GATE TOKENS RUNS WANTED ADAPTED"
)
# Addresses. Weights: MATRICES int64 [layers · PARTS + TABLES, COLUMNS], NORMS fp32 [layers, 4, d], END_NORM [2, d],
# ADAPTERS int64 [adapters, layers · PARTS, 3]: two matrices [rank, in] and [out, rank], and the rank.
# BOTTLENECKS int64 [layers, 2, 2, COLUMNS], or 0: the matrices down and up behind attention and behind feed-forward.
# A call, int64: IDS, AT (positions), ASKS (query positions), SLOT, ADAPTER (-1: none) [tokens], RUN [runs, 3]: first
# token, the one behind the last, row; WANT [wanted, 2]: token, query position.
# Work, fp32 [tokens, …]; the caches [layers, rows, heads, …]; SCRATCH [threads, SCRATCH_WIDTH].
# Experts: EXPERT_LAYER int64 [layers]: the number of a layer among those with experts, -1: dense. ROUTERS fp32
# [layers with experts, E, d], 0: there are none, and FIXED int64 [tokens] says where each goes. ENTRY int64, GATE fp32
# [tokens, K], START int64 [2, E + shared + 1], SORTED and EXPERT_OUT fp32 [tokens · K, d]: see `expert_phases`.
# The board, int64 [·, 8]: CALL: which call runs; CLAIMED, DONE: blocks of each phase, tagged with the call.
ADDRESSES = (
    "MATRICES NORMS END_NORM ADAPTERS BOTTLENECKS IDS AT ASKS SLOT ADAPTER RUN WANT "
    "STREAM CHOSEN NORMED ASKED Q K V ATTENDED PROJECTED INNER_ROWS NARROW LOGITS KEY_CACHE VALUE_CACHE "
    "SCRATCH SCRATCH_WIDTH EXPERT_LAYER ROUTERS FIXED ENTRY GATE START SORTED EXPERT_OUT CALL CLAIMED DONE"
)
PLACES = (SIZES + " " + ADDRESSES).split()
(
    LAYERS, HIDDEN, HEADS, HEAD_SIZE, INNER, VOCABULARY, SLOTS, VALUE_WIDTH, ROWS, QUERY_LAYER, AFTER_QUERY, ACTIVATION,
    RANK, PATTERN, SPAN, SUMMARY, TARGET_IN_TRUNK, THREADS, EXPERTS, CHOICES, SHARED, UNIT_GATE, TOKENS, RUNS, WANTED,
    ADAPTED,
    MATRICES, NORMS, END_NORM, ADAPTERS, BOTTLENECKS, IDS, AT, ASKS, SLOT, ADAPTER, RUN, WANT,
    STREAM, CHOSEN, NORMED, ASKED, Q, K, V, ATTENDED, PROJECTED, INNER_ROWS, NARROW, LOGITS, KEY_CACHE, VALUE_CACHE,
    SCRATCH, SCRATCH_WIDTH, EXPERT_LAYER, ROUTERS, FIXED, ENTRY, GATE, START, SORTED, EXPERT_OUT, CALL, CLAIMED, DONE,
) = range(len(PLACES))  # fmt: skip

# The phases of a layer, then those behind the layers. ADAPT_…: the first matrices of adapters that are kept apart.
# ROUTE and COMBINE: of layers with experts, around MAP and MAP_BACK. NARROW_…: the bottlenecks behind attention and
# behind feed-forward; a network with experts has none.
(
    NORM_1, CHOOSE, ADAPT_IN, PROJECT_IN, ATTEND, ADAPT_OUT, PROJECT_OUT, NARROW_1, NORM_2, ROUTE, ADAPT_MAPPING, MAP,
    ADAPT_PROJECTION, MAP_BACK, COMBINE, NARROW_2, PHASES,
) = range(17)  # fmt: skip
FINAL_NORM, LOGITS_PHASE, LAST_PHASES = range(3)

COUNT_BITS = 20  # of a counter; above them the number of the call that it counts for
# Multiplications that a block should have, a few µs, and the most blocks of a phase.
BLOCK_PRODUCTS = 1 << 17
MOST_BLOCKS = 48
TOKENS_A_BLOCK = 4  # in the phases that work token by token
PATIENCE = 2000  # rounds of waiting before a thread offers its core to another


@compiled
def take_block(job, phase, number, total):
    """Return the number of a block that is now this thread's; -1 where none is left, or the call is over."""
    address = job[CLAIMED] + LINE * phase
    while True:
        seen = read_shared(address)
        block = seen & ((1 << COUNT_BITS) - 1)
        if seen >> COUNT_BITS != number or block >= total:
            return -1
        if claim(address, seen, seen + 1):
            return block


@compiled
def wait_for_phase(job, phase, number, total):
    """Wait until all blocks are done. Returns False where the call is over."""
    address = job[DONE] + LINE * phase
    rounds = 0
    while True:
        seen = read_shared(address)
        if seen >> COUNT_BITS != number:
            return False
        if seen & ((1 << COUNT_BITS) - 1) >= total:
            return True
        rounds += 1
        if rounds > PATIENCE:
            let_others_run()
        else:
            wait_a_moment()


@compiled
def set_counters(job, number):
    """Set every counter to zero, tagged with a call; 0 lets nobody claim anything."""
    for phase in range(job[LAYERS] * PHASES + LAST_PHASES):
        write_shared(job[CLAIMED] + LINE * phase, number << COUNT_BITS)
        write_shared(job[DONE] + LINE * phase, number << COUNT_BITS)


@compiled
def wait_for_call(job, last, rounds):
    """Return the number of a call after `last`, or -1 after so many rounds of waiting."""
    for _ in range(rounds):
        number = read_shared(job[CALL])
        if number > last:
            return number
        wait_a_moment()
    return -1


@compiled
def rows_a_block(job, outputs, inputs, tokens):
    """Return outputs of a product that make a block, a multiple of 16."""
    if job[THREADS] == 1:
        return outputs + 16
    wanted = max(BLOCK_PRODUCTS // (inputs * tokens), outputs // MOST_BLOCKS)
    return max(16, (wanted + 15) // 16 * 16)


@compiled
def blocks_of_rows(job, matrix, tokens):
    """Return into how many blocks the outputs of a matrix are cut."""
    outputs = column(matrix, OUTPUTS)
    size = rows_a_block(job, outputs, column(matrix, INPUTS), tokens)
    return (outputs + size - 1) // size


@compiled
def matrix_at(job, index):
    """Return the address of a row of the table of matrices."""
    return job[MATRICES] + 8 * COLUMNS * index


@compiled
def adapter_of(job, token, index, chosen):
    """Return the address of a token's adapter of a matrix, 0 where it has none; `chosen`: token counts the wanted
    ones."""
    if not job[ADAPTED]:
        return 0
    owner = integer_at(job[WANT] + 16 * token) if chosen else token
    adapter = integer_at(job[ADAPTER] + 8 * owner)
    if adapter < 0:
        return 0
    address = job[ADAPTERS] + 24 * (adapter * job[LAYERS] * PARTS + index)
    return address if integer_at(address + 16) else 0


@compiled
def narrow_of(job, token, part):
    """Return where the inner numbers of a token's adapter are kept."""
    return job[NARROW] + 4 * job[RANK] * (3 * token + part)


@compiled
def adapt(job, index, part, x, chosen, first, last):
    """Multiply tokens first..last of x with the first matrix of their adapters."""
    inputs = column(matrix_at(job, index), INPUTS)
    for token in range(first, last):
        adapter = adapter_of(job, token, index, chosen)
        if adapter:
            rank = integer_at(adapter + 16)
            narrow_rows(integer_at(adapter), x + 4 * token * inputs, narrow_of(job, token, part), 0, rank, inputs)


@compiled
def linear(job, index, part, x, count, y, chosen, block, activation, onto, thread):
    """Block `block` of the outputs of one linear layer for `count` tokens of x -> y, or added to the rows of `onto`.

    part: where this matrix's adapters keep their inner numbers. chosen: x holds the wanted tokens only.
    """
    matrix = matrix_at(job, index)
    outputs = column(matrix, OUTPUTS)
    # Queries, keys and values are one phase, cut alike though the last layer's queries are fewer.
    tokens = job[TOKENS] if index % PARTS < PROJECT else count
    size = rows_a_block(job, outputs, column(matrix, INPUTS), tokens)
    first, last = block * size, min(outputs, (block + 1) * size)
    scratch = job[SCRATCH] + 4 * job[SCRATCH_WIDTH] * thread
    if count == 0:
        return
    product(matrix, x, count, y, first, last, scratch)
    for token in range(count):
        adapter, extra = adapter_of(job, token, index, chosen), 0
        if adapter:
            extra, rank = scratch, integer_at(adapter + 16)
            narrow_rows(integer_at(adapter + 8), narrow_of(job, token, part), scratch, first, last, rank)
        shift = 4 * token * outputs
        finish(matrix, y + shift, first, last, extra, activation, onto + shift if onto else 0)


@compiled
def embed(job, token, thread):
    """Set stream = words[id] + positions[position], + targets[query position] where the trunk is told of it."""
    size, words = job[HIDDEN], matrix_at(job, job[LAYERS] * PARTS + WORDS)
    stream = job[STREAM] + 4 * token * size
    widen(column(words, KIND), column(words, ADDRESS), 0, integer_at(job[IDS] + 8 * token), size, stream)
    add_row(job, POSITIONS, integer_at(job[AT] + 8 * token), stream, thread)
    if job[TARGET_IN_TRUNK]:
        add_row(job, TARGETS, integer_at(job[ASKS] + 8 * token), stream, thread)


@compiled
def add_row(job, table, row, target, thread):
    """Add a row of a table to target."""
    size, matrix = job[HIDDEN], matrix_at(job, job[LAYERS] * PARTS + table)
    scratch = job[SCRATCH] + 4 * job[SCRATCH_WIDTH] * thread
    widen(column(matrix, KIND), column(matrix, ADDRESS), 0, row, size, scratch)
    whole = size // 16 * 64
    for place in range(0, whole, 64):
        store(target + place, add(load_fp32(target + place), load_fp32(scratch + place)))
    for place in range(whole, 4 * size, 4):
        put_float(target + place, float_at(target + place) + float_at(scratch + place))


@compiled
def norm_1(job, layer, first, last, thread):
    """Compute the layer norm before attention, and before it what comes before the layer."""
    size = job[HIDDEN]
    norms = job[NORMS] + 16 * layer * size
    for token in range(first, last):
        stream = job[STREAM] + 4 * token * size
        if layer == 0:
            embed(job, token, thread)
        if layer == job[LAYERS] - 1 and job[QUERY_LAYER] and not job[AFTER_QUERY]:
            layer_norm(stream, job[END_NORM], job[END_NORM] + 4 * size, size, stream)
        layer_norm(stream, norms, norms + 4 * size, size, job[NORMED] + 4 * token * size)


@compiled
def copy_row(source, size, target):
    """Copy one row of fp32 numbers."""
    for place in range(0, 4 * size, 4):
        put_float(target + place, float_at(source + place))


@compiled
def choose(job):
    """Copy of the wanted tokens the residual stream, and what the last layer's queries are made of."""
    size = job[HIDDEN]
    table = matrix_at(job, job[LAYERS] * PARTS + QUERIES)
    for number in range(job[WANTED]):
        token, position = integer_at(job[WANT] + 16 * number), integer_at(job[WANT] + 16 * number + 8)
        copy_row(job[STREAM] + 4 * token * size, size, job[CHOSEN] + 4 * number * size)
        target = job[ASKED] + 4 * number * size
        if job[QUERY_LAYER]:
            widen(column(table, KIND), column(table, ADDRESS), 0, position, size, target)
        else:
            copy_row(job[NORMED] + 4 * token * size, size, target)


@compiled
def attend_head(job, layer, run, head, thread):
    """Keep the keys and values of one run of tokens in one head, then attend from them (last layer: the wanted)."""
    start, end = integer_at(job[RUN] + 24 * run), integer_at(job[RUN] + 24 * run + 8)
    row, hidden, size = integer_at(job[RUN] + 24 * run + 16), job[HIDDEN], job[HEAD_SIZE]
    place = (layer * job[ROWS] + row) * job[HEADS] + head
    keys = job[KEY_CACHE] + 4 * place * size * job[SLOTS]
    values = job[VALUE_CACHE] + 4 * place * job[SLOTS] * job[VALUE_WIDTH]
    for token in range(start, end):
        shift, slot = 4 * (token * hidden + head * size), integer_at(job[SLOT] + 8 * token)
        keep_key_value(job[K] + shift, job[V] + shift, keys, values, slot, size, job[SLOTS], job[VALUE_WIDTH])
    scale = np.float32(1) / np.sqrt(np.float32(size))
    scores, is_last = job[SCRATCH] + 4 * job[SCRATCH_WIDTH] * thread, layer == job[LAYERS] - 1
    number, end_number = (0, job[WANTED]) if is_last else (start, end)
    while number < end_number:
        token = integer_at(job[WANT] + 16 * number) if is_last else number
        if start <= token and token < end:
            shift, seen = 4 * (number * hidden + head * size), integer_at(job[SLOT] + 8 * token) + 1
            query, out = job[Q] + shift, job[ATTENDED] + shift
            if not is_last and number + 1 < end_number and job[PATTERN] == FULL:
                attend_two(
                    query, query + 4 * hidden, keys, values, seen, size, job[SLOTS], job[VALUE_WIDTH], scale, scores,
                    out, out + 4 * hidden,
                )  # fmt: skip
                number += 1
            else:
                attend(
                    query, keys, values, seen, size, job[SLOTS], job[VALUE_WIDTH], scale, scores, out,
                    job[PATTERN], job[SPAN], job[SUMMARY],
                )  # fmt: skip
        number += 1


@compiled
def expert_layer(job, layer):
    """Return the number of a layer among those with experts; -1: it is dense."""
    return integer_at(job[EXPERT_LAYER] + 8 * layer) if job[EXPERTS] else -1


@compiled
def expert_matrix(job, layer, expert, phase):
    """Return the address of a matrix of an expert in the table."""
    number = expert_layer(job, layer) * (job[EXPERTS] + job[SHARED]) + expert
    return matrix_at(job, job[LAYERS] * PARTS + TABLES + 2 * number + (1 if phase == MAP_BACK else 0))


@compiled
def route(job, layer, tokens, is_last, thread):
    """Choose the experts of all tokens of a layer, and sort these."""
    each, hidden = job[CHOICES] + job[SHARED], job[HIDDEN]
    router = job[ROUTERS]
    if router:
        router += 4 * expert_layer(job, layer) * job[EXPERTS] * hidden
    logits = job[SCRATCH] + 4 * job[SCRATCH_WIDTH] * thread
    for token in range(tokens):
        entry, gate = job[ENTRY] + 8 * token * each, job[GATE] + 4 * token * each
        if router:
            x = job[NORMED] + 4 * token * hidden
            choose_experts(x, hidden, router, job[EXPERTS], job[CHOICES], job[UNIT_GATE], logits, entry, gate)
        else:
            owner = integer_at(job[WANT] + 16 * token) if is_last else token
            put_integer(entry, integer_at(job[FIXED] + 8 * owner))
            put_float(gate, np.float32(1))
        for place in range(job[CHOICES], each):
            put_integer(entry + 8 * place, job[EXPERTS] + place - job[CHOICES])
            put_float(gate + 4 * place, np.float32(1))
    sort_by_expert(tokens, each, job[EXPERTS] + job[SHARED], hidden, job[NORMED], job[ENTRY], job[START], job[SORTED])


@compiled
def expert_linear(job, layer, phase, block, thread):
    """Compute one block of the outputs of one of an expert's matrices, for the tokens that take it."""
    blocks = blocks_of_rows(job, expert_matrix(job, layer, 0, phase), 1)
    expert, block = block // blocks, block % blocks
    begin, end = integer_at(job[START] + 8 * expert), integer_at(job[START] + 8 * (expert + 1))
    if begin == end:
        return
    matrix = expert_matrix(job, layer, expert, phase)
    outputs, inputs = column(matrix, OUTPUTS), column(matrix, INPUTS)
    size = rows_a_block(job, outputs, inputs, 1)
    first, last = block * size, min(outputs, (block + 1) * size)
    source = job[SORTED] if phase == MAP else job[INNER_ROWS]
    target = job[INNER_ROWS] if phase == MAP else job[EXPERT_OUT]
    scratch = job[SCRATCH] + 4 * job[SCRATCH_WIDTH] * thread
    y = target + 4 * begin * outputs
    product(matrix, source + 4 * begin * inputs, end - begin, y, first, last, scratch)
    for row in range(end - begin):
        finish(matrix, y + 4 * row * outputs, first, last, 0, job[ACTIVATION] if phase == MAP else 0, 0)


@compiled
def tokens_of(job, layer, phase):
    """Return tokens that a phase computes: in the last layer, from attention on, the wanted ones."""
    if layer == job[LAYERS] - 1 and phase not in (NORM_1, ADAPT_IN, PROJECT_IN, ATTEND):
        return job[WANTED]
    return job[TOKENS]


@compiled
def matrix_of(phase):
    """Return the matrix of a layer that a phase is about."""
    if phase in (PROJECT_OUT, ADAPT_OUT):
        return PROJECT
    if phase in (MAP, ADAPT_MAPPING):
        return MAPPING
    if phase in (MAP_BACK, ADAPT_PROJECTION):
        return PROJECTION
    return QUERY


@compiled
def blocks_of(job, layer, phase):
    """Return into how many blocks a phase of a layer is cut; 0 where there is nothing to do."""
    tokens = tokens_of(job, layer, phase)
    if tokens == 0:
        return 0
    if phase == ATTEND:
        return job[RUNS] * job[HEADS]
    if phase == CHOOSE:
        return 1 if layer == job[LAYERS] - 1 else 0
    has_experts = expert_layer(job, layer) >= 0
    if phase == ROUTE:
        return 1 if has_experts else 0
    if has_experts and phase in (MAP, MAP_BACK):
        return blocks_of_rows(job, expert_matrix(job, layer, 0, phase), 1) * (job[EXPERTS] + job[SHARED])
    if has_experts and phase in (ADAPT_MAPPING, ADAPT_PROJECTION):
        return 0
    if phase == COMBINE and not has_experts:
        return 0
    if phase in (PROJECT_IN, PROJECT_OUT, MAP, MAP_BACK):
        blocks = blocks_of_rows(job, matrix_at(job, layer * PARTS + matrix_of(phase)), tokens)
        return 3 * blocks if phase == PROJECT_IN else blocks
    if phase in (NARROW_1, NARROW_2):
        if not job[BOTTLENECKS]:
            return 0
    elif phase not in (NORM_1, NORM_2, COMBINE) and not job[ADAPTED]:
        return 0
    return (tokens + TOKENS_A_BLOCK - 1) // TOKENS_A_BLOCK


@compiled
def project_in(job, layer, block, thread):
    """Compute one block of the outputs of queries, keys and values; in the last layer, queries of the wanted tokens."""
    blocks = blocks_of_rows(job, matrix_at(job, layer * PARTS), job[TOKENS])
    part, block = block // blocks, block % blocks
    x, y, count, chosen = job[NORMED], job[Q + part], job[TOKENS], False
    if part == QUERY and layer == job[LAYERS] - 1:
        x, count, chosen = job[ASKED], job[WANTED], True
    linear(job, layer * PARTS + part, part, x, count, y, chosen, block, 0, 0, thread)


@compiled
def adapt_in(job, layer, first, last):
    """Multiply with the first matrices of the adapters of queries, keys and values."""
    index = layer * PARTS
    if layer == job[LAYERS] - 1:
        adapt(job, index, 0, job[ASKED], True, min(first, job[WANTED]), min(last, job[WANTED]))
    else:
        adapt(job, index, 0, job[NORMED], False, first, last)
    adapt(job, index + KEY, 1, job[NORMED], False, first, last)
    adapt(job, index + VALUE, 2, job[NORMED], False, first, last)


@compiled
def norm_2(job, layer, stream, first, last):
    """Compute the layer norm before the feed-forward layer."""
    size = job[HIDDEN]
    norms = job[NORMS] + 16 * layer * size + 8 * size
    for token in range(first, last):
        layer_norm(stream + 4 * token * size, norms, norms + 4 * size, size, job[NORMED] + 4 * token * size)


@compiled
def bottleneck(job, layer, number, stream, first, last, thread):
    """Add PROJECTED and its bottleneck to the stream: y + up(gelu(down(y)))."""
    size, scratch = job[HIDDEN], job[SCRATCH] + 4 * job[SCRATCH_WIDTH] * thread
    down = job[BOTTLENECKS] + 16 * COLUMNS * (2 * layer + number)
    up = down + 8 * COLUMNS
    width = column(down, OUTPUTS)
    for token in range(first, last):
        y, out = job[PROJECTED] + 4 * token * size, job[NORMED] + 4 * token * size
        narrow = narrow_of(job, token, 0)
        product(down, y, 1, narrow, 0, width, scratch)
        finish(down, narrow, 0, width, 0, GELU_TANH, 0)
        product(up, narrow, 1, out, 0, size, scratch)
        finish(up, out, 0, size, y, 0, stream + 4 * token * size)


@compiled
def layer_block(job, layer, phase, block, thread):
    """Compute one block of one phase of a layer."""
    tokens, is_last = tokens_of(job, layer, phase), layer == job[LAYERS] - 1
    stream = job[CHOSEN] if is_last else job[STREAM]
    first = block * TOKENS_A_BLOCK
    last, index = min(tokens, first + TOKENS_A_BLOCK), layer * PARTS + matrix_of(phase)
    if phase == NORM_1:
        norm_1(job, layer, first, last, thread)
    elif phase == CHOOSE:
        choose(job)
    elif phase == ADAPT_IN:
        adapt_in(job, layer, first, last)
    elif phase == PROJECT_IN:
        project_in(job, layer, block, thread)
    elif phase == ATTEND:
        attend_head(job, layer, block // job[HEADS], block % job[HEADS], thread)
    elif phase == NORM_2:
        norm_2(job, layer, stream, first, last)
    elif phase == ROUTE:
        route(job, layer, tokens, is_last, thread)
    elif phase == COMBINE:
        each = job[CHOICES] + job[SHARED]
        add_experts(first, last, each, job[HIDDEN], job[ENTRY], job[GATE], job[EXPERT_OUT], stream)
    elif phase in (MAP, MAP_BACK) and expert_layer(job, layer) >= 0:
        expert_linear(job, layer, phase, block, thread)
    elif phase == ADAPT_OUT:
        adapt(job, index, 0, job[ATTENDED], is_last, first, last)
    elif phase == ADAPT_MAPPING:
        adapt(job, index, 0, job[NORMED], is_last, first, last)
    elif phase == ADAPT_PROJECTION:
        adapt(job, index, 0, job[INNER_ROWS], is_last, first, last)
    elif phase == NARROW_1:
        bottleneck(job, layer, 0, stream, first, last, thread)
    elif phase == NARROW_2:
        bottleneck(job, layer, 1, stream, first, last, thread)
    elif phase == PROJECT_OUT:
        onto = 0 if job[BOTTLENECKS] else stream
        linear(job, index, 0, job[ATTENDED], tokens, job[PROJECTED], is_last, block, 0, onto, thread)
    elif phase == MAP:
        linear(job, index, 0, job[NORMED], tokens, job[INNER_ROWS], is_last, block, job[ACTIVATION], 0, thread)
    else:
        onto = 0 if job[BOTTLENECKS] else stream
        linear(job, index, 0, job[INNER_ROWS], tokens, job[PROJECTED], is_last, block, 0, onto, thread)


@compiled
def blocks_of_last(job, phase):
    """Return into how many blocks a phase behind the layers is cut."""
    if job[WANTED] == 0 or (phase == FINAL_NORM and job[QUERY_LAYER] and not job[AFTER_QUERY]):
        return 0
    if phase == FINAL_NORM:
        return 1
    return blocks_of_rows(job, matrix_at(job, job[LAYERS] * PARTS + HEAD), job[WANTED])


@compiled
def last_block(job, phase, block, thread):
    """Compute one block of what follows the layers: the final norm where it is still to come, and the logits."""
    size = job[HIDDEN]
    if phase == FINAL_NORM:
        for token in range(job[WANTED]):
            stream = job[CHOSEN] + 4 * token * size
            layer_norm(stream, job[END_NORM], job[END_NORM] + 4 * size, size, stream)
        return
    matrix = matrix_at(job, job[LAYERS] * PARTS + HEAD)
    outputs = column(matrix, OUTPUTS)
    rows = rows_a_block(job, outputs, size, job[WANTED])
    first, last = block * rows, min(outputs, (block + 1) * rows)
    scratch = job[SCRATCH] + 4 * job[SCRATCH_WIDTH] * thread
    product(matrix, job[CHOSEN], job[WANTED], job[LOGITS], first, last, scratch)
    for token in range(job[WANTED]):
        finish(matrix, job[LOGITS] + 4 * token * outputs, first, last, 0, 0, 0)


@compiled
def forward(job, number, thread):
    """Take part in call `number`. Returns False where it is over before this thread came to its end."""
    layers = job[LAYERS]
    for counter in range(layers * PHASES + LAST_PHASES):
        layer, phase = counter // PHASES, counter % PHASES
        total = blocks_of(job, layer, phase) if layer < layers else blocks_of_last(job, phase)
        if total == 0:
            continue
        block = take_block(job, counter, number, total)
        while block >= 0:
            if layer < layers:
                layer_block(job, layer, phase, block, thread)
            else:
                last_block(job, phase, block, thread)
            count_up(job[DONE] + LINE * counter)
            block = take_block(job, counter, number, total)
        if not wait_for_phase(job, counter, number, total):
            return False
    return True


@entry
def work_on(job, thread, number, rounds):
    """Carry out, as thread 0, call `number`; numbers count from 1.

    Others: take part in every call after `number`, until none comes for so many rounds of waiting. Returns the last.
    (One function, because a program of its own for each would double the time of compiling.)
    """
    if thread == 0:
        set_counters(job, number)
        write_shared(job[CALL], number)
        forward(job, number, 0)
        # Sizes of the next call are written after this; nobody may claim a block by them under this call's number.
        set_counters(job, 0)
        return number
    while True:
        newer = wait_for_call(job, number, rounds)
        if newer < 0:
            return number
        number = newer
        forward(job, number, thread)
