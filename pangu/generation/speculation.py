"""Speculative decoding: a small model guesses the next tokens, the large one reads all guesses in one call.

The large model's sampler chooses every token from the large model's logits, in order, and a guess only saves a call
where it is what was chosen. Logits do not depend on how tokens are cut into calls (`compiled_network`), so the tokens
are those without guesses, drawn ones too. (Leviathan et al. 2022, 2211.17192, accept guesses by probability instead,
which keeps the distribution and not the tokens.)
"""

from collections.abc import Sequence

import numpy as np

from pangu.config import ModelConfig
from pangu.foundation.errors import UserError
from pangu.generation.compiled.compiled_network import CompiledBatch, CompiledNetwork
from pangu.generation.decoding_batch import SLOTS, RowTokens


class Draft:
    """A small network that guesses greedily. count: guesses a step."""

    def __init__(self, config: ModelConfig, network: CompiledNetwork, count: int = 4) -> None:
        """config: of the large model."""
        small = network.config
        if count < 1:
            raise UserError(f"draft tokens = {count}: must be at least 1")
        if small.vocab_size != config.vocab_size or small.seq_length < config.seq_length:
            raise UserError(
                f"the draft has {small.vocab_size} ids and a context of {small.seq_length}, the model "
                f"{config.vocab_size} and {config.seq_length}: a draft needs the same ids and no shorter context"
            )
        self.network, self.count = network, count
        self.batch: CompiledBatch | None = None
        self.read: list[list[int]] = []

    def open(self, rows: int, tokens: int) -> None:
        """Begin with empty rows."""
        slots = -(-tokens // SLOTS) * SLOTS
        if self.batch is None or self.batch.rows != rows or self.batch.slots < slots:
            self.batch = self.network.open(rows, slots)
        for row in range(rows):
            self.batch.release(row)
        self.read = [[] for _ in range(rows)]

    def guess(self, wanted: dict[int, tuple[Sequence[int], int]]) -> dict[int, list[int]]:
        """Return {row: (the ids of its sequence, most guesses)} -> {row: guesses}."""
        assert self.batch is not None
        guesses: dict[int, list[int]] = {row: [] for row, (_, most) in wanted.items() if most > 0}
        parts = []
        for row in guesses:
            ids = list(wanted[row][0])
            # The last id is read again at least: its logits are what comes next.
            same = min(common(self.read[row], ids), len(ids) - 1)
            self.batch.rewind(row, same)
            self.read[row] = ids
            parts.append(RowTokens(row, ids[same:]))
        while parts:
            newest = [int(logits[-1].argmax()) for logits in self.batch.read(parts)]
            following = []
            for part, token in zip(parts, newest, strict=True):
                row = part.row
                guesses[row].append(token)
                if len(guesses[row]) < min(self.count, wanted[row][1]):
                    self.read[row] = [*self.read[row], token]
                    following.append(RowTokens(row, [token]))
            parts = following
        return guesses


def common(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many ids two sequences begin with together."""
    length = min(len(first), len(second))
    different = np.flatnonzero(np.asarray(first[:length]) != np.asarray(second[:length]))
    return int(different[0]) if len(different) else length
