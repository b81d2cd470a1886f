"""Rows of token ids, and what the network makes of them: positions, who sees whom, which predictions count.

Documents in a row do not see each other and start at position 0; a prediction made from padding does not count.
"""

from dataclasses import dataclass

import numpy as np

from parallel_strategy.virtual.arithmetic import MASKED_SCORE

PAD, END_OF_DOCUMENT = 0, 1


@dataclass(frozen=True, slots=True)
class Tokens:
    """A batch of rows, or a slice of one: B rows, T tokens of the slice, S tokens of a row."""

    ids: np.ndarray  # [B, T]
    labels: np.ndarray  # [B, T]
    positions: np.ndarray  # [B, T]
    counted: np.ndarray  # [B, T], 1 where the prediction counts
    penalty: np.ndarray  # [B, T, S], 0 where the token sees the other one
    numbers: np.ndarray  # [B], of the rows among all rows of all steps: dropout knows them by it
    first: int = 0  # place of the slice's first token in the row

    def part(self, index: int, parts: int) -> "Tokens":
        """Return one of equal slices along the row; it still sees the whole row."""
        size = self.ids.shape[1] // parts
        cut = slice(index * size, (index + 1) * size)
        ids, labels, positions = self.ids[:, cut], self.labels[:, cut], self.positions[:, cut]
        first = self.first + cut.start
        return Tokens(ids, labels, positions, self.counted[:, cut], self.penalty[:, cut], self.numbers, first)

    @property
    def places(self) -> np.ndarray:
        """Return the places of the slice's tokens in the row."""
        return self.first + np.arange(self.ids.shape[1])


def draw_rows(rows: int, length: int, vocabulary: int, seed: int) -> np.ndarray:
    """Return random ids [rows, length + 1] with ends of documents and padding among them."""
    random = np.random.default_rng(seed)
    ids = random.integers(min(2, vocabulary - 1), vocabulary, (rows, length + 1))
    ids[random.random(ids.shape) < 1.5 / length] = END_OF_DOCUMENT
    ids[::2, length - length // 8 :] = PAD
    return ids


def tokens_of(rows: np.ndarray, dtype: type, first_row: int = 0) -> Tokens:
    """Return rows [B, S + 1]: the first S ids are the input, the last S the labels. `first_row`: the number of the
    first."""
    ids, labels = rows[:, :-1], rows[:, 1:]
    length = ids.shape[1]
    ends = (ids == END_OF_DOCUMENT).astype(np.int64)
    document = np.cumsum(ends, axis=1) - ends  # how many documents ended before this token
    same = document[:, :, None] == document[:, None, :]
    visible = same & np.tril(np.ones((length, length), bool))
    return Tokens(
        ids,
        labels,
        visible.sum(axis=-1) - 1,
        (ids != PAD).astype(dtype),
        np.where(visible, 0.0, MASKED_SCORE).astype(dtype),
        first_row + np.arange(len(rows)),
    )


def predictions(rows: np.ndarray) -> float:
    """Return what the summed loss is divided by, over a whole step (the original adds 1e-5)."""
    return float((rows[:, :-1] != PAD).sum()) + 1e-5
