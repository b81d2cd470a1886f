"""Whose part of which weight a rank holds: from the whole, unfused weights of the serial model to the parameters of
the program, and back.

A part is described by where each of its elements lies in the whole, so that cutting, putting together and comparing are
one indexing each. Padding (rows that a split vocabulary adds) lies nowhere: -1.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from parallel_strategy.graph.operator import Parameter
from parallel_strategy.graph.program import Program
from parallel_strategy.virtual.serial import Name, Weights, shapes


@dataclass(frozen=True, slots=True)
class Part:
    """`sources`: the whole weights, raveled one after another; `places`: of every local element, its index there."""

    sources: tuple[Name, ...]
    places: np.ndarray

    def cut(self, whole: Weights, dtype: type) -> np.ndarray:
        flat = np.concatenate([whole[name].ravel() for name in self.sources])
        return np.where(self.places >= 0, flat[self.places], 0).astype(dtype)

    def put(self, local: np.ndarray, whole: Weights) -> None:
        """Write what this part has into whole weights."""
        start = 0
        for name in self.sources:
            target = whole[name].reshape(-1)
            here = (self.places >= start) & (self.places < start + target.size)
            target[self.places[here] - start] = local[here]
            start += target.size


class Parts:
    """The parts of all ranks of a program, and the whole shapes of its model without padding."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.shapes = shapes(program.setup.model)
        self.of = cache(self._of)

    def for_rank(self, rank: int, layer: int, parameter: Parameter) -> Part:
        groups, mesh = self.program.groups, self.program.setup.strategy.mesh
        expert = groups.members("ep", rank).index(rank) if parameter.expert and mesh.ep > 1 else 0
        tensor = groups.members("etp", rank).index(rank) if parameter.expert else groups.coordinate("tp", rank)
        return self.of(layer, parameter, tensor, expert)

    def sources(self, layer: int, name: str) -> tuple[Name, ...]:
        """Return the unfused weights that a parameter holds side by side."""
        if name == "head.logits.weight" and self.program.model.tied_embedding:
            return ((0, "embedding.word.weight"),)
        prefix, _, kind = name.rpartition(".")
        if prefix == "attention.query_key_value":
            return tuple((layer, f"attention.{part}.{kind}") for part in ("query", "key", "value"))
        if prefix.endswith(".up") and self.program.model.gated_ffn:
            block = prefix.removesuffix(".up")
            return ((layer, f"{block}.gate.{kind}"), (layer, f"{block}.up.{kind}"))
        return ((layer, name),)

    def _of(self, layer: int, parameter: Parameter, tensor: int, expert: int) -> Part:
        shard = self.program.shard
        tp, ep = shard.expert_tensor if parameter.expert else shard.tp, shard.ep
        sources = self.sources(layer, parameter.name)
        start, parts = 0, []
        for name in sources:
            shape = self.shapes[name]
            places = start + np.arange(int(np.prod(shape))).reshape(shape)
            start += places.size
            if parameter.expert:
                places = np.split(places, ep)[expert]
            if parameter.split is not None:
                whole = places.shape[parameter.split]
                local = parameter.shape[parameter.split] if len(sources) == 1 else whole // tp
                places = _cut(places, parameter.split, local, tp, tensor)
            elif places.shape != parameter.shape:  # a table that the framework pads
                places = _cut(places, 0, parameter.shape[0], 1, 0)
            parts.append(places)
        places = np.concatenate(parts, axis=parameter.split or 0) if len(parts) > 1 else parts[0]
        assert places.shape == parameter.shape, (parameter.name, places.shape, parameter.shape)
        return Part(sources, places)


def _cut(places: np.ndarray, axis: int, local: int, parts: int, index: int) -> np.ndarray:
    missing = local * parts - places.shape[axis]
    if missing:
        widths = [(0, missing if a == axis else 0) for a in range(places.ndim)]
        places = np.pad(places, widths, constant_values=-1)
    return np.take(places, range(index * local, (index + 1) * local), axis=axis)
