"""The network as compiled functions over weights where they are stored; MindSpore is not needed.

Against `pangu.model.inference`, the same network in MindSpore:

* Rows are independent: a prompt may be read into one while others take their next token, in the same call.
* A token's logits are the same bits alone and among others, however its prompt is cut, with any number of threads.
* Its position, and the position that the query layer asks with, are given with the token.
* Weights may be fp32, fp16, bf16, int8 or int4; they are widened in registers and every sum is fp32.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pangu import parameters
from pangu.config import ModelConfig
from pangu.formats.data_types import BF16 as BF16_TYPE
from pangu.formats.data_types import BY_NAME, cast
from pangu.foundation.errors import UserError
from pangu.generation.additions import NOTHING, Additions
from pangu.generation.compiled import phases
from pangu.generation.compiled.products import (
    BF16,
    COLUMNS,
    FAST_GELU,
    FIXED,
    FP16,
    FP32,
    FULL,
    GELU_ERF,
    GELU_TANH,
    GROUP,
    INT4,
    INT8,
    MANY_SCRATCH,
    SLIDING_WINDOW,
    STRIDED,
)
from pangu.generation.compiled.threads import Team
from pangu.generation.compiled.vectors import LANES, aligned_zeros
from pangu.generation.decoding_batch import DecodingBatch, Network, RowTokens
from pangu.quantization.quantized_file import OUTPUT_MATRIX, SCALE, is_stored_turned

# Tokens of a call, all rows together, when prompts are read.
CHUNK = 128

ACTIVATIONS = {"gelu_tanh": GELU_TANH, "gelu_erf": GELU_ERF, "fast_gelu": FAST_GELU}
PATTERNS = {"full": FULL, "sliding_window": SLIDING_WINDOW, "strided": STRIDED, "fixed": FIXED}
KINDS = {"float32": FP32, "float16": FP16, "uint16": BF16, "int8": INT8, "uint8": INT4}


@dataclass(frozen=True)
class LowRankAdapter:
    """Low-rank matrices that are added to linear layers without being merged: W x + B (A x).

    matrices: {name of a linear layer, e.g. "backbone.blocks.0.attention.dense1": (A [rank, in], B [out, rank])}; B is
    scaled.
    """

    matrices: Mapping[str, tuple[np.ndarray, np.ndarray]]


class CompiledNetwork(Network):
    """A network's weights as tables of addresses. Arrays that are stored [out, in] are used where they are.

    weights: by released name, fp32, fp16 or bf16 (as uint16); or quantised, int8 [out, in] or uint8 [out, in/2] with
    `NAME_scale`, and the output matrix apart. threads: None: as many as there are cores.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, np.ndarray],
        adapters: Sequence[LowRankAdapter] = (),
        threads: int | None = None,
        additions: Additions = NOTHING,
    ) -> None:
        if config.softmax_dtype != "fp32":
            raise UserError("softmax_dtype fp16: the compiled engine computes in fp32; take --engine mindspore")
        self.config, self.team = config, Team(threads)
        self.kept: list[np.ndarray] = []  # what the tables point to
        self.prefixes = parameters.layer_prefixes(config.num_blocks, config.query_layer)
        check_stored(config, weights)
        parts = [f"{prefix}{name}" for prefix in self.prefixes for name in parameters.LINEAR_LAYERS]
        rows = [self.layer_matrix(weights, part) for part in parts]
        self.matrices = np.array([*rows, *self.tables(weights), *self.expert_matrices(weights)], np.int64)
        self.routers, self.expert_table = self.routing(weights)
        self.norms = np.array(
            [
                [wide(weights[f"{prefix}layernorm{number}.{name}"]) for number in (1, 2) for name in ("gamma", "beta")]
                for prefix in self.prefixes
            ]
        )
        self.end_norm = np.array([wide(weights[f"backbone.layernorm.{name}"]) for name in ("gamma", "beta")])
        self.adapters, self.rank = self.adapter_table(adapters)
        self.adapter_count = len(adapters)
        self.additions = additions
        self.bottlenecks = self.bottleneck_table()

    def keep(self, array: np.ndarray) -> int:
        """Return the address of an array, which lives as long as this network."""
        self.kept.append(array)
        return array.ctypes.data

    def matrix(self, weight: np.ndarray, scale: np.ndarray | None, bias: np.ndarray | None) -> list[int]:
        """Return the row of a matrix [out, in] in the table."""
        if not weight.flags.c_contiguous:
            turned, weight = weight, aligned_zeros(weight.shape, weight.dtype)
            weight[...] = turned
        row = [0] * COLUMNS
        row[:4] = self.keep(weight), KINDS[weight.dtype.name], weight.shape[0], weight.shape[1]
        if weight.dtype == np.uint8:
            row[3] *= 2
        if scale is not None:
            row[4] = self.keep(np.ascontiguousarray(scale))
        if bias is not None:
            row[5] = self.keep(wide(bias))
        return row

    def layer_matrix(self, weights: Mapping[str, np.ndarray], name: str) -> list[int]:
        """Return the row of a linear layer. Some matrices are [in, out] in full precision; all are [out, in]
        quantised. What a layer with experts has not is a row of zeros."""
        if f"{name}.weight" not in weights:
            return [0] * COLUMNS
        weight, scale = weights[f"{name}.weight"], weights.get(f"{name}.weight{SCALE}")
        turned = is_stored_turned(f"{name}.weight") and scale is None
        return self.matrix(weight.T if turned else weight, scale, weights[f"{name}.bias"])

    def expert_matrices(self, weights: Mapping[str, np.ndarray]) -> list[list[int]]:
        """Return two rows for each expert of each layer, the shared ones last: each as an expert of the usual width,
        the first with the bias that they share."""
        shape, rows = self.config.expert_shape, []
        for layer in shape.layers if shape else ():
            prefix = f"{self.prefixes[layer]}{parameters.FEED_FORWARD}"
            for expert in range(shape.count if shape else 0):
                rows += [self.part(weights, f"{prefix}experts.{name}", expert) for name in ("mapping", "projection")]
            for number in range(shape.shared if shape else 0):
                here = slice(number * self.config.ffn_hidden_size, (number + 1) * self.config.ffn_hidden_size)
                mapping, bias, scale = self.stored(weights, f"{prefix}shared.mapping")
                rows.append(self.matrix(mapping[here], None if scale is None else scale[here], bias[here]))
                projection, bias, scale = self.stored(weights, f"{prefix}shared.projection")
                inner = slice(here.start // 2, here.stop // 2) if projection.dtype == np.uint8 else here
                if scale is not None and scale.ndim == 2:
                    scale = scale[:, here.start // GROUP : here.stop // GROUP]
                rows.append(self.matrix(projection[:, inner], scale, bias if number == 0 else None))
        return rows

    def stored(self, weights: Mapping[str, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return a matrix, or one for each expert, [.., out, in] with its bias and scales."""
        weight, scale = weights[f"{name}.weight"], weights.get(f"{name}.weight{SCALE}")
        return weight if scale is not None else weight.swapaxes(-1, -2), weights[f"{name}.bias"], scale

    def part(self, weights: Mapping[str, np.ndarray], name: str, expert: int) -> list[int]:
        """Return the row of an expert's matrix."""
        weight, bias, scale = self.stored(weights, name)
        return self.matrix(weight[expert], None if scale is None else scale[expert], bias[expert])

    def routing(self, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return the routers, fp32 [layers, E, d], and the table of experts, int64 [rows, V]; empty where there are
        none."""
        shape = self.config.expert_shape
        names = [f"{self.prefixes[layer]}{parameters.ROUTER}" for layer in shape.layers] if shape else []
        routers = [wide(weights[name]).T for name in names if name in weights]
        table = wide(weights[parameters.EXPERT_TABLE]) if parameters.EXPERT_TABLE in weights else np.zeros((0, 0))
        return np.ascontiguousarray(routers, np.float32), table.astype(np.int64)

    def tables(self, weights: Mapping[str, np.ndarray]) -> list[list[int]]:
        """Return the output matrix and the tables of words, positions, queries and targets."""
        words = weights[parameters.WORD_TABLE]
        positions = weights[parameters.POSITION_TABLE]
        queries = weights.get(parameters.QUERY_TABLE, positions)
        targets = weights.get(parameters.TARGET_TABLE, positions)
        head = weights.get(OUTPUT_MATRIX, words)
        return [
            self.matrix(head, weights.get(OUTPUT_MATRIX + SCALE), None),
            *(self.matrix(table, None, None) for table in (words, positions, queries, targets)),
        ]

    def adapter_table(self, adapters: Sequence[LowRankAdapter]) -> tuple[np.ndarray, int]:
        """Return int64 [adapters, layers · parts, 3] and the largest rank."""
        names = [f"{prefix}{name}" for prefix in self.prefixes for name in parameters.LINEAR_LAYERS]
        table = np.zeros((max(1, len(adapters)), len(names), 3), np.int64)
        for number, adapter in enumerate(adapters):
            for name, (first, second) in adapter.matrices.items():
                if name not in names:
                    raise UserError(f"adapter {number}: the model has no linear layer {name!r}")
                index = names.index(name)
                outputs, inputs = self.matrices[index, 2:4]
                if first.shape != (len(first), inputs) or second.shape != (outputs, len(first)):
                    raise UserError(
                        f"adapter {number}: {name}: matrices of {list(first.shape)} and {list(second.shape)} "
                        f"do not fit a layer of {inputs} inputs and {outputs} outputs"
                    )
                table[number, index] = self.keep(wide(first)), self.keep(wide(second)), len(first)
        return table, max(1, int(table[:, :, 2].max()))

    def bottleneck_table(self) -> np.ndarray:
        """Return int64 [layers, 2, 2, COLUMNS], empty where there are none. Makes room for their inner numbers."""
        given = self.additions.bottlenecks
        names = [
            f"{prefix}{part}" for prefix in self.prefixes for part in ("attention.projection", "output.projection")
        ]
        rows = []
        for name in names if given else ():
            one = given[name]
            rows += [self.matrix(one.down, None, one.down_bias), self.matrix(one.up, None, one.up_bias)]
            self.rank = max(self.rank, len(one.down))
        return np.array(rows, np.int64)

    @property
    def nbytes(self) -> int:
        """Return bytes of all that the tables point to."""
        return sum(array.nbytes for array in self.kept)

    def open(self, rows: int, slots: int) -> "CompiledBatch":
        return CompiledBatch(self, rows, slots)


def wide(array: np.ndarray) -> np.ndarray:
    """Return fp32, row-major; uint16 holds bf16."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return np.ascontiguousarray(array, np.float32)


def stored_as(weights: Mapping[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    """Return the matrices rounded to fp32, fp16 or bf16 (as uint16). Raises UserError where a weight is too large
    for it."""
    if any(name.endswith(SCALE) for name in weights):
        raise UserError(f"the weights are quantised: --dtype {dtype} is for weights in full precision")
    target = BY_NAME[dtype]
    result = {}
    for name, weight in weights.items():
        source = BF16_TYPE if weight.dtype == np.uint16 else BY_NAME[{2: "fp16", 4: "fp32"}[weight.dtype.itemsize]]
        try:
            kept = weight.ndim < 2 or name.endswith((parameters.EXPERT_TABLE, parameters.ROUTER))
            result[name] = weight if kept else cast(weight, source, target)
        except OverflowError as error:
            raise UserError(f"{name}: {error}; take another --dtype") from None
    return result


def check_stored(config: ModelConfig, weights: Mapping[str, np.ndarray]) -> None:
    """Raise UserError that names a weight which is missing, left over, of another shape or an unknown type."""
    full: dict[str, tuple[int, ...]] = {}
    for name, array in weights.items():
        if name.endswith(SCALE) or name == OUTPUT_MATRIX:
            continue
        shape = array.shape
        if array.dtype == np.uint8 and array.ndim == 2:
            shape = (shape[0], 2 * shape[1])
        if f"{name}{SCALE}" in weights and is_stored_turned(name):
            shape = shape[::-1]
        if array.ndim == 3 and f"{name}{SCALE}" in weights:
            shape = (array.shape[0], array.shape[2] * (2 if array.dtype == np.uint8 else 1), array.shape[1])
        full[name] = shape
        if array.dtype.name not in KINDS or ((array.dtype.itemsize == 1) != (f"{name}{SCALE}" in weights)):
            raise UserError(f"{name}: weights of type {array.dtype} cannot be used here")
    parameters.check_shapes(parameters.shapes(config), full)
    if any(array.dtype == np.uint8 for array in weights.values()) and (
        config.hidden_size % GROUP or config.ffn_hidden_size % GROUP
    ):
        raise UserError(f"int4 weights need hidden_size and ffn_hidden_size that are multiples of {GROUP}")


class CompiledBatch(DecodingBatch):
    """Rows with caches of `slots` tokens each, filled and emptied one by one."""

    admits_any_time = True

    def __init__(self, network: CompiledNetwork, rows: int, slots: int) -> None:
        config = network.config
        self.network, self.rows, self.slots = network, rows, slots
        self.lengths = np.zeros(rows, np.int64)
        self.tokens = max(CHUNK, rows)
        value_width = -(-config.head_size // LANES) * LANES
        cache = (config.num_layers, rows, config.num_heads)
        self.first = network.additions.prefix_length  # the slot of a row's first token
        slots = -(-slots // LANES) * LANES + -(-self.first // LANES) * LANES
        self.arrays = self.working_memory(slots, value_width)
        self.arrays["KEY_CACHE"] = aligned_zeros((*cache, config.head_size, slots))
        self.arrays["VALUE_CACHE"] = aligned_zeros((*cache, slots, value_width))
        if network.additions.prefix is not None:
            self.begin_with(network.additions.prefix)
        self.arrays |= {"MATRICES": network.matrices, "NORMS": network.norms, "END_NORM": network.end_norm}
        self.arrays["ADAPTERS"] = network.adapters
        if network.bottlenecks.size:
            self.arrays["BOTTLENECKS"] = network.bottlenecks
        sizes = {
            "LAYERS": config.num_layers,
            "HIDDEN": config.hidden_size,
            "HEADS": config.num_heads,
            "HEAD_SIZE": config.head_size,
            "INNER": config.ffn_hidden_size,
            "VOCABULARY": config.vocab_size,
            "SLOTS": slots,
            "VALUE_WIDTH": value_width,
            "ROWS": rows,
            "QUERY_LAYER": int(config.query_layer),
            "AFTER_QUERY": int(config.final_norm == "after_query"),
            "ACTIVATION": ACTIVATIONS[config.activation],
            "RANK": network.rank,
            **self.experts(),
            "PATTERN": PATTERNS[config.attention.pattern],
            "SPAN": config.attention.span or 0,
            "SUMMARY": config.attention.summary,
            "TARGET_IN_TRUNK": int(config.target_in_trunk),
            "THREADS": network.team.threads,
            "SCRATCH_WIDTH": self.arrays["SCRATCH"].shape[1],
        }
        entries = sizes | {name: array.ctypes.data for name, array in self.arrays.items() if array.size}
        self.job = np.array([entries.get(place, 0) for place in phases.PLACES], np.int64)

    def begin_with(self, prefix: np.ndarray) -> None:
        """Put keys and values [layers, 2, n, d] into the first slots of every row, where they stay."""
        config, count = self.network.config, prefix.shape[2]
        heads = prefix.reshape(config.num_layers, 2, count, config.num_heads, config.head_size)
        self.arrays["KEY_CACHE"][..., :count] = heads[:, 0].transpose(0, 2, 3, 1)[:, None]
        self.arrays["VALUE_CACHE"][..., :count, : config.head_size] = heads[:, 1].transpose(0, 2, 1, 3)[:, None]

    def kept(self, row: int) -> np.ndarray:
        """Return the keys and values of what a row has read, fp32 [layers, 2, n, d]."""
        here, size = slice(self.first, self.first + int(self.lengths[row])), self.network.config.head_size
        keys = self.arrays["KEY_CACHE"][:, row, :, :, here].transpose(0, 3, 1, 2)
        values = self.arrays["VALUE_CACHE"][:, row, :, here, :size].transpose(0, 2, 1, 3)
        return np.stack([part.reshape(*part.shape[:2], -1) for part in (keys, values)], axis=1)

    def experts(self) -> dict[str, int]:
        """Return the sizes of experts, and make what a call needs for them."""
        asked, shape = self.network.config.experts, self.network.config.expert_shape
        if asked is None or shape is None:
            return {}
        each, groups = asked.choices + asked.shared, asked.count + asked.shared
        layers = [shape.layers.index(i) if i in shape.layers else -1 for i in range(self.network.config.num_layers)]
        entries, hidden = self.tokens * each, self.network.config.hidden_size
        self.arrays |= {
            "EXPERT_LAYER": np.array(layers, np.int64),
            "ROUTERS": self.network.routers,
            "FIXED": np.zeros(self.tokens, np.int64),
            "ENTRY": np.zeros(entries, np.int64),
            "GATE": np.zeros(entries, np.float32),
            "START": np.zeros((2, groups + 1), np.int64),
            "SORTED": aligned_zeros((entries, hidden)),
            "EXPERT_OUT": aligned_zeros((entries, hidden)),
            "INNER_ROWS": aligned_zeros((entries, self.network.config.ffn_hidden_size)),
        }
        sizes = {"EXPERTS": asked.count, "CHOICES": asked.choices, "SHARED": asked.shared}
        return sizes | {"UNIT_GATE": int(asked.unit_gate)}

    def fixed_experts(self, ids: Sequence[int], domain: int | None) -> np.ndarray:
        """Return where tokens go, by themselves or by their domain."""
        table = self.network.expert_table
        return table[domain or 0][np.asarray(ids)] if table.size else np.full(len(ids), domain or 0)

    def working_memory(self, slots: int, value_width: int) -> dict[str, np.ndarray]:
        """Return everything that a call writes, but for the caches."""
        config, tokens, line = self.network.config, self.tokens, phases.LINE // 8
        hidden, inner = config.hidden_size, config.ffn_hidden_size
        widths = dict.fromkeys(("STREAM", "CHOSEN", "NORMED", "ASKED", "Q", "K", "V", "ATTENDED", "PROJECTED"), hidden)
        widths |= {"INNER_ROWS": inner, "NARROW": 3 * self.network.rank, "LOGITS": config.vocab_size}
        arrays = {name: aligned_zeros((tokens, width)) for name, width in widths.items()}
        count = config.experts.count if config.experts else 0
        scratch = max(4 * hidden, 4 * inner, MANY_SCRATCH, 2 * slots, count) + LANES
        arrays["SCRATCH"] = aligned_zeros((self.network.team.threads, -(-scratch // LANES) * LANES))
        arrays |= {name: np.zeros(tokens, np.int64) for name in ("IDS", "AT", "ASKS", "SLOT", "ADAPTER")}
        arrays |= {"RUN": np.zeros((tokens, 3), np.int64), "WANT": np.zeros((tokens, 2), np.int64)}
        counters = config.num_layers * phases.PHASES + phases.LAST_PHASES
        arrays |= {name: np.zeros((counters, line), np.int64) for name in ("CLAIMED", "DONE")}
        arrays["CALL"] = np.zeros(line, np.int64)
        return arrays

    def read(self, parts: Sequence[RowTokens]) -> list[np.ndarray]:
        """Read on in any rows, each at most once. What is more than CHUNK tokens takes several calls."""
        for part in parts:
            self.check(part)
        results: list[list[np.ndarray]] = [[] for _ in parts]
        pending: list[tuple[int, RowTokens, int, int]] = []
        room = self.tokens
        for number, part in enumerate(parts):
            start = 0
            while start < len(part.ids):
                end = min(len(part.ids), start + room)
                pending.append((number, part, start, end))
                room -= end - start
                start = end
                if room == 0:
                    self.call(pending, results)
                    pending, room = [], self.tokens
        if pending:
            self.call(pending, results)
        return [np.concatenate(rows) if rows else np.zeros((0, 0), np.float32) for rows in results]

    def check(self, part: RowTokens) -> None:
        """Raise ValueError for what would be read or written outside an array."""
        config, is_row = self.network.config, 0 <= part.row < self.rows
        length = len(part.ids) + (int(self.lengths[part.row]) if is_row else 0)
        positions = part.positions or [length - 1]
        asked = part.query_positions or positions
        inside = (
            is_row
            and part.ids
            and 0 <= min(part.ids) <= max(part.ids) < config.vocab_size
            and length <= self.slots
            and 0 <= min(positions) <= max(positions) < config.seq_length
            and 0 <= min(asked) <= max(asked) < config.seq_length
            and (part.positions is None or len(part.positions) == len(part.ids))
            and (part.query_positions is None or len(part.query_positions) == len(part.ids))
            and (part.domain is None or self.network.config.experts is not None)
            and (part.adapter is None or 0 <= part.adapter < self.network.adapter_count)
        )
        if not inside:
            raise ValueError(f"{part} does not fit {self.rows} rows of {self.slots} tokens after {length} in this one")

    def call(self, pending: list[tuple[int, RowTokens, int, int]], results: list[list[np.ndarray]]) -> None:
        """Make one call: (number of the part, part, first token, the one behind the last) of each row in it."""
        arrays, token, wanted, runs = self.arrays, 0, 0, 0
        counts: list[tuple[int, int]] = []
        adapted = False
        for number, part, start, end in pending:
            count, length = end - start, int(self.lengths[part.row])
            ids, here = part.ids[start:end], slice(token, token + count)
            slots = np.arange(length, length + count)
            arrays["IDS"][here] = ids
            arrays["SLOT"][here] = slots + self.first
            arrays["AT"][here] = slots if part.positions is None else part.positions[start:end]
            if "FIXED" in arrays and not self.network.routers.size:
                arrays["FIXED"][here] = self.fixed_experts(ids, part.domain)
            asks = arrays["AT"][here] if part.query_positions is None else part.query_positions[start:end]
            arrays["ASKS"][here] = asks
            arrays["ADAPTER"][here] = -1 if part.adapter is None else part.adapter
            adapted = adapted or part.adapter is not None
            arrays["RUN"][runs] = token, token + count, part.row
            first = max(start, len(part.ids) - part.wanted)
            for place in range(first, end):
                own = token + place - start
                arrays["WANT"][wanted] = own, arrays["ASKS"][own]
                wanted += 1
            counts.append((number, max(0, end - first)))
            self.lengths[part.row] = length + count
            token, runs = token + count, runs + 1
        job = self.job
        job[phases.TOKENS], job[phases.RUNS] = token, runs
        job[phases.WANTED], job[phases.ADAPTED] = wanted, int(adapted)
        self.network.team.run(job, self)
        logits, place = arrays["LOGITS"], 0
        for number, count in counts:
            if count:
                results[number].append(logits[place : place + count].copy())
            place += count

    def release(self, row: int) -> None:
        self.lengths[row] = 0

    def share(self, source: int, target: int, first: int, length: int) -> None:
        """Copy keys and values, also those of a row that was released since."""
        if source != target:
            keys, values = self.arrays["KEY_CACHE"], self.arrays["VALUE_CACHE"]
            keys[:, target, :, :, first:length] = keys[:, source, :, :, first:length]
            values[:, target, :, first:length] = values[:, source, :, first:length]
        self.lengths[target] = length

    def rewind(self, row: int, length: int) -> None:
        """Forget all but the first `length` tokens of a row."""
        self.lengths[row] = min(int(self.lengths[row]), length)
