"""What a network must be able to do for text to be generated with it; two engines can.

* `compiled`: compiled loops, without MindSpore. The default on a CPU.
* `mindspore_decoder`: MindSpore, on a CPU, a GPU or Ascend.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

EngineName = Literal["compiled", "mindspore"]
SLOTS = 128  # the caches of a row hold a multiple of so many tokens


@dataclass(frozen=True)
class RowTokens:
    """Tokens that a row reads next.

    positions, query_positions: None: the tokens follow those before, and each asks with its own position.
    wanted: how many of the last tokens' logits are asked for; more than one is for the compiled engine alone.
    adapter: the number of one of the network's, or None; for the compiled engine alone.
    domain: the number of one, where experts are chosen by domain; for the compiled engine alone.
    """

    row: int
    ids: Sequence[int]
    wanted: int = 1
    positions: Sequence[int] | None = None
    query_positions: Sequence[int] | None = None
    adapter: int | None = None
    domain: int | None = None


class DecodingBatch(ABC):
    """Rows with caches for `slots` tokens each; `lengths` int [rows]: tokens that each has read.

    admits_any_time: False: all rows must begin in one call, with new prompts in every row that is in use.
    """

    admits_any_time: bool
    rows: int
    lengths: np.ndarray

    @abstractmethod
    def read(self, parts: Sequence[RowTokens]) -> list[np.ndarray]:
        """Read on in some rows -> for each part the logits fp32 [wanted, V] of its last tokens."""

    @abstractmethod
    def release(self, row: int) -> None:
        """Forget what a row has read."""

    def rewind(self, row: int, length: int) -> None:
        """Forget all but the first `length` tokens of a row."""
        raise NotImplementedError

    def share(self, source: int, target: int, first: int, length: int) -> None:
        """Let a row hold the first `length` tokens that another has read, where it has the first `first` of them."""
        raise NotImplementedError

    def prefill(
        self,
        sequences: Sequence[Sequence[int]],
        positions: Sequence[Sequence[int]] | None = None,
        query_positions: Sequence[Sequence[int]] | None = None,
    ) -> np.ndarray:
        """Forget all and read a prompt in each of the first rows -> logits [sequences, V] at their ends."""
        for row in range(self.rows):
            self.release(row)
        parts = [
            RowTokens(
                row, ids, 1, positions[row] if positions else None, query_positions[row] if query_positions else None
            )
            for row, ids in enumerate(sequences)
        ]
        return np.concatenate(self.read(parts))

    def step(
        self, ids: np.ndarray, positions: np.ndarray | None = None, query_positions: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the next token of each of the first rows -> logits [ids, V]. positions, query_positions: one a
        token."""
        places, asked = (None if rows is None else rows.tolist() for rows in (positions, query_positions))
        parts = [
            RowTokens(row, [int(token)], 1, places and [places[row]], asked and [asked[row]])
            for row, token in enumerate(ids)
        ]
        return np.concatenate(self.read(parts))


class Network(ABC):
    """Weights that an engine can compute with."""

    @abstractmethod
    def open(self, rows: int, slots: int) -> DecodingBatch:
        """Return caches for `slots` tokens, a multiple of SLOTS, in each of `rows` rows."""
