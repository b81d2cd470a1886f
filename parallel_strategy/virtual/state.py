"""What one virtual device holds from step to step: its parts of weights and moments, and gradients on the way.

With optimizer sharding every weight is cut by itself into equal padded runs of elements; at level 3 the weights too.
"""

from dataclasses import dataclass, field

import numpy as np

from parallel_strategy.graph.operator import Parameter
from parallel_strategy.graph.program import Cut, Program
from parallel_strategy.graph.weight_collectives import cut_of, shard_elements
from parallel_strategy.mindspore.pangu_network import WORD_TABLES
from parallel_strategy.virtual.adam import Adam
from parallel_strategy.virtual.serial import Name, Weights
from parallel_strategy.virtual.weights import Parts


@dataclass(slots=True)
class VirtualDevice:
    """One rank. `kept`: this rank's runs of its weights, what the optimizer updates; `whole`: the arrays that kernels
    read, absent at level 3 until gathered; `place`: of this rank among those that share a weight's copy."""

    program: Program
    rank: int
    parameters: dict[Name, Parameter]
    level: int
    cuts: dict[Name, Cut]
    place: dict[Name, int]
    kept: Weights = field(default_factory=dict)
    first: Weights = field(default_factory=dict)
    second: Weights = field(default_factory=dict)
    whole: Weights = field(default_factory=dict)
    gradients: Weights = field(default_factory=dict)
    gradient_parts: Weights = field(default_factory=dict)
    loss: float = 0.0
    squares: float = 0.0

    @classmethod
    def build(cls, program: Program, parts: Parts, rank: int, weights: Weights, dtype: type) -> "VirtualDevice":
        groups = program.groups
        stage = groups.coordinate("pp", rank)
        parameters = {(layer, parameter.name): parameter for layer, parameter in program.stage_parameters(stage)}
        cuts = {name: cut_of(program, parameter, name[0]) for name, parameter in parameters.items()}
        place = {
            name: groups.members(cut.shard, rank).index(rank) if cut.shards > 1 else 0 for name, cut in cuts.items()
        }
        level = program.setup.strategy.zero.stage
        device = cls(program, rank, parameters, level, cuts, place)
        for name, parameter in device.parameters.items():
            local = parts.for_rank(rank, name[0], parameter).cut(weights, dtype)
            device.kept[name] = device.run_of(name, local)
            device.first[name] = np.zeros_like(device.kept[name])
            device.second[name] = np.zeros_like(device.kept[name])
            if level < 3 or cuts[name].shards == 1:
                device.whole[name] = local
        return device

    # what kernels see

    def weight(self, layer: int, name: str) -> np.ndarray:
        return self.whole[layer, name]

    def has(self, layer: int, name: str) -> bool:
        return (layer, name) in self.parameters

    def rows(self, layer: int, name: str) -> int:
        """Return the rows of a table, which need not be there."""
        return self.parameters[layer, name].shape[0]

    def add_gradient(self, layer: int, name: str, gradient: np.ndarray) -> None:
        key = (layer, name)
        self.gradients[key] = self.gradients[key] + gradient if key in self.gradients else gradient

    # runs of elements

    def padded(self, name: Name, array: np.ndarray) -> np.ndarray:
        shards = self.cuts[name].shards
        flat = array.reshape(-1)
        missing = shard_elements(self.parameters[name], shards) * shards - flat.size
        return np.pad(flat, (0, missing)) if missing else flat

    def run_of(self, name: Name, array: np.ndarray) -> np.ndarray:
        size = shard_elements(self.parameters[name], self.cuts[name].shards)
        start = self.place[name] * size
        return self.padded(name, array)[start : start + size].copy()

    def joined(self, name: Name, runs: np.ndarray) -> np.ndarray:
        parameter = self.parameters[name]
        return runs[: int(parameter.elements)].reshape(parameter.shape)

    def add_part(self, name: Name, part: np.ndarray) -> None:
        self.gradient_parts[name] = self.gradient_parts[name] + part if name in self.gradient_parts else part

    def gradient_place(self, name: Name) -> Weights:
        """Return where this weight's gradient is: whole, or this rank's part of it."""
        return self.gradient_parts if name in self.gradient_parts else self.gradients

    def keep_unshared(self) -> None:
        """Keep gradients that no group reduced: they are this rank's alone."""
        for name in list(self.gradients):
            self.add_part(name, self.run_of(name, self.gradients.pop(name)))

    # the end of a step

    def keep_gradients(self) -> None:
        """Make whole gradients, reduced, the run that this rank updates; weights that nothing used get zeros."""
        self.keep_unshared()
        for name, run in self.kept.items():
            self.gradient_parts.setdefault(name, np.zeros_like(run))

    def sum_of_squares(self) -> float:
        """Return this rank's share of the squared norm: what several ranks of the norm's group hold counts once in
        all."""
        program, total = self.program, 0.0
        separate = program.setup.framework.parameter_collectives
        everyone = separate or self.level > 0 or program.setup.strategy.mesh.spreads_experts
        for name, gradient in self.gradient_parts.items():
            parameter = self.parameters[name]
            cut = self.cuts[name]
            tensor = program.shard.expert_tensor if parameter.expert else program.shard.tp
            copies = tensor if parameter.replicated_over_tp and not cut.whole.endswith("_tp") else 1
            if everyone:
                copies *= cut.replicas
            if program.tied_across_stages and name[1] in WORD_TABLES:
                copies *= 2
            total += float((gradient * gradient).sum()) / copies
        return total

    def update(self, adam: Adam) -> None:
        """Update this rank's runs; the norm of all gradients is `squares`."""
        factor = adam.clip_factor(self.squares**0.5)
        host = self.program.setup.strategy.offload.optimizer
        for name, run in self.kept.items():
            gradient = self.gradient_parts[name] * factor
            if host:  # the gradient goes to the host, where weight and moments live, and the new weight comes back
                gradient, run = gradient.copy(), run.copy()
            adam.update(name[1], run, gradient, self.first[name], self.second[name])
            self.kept[name] = run
            if self.cuts[name].shards == 1:
                self.whole[name] = self.joined(name, run)
        self.gradient_parts = {}
        if self.level == 3:
            self.whole = {name: weight for name, weight in self.whole.items() if self.cuts[name].shards == 1}
