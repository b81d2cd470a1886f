"""AdamW whose states are shared out among the data-parallel ranks (ZeRO; MindSpore calls it the parallel optimizer).

A parameter that its layout splits is updated in parts of its first axis: each rank keeps the moments of its part,
updates that part, and collects the other parts. A parameter that is not split is updated whole by every rank. The
numbers are those of one process.
"""

from collections.abc import Mapping

import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from pangu.formats.parameter_layout import ParameterLayout
from pangu.model.network import values_of
from pangu.training.optimizer import AdamW

PART = "part."


class ShardedAdamW(nn.Cell):
    """`AdamW` on this rank's parts of `parameters`, then the whole parameters again on every rank.

    gradients of the whole parameters, summed over the ranks, as `SumOverRanks` gives them.
    """

    def __init__(
        self,
        parameters: list[Parameter],
        beta1: float,
        beta2: float,
        layouts: Mapping[str, ParameterLayout],
        rank: int,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.parameters = ParameterTuple(parameters)
        self.rows: list[tuple[int, int] | None] = [rows_of(layouts[p.name], rank, p.shape) for p in parameters]
        self.split = [rows is not None for rows in self.rows]
        self.first_row = [rows[0] if rows else 0 for rows in self.rows]
        self.last_row = [rows[1] if rows else 0 for rows in self.rows]
        held = [
            Parameter(Tensor(p.asnumpy()[rows[0] : rows[1]]), name=PART + p.name) if rows else p
            for p, rows in zip(parameters, self.rows, strict=True)
        ]
        self.adam = AdamW(held, beta1, beta2)
        self.held = self.adam.parameters
        self.first, self.second = self.adam.first, self.adam.second
        self.sizes = [int(np.prod(p.shape)) if split else 0 for p, split in zip(held, self.split, strict=True)]
        self.any_split = any(self.split)
        self.shapes = [p.shape for p in parameters]
        self.all_gather = gathering(layouts, parameters, rank) if self.any_split else ops.AllGather()

    def construct(self, gradients: tuple[Tensor, ...], learning_rate: Tensor, epsilon: Tensor, decay: Tensor) -> bool:
        mine: tuple[Tensor, ...] = ()
        for index in range(len(self.shapes)):
            gradient = gradients[index]
            if self.split[index]:
                gradient = gradient[self.first_row[index] : self.last_row[index]]
            mine = (*mine, gradient)
        done = self.adam(mine, learning_rate, epsilon, decay)
        if self.any_split:
            parts: tuple[Tensor, ...] = ()
            for index in range(len(self.shapes)):
                if self.split[index]:
                    parts = (*parts, self.held[index].reshape((1, -1)))
            # Row r is what rank r of the group updated.
            gathered = self.all_gather(ops.concat(parts, 1))
            start = 0
            for index in range(len(self.shapes)):
                if self.split[index]:
                    size = self.sizes[index]
                    whole = gathered[:, start : start + size].reshape(self.shapes[index])
                    ops.assign(self.parameters[index], whole)
                    start = start + size
        return done

    def load_parts(self) -> None:
        """Take this rank's parts from the whole parameters, after these have been loaded."""
        for whole, part, rows in zip(self.parameters, self.held, self.rows, strict=True):
            if rows:
                part.set_data(Tensor(whole.asnumpy()[rows[0] : rows[1]]))

    def states(self) -> dict[str, np.ndarray]:
        """Return this rank's parts of the moments, by the names that one process gives the whole ones."""
        return {name.replace(PART, ""): value for name, value in values_of((*self.first, *self.second)).items()}

    def load_states(self, moments: Mapping[str, np.ndarray]) -> None:
        """Take this rank's parts of whole moments."""
        for states in (self.first, self.second):
            for state, rows in zip(states, self.rows, strict=True):
                whole = moments[state.name.replace(PART, "")]
                state.set_data(Tensor(whole[rows[0] : rows[1]] if rows else np.asarray(whole)))


def rows_of(layout: ParameterLayout, rank: int, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Return the rows [first, last) of a parameter that a rank holds; None where it holds all."""
    if layout.num_parts == 1:
        return None
    rows = layout.part_shape(shape)[0]
    first = layout.cell(rank)[0] * rows
    return first, first + rows


def gathering(layouts: Mapping[str, ParameterLayout], parameters: list[Parameter], rank: int) -> nn.Cell:
    """Return AllGather along axis 0 over the ranks that together hold one copy of the split parameters."""
    from mindspore.communication import create_group, get_group_size

    layout = next(layouts[p.name] for p in parameters if layouts[p.name].num_parts > 1)
    members, world = layout.optimizer_shards, get_group_size()
    if members == world:
        return ops.AllGather()
    first = rank // members * members
    group = f"copy-{first}"
    create_group(group, list(range(first, first + members)))
    return ops.AllGather(group=group)
