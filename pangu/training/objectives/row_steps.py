"""Rows as steps: what a row reads, is asked and may see, made before the step with whatever is drawn at random.

A row of S+1 ids is read in S steps. A document of a row keeps its steps; their order, and what they see, may change:

    order o of a document's places a .. e, with o_0 = a and o_n = e
    step t reads the token at o_t at the position of o_t, predicts the token at o_{t+1},
    and asks for it by the query row of the place before it: row r of the query table asks for position r + 1

With the natural order this is `causal`. The first place stays first, for no query row asks for position 0; the place e
behind the last stays last, for it has no position: it is the next document's first token, or the row's last id.
"""

from dataclasses import dataclass
from itertools import pairwise

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from pangu.model.attention_mask import IntervalMask
from pangu.training.objectives.batch import Batch

# What is said of each step, in this order. Loss weights are whole numbers; `first` and `last` are the steps it sees.
FIELDS = ("ids", "labels", "weights", "positions", "query_positions", "first", "last")


@dataclass(frozen=True)
class RowDocument:
    """Steps first .. end-1 of a row; from `stop` on, at most `end`, they are padding."""

    first: int
    end: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.first


def documents_of(ids: np.ndarray, end_of_document: int | None, pad: int) -> list[RowDocument]:
    """Return the documents of input ids [S]; None: a row is one."""
    ends = np.flatnonzero(ids[:-1] == end_of_document) + 1 if end_of_document is not None else ()
    bounds = [0, *map(int, ends), len(ids)]
    found = []
    for first, end in pairwise(bounds):
        padding = np.flatnonzero(ids[first:end] == pad)
        found.append(RowDocument(first, end, first + int(padding[0]) if len(padding) else end))
    return found


def causal_steps(row: np.ndarray, documents: list[RowDocument], pad: int) -> dict[str, np.ndarray]:
    """Return {field: int32 [S]} of a row read in its natural order."""
    ids, steps = row[:-1], np.arange(len(row) - 1)
    first = np.concatenate([np.full(one.end - one.first, one.first) for one in documents])
    positions = steps - first
    fields = (ids, row[1:], ids != pad, positions, positions, first, steps)
    return {name: np.array(values, np.int32) for name, values in zip(FIELDS, fields, strict=True)}


def read_in_order(steps: dict[str, np.ndarray], row: np.ndarray, document: RowDocument, order: np.ndarray) -> None:
    """Let a document's steps follow an order [n+1] of its places, counted from its first. Changes `steps`."""
    check_order(order, document.length)
    here = slice(document.first, document.stop)
    places = document.first + order
    steps["ids"][here], steps["labels"][here] = row[places[:-1]], row[places[1:]]
    steps["positions"][here], steps["query_positions"][here] = order[:-1], order[1:] - 1


def check_order(order: np.ndarray, length: int) -> None:
    """Raise ValueError for what is no order of a document of this length."""
    if len(order) != length + 1 or sorted(order) != list(range(length + 1)):
        raise ValueError(f"an order of {length} steps must be a permutation of 0..{length}")
    if order[0] != 0 or order[-1] != length:
        raise ValueError(f"an order begins with 0 and ends with {length}")


class StepsBatch(nn.Cell):
    """int32 [B, 7, S], the `FIELDS` -> batch."""

    def __init__(self) -> None:
        super().__init__()
        self.interval_mask = IntervalMask()
        self.take = ops.StridedSlice(shrink_axis_mask=2)
        self.cast = ops.Cast()

    def field(self, steps: Tensor, index: int) -> Tensor:
        return self.take(steps, (0, index, 0), (steps.shape[0], index + 1, steps.shape[2]), (1, 1, 1))

    def construct(self, steps: Tensor) -> Batch:
        weights = self.cast(self.field(steps, 2), ms.float32)
        bias = self.interval_mask(self.field(steps, 5), self.field(steps, 6))
        ids, labels = self.field(steps, 0), self.field(steps, 1)
        return ids, labels, weights, self.field(steps, 3), self.field(steps, 4), bias
