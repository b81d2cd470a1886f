"""Seconds of collectives on a hierarchical cluster: alpha-beta per level, several algorithms, cards shared by
neighbours.

A group is `size` ranks that are `stride` apart. Ranks are laid out in order over the topology, so the stride says which
levels a group crosses and how many of its members sit behind one network card.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from parallel_strategy.spec.cluster import ClusterSpec

# share of an all-reduce's traffic
SHARE = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0}
# NCCL's other protocol (LL128): 120 of 128 bytes are data, and its hops take 1.9 us where the first one's take 3.4
# inside a server, 4 where they take 14 between servers (latency table of its tuning.cc): 0.45 of a ring's hops together
SHORT_HOP, SHORT_RATE = 0.45, 120 / 128


@dataclass(frozen=True, slots=True)
class Span:
    """How a group lies on one level: `groups` sub-groups talk here, each with `members` ranks behind it."""

    level: int
    name: str
    groups: int
    members: int


@dataclass(frozen=True, slots=True)
class Line:
    """seconds = alpha + beta * bytes, by one algorithm."""

    algorithm: str
    alpha: float
    beta: float


class Network:
    """Collective costs of one cluster, of which the first `devices` are used. Lines are found once per (operation,
    size, stride). `cards`: network cards of a server that gathers and reduce-scatters reach, absent: all."""

    def __init__(self, cluster: ClusterSpec, devices: int, cards: int | None = None) -> None:
        self.cluster, self.devices, self.cards = cluster, devices, cards
        self.capacity = [1]
        for level in cluster.topology:
            self.capacity.append(self.capacity[-1] * level.size)
        self.lines = lru_cache(maxsize=None)(self._lines)
        self.spans = lru_cache(maxsize=None)(self._spans)

    def _spans(self, size: int, stride: int) -> tuple[Span, ...]:
        spans, inside = [], 1
        last = len(self.cluster.topology) - 1
        for index, level in enumerate(self.cluster.topology):
            here = min(size, max(1, self._inside(size, stride, self.capacity[index + 1])))
            if index == last:
                here = size
            if here > inside:
                spans.append(Span(index, level.level, math.ceil(here / inside), inside))
                inside = here
        return tuple(spans)

    def _inside(self, size: int, stride: int, capacity: int) -> int:
        """Return how many members of the group that lies worst are together in one unit of so many devices.

        Groups follow one another, so those whose length does not divide the unit lie across two: the smaller part
        decides. Two ranks are the ends of something longer, whose length is not known here.
        """
        length = size * stride
        if size == 2 or length >= self.devices or capacity % min(length, capacity) == 0:
            return capacity // stride
        return math.gcd(length, capacity) // stride

    def outermost_level(self, size: int, stride: int) -> str:
        """Return the name of the widest level that the group's traffic crosses."""
        spans = self.spans(size, stride)
        return spans[-1].name if spans else "device"

    def _lines(self, op: str, size: int, stride: int) -> tuple[Line, ...]:
        if size <= 1:
            return (Line("none", 0.0, 0.0),)
        topology = self.cluster.topology
        spans = self.spans(size, stride)
        measured = topology[spans[-1].level].line(op, size)
        if measured:
            return (Line("measured", *measured),)
        start = max(topology[span.level].start_us for span in spans) * 1e-6
        rates = [topology[span.level].device_gbps(span.groups) * 1e9 for span in spans]
        latencies = [topology[span.level].latency_us * 1e-6 for span in spans]
        if op == "send":
            return (Line("send", start + latencies[-1], 1.0 / rates[-1]),)
        if op == "all_to_all":
            crossing = max((1.0 - span.members / size) / rate for span, rate in zip(spans, rates, strict=True))
            return (Line("pairwise", start + sum(latencies) + latencies[-1] * math.log2(size), crossing),)
        share = SHARE[op]
        # one ring through every member: its slowest link decides; a card is shared with the neighbours' rings
        reached = [span.members for span in spans]
        if self.cards and op != "all_reduce":
            per_server = self.cluster.devices_per_server
            reached = [min(n, self.cards) if n >= per_server else n for n in reached]
        bottleneck = min(rate * n for n, rate in zip(reached, rates, strict=True))
        hops, inside = 0.0, 1
        for span, latency in zip(spans, latencies, strict=True):
            outside = span.members * span.groups
            hops += (size / span.members - size / outside) * latency
            inside = outside
        assert inside >= 1
        beta = share * (size - 1) / size / bottleneck
        ring = Line("ring", start + share * hops, beta)
        if op != "all_reduce" and self.cluster.gather_algorithms == "ring":
            return ring, Line("short ring", start + share * hops * SHORT_HOP, beta / SHORT_RATE)
        # level by level: reduce-scatter inside, the pieces across, gather back
        alpha = share * sum(math.log2(span.groups) * latency for span, latency in zip(spans, latencies, strict=True))
        beta = share * sum(
            (span.groups - 1) / span.groups / (span.members * rate) for span, rate in zip(spans, rates, strict=True)
        )
        return ring, Line("hierarchical", start + alpha, beta)

    def dispatch_seconds(self, bytes_: float, size: int, stride: int, chosen: int) -> float:
        """Return the time of an all-to-all of tokens that go to `chosen` experts each, of which a server takes all by
        one copy and hands them on. `bytes_`: a copy for every expert."""
        if size <= 1 or bytes_ <= 0:
            return 0.0
        (whole,) = self.lines("all_to_all", size, stride)
        slowest = 0.0
        for span in self.spans(size, stride):
            units = size / span.members
            copies = units * (1.0 - (1.0 - 1.0 / units) ** chosen) * (1.0 - 1.0 / units)
            rate = self.cluster.topology[span.level].device_gbps(span.groups) * 1e9
            slowest = max(slowest, copies / chosen / rate)
        return whole.alpha + min(whole.beta, slowest) * bytes_

    def seconds(self, op: str, bytes_: float, size: int, stride: int) -> float:
        """Return the time of one collective, by the algorithm that is fastest for its size."""
        if size <= 1 or bytes_ <= 0:
            return 0.0
        return min(line.alpha + line.beta * bytes_ for line in self.lines(op, size, stride))

    def seconds_of_sizes(self, op: str, sizes: np.ndarray, size: int, stride: int) -> np.ndarray:
        """Return the same of many sizes at once."""
        lines = self.lines(op, size, stride)
        seconds = lines[0].alpha + lines[0].beta * sizes
        for line in lines[1:]:
            seconds = np.minimum(seconds, line.alpha + line.beta * sizes)
        return np.where(sizes > 0, seconds, 0.0)

    def choice(self, op: str, bytes_: float, size: int, stride: int) -> str:
        return min(self.lines(op, size, stride), key=lambda line: line.alpha + line.beta * bytes_).algorithm
