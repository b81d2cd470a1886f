"""Runs one collective of the program in every group of some ranks, and logs it as each rank sees it."""

from collections.abc import Iterable

import numpy as np

from parallel_strategy.graph.collectives import Record, group_of
from parallel_strategy.graph.operator import Collective
from parallel_strategy.graph.program import Program
from parallel_strategy.graph.tasks import TaskNode
from parallel_strategy.spec.model import BYTES
from parallel_strategy.virtual.exchange import COLLECTIVES, all_reduce_maximum

WIDTH = {**BYTES, "int32": 4}
Arrays = dict[int, list[np.ndarray]]  # what each rank gives to a collective, or gets


class Impossible(RuntimeError):
    """A node that cannot be executed: what it needs is not there, or does not fit. The message says which."""


class Communicator:
    """`log[rank]`: what the rank sent and received in this step. Sizes are those of the arrays that were exchanged, in
    the type that the program sends them in."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.log: list[list[Record]] = []
        self.start()

    def start(self) -> None:
        self.log = [[] for _ in range(self.program.setup.strategy.mesh.devices)]

    def collect(
        self,
        step: TaskNode,
        chunk: int,
        micro: int,
        ranks: Iterable[int],
        arrays: Arrays,
        *,
        along: int = 1,
        maximum: bool = False,
        elements: int | None = None,
    ) -> Arrays:
        """Return `along`: the dimension that is cut or joined. `elements`: of the whole tensor without padding, where
        it is not to be counted in the arrays."""
        work = step.work
        assert isinstance(work, Collective)
        function = all_reduce_maximum if maximum else COLLECTIVES[work.op]
        result: Arrays = {}
        for rank in ranks:
            group = group_of(self.program, work, rank, chunk)
            if rank not in result:
                missing = [member for member in group if member not in arrays]
                if missing:
                    raise Impossible(f"{work.name}: rank {rank} waits for rank {missing[0]}, which has no such node")
                try:
                    columns = [function([arrays[m][i] for m in group], along) for i in range(len(arrays[rank]))]
                except (ValueError, IndexError) as error:
                    place = describe(step, rank, micro)
                    raise Impossible(f"{place}: {work.op} {work.name}: {error}") from error
                for index, member in enumerate(group):
                    result[member] = [column[index] for column in columns]
            whole = result[rank] if work.op == "all_gather" else arrays[rank]
            size = elements if elements is not None else sum(array.size for array in whole)
            self.record(step, group, size, rank, micro)
        return result

    def record(self, step: TaskNode, group: tuple[int, ...], elements: int, rank: int, micro: int) -> None:
        work = step.work
        assert isinstance(work, Collective)
        size = elements * WIDTH[work.dtype]
        record = Record(work.op, work.axis, group, size, work.dtype, step.layer, step.phase, micro, work.name)
        self.log[rank].append(record)


def describe(step: TaskNode, rank: int, micro: int) -> str:
    return f"rank {rank}, layer {step.layer}, {step.phase}, micro-batch {micro}"
