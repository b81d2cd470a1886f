"""Weights and gradients between ranks: reductions, optimizer sharding, and the end of a step."""

from collections.abc import Callable, Iterable

import numpy as np

from parallel_strategy.graph.collectives import OUTSIDE
from parallel_strategy.graph.operator import Block, Collective
from parallel_strategy.graph.program import Program
from parallel_strategy.graph.sharding import WORD_TABLES, step_collectives
from parallel_strategy.graph.tasks import Step
from parallel_strategy.schedule.simulate import Deadlock
from parallel_strategy.virtual.adam import Adam
from parallel_strategy.virtual.communicator import Communicator
from parallel_strategy.virtual.serial import Name, Weights
from parallel_strategy.virtual.state import Device

Wanted = Callable[[Device, Name], bool]


class WeightTraffic:
    """`gradients[rank]`: what the rank's optimizer was given in the last step, unclipped."""

    def __init__(self, program: Program, devices: list[Device], communicator: Communicator) -> None:
        self.program, self.devices, self.communicator = program, devices, communicator
        self.level = program.question.strategy.zero.stage
        self.gradients: list[Weights] = []

    def _names(self, step: Step, device: Device) -> list[Name]:
        """The weights that a collective is about: of a block, or of the rank."""
        expert = ".expert" in step.work.name
        if step.block is None:
            return [name for name, parameter in device.parameters.items() if parameter.expert == expert]
        return [(step.layer, p.name) for p in step.block.parameters if p.expert == expert]

    def exchange(self, step: Step, chunk: int, micro: int, ranks: Iterable[int]) -> None:
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
        """Level 3: a block's weights are there only while it runs. A word table that the head shares stays."""
        if self.level < 3:
            return
        shared = self.program.model.tied_embedding and not self.program.tied_across_stages
        for rank in ranks:
            device = self.devices[rank]
            for parameter in block.parameters:
                keep = shared and parameter.name in WORD_TABLES
                if not keep and device.shards[parameter.expert] > 1:
                    device.whole.pop((layer, parameter.name), None)

    def finish(self, adam: Adam) -> float:
        """The end of a step, once all micro-batches are done: sums, the norm, the update. Returns the norm."""
        self.nodes = [
            step_collectives(self.program, self.program.groups.coordinate("pp", device.rank)) for device in self.devices
        ]
        self._run("gradients.partial", self._sums(lambda device, name: device.parameters[name].partial_over_tp))
        self._run("gradients.tied", self._sums(lambda device, name: name[1] in WORD_TABLES))
        for kind in ("dense", "expert"):
            self._run(f"gradients.{kind}", self._reduce)
        if self.level:
            for device in self.devices:
                device.keep_unshared()
        for expert, kind in ((False, "dense"), (True, "expert")):
            wanted = self._of_kind(expert)
            self._run(f"gradients.{kind}.replica", self._sums(wanted))
        for device in self.devices:
            device.keep_gradients()
            device.squares = device.sum_of_squares()
        self._run("norm", self._sum_of("squares"))
        self._run("loss", self._sum_of("loss"))
        norm = self.devices[0].squares ** 0.5
        self.gradients = [dict(device.gradient_parts) for device in self.devices]
        for device in self.devices:
            device.update(adam)
        for kind in ("dense", "expert"):
            self._run(f"weights.{kind}", self._reduce)
        left = [(rank, nodes[0].name) for rank, nodes in enumerate(self.nodes) if nodes]
        if left:
            raise Deadlock(f"rank {left[0][0]} waits at {left[0][1]} for others")
        return norm

    def _run(self, name: str, exchange: Callable[[Step, list[int]], None]) -> None:
        """Everyone's next node, if it has this name. Ranks with nodes of other sizes form other groups."""
        alike: dict[Collective, list[int]] = {}
        for rank, nodes in enumerate(self.nodes):
            if nodes and nodes[0].name == name:
                alike.setdefault(nodes.pop(0), []).append(rank)
        for node, ranks in alike.items():
            exchange(Step(node, OUTSIDE, "step", None), ranks)

    def _reduce(self, step: Step, ranks: list[int]) -> None:
        self.exchange(step, 0, OUTSIDE, ranks)

    def _of_kind(self, expert: bool) -> Wanted:
        return lambda device, name: device.parameters[name].expert == expert

    def _sums(self, wanted: Wanted) -> Callable[[Step, list[int]], None]:
        """All-reduce of the gradients that are wanted: whole ones, or this rank's parts where there are only those."""

        def exchange(step: Step, ranks: list[int]) -> None:
            parts = self.level >= 2 or step.work.name.endswith(".replica")
            held = {r: self.devices[r].gradient_parts if parts else self.devices[r].gradients for r in ranks}
            names = {r: [n for n in self.devices[r].parameters if wanted(self.devices[r], n)] for r in ranks}
            given = {r: [held[r][n] for n in names[r]] for r in ranks}
            for rank, sums in self.communicator.collect(step, 0, OUTSIDE, ranks, given, along=0).items():
                held[rank].update(zip(names[rank], sums, strict=True))

        return exchange

    def _sum_of(self, attribute: str) -> Callable[[Step, list[int]], None]:
        def exchange(step: Step, ranks: list[int]) -> None:
            given = {rank: [np.array([getattr(self.devices[rank], attribute)])] for rank in ranks}
            for rank, (total,) in self.communicator.collect(step, 0, OUTSIDE, ranks, given, along=0).items():
                setattr(self.devices[rank], attribute, float(total[0]))

        return exchange
