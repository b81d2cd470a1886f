"""Weights read as those of another network: a dense one as one with experts, and a domain's share as one of its own.

Upcycling (Komatsuzaki et al. 2022): each expert is a copy of the dense feed-forward layer, the router is small and
random, everything else is as it was. A domain cut out of `domain` is a dense network; one cut out of `random_routed` is
a network of its own group of experts with `hash`.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pangu import parameters
from pangu.config import ExpertsConfig, ModelConfig
from pangu.formats import names
from pangu.formats.data_types import FP32, TensorInfo, bytes_of
from pangu.formats.model_shape import tell_shape
from pangu.formats.source import Source
from pangu.foundation.errors import UserError
from pangu.foundation.settings import nearest_name

ROUTER_START = 0.02  # standard deviation


def dense_part(part: str) -> str:
    """Return the dense layer's name of an expert's weight."""
    return part.replace(".experts.", ".")


class ChangedSource(Source):
    """Another source's weights by canonical names, of which some are made here. No moments of an optimizer."""

    def __init__(self, source: Source, words: str) -> None:
        found = names.sort_names(source.tensors)
        if found.is_torch:
            raise UserError(f"{source.path}: has the PyTorch port's names: convert it to safetensors first")
        if found.foreign:
            raise UserError(f"{source.path}: {found.foreign[0]!r} is no parameter of PanGu-α")
        self.inner, self.known = source, {ours: name for name, ours in found.weights.items()}
        super().__init__(source.path, f"{source.form}, {words}", {}, source.files)
        self.metadata = dict(source.metadata)
        self.open_files = source.open_files

    def info(self, ours: str) -> TensorInfo:
        return self.inner.tensors[self.known[ours]]

    def __exit__(self, *error: object) -> None:
        self.inner.__exit__(None, None, None)


class Upcycled(ChangedSource):
    """A dense network's weights as those of one with experts.

    table: of a fixed routing. noise: of each copy, in standard deviations of its weight; identical experts teach a
    router nothing.
    """

    def __init__(self, source: Source, model: ModelConfig, table: np.ndarray | None, noise: float, seed: int) -> None:
        super().__init__(source, "upcycled")
        assert model.expert_shape
        told = tell_shape({ours: self.info(ours).shape for ours in self.known}, str(source.path))
        if told.expert_shape:
            raise UserError(f"{source.path}: has experts already")
        told.check(model.model_copy(update={"experts": None}), str(source.path))
        self.table, self.noise, self.seed = table, noise, seed
        for ours, shape in parameters.shapes(model).items():
            dense = dense_part(ours)
            self.tensors[ours] = TensorInfo(self.info(dense).data_type if dense in self.known else FP32, shape)

    def fill(self, name: str, first: int, last: int, view: memoryview) -> None:
        if name in self.known:
            self.inner.fill(self.known[name], first, last, view)
            return
        dense = dense_part(name)
        if name == parameters.EXPERT_TABLE:
            assert self.table is not None
            rows = self.table[first:last]
        elif dense in self.known:
            rows = self.copies(name, dense, first, last)
        elif parameters.ROUTER in name:
            rows = self.random(name).normal(0, ROUTER_START, self.tensors[name].shape)[first:last].astype(np.float32)
        else:
            raise UserError(f"{name}: upcycling makes no shared experts")
        view[:] = bytes_of(np.ascontiguousarray(rows))

    def random(self, name: str, expert: int = 0) -> np.random.Generator:
        place = list(self.tensors).index(name)
        return np.random.Generator(np.random.Philox(key=[self.seed, place << 20 | expert]))

    def copies(self, name: str, dense: str, first: int, last: int) -> np.ndarray:
        """Return the weights of experts first..last."""
        one = self.inner.read(self.known[dense])
        result = np.repeat(one[None], last - first, 0)
        if self.noise and one.ndim == 2:
            if self.info(dense).data_type != FP32:
                raise UserError(f"{name}: noise needs fp32 weights: add --dtype fp32 in a conversion before")
            for i in range(last - first):
                step = self.noise * float(one.std())
                result[i] += self.random(name, first + i).normal(0, step, one.shape).astype(np.float32)
        return result


class CutOut(ChangedSource):
    """The experts first..stop of a network, as one of their own: dense where it is one, else with their table."""

    def __init__(self, source: Source, model: ModelConfig, experts: range, table_row: int) -> None:
        super().__init__(source, "cut out")
        self.experts, self.table_row = experts, table_row
        for ours, shape in parameters.shapes(model).items():
            inner = self.inner_name(ours)
            self.tensors[ours] = TensorInfo(self.info(inner).data_type, shape)

    def inner_name(self, ours: str) -> str:
        if ours in self.known:
            return ours
        return ours.replace(parameters.FEED_FORWARD, f"{parameters.FEED_FORWARD}experts.", 1)

    def fill(self, name: str, first: int, last: int, view: memoryview) -> None:
        inner = self.inner_name(name)
        begin, stop = self.experts.start, self.experts.stop
        if name == parameters.EXPERT_TABLE:
            row = self.inner.read(self.known[name])[self.table_row] - begin
            view[:] = bytes_of(row[None].astype(np.float32))
        elif ".experts." not in inner:
            self.inner.fill(self.known[name], first, last, view)
        elif inner == name:
            self.inner.fill(self.known[name], begin + first, begin + last, view)
        else:  # one expert, dense
            shape = self.info(inner).shape
            rows = [(0, 1), (first, last)] if shape[1] == 1 else [(first, last), (0, shape[2])]
            view[:] = bytes_of(self.inner.read_region(self.known[inner], [(begin, stop), *rows])[0])


def without_others(
    weights: Mapping[str, np.ndarray], model: ModelConfig, domain: str, where: Path | str
) -> tuple[ModelConfig, dict[str, np.ndarray]]:
    """Return a domain's network out of one that is in memory, as `cut_out` does of a file. Raises UserError."""
    experts, row, cut = part_of(model, domain, where)
    found = {}
    for name in parameters.shapes(cut):
        if name == parameters.EXPERT_TABLE:
            found[name] = weights[name][row : row + 1] - np.float32(experts.start)
        elif name not in weights:  # of one expert, dense
            one = weights[name.replace(parameters.FEED_FORWARD, f"{parameters.FEED_FORWARD}experts.", 1)][experts.start]
            found[name] = one[0] if name.endswith("bias") else one
        else:
            of_experts = f"{parameters.FEED_FORWARD}experts." in name
            found[name] = weights[name][experts.start : experts.stop] if of_experts else weights[name]
    return cut, found


def cut_out(source: Source, model: ModelConfig, domain: str, where: Path) -> tuple[CutOut, ModelConfig]:
    """Return a domain's network: its weights and its configuration. Raises UserError."""
    experts, row, cut = part_of(model, domain, where)
    return CutOut(source, cut, experts, row), cut


def part_of(model: ModelConfig, domain: str, where: Path | str) -> tuple[range, int, ModelConfig]:
    """Return a domain's experts, its row of the table, and the network that it is alone. Raises UserError."""
    experts = model.experts
    if experts is None or not experts.by_domain:
        raise UserError(f"{where}: has no experts by domain to cut out")
    if domain not in experts.domains:
        raise UserError(
            f"domain {domain!r}: the domains are {', '.join(experts.domains)}"
            + nearest_name(domain, list(experts.domains))
        )
    if experts.shared:
        raise UserError(f"{where}: has shared experts beside those of domains: a dense network has no place for them")
    group, row = experts.count // len(experts.domains), experts.domains.index(domain)
    rest = None if group == 1 else ExpertsConfig(count=group, routing="hash", layers=experts.layers)
    return range(row * group, (row + 1) * group), row, model.model_copy(update={"experts": rest})
