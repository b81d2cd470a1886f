"""Candidates that share stages and chunks, as arrays: everything that the formulas of time and memory read of them.

A search has thousands of candidates, a prediction has one; both ask here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from parallel_strategy.cost.block_table import BlockTable
from parallel_strategy.cost.collective import Network, Span
from parallel_strategy.cost.memory import Resident, resident_bytes
from parallel_strategy.cost.stage_time import WeightSeconds, slowest_of
from parallel_strategy.cost.step_end import (
    StepTail,
    StepTraffic,
    fixed_seconds,
    flattening_seconds,
    update_seconds,
    weights_exposed,
)
from parallel_strategy.cost.weight_traffic import Sizes, WeightBytes
from parallel_strategy.graph.groups import Groups
from parallel_strategy.graph.stages import SLOTS
from parallel_strategy.spec.cluster import ClusterSpec
from parallel_strategy.spec.framework import FrameworkSpec


@dataclass(slots=True)
class CostRows:
    """One row a candidate. `held`: [stage, slot] blocks that a stage holds."""

    framework: FrameworkSpec
    cluster: ClusterSpec
    network: Network
    dtype: str
    groups: Sequence[Groups]
    table: BlockTable
    micro_batches: np.ndarray
    held: np.ndarray
    shard_size: int = -1  # `zero.weight_shard_size`
    slowest: np.ndarray = field(init=False)
    boundary: np.ndarray = field(init=False)  # seconds to send an activation to the next stage
    _stages: tuple[np.ndarray, np.ndarray] = field(init=False)  # distinct stages, and which of them each one is
    _extents: dict[str, list[tuple[np.ndarray, int, int]]] = field(init=False)

    def __post_init__(self) -> None:
        self._extents = {}
        self.slowest = slowest_of(np.array([groups.mesh.devices for groups in self.groups]), self.framework)
        _, first, like = np.unique(self.held, axis=0, return_index=True, return_inverse=True)
        self._stages = first, like.ravel()
        self.boundary = np.zeros(len(self.groups))
        if self.pp > 1:
            sent = self.collective("send", "pp", self.table.boundary[:, None])
            gathered = self.collective("all_gather", "tp", self.table.boundary_gathered[:, None])
            self.boundary = (sent + gathered)[:, 0]

    @property
    def pp(self) -> int:
        return len(self.held)

    def extents(self, axis: str) -> list[tuple[np.ndarray, int, int]]:
        """Return (rows, members, stride) for every way in which a group lies on the levels of the network."""
        if axis not in self._extents:
            of_rows: dict[tuple[Span, ...], list[int]] = {}
            first: dict[tuple[Span, ...], tuple[int, int]] = {}
            for row, groups in enumerate(self.groups):
                size, stride = groups.extent(axis)
                spans = self.network.spans(size, stride)
                first.setdefault(spans, (size, stride))
                of_rows.setdefault(spans, []).append(row)
            self._extents[axis] = [(np.array(rows), *first[spans]) for spans, rows in of_rows.items()]
        return self._extents[axis]

    def collective(
        self, op: str, axis: str, size: np.ndarray, messages: np.ndarray | None = None, *, by_owner: bool = False
    ) -> np.ndarray:
        """Return [row, ...] seconds of one collective of these bytes, or of so many that have them together;
        `by_owner`: of one for each member."""
        seconds = np.zeros_like(size, dtype=float)
        for rows, members, stride in self.extents(axis):
            if members > 1:
                count = members if by_owner else 1.0 if messages is None else messages[rows]
                seconds[rows] = count * self.network.seconds_of_sizes(op, size[rows] / count, members, stride)
        return seconds

    def _seconds(self, traffic: "ZeroTraffic", role: str, spread: np.ndarray | None = None) -> np.ndarray:
        """Return [row, ...] seconds of all collectives of a role. `spread`: [..., holder], which holders send
        together."""
        sizes: list[Sizes] = [getattr(one, role) for one in traffic.distinct]
        total: np.ndarray | None = None
        for key in dict.fromkeys(key for one in sizes for key in one):
            bytes_ = np.stack([one.get(key, np.zeros(traffic.holders(role))) for one in sizes])
            sent = (bytes_ if spread is None else bytes_ @ spread.T)[traffic.index]
            seconds = self.collective(*key, sent, self._messages(role), by_owner=self._by_owner(role))
            total = seconds if total is None else total + seconds
        width = traffic.holders(role) if spread is None else len(spread)
        return np.zeros((len(self.groups), width)) if total is None else total

    def _messages(self, role: str) -> np.ndarray | None:
        """Return [row, slot] how many messages the traffic of a block is, where it is not one."""
        by_weight = role.startswith("block_") and self.framework.weights_sent == "weight"
        return np.maximum(1.0, self.table.matrices) if by_weight else None

    def _by_owner(self, role: str) -> bool:
        return role == "gather" and self.framework.weights_sent == "owner"

    def sharded(self, traffic: "ZeroTraffic") -> WeightSeconds:
        """Return ZeRO-3's traffic with every block."""
        roles = ("block_gather", "block_gather_again", "block_scatter")
        times = self.micro_batches[:, None] if self.framework.keeps_gathered and self.pp > 1 else 1.0
        return WeightSeconds(*(self._seconds(traffic, role) / times for role in roles))

    def _spread(self, traffic: "ZeroTraffic") -> tuple[np.ndarray, np.ndarray]:
        """Return (distinct stages as rows of holders, which of them each stage is)."""
        if traffic.by_stage:
            return np.eye(self.pp), np.arange(self.pp)
        first, like = self._stages
        return self.held[first], like

    def traffic(self, traffic: "ZeroTraffic") -> StepTraffic:
        """Return the seconds of the step's collectives, but for gradients in buckets."""
        reduced, of_micro_batch, apart, gathered = (
            self.seconds_of_role(traffic, role) for role in ("reduce", "micro_batch", "apart", "gather")
        )
        return StepTraffic(reduced + self.micro_batches[:, None] * of_micro_batch + self._flattening(), apart, gathered)

    def seconds_of_role(self, traffic: "ZeroTraffic", role: str) -> np.ndarray:
        """Return [row, stage] seconds of a step's collectives of one role."""
        spread, like = self._spread(traffic)
        return self._seconds(traffic, role, spread)[:, like]

    def _flattening(self) -> np.ndarray:
        framework = self.framework
        if not framework.flatten_bytes_per_parameter:
            return np.zeros((len(self.groups), self.pp))
        elements = (self.table.dense + self.table.expert) @ self.held.T
        seconds = flattening_seconds(framework, self.cluster, elements, self.table.weights @ self.held.T)
        loss = self.collective("all_reduce", "weights", np.full((len(self.groups), 1), 8.0))  # it goes by itself
        return np.where(np.array([groups.mesh.dp > 1 for groups in self.groups])[:, None], seconds + loss, 0.0)

    def owned(self, traffic: "ZeroTraffic") -> np.ndarray:
        """Return [row, stage] elements that a rank updates."""
        spread, like = self._spread(traffic)
        return (np.stack([one.owned for one in traffic.distinct]) @ spread.T)[traffic.index][:, like]

    def resident(self, traffic: "ZeroTraffic", *, zero: int, host_optimizer: bool) -> Resident:
        shards = (self._sharing("weights"), self._sharing("expert_dp"))
        owned, held = self.owned(traffic), self.held
        return resident_bytes(
            self.framework, self.dtype, self.table, held, shards, owned, zero=zero, host_optimizer=host_optimizer
        )

    def _sharing(self, axis: str) -> np.ndarray:
        """Return [row] ranks that share one copy."""
        sizes = np.array([groups.extent(axis)[0] for groups in self.groups], dtype=float)
        return np.minimum(sizes, self.shard_size) if self.shard_size > 0 else sizes

    def tail_after(self, traffic: "ZeroTraffic", seconds: StepTraffic, *, host_optimizer: bool) -> StepTail:
        """Return the step's end without what hides behind backward: the update and all that follows it."""
        devices = self.groups[0].mesh.devices
        owned, weights = self.owned(traffic), self.table.weights @ self.held.T
        update = update_seconds(
            self.framework, self.cluster, owned, weights, devices=devices, host_optimizer=host_optimizer
        )
        gather = weights_exposed(self.framework, seconds)
        fixed = fixed_seconds(self.framework, self.cluster)
        return StepTail(0.0, 0.0, gather, seconds.apart, update, fixed)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class ZeroTraffic:
    """Traffic of weights under one level of optimizer sharding: the distinct ones, and which of them each row has."""

    distinct: Sequence[WeightBytes]
    index: np.ndarray

    @property
    def by_stage(self) -> bool:
        return self.distinct[0].by_stage

    def holders(self, role: str) -> int:
        return len(SLOTS) if role.startswith("block_") else len(self.distinct[0].owned)
