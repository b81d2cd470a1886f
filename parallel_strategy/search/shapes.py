"""The space of a search, and what a rank's blocks cost and weigh for every shape in it: priced once each, read by all
candidates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import permutations

import numpy as np

from parallel_strategy.cost.block_table import BlockTable
from parallel_strategy.cost.candidate_arrays import ZeroTraffic
from parallel_strategy.cost.price import Price, network_of
from parallel_strategy.cost.weight_traffic import WeightBytes
from parallel_strategy.graph.groups import Groups
from parallel_strategy.graph.program import Program
from parallel_strategy.spec.even_parts import uneven_parts
from parallel_strategy.spec.model import ModelSpec
from parallel_strategy.spec.strategy import (
    CHUNKED,
    Batch,
    Mesh,
    Offload,
    Pipeline,
    Setup,
    StrategySpec,
    Zero,
    divisors,
)


@dataclass(frozen=True, slots=True)
class MeshLayout:
    """Sizes and order of the axes, and what one micro-batch of a rank is."""

    tp: int
    cp: int
    ep: int
    dp: int
    micro: int
    sequence_parallel: bool
    order: tuple[str, ...]
    etp: int | None = None  # ranks that split each expert, where they are not those of tp


@dataclass(slots=True)
class Space:
    """Which values each choice may take. An empty list means: all that are legal."""

    devices: int
    batch: int
    tp: list[int] = field(default_factory=list)
    pp: list[int] = field(default_factory=list)
    cp: list[int] = field(default_factory=lambda: [1])
    ep: list[int] = field(default_factory=list)
    micro: list[int] = field(default_factory=list)
    chunks: list[int] = field(default_factory=lambda: [1, 2, 4])
    schedules: list[str] = field(default_factory=lambda: ["gpipe", "1f1b", "interleaved", "zb_h1", "zb_h2"])
    simulated: list[str] = field(  # tried on the first strategies only: they have no closed form of their own
        default_factory=lambda: ["zb_v", "dualpipe", "mindspore_vpp", "mindspore_vpp_less_memory"]
    )
    recompute: list[tuple[str, float]] = field(
        default_factory=lambda: [
            ("none", 0.0),
            ("selective", 0.5),
            ("selective", 1.0),
            *(("full", n / 8) for n in range(1, 9)),
        ]
    )
    zero: list[int] = field(default_factory=lambda: [0, 1, 2, 3])
    offload: list[bool] = field(default_factory=lambda: [False, True])
    interleave: list[int] = field(default_factory=lambda: [1, 2])  # halves of a micro-batch that run at once
    activation: list[float] = field(default_factory=lambda: [0.0, 0.5, 1.0])  # share on the host
    largest_micro: int = 16
    folds: bool = True  # experts may be whole on each rank while all else is split over tp
    keeps: Callable[[MeshLayout, int], bool] | None = None  # which layouts with so many stages belong to it

    def admits(self, strategy: StrategySpec) -> bool:
        """Return whether a strategy keeps to the limits of the space, whether or not the space has it."""
        mesh, offload = strategy.mesh, strategy.offload
        sizes = ((mesh.tp, self.tp), (mesh.pp, self.pp), (mesh.ep, self.ep), (strategy.batch.micro, self.micro))
        return (
            (mesh.devices, strategy.batch.global_) == (self.devices, self.batch)
            and all(size in legal for size, legal in sizes if legal)
            and mesh.cp in self.cp
            and (not mesh.is_folded or self.folds)
            and (mesh.pp == 1 or strategy.pipeline.schedule in (*self.schedules, *self.simulated))
            and (mesh.dp * mesh.cp == 1 or strategy.zero.stage in self.zero)
            and offload.optimizer in self.offload
            and (not offload.activation or any(self.activation))
            and strategy.tensor.interleave in self.interleave
        )

    def schedules_of(self, pp: int, chunks: int) -> list[str]:
        """Return those that have this many stages and chunks."""
        if pp == 1:
            return ["1f1b"]
        return [name for name in self.schedules if (name in CHUNKED) == (chunks > 1)]

    def recompute_of(self, chunks: int) -> list[tuple[str, float]]:
        return [choice for choice in self.recompute if chunks == 1 or choice[1] in (0.0, 1.0)]

    @staticmethod
    def _may_be_whole(model: ModelSpec, tp: int, cp: int) -> bool:
        """Return whether experts may lie whole on ranks that split all else over tp."""
        return not any(uneven_parts(model, tp, cp, sequence_parallel=True, etp=1))

    def layouts(self, setup: Setup, pp: int) -> list[MeshLayout]:
        """Return every legal layout with this many stages."""
        model = setup.model
        per_stage = self.devices // pp
        result = []
        for tp in divisors(per_stage):
            if (self.tp and tp not in self.tp) or model.num_heads % tp or tp > 64:
                continue
            for cp in self.cp:
                if per_stage % (tp * cp) or model.seq_length % cp:
                    continue
                dp = per_stage // tp // cp
                splits = [
                    split
                    for split in ((False, True) if tp > 1 else (False,))
                    if not any(uneven_parts(model, tp, cp, sequence_parallel=split))
                ]
                experts = model.experts.count if model.experts else 1
                folds = experts > 1 and tp > 1 and self.folds and self._may_be_whole(model, tp, cp)
                if self.batch % dp or not (splits or folds):
                    continue
                share = self.batch // dp
                micros = [n for n in divisors(share) if n <= self.largest_micro and (not self.micro or n in self.micro)]
                spreads = (
                    [n for n in divisors(dp * cp) if experts % n == 0 and (not self.ep or n in self.ep)]
                    if experts > 1
                    else [1]
                )
                axes = [axis for axis, size in (("pp", pp), ("dp", dp), ("tp", tp)) if size > 1]
                orders = [(*order[:-1], "cp", order[-1]) if cp > 1 and order else order for order in permutations(axes)]
                for order in orders:
                    for ep in spreads:
                        for micro in micros:
                            for sequence in splits:
                                result.append(MeshLayout(tp, cp, ep, dp, micro, sequence, order))
                if folds:
                    order = tuple(
                        axis for axis in ("pp", "dp", "cp", "tp") if axis in axes or (axis == "cp" and cp > 1)
                    )
                    for ep in divisors(dp * cp * tp):
                        if experts % ep == 0 and (not self.ep or ep in self.ep):
                            result += [MeshLayout(tp, cp, ep, dp, micro, True, order, 1) for micro in micros]
        return [layout for layout in result if self.keeps is None or self.keeps(layout, pp)]


class Shapes:
    """Builds tables for a setup, each as often as what it depends on differs."""

    def __init__(self, setup: Setup, devices: int) -> None:
        self.setup = setup
        self.network = network_of(setup, devices)
        self._prices: dict[tuple, Price] = {}
        self._programs: dict[tuple, Program] = {}
        self._axes: dict[tuple, list[str]] = {}  # of the collectives of each shape's blocks
        self._tables: dict[tuple, BlockTable] = {}
        self._traffic: dict[tuple, WeightBytes] = {}
        self._factors: dict[tuple, float] = {}
        self.groups = cache(self._groups)

    def mesh(self, layout: MeshLayout, pp: int) -> Mesh:
        sizes = {"pp": pp, "dp": layout.dp, "cp": layout.cp, "tp": layout.tp, "ep": layout.ep, "etp": layout.etp}
        return Mesh.model_construct(None, **sizes, order=list(layout.order))

    def _groups(self, sizes: tuple[int | None, ...], order: tuple[str, ...]) -> Groups:
        pp, dp, cp, tp, ep, etp = sizes
        return Groups(Mesh.model_construct(pp=pp, dp=dp, cp=cp, tp=tp, ep=ep, etp=etp, order=list(order)))

    def groups_of(self, layout: MeshLayout, pp: int) -> Groups:
        return self.groups((pp, layout.dp, layout.cp, layout.tp, layout.ep, layout.etp), layout.order)

    def strategy(self, layout: MeshLayout, pp: int, *, zero: int = 0, micro_batches: int = 1) -> StrategySpec:
        """Return the plainest strategy of this layout: what blocks cost does not depend on the rest."""
        of_file = self.setup.strategy
        batch = Batch.model_construct(global_=layout.dp * layout.micro * micro_batches, micro=layout.micro)
        split = {"sequence_parallel": layout.sequence_parallel, "interleave": 1}
        plain = {"mode": "none", "per_stage": None, "slice_activation": False}
        sharding = Zero().model_copy(
            update={"optimizer_shard": zero > 0, "level": max(1, zero), "threshold_kb": of_file.zero.threshold_kb}
        )
        return of_file.model_copy(
            update={
                "mesh": self.mesh(layout, pp),
                "batch": batch,
                "tensor": of_file.tensor.model_copy(update=split),
                "pipeline": Pipeline(),
                "zero": sharding,
                "offload": Offload(),
                "recompute": of_file.recompute.model_copy(update=plain),
                "overrides": [],
            }
        )

    def tables(self, layouts: Sequence[MeshLayout], pp: int, halves: int = 1) -> BlockTable:
        """Return the tables of these layouts, stacked. With two halves every kernel and collective runs twice, on half
        as much: in `times` only."""
        index: dict[int, int] = {}
        distinct: list[BlockTable] = []
        rows = []
        for layout in layouts:
            table = self.table(layout if halves == 1 else replace(layout, micro=layout.micro // halves), pp)
            if id(table) not in index:
                index[id(table)] = len(distinct)
                distinct.append(table)
            rows.append(index[id(table)])
        return BlockTable.stack(distinct).at(np.array(rows))

    def table(self, layout: MeshLayout, pp: int) -> BlockTable:
        """Return the table for a shard's shape and for where the groups lie over which the blocks communicate."""
        shape = (*self._shape(layout, pp), layout.micro)
        if shape not in self._axes:
            blocks = self._price(layout, pp).program.blocks.values()
            axes = {collective.axis for block in blocks for collective in block.collectives}
            self._axes[shape] = sorted(axes)
        groups = self.groups_of(layout, pp)
        key = (shape, tuple(self.network.spans(*groups.extent(axis)) for axis in self._axes[shape]))
        if key not in self._tables:
            self._tables[key] = BlockTable.of(self._price(layout, pp))
        return self._tables[key]

    def _shape(self, layout: MeshLayout, pp: int) -> tuple:
        return layout.tp, layout.cp, layout.ep, layout.etp, layout.sequence_parallel, pp > 1

    def _price(self, layout: MeshLayout, pp: int) -> Price:
        setup = self.setup.with_strategy(self.strategy(layout, pp))
        key = (*self._shape(layout, pp), layout.micro)
        known = self._prices.get(key)
        price = Price(known.program.moved_to(setup) if known else Program(setup), self.network)
        if known:
            price.kernel_times = known.kernel_times
        else:
            self._prices[key] = price
            self._programs.setdefault(self._shape(layout, pp), price.program)
        return price

    def factor(self, layout: MeshLayout, pp: int) -> float:
        """Return what a calibration multiplies the step time of this layout by."""
        residual = self.setup.residual
        if residual is None:
            return 1.0
        key = layout.tp, layout.cp, layout.micro, pp
        if key not in self._factors:
            self._factors[key] = residual.factor(self.setup.model, self.strategy(layout, pp))
        return self._factors[key]

    def traffic(self, layouts: Sequence[MeshLayout], pp: int, micro_batches: np.ndarray, zero: int) -> ZeroTraffic:
        """Return what weights and gradients of these layouts send under a level of optimizer sharding."""
        index: dict[int, int] = {}
        distinct: list[WeightBytes] = []
        rows = []
        for layout, count in zip(layouts, micro_batches.tolist(), strict=True):
            traffic = self._traffic_of(layout, pp, min(count, 2), zero)
            if id(traffic) not in index:
                index[id(traffic)] = len(distinct)
                distinct.append(traffic)
            rows.append(index[id(traffic)])
        return ZeroTraffic(distinct, np.array(rows))

    def _traffic_of(self, layout: MeshLayout, pp: int, micro_batches: int, zero: int) -> WeightBytes:
        """Return the traffic; the size of a micro-batch and where the groups lie do not matter."""
        shape = self._shape(layout, pp)
        key = (*shape, layout.dp, micro_batches, zero)
        if key not in self._traffic:
            setup = self.setup.with_strategy(self.strategy(layout, pp, zero=zero, micro_batches=micro_batches))
            if shape not in self._programs:
                self._price(layout, pp)
            self._traffic[key] = WeightBytes.of(self._programs[shape].moved_to(setup))
        return self._traffic[key]
