"""A model with a longer context: its tables of positions, stretched.

Position interpolation (Chen et al. 2023, arXiv 2306.15595): place p of N takes the row of place p · S / N,
between two rows by the line through them. The tables that ask for the *next* place (query layer, `target_in_trunk`) ask
by row r for place r + 1, so their row r comes from (r + 1) · S / N - 1. The model then knows every place, each a little
wrong: train it on with rows of the new length (`start_from`).
"""

import numpy as np

from pangu.formats import names
from pangu.formats.data_types import FP32, TensorInfo, bytes_of, cast
from pangu.formats.source import Source
from pangu.foundation.errors import UserError
from pangu.parameters import POSITION_TABLE, QUERY_TABLE, TARGET_TABLE

MOST_STRETCHED = 32  # times; beyond, new rows between two old ones can hardly be told apart
# How far ahead of its own number a row asks.
AHEAD = {POSITION_TABLE: 0, QUERY_TABLE: 1, TARGET_TABLE: 1}


def stretched(table: np.ndarray, length: int, ahead: int) -> np.ndarray:
    """Stretch a table fp32 [S, d] to [length, d]. ahead: 1 where row r is of place r + 1."""
    rows = (np.arange(length, dtype=np.float64) + ahead) * (len(table) / length) - ahead
    rows = rows.clip(0, len(table) - 1)
    below = np.floor(rows).astype(np.int64)
    above = np.minimum(below + 1, len(table) - 1)
    share = (rows - below).astype(np.float32)[:, None]
    return table[below] * (1 - share) + table[above] * share


class LongerContext(Source):
    """Weights whose tables of positions have `length` rows; everything else as it is."""

    def __init__(self, source: Source, length: int) -> None:
        """Raises UserError where the context does not grow, or Adam's moments would not fit the tables."""
        tensors = dict(source.tensors)
        self.tables: dict[str, np.ndarray] = {}
        self.source = source
        found = names.sorted_names_of(source)
        for name, ours in found.weights.items():
            if ours in AHEAD:
                info = tensors[name]
                if info.rows >= length:
                    raise UserError(
                        f"--context {length}: the model's context is {info.rows} already; give a longer one"
                    )
                if length > MOST_STRETCHED * info.rows:
                    raise UserError(
                        f"--context {length}: is more than {MOST_STRETCHED} times the model's {info.rows}; stretch it "
                        f"to {MOST_STRETCHED * info.rows} at most, and train in between"
                    )
                if info.data_type is None:
                    raise UserError(f"{source.path}: {name} is not of floating-point numbers")
                table = stretched(cast(source.read(name), info.data_type, FP32), length, AHEAD[ours])
                self.tables[name] = cast(table, FP32, info.data_type)
                tensors[name] = TensorInfo(info.data_type, (length, *info.shape[1:]))
        for name in found.optimizer:
            del tensors[name]
        super().__init__(source.path, source.form, tensors, source.files)
        self.metadata = source.metadata

    def fill(self, name: str, first: int, last: int, view: memoryview) -> None:
        if name in self.tables:
            view[:] = bytes_of(np.ascontiguousarray(self.tables[name][first:last]))
        else:
            self.source.fill(name, first, last, view)
