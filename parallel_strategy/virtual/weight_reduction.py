"""Weights and gradients between ranks: reductions, optimizer sharding, and the end of a step."""

from collections.abc import Callable, Iterable

import numpy as np

from parallel_strategy.graph.collectives import OUTSIDE
from parallel_strategy.graph.operator import Block, Collective
from parallel_strategy.graph.program import Program
from parallel_strategy.graph.tasks import TaskNode
from parallel_strategy.graph.weight_collectives import Node, is_partial, step_collectives
from parallel_strategy.mindspore.pangu_network import WORD_TABLES
from parallel_strategy.schedule.simulate import Deadlock
from parallel_strategy.virtual.adam import Adam
from parallel_strategy.virtual.communicator import Communicator, Impossible
from parallel_strategy.virtual.serial import Name, Weights
from parallel_strategy.virtual.state import VirtualDevice


class WeightTraffic:
    """`gradients[rank]`: what the rank's optimizer was given in the last step, unclipped."""

    def __init__(self, program: Program, devices: list[VirtualDevice], communicator: Communicator) -> None:
        self.program, self.devices, self.communicator = program, devices, communicator
        self.level = program.setup.strategy.zero.stage
        self.separate = program.setup.framework.parameter_collectives
        self.gradients: list[Weights] = []

    def _names(self, step: TaskNode, device: VirtualDevice) -> list[Name]:
        """Return the weights that a collective is about: one, or all of a kind in a block or on the rank."""
        subject = step.work.name.partition(".")[2].removesuffix(".replica")
        if subject not in ("dense", "expert"):
            return [(step.layer, subject)]
        expert = subject == "expert"
        if step.block is None:
            return [name for name, parameter in device.parameters.items() if parameter.expert == expert]
        return [(step.layer, p.name) for p in step.block.parameters if p.expert == expert]

    def exchange(self, step: TaskNode, chunk: int, micro: int, ranks: Iterable[int]) -> None:
        """Gather weights, or reduce gradients whole or by parts."""
        work, dtype = step.work, next(iter(self.devices[0].kept.values())).dtype
        assert isinstance(work, Collective)
        given, names, size = {}, {}, 0
        for rank in ranks:
            device = self.devices[rank]
            names[rank] = self._names(step, device)
            size = sum(int(device.parameters[name].elements) for name in names[rank])
            if work.op == "all_gather":
                given[rank] = [device.kept[name] for name in names[rank]]
                continue
            zeros = {n: np.zeros(device.parameters[n].shape, dtype) for n in names[rank] if n not in device.gradients}
            found = [(n, zeros[n] if n in zeros else device.gradients.pop(n)) for n in names[rank]]
            given[rank] = [device.padded(n, g) if work.op == "reduce_scatter" else g for n, g in found]
        result = self.communicator.collect(step, chunk, micro, ranks, given, along=0, elements=size)
        for rank in ranks:
            device = self.devices[rank]
            for name, array in zip(names[rank], result[rank], strict=True):
                if work.op == "all_gather":
                    device.whole[name] = device.joined(name, array)
                elif work.op == "reduce_scatter":
                    device.add_part(name, array)
                else:
                    device.gradients[name] = array

    def release(self, block: Block, layer: int, ranks: Iterable[int]) -> None:
        """Release a block's weights (level 3): they are there only while it runs. A word table that the head shares
        stays."""
        if self.level < 3:
            return
        shared = self.program.model.tied_embedding and not self.program.tied_across_stages
        for rank in ranks:
            device = self.devices[rank]
            for parameter in block.parameters:
                keep = shared and parameter.name in WORD_TABLES
                if not keep and device.cuts[layer, parameter.name].shards > 1:
                    device.whole.pop((layer, parameter.name), None)

    def finish(self, adam: Adam, rows: np.ndarray) -> float:
        """Return what happens once a step, when all micro-batches are done: sums, the norm, the update. Returns the
        norm."""
        groups = self.program.groups
        stages = [step_collectives(self.program, stage) for stage in range(self.program.pp)]
        self.nodes = [list(stages[groups.coordinate("pp", device.rank)]) for device in self.devices]
        self._run("rows", self._rows(rows))
        self._run("gradients.partial", self._sums(self._partial))
        if self.level < 2 and not self.separate:
            self._run("gradients.tied", self._sums(self._tied))
        self._run("gradients.", self._reduce, but=("gradients.tied", ".replica"))
        if self.level:
            for device in self.devices:
                device.keep_unshared()
        if not self.separate:
            self._run("gradients.tied", self._sums(self._tied))
        self._run("gradients.", self._sums(self._names), but=("gradients.tied",))
        self._run("gradients.tied", self._sums(self._tied))
        for device in self.devices:
            device.keep_gradients()
            device.squares = device.sum_of_squares()
        for name in ("norm", "norm.pipeline"):
            self._run(name, self._sum_of("squares"))
        self._run("loss", self._sum_of("loss"))
        norm = self.devices[0].squares ** 0.5
        self.gradients = [dict(device.gradient_parts) for device in self.devices]
        for device in self.devices:
            device.update(adam)
        self._run("weights.", self._reduce)
        left = [(rank, nodes[0][1].name) for rank, nodes in enumerate(self.nodes) if nodes]
        if left:
            raise Deadlock(f"rank {left[0][0]} waits at {left[0][1]} for others")
        return norm

    def _run(self, name: str, exchange: Callable[[TaskNode, list[int]], None], but: tuple[str, ...] = ()) -> None:
        """Run everyone's next nodes, as long as they have this name (with a dot at its end: begin with it). Ranks with
        other nodes form other groups."""

        def is_next(nodes: list[Node]) -> bool:
            own = nodes[0][1].name if nodes else ""
            found = own.startswith(name) if name.endswith(".") else own == name
            return found and not (but and own.endswith(but))

        while True:
            alike: dict[Node, list[int]] = {}
            for rank, nodes in enumerate(self.nodes):
                if is_next(nodes):
                    alike.setdefault(nodes.pop(0), []).append(rank)
            if not alike:
                return
            for (layer, node), ranks in alike.items():
                exchange(TaskNode(node, layer, "step", None), ranks)

    def _reduce(self, step: TaskNode, ranks: list[int]) -> None:
        self.exchange(step, 0, OUTSIDE, ranks)

    def _partial(self, step: TaskNode, device: VirtualDevice) -> list[Name]:
        return [name for name, parameter in device.parameters.items() if is_partial(self.program, parameter)]

    def _tied(self, step: TaskNode, device: VirtualDevice) -> list[Name]:
        return [name for name in device.parameters if name[1] in WORD_TABLES]

    def _sums(self, wanted: Callable[[TaskNode, VirtualDevice], list[Name]]) -> Callable[[TaskNode, list[int]], None]:
        """Return all-reduce of the gradients that are wanted: whole ones, or this rank's parts where there are only
        those."""

        def exchange(step: TaskNode, ranks: list[int]) -> None:
            names = {rank: wanted(step, self.devices[rank]) for rank in ranks}
            given = {rank: [self.devices[rank].gradient_place(n)[n] for n in names[rank]] for rank in ranks}
            for rank, sums in self.communicator.collect(step, 0, OUTSIDE, ranks, given, along=0).items():
                for name, total in zip(names[rank], sums, strict=True):
                    self.devices[rank].gradient_place(name)[name] = total

        return exchange

    def _rows(self, rows: np.ndarray) -> Callable[[TaskNode, list[int]], None]:
        """Return everyone's rows on every rank."""

        def exchange(step: TaskNode, ranks: list[int]) -> None:
            groups, parts = self.program.groups, np.split(rows, self.program.setup.strategy.mesh.dp)
            given = {rank: [parts[groups.coordinate("dp", rank)]] for rank in ranks}
            for rank, (gathered,) in self.communicator.collect(step, 0, OUTSIDE, ranks, given, along=0).items():
                if not np.array_equal(gathered, rows):
                    raise Impossible(f"rank {rank}: the gathered rows are not the batch")

        return exchange

    def _sum_of(self, attribute: str) -> Callable[[TaskNode, list[int]], None]:
        def exchange(step: TaskNode, ranks: list[int]) -> None:
            given = {rank: [np.array([getattr(self.devices[rank], attribute)])] for rank in ranks}
            for rank, (total,) in self.communicator.collect(step, 0, OUTSIDE, ranks, given, along=0).items():
                setattr(self.devices[rank], attribute, float(total[0]))

        return exchange
