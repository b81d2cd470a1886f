"""What one virtual device holds from step to step: its parts of weights and moments, and gradients on the way.

With optimizer sharding every weight is cut by itself into equal padded runs of elements; at level 3 the weights too.
"""

from dataclasses import dataclass, field

import numpy as np

from parallel_strategy.graph.operator import Parameter
from parallel_strategy.graph.program import Program
from parallel_strategy.graph.sharding import WORD_TABLES, cut_of, shard_elements
from parallel_strategy.virtual.adam import Adam
from parallel_strategy.virtual.serial import Name, Weights
from parallel_strategy.virtual.weights import Parts


@dataclass(slots=True)
class Device:
    """One rank. `kept`: this rank's runs of its weights, what the optimizer updates; `whole`: the arrays that kernels
    read, absent at level 3 until gathered."""

    program: Program
    rank: int
    parameters: dict[Name, Parameter]
    level: int
    place: dict[bool, int]  # of this rank among those that share a copy, by `expert`
    shards: dict[bool, int]
    replicas: dict[bool, int]
    kept: Weights = field(default_factory=dict)
    first: Weights = field(default_factory=dict)
    second: Weights = field(default_factory=dict)
    whole: Weights = field(default_factory=dict)
    gradients: Weights = field(default_factory=dict)
    gradient_parts: Weights = field(default_factory=dict)
    loss: float = 0.0
    squares: float = 0.0

    @classmethod
    def build(cls, program: Program, parts: Parts, rank: int, weights: Weights, dtype: type) -> "Device":
        groups = program.groups
        stage = groups.coordinate("pp", rank)
        cuts = {expert: cut_of(program, expert=expert) for expert in (False, True)}
        level = program.question.strategy.zero.stage
        device = cls(
            program,
            rank,
            {(layer, parameter.name): parameter for layer, parameter in program.stage_parameters(stage)},
            level,
            {e: groups.members(cut.shard, rank).index(rank) if level else 0 for e, cut in cuts.items()},
            {e: cut.shards for e, cut in cuts.items()},
            {e: cut.replicas for e, cut in cuts.items()},
        )
        for name, parameter in device.parameters.items():
            local = parts.for_rank(rank, name[0], parameter).cut(weights, dtype)
            device.kept[name] = device.run_of(name, local)
            device.first[name] = np.zeros_like(device.kept[name])
            device.second[name] = np.zeros_like(device.kept[name])
            if level < 3 or device.shards[parameter.expert] == 1:
                device.whole[name] = local
        return device

    # what kernels see

    def weight(self, layer: int, name: str) -> np.ndarray:
        return self.whole[layer, name]

    def has(self, layer: int, name: str) -> bool:
        return (layer, name) in self.parameters

    def add_gradient(self, layer: int, name: str, gradient: np.ndarray) -> None:
        key = (layer, name)
        self.gradients[key] = self.gradients[key] + gradient if key in self.gradients else gradient

    # runs of elements

    def padded(self, name: Name, array: np.ndarray) -> np.ndarray:
        parameter = self.parameters[name]
        shards = self.shards[parameter.expert]
        flat = array.reshape(-1)
        missing = shard_elements(parameter, shards) * shards - flat.size
        return np.pad(flat, (0, missing)) if missing else flat

    def run_of(self, name: Name, array: np.ndarray) -> np.ndarray:
        parameter = self.parameters[name]
        size = shard_elements(parameter, self.shards[parameter.expert])
        start = self.place[parameter.expert] * size
        return self.padded(name, array)[start : start + size].copy()

    def joined(self, name: Name, runs: np.ndarray) -> np.ndarray:
        parameter = self.parameters[name]
        return runs[: int(parameter.elements)].reshape(parameter.shape)

    def add_part(self, name: Name, part: np.ndarray) -> None:
        self.gradient_parts[name] = self.gradient_parts[name] + part if name in self.gradient_parts else part

    def keep_unshared(self) -> None:
        """Gradients that no group reduced are this rank's alone."""
        for name in list(self.gradients):
            self.add_part(name, self.run_of(name, self.gradients.pop(name)))

    # the end of a step

    def keep_gradients(self) -> None:
        """Whole gradients, reduced, become the run that this rank updates; weights that nothing used get zeros."""
        self.keep_unshared()
        for name, run in self.kept.items():
            self.gradient_parts.setdefault(name, np.zeros_like(run))

    def sum_of_squares(self) -> float:
        """This rank's share of the squared norm: what several ranks of the norm's group hold counts once in all."""
        program, total = self.program, 0.0
        everyone = self.level > 0 or program.question.strategy.mesh.ep > 1
        for name, gradient in self.gradient_parts.items():
            parameter = self.parameters[name]
            copies = program.shard.tp if parameter.replicated_over_tp else 1
            if everyone:
                copies *= self.replicas[parameter.expert]
            if program.tied_across_stages and name[1] in WORD_TABLES:
                copies *= 2
            total += float((gradient * gradient).sum()) / copies
        return total

    def update(self, adam: Adam) -> None:
        """One update of this rank's runs; the norm of all gradients is `squares`."""
        factor = adam.clip_factor(self.squares**0.5)
        host = self.program.question.strategy.offload.optimizer
        for name, run in self.kept.items():
            gradient = self.gradient_parts[name] * factor
            if host:  # the gradient goes to the host, where weight and moments live, and the new weight comes back
                gradient, run = gradient.copy(), run.copy()
            adam.update(name[1], run, gradient, self.first[name], self.second[name])
            self.kept[name] = run
            if self.level == 0 or self.shards[self.parameters[name].expert] == 1:
                self.whole[name] = self.joined(name, run)
        self.gradient_parts = {}
        if self.level == 3:
            self.whole = {n: w for n, w in self.whole.items() if self.shards[self.parameters[n].expert] == 1}
