"""A batch, and what makes one of the rows of a corpus."""

from typing import Protocol

import numpy as np
from mindspore import Tensor, nn

# ids and labels int32 [B, S], loss weights fp32 [B, S], positions and query positions int32 [B, S],
# attention bias fp32 [B, 1, S, S].
Batch = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


class Objective(Protocol):
    """Makes batches in two parts: what is drawn at random before the step, the rest in the graph."""

    def prepare(self, rows: np.ndarray, first_row: int) -> np.ndarray:
        """Return what the step is fed, int32 [B, ...], for rows int32 [B, S+1].

        first_row: number of the first row in the run. All randomness is a function of the seed and of these numbers.
        """

    def predictions(self, prepared: np.ndarray) -> float:
        """Return the divisor of the summed loss: the loss weights' sum plus the original's 1e-5."""

    def in_graph(self) -> nn.Cell:
        """Return a cell that makes a `Batch` of what `prepare` returns."""
