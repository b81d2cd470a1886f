"""What a network must be able to do for text to be generated with it; two engines can.

* `compiled_decoder`: compiled loops, without MindSpore. The default on a CPU.
* `cached_decoder`: MindSpore, on a CPU, a GPU or Ascend.
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

    wanted: how many of the last tokens' logits are asked for. The rest is for the compiled engine alone.
    positions, query_positions: None: the tokens follow those before, and each asks with its own position.
    adapter: the number of one of the network's, or None.
    """

    row: int
    ids: Sequence[int]
    wanted: int = 1
    positions: Sequence[int] | None = None
    query_positions: Sequence[int] | None = None
    adapter: int | None = None


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

    def prefill(self, prompts: Sequence[Sequence[int]]) -> np.ndarray:
        """Forget all and read a prompt in each of the first rows -> logits [prompts, V] at their ends."""
        for row in range(self.rows):
            self.release(row)
        return np.concatenate(self.read([RowTokens(row, ids) for row, ids in enumerate(prompts)]))

    def step(self, ids: np.ndarray) -> np.ndarray:
        """The next token of each of the first rows -> logits [ids, V]."""
        return np.concatenate(self.read([RowTokens(row, [int(token)]) for row, token in enumerate(ids)]))


class Network(ABC):
    """Weights that an engine can compute with."""

    @abstractmethod
    def open(self, rows: int, slots: int) -> DecodingBatch:
        """Caches for `slots` tokens, a multiple of SLOTS, in each of `rows` rows."""
