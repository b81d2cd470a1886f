"""Generation with MindSpore's graphs (`pangu.model.inference`): Ascend, GPU, and the reference of the compiled engine.

Graphs have fixed shapes, so a batch compiles two: one that takes CHUNK tokens of every prompt a call, whatever the
prompts' lengths, and one that takes a token.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from mindspore import Tensor

from pangu import parameters
from pangu.config import ModelConfig
from pangu.device import check_dtype
from pangu.foundation.errors import UserError
from pangu.generation.additions import NOTHING, Additions, Bottleneck
from pangu.generation.decoding_batch import SLOTS, DecodingBatch, Network, RowTokens
from pangu.model.inference import CachedDecoder, DecodingWeights, Weights

# Tokens of each prompt a call: long enough for fast matrix products, short enough that a short prompt wastes little.
CHUNK = 64
assert SLOTS % CHUNK == 0  # so that padding of the last chunk has slots too


class MindSporeNetwork(Network):
    """Weights (released names) in compiled graphs, after `pangu.device.use_device`."""

    def __init__(self, config: ModelConfig, weights: Weights, additions: Additions = NOTHING) -> None:
        check_dtype(config)
        self.config, self.layers, self.prefix = config, DecodingWeights(config, weights), additions.prefix
        if additions.bottlenecks:
            self.put_behind(additions.bottlenecks)

    def put_behind(self, bottlenecks: Mapping[str, Bottleneck]) -> None:
        """Put adapters behind the projections of every layer."""
        from pangu.tuning.methods.bottleneck import BottleneckLinear  # only where there are some

        prefixes = parameters.layer_prefixes(self.config.num_blocks, self.config.query_layer)
        for prefix, layer in zip(prefixes, self.layers.layers, strict=True):
            for part, name in ((layer.attention, "attention"), (layer.output, "output")):
                part.projection = BottleneckLinear(part.projection, bottlenecks[f"{prefix}{name}.projection"])

    def open(self, rows: int, slots: int) -> "MindSporeBatch":
        decoder = CachedDecoder(self.config, self.layers, rows, slots, self.prefix)
        return MindSporeBatch(decoder, rows, min(slots, self.config.seq_length))


class MindSporeBatch(DecodingBatch):
    """Rows of one decoder and how many steps each has in its cache. Rows beyond the sequences in use are idle.

    A step's token stands at the position of that number and asks for the next one, unless positions and query
    positions are given.
    """

    admits_any_time = False

    def __init__(self, decoder: CachedDecoder, rows: int, positions: int) -> None:
        """positions: that a row may reach, at most the decoder's slots and the context."""
        self.decoder, self.rows, self.positions = decoder, rows, positions
        self.lengths = np.zeros(rows, np.int32)

    def release(self, row: int) -> None:
        self.lengths[row] = 0

    def read(self, parts: Sequence[RowTokens]) -> list[np.ndarray]:
        """Read parts: all are prompts of empty rows, or each is one token."""
        if any(part.wanted != 1 or part.adapter is not None for part in parts):
            raise UserError("adapters and the logits of more than one token are for the compiled engine")
        if any(part.positions is not None or part.query_positions is not None for part in parts):
            return self.read_in_order(parts)
        if any(len(part.ids) > 1 or not self.lengths[part.row] for part in parts):
            prompts: list[Sequence[int]] = [[0]] * (1 + max(part.row for part in parts))
            for part in parts:
                prompts[part.row] = part.ids
            logits = self.prefill(prompts)
        else:
            newest = np.zeros(self.rows, np.int32)
            for part in parts:
                newest[part.row] = part.ids[0]
            logits = self.step(newest)
        return [logits[part.row : part.row + 1] for part in parts]

    def read_in_order(self, parts: Sequence[RowTokens]) -> list[np.ndarray]:
        """Return one row alone, whose tokens stand and ask where they say."""
        part = parts[0]
        if len(parts) != 1 or part.row or part.positions is None or part.query_positions is None:
            raise UserError("tokens in an order of their own are read with both positions, in the first row alone")
        if len(part.ids) > 1 or not self.lengths[0]:
            return [self.prefill([part.ids], [part.positions], [part.query_positions])]
        given = [np.zeros(self.rows, np.int32) for _ in range(3)]
        for values, one in zip(given, (part.ids, part.positions, part.query_positions), strict=True):
            values[0] = one[0]
        return [self.step(*given)[:1]]

    def call(
        self,
        phase: Literal["prefill", "increment"],
        ids: np.ndarray,
        start: np.ndarray,
        last: np.ndarray,
        positions: np.ndarray | None = None,
        query_positions: np.ndarray | None = None,
    ) -> np.ndarray:
        """Call the network; each of the two shapes has a phase of its own.

        MindSpore runs a Cell that it has compiled under one of these two names without asking again whether it must be
        compiled: that would take longer than the smaller networks themselves.
        """
        steps = start[:, None] + np.arange(ids.shape[1], dtype=np.int32)
        own = np.minimum(steps, self.positions - 1) if positions is None else positions
        asked = own if query_positions is None else query_positions
        self.decoder.phase = phase
        return self.decoder(*map(Tensor, (ids, start, last, own, asked))).asnumpy()

    def prefill(
        self,
        sequences: Sequence[Sequence[int]],
        positions: Sequence[Sequence[int]] | None = None,
        query_positions: Sequence[Sequence[int]] | None = None,
    ) -> np.ndarray:
        """Forget all, read up to `rows` sequences of 1..positions ids -> logits [sequences, V] at their ends."""
        self.lengths[:] = 1
        self.lengths[: len(sequences)] = [len(sequence) for sequence in sequences]
        longest = int(self.lengths.max())
        ids = self.in_chunks(sequences)
        places, asked = (None if rows is None else self.in_chunks(rows) for rows in (positions, query_positions))
        logits = []
        for start in range(0, longest, CHUNK):
            last = np.clip(self.lengths - 1 - start, 0, CHUNK - 1)
            starts = np.full(self.rows, start, np.int32)
            own = slice(start, start + CHUNK)
            given = [None if rows is None else np.ascontiguousarray(rows[:, own]) for rows in (places, asked)]
            logits.append(self.call("prefill", np.ascontiguousarray(ids[:, own]), starts, last, *given))
        return np.stack([logits[(len(sequence) - 1) // CHUNK][row] for row, sequence in enumerate(sequences)])

    def in_chunks(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """Return int32 [rows, a multiple of CHUNK], filled up with zeros."""
        whole = np.zeros((self.rows, -(-max(map(len, rows)) // CHUNK) * CHUNK), np.int32)
        for row, sequence in enumerate(rows):
            whole[row, : len(sequence)] = sequence
        return whole

    def step(
        self, ids: np.ndarray, positions: np.ndarray | None = None, query_positions: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the next token of every row, int32 [rows] -> logits [rows, V]. positions, query_positions: [rows]."""
        # A sequence that has ended goes on here unheeded, at the last position when it reaches it.
        starts = np.minimum(self.lengths, self.positions - 1)
        given = [None if rows is None else rows.reshape(-1, 1) for rows in (positions, query_positions)]
        logits = self.call("increment", ids.reshape(-1, 1), starts, np.zeros_like(starts), *given)
        self.lengths = starts + 1
        return logits
