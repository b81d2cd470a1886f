"""Prices every candidate of a space in closed form, all candidates with the same number of stages and chunks at once.

Every number comes from the formulas that `Prediction` asks too, here over thousands of candidates.

Exhaustive are layouts, micro-batches, two halves, schedules, chunks, recomputation, optimizer sharding and the
optimizer's place. Two halves are left out where no collective could hide behind the other half. Activations that are
copied to the host cost time and never save any, so such a candidate is priced only where its twin on the device does
not fit and is faster than the fastest that does: all others lose, whatever copying costs.
"""

from collections.abc import Sequence

import numpy as np

from parallel_strategy.cost.candidate_arrays import CostRows
from parallel_strategy.cost.memory import activation_gib, at_the_fullest, host_gib, kept_bytes, working_bytes
from parallel_strategy.cost.stage_time import (
    StageSeconds,
    WeightSeconds,
    chunk_seconds,
    engine_seconds,
    phases,
    stage_seconds,
)
from parallel_strategy.cost.step_end import StepTail, StepTraffic, gradients_end, gradients_exposed, update_end
from parallel_strategy.graph.stages import Places
from parallel_strategy.schedule.closed_form import stage_finish
from parallel_strategy.schedule.orders import splits_backward
from parallel_strategy.search.candidates import Candidates, recomputed_layers
from parallel_strategy.search.shapes import MeshLayout, Shapes, Space
from parallel_strategy.spec.strategy import Setup, divisors


def evaluate(setup: Setup, space: Space, limits: Sequence[float] = ()) -> list[Candidates]:
    """Return every candidate of the space, priced. Candidates that break a rule of the strategy file are not in it.

    `limits`: GiB within which the fastest candidate is wanted, the device's first; for these, activations on the host
    are tried.
    """
    shapes = Shapes(setup, space.devices)
    groups: list[_Group] = []
    for pp in divisors(space.devices):
        if (space.pp and pp not in space.pp) or pp > setup.model.num_layers:
            continue
        layouts = space.layouts(setup, pp)
        if not layouts:
            continue
        for chunks in space.chunks if pp > 1 else [1]:
            if chunks > 1 and setup.model.num_layers % (pp * chunks):
                continue
            if space.schedules_of(pp, chunks) and space.recompute_of(chunks):
                group = _Group(setup, space, shapes, pp, chunks, layouts)
                group.price(0.0)
                groups.append(group)
    for share in sorted(share for share in space.activation if share):
        fastest = [(limit, min((group.fastest(limit) for group in groups), default=np.inf)) for limit in limits]
        for group in groups:
            group.price(share, group.worth_moving(fastest))
    roomy = limits[0] if limits else 0.0
    return [candidates for group in groups if len((candidates := group.candidates(roomy)).seconds)]


class _Group:
    """The candidates of one (stages, chunks) pair. Priced arrays are [layout, recompute, halves, schedule, zero,
    optimizer on the host]."""

    def __init__(
        self,
        setup: Setup,
        space: Space,
        shapes: Shapes,
        pp: int,
        chunks: int,
        layouts: list[MeshLayout],
    ) -> None:
        self.setup, self.space, self.shapes, self.pp, self.chunks = setup, space, shapes, pp, chunks
        self.layouts = layouts
        self.schedules, self.recompute = space.schedules_of(pp, chunks), space.recompute_of(chunks)
        self.micro_batches = np.array([space.batch // layout.dp // layout.micro for layout in layouts])
        self.places = [self._places(mode, part) for mode, part in self.recompute]
        self.rows = CostRows(
            setup.framework,
            setup.cluster,
            shapes.network,
            setup.model.compute_dtype,
            [shapes.groups_of(layout, pp) for layout in layouts],
            shapes.tables(layouts, pp),
            self.micro_batches,
            self.places[0].held,
        )
        self.levels = {zero: _Level(self, zero) for zero in space.zero}
        self.factors = np.array([shapes.factor(layout, pp) for layout in layouts])
        self.legal = self._legal()
        self.times = {1: self.rows.table.times}  # by halves of a micro-batch
        for index, halves in enumerate(space.interleave):
            if halves > 1:
                able = np.flatnonzero(self.legal[:, index].any(axis=-1))
                self.times[halves] = self.rows.table.times.copy()
                if len(able):
                    halved = shapes.tables([layouts[row] for row in able], pp, halves)
                    self.times[halves][able] = halves * halved.times
        self.priced: list[tuple[float, np.ndarray, np.ndarray]] = []  # share on the host, seconds, GiB

    def _places(self, mode: str, share: float) -> Places:
        """Return where the blocks lie, with this share of each stage's layers computed again."""
        layout = MeshLayout(1, 1, 1, 1, 1, False, ("pp",))
        strategy = self.shapes.strategy(layout, self.pp)
        schedule = "interleaved" if self.chunks > 1 else "1f1b"
        pipeline = strategy.pipeline.model_copy(update={"vpp": self.chunks, "schedule": schedule})
        again = {"mode": mode, "per_stage": recomputed_layers(self.setup, self.pp, self.chunks, mode, share)}
        recompute = strategy.recompute.model_copy(update=again)
        changed = strategy.model_copy(update={"pipeline": pipeline, "recompute": recompute})
        return Places.of(self.setup.model, changed)

    def _legal(self) -> np.ndarray:
        """Return [layouts, halves, schedules]: which pairs keep the rules of the strategy file."""
        legal = np.ones((len(self.layouts), len(self.space.interleave), len(self.schedules)), dtype=bool)
        for index, schedule in enumerate(self.schedules):
            if self.chunks > 1:
                legal[:, :, index] = (self.micro_batches % self.pp == 0)[:, None]
            elif schedule == "zb_h2":
                legal[:, :, index] = (self.micro_batches >= 2 * self.pp - 1)[:, None]
        for index, halves in enumerate(self.space.interleave):
            if halves > 1:
                able = [x.micro % halves == 0 and x.tp * x.cp * x.ep > 1 for x in self.layouts]
                legal[:, index] &= np.array(able)[:, None]
        return legal

    @property
    def shape(self) -> tuple[int, ...]:
        space = self.space
        choices: list[list] = [self.recompute, space.interleave, self.schedules, space.zero, space.offload]
        return (len(self.layouts), *map(len, choices))

    def price(self, share: float, wanted: np.ndarray | None = None) -> None:
        """Price all candidates that keep `share` of their activations on the host, or those that are `wanted`."""
        if wanted is not None and not wanted.any():
            return
        space, table = self.space, self.rows.table
        seconds, gib = np.full(self.shape, np.inf), np.full(self.shape, np.inf)
        for choice, (mode, _) in enumerate(self.recompute):
            if wanted is not None and not wanted[:, choice].any():
                continue
            places = self.places[choice]
            overflows = self._weigh(gib[:, choice], places, mode, share)
            copied = share * kept_bytes(table.saved, table, places, mode) / (self.setup.cluster.host.h2d_gbps * 1e9)
            for half, halves in enumerate(space.interleave):
                for sharded in sorted({zero == 3 for zero in space.zero}):
                    levels = [level for level, zero in enumerate(space.zero) if (zero == 3) == sharded]
                    rows_of = [self._rows(choice, half, index, levels, wanted) for index in range(len(self.schedules))]
                    if not any(map(len, rows_of)):
                        continue
                    weights = self.levels[3].sharded if sharded else None
                    times = self._stage_seconds(mode, places, weights, halves, copied)
                    apart = dict.fromkeys(splits_backward(name) and self.pp > 1 for name in self.schedules)
                    tails = {
                        split: {level: self.levels[space.zero[level]].gradients(times, split=split) for level in levels}
                        for split in apart
                    }
                    for index, schedule in enumerate(self.schedules):
                        if len(rows_of[index]):
                            here = seconds[:, choice, half, index]
                            of_schedule = tails[splits_backward(schedule) and self.pp > 1]
                            self._fill_step_seconds(here, schedule, times, rows_of[index], of_schedule)
            seconds[:, choice] *= self.factors[:, None, None, None, None]
            seconds[:, choice][overflows] = np.inf
        if wanted is not None:
            seconds[~wanted] = np.inf
        self.priced.append((share, seconds, gib))

    def _weigh(self, gib: np.ndarray, places: Places, mode: str, share: float) -> np.ndarray:
        """Fill in GiB of the fullest stage, [layout, halves, schedule, zero, optimizer on the host]. Return which of
        them a server's own memory cannot hold."""
        table, framework = self.rows.table, self.setup.framework
        kept = kept_bytes(table.kept, table, places, mode) * (1.0 - share)
        working = working_bytes(table, places, mode)
        moved = kept_bytes(table.kept, table, places, mode) * share
        cluster, devices = self.setup.cluster, self.space.devices
        overflows = np.zeros(gib.shape, dtype=bool)
        for index, schedule in enumerate(self.schedules):
            fullest = at_the_fullest(schedule, places, kept, working, self.micro_batches)
            moving = np.add(*activation_gib(framework, *fullest))
            on_host, _ = at_the_fullest(schedule, places, moved, np.zeros_like(moved), self.micro_batches)
            for level, zero in enumerate(self.space.zero):
                for host, offload in enumerate(self.space.offload):
                    of_level = self.levels[zero]
                    gib[:, :, index, level, host] = (of_level.empty[offload] + moving).max(axis=-1)[:, None]
                    if share or offload:
                        there = host_gib(cluster, devices, of_level.resident[offload], on_host)
                        overflows[:, :, index, level, host] = (there > cluster.host.dram_gb)[:, None]
        return overflows

    def _stage_seconds(
        self, mode: str, places: Places, sharded: WeightSeconds | None, halves: int, copied: np.ndarray
    ) -> StageSeconds:
        parts = phases(self.times[halves], places, mode, self.setup.framework, sharded=sharded, two_halves=halves > 1)
        engine = engine_seconds(self.setup.framework, self.pp, self.chunks)
        return stage_seconds(chunk_seconds(parts, self.rows.slowest, copied, engine), places)

    def _fill_step_seconds(
        self,
        seconds: np.ndarray,
        schedule: str,
        times: StageSeconds,
        rows: np.ndarray,
        tails: dict[int, np.ndarray],
    ) -> None:
        """Fill in the seconds of a step of these layouts, [layout, zero, optimizer on the host]."""
        finish = stage_finish(
            schedule,
            times.forward[rows],
            times.backward_input[rows],
            times.backward_weight[rows],
            self.micro_batches[rows],
            self.rows.boundary[rows],
            chunks=self.chunks,
            paced=times.paced[rows],
            blocking=not self.setup.framework.p2p_overlap,
        )
        for level, tail in tails.items():
            done = gradients_end(finish, tail[rows])
            seconds[rows, level] = done[:, None] + self.levels[self.space.zero[level]].after[rows]

    def _rows(self, choice: int, half: int, schedule: int, levels: list[int], wanted: np.ndarray | None) -> np.ndarray:
        """Return layouts that need pricing with these choices."""
        rows = self.legal[:, half, schedule]
        if wanted is not None:
            rows = rows & wanted[:, choice, half, schedule, levels].any(axis=(1, 2))
        return np.flatnonzero(rows)

    def fastest(self, limit: float) -> float:
        """Return the seconds of the fastest candidate so far that fits into `limit` GiB."""
        return min(float(seconds[gib <= limit].min(initial=np.inf)) for _, seconds, gib in self.priced)

    def worth_moving(self, fastest: list[tuple[float, float]]) -> np.ndarray:
        """Return which candidates could be the fastest within one of the limits with activations on the host: those
        that do not fit and would be faster if they did."""
        _, seconds, gib = self.priced[0]
        wanted = np.zeros(self.shape, dtype=bool)
        for limit, best in fastest:
            wanted |= (gib > limit) & (seconds < best)
        return wanted

    def candidates(self, limit: float) -> Candidates:
        """Return all that were priced, as flat arrays. `limit`: GiB of the device."""
        parts = []
        for share, seconds, gib in self.priced:
            keep = np.flatnonzero(np.isfinite(seconds.ravel()))
            where = np.unravel_index(keep, seconds.shape)
            needed = self.priced[0][2].ravel()[keep] > limit if share else np.ones(len(keep), dtype=bool)
            parts.append((*where, np.full(len(keep), share), needed, seconds.ravel()[keep], gib.ravel()[keep]))
        layout, choice, half, schedule, level, host, on_host, needed, seconds, gib = map(
            np.concatenate, zip(*parts, strict=True)
        )
        space = self.space
        return Candidates(
            self.pp,
            self.chunks,
            self.layouts,
            self.recompute,
            self.schedules,
            layout,
            choice,
            np.array(space.interleave)[half],
            schedule,
            np.array(space.zero)[level],
            np.array(space.offload)[host],
            on_host,
            needed,
            seconds,
            gib,
        )


class _Level:
    """One level of optimizer sharding for the layouts of a group: what does not depend on their other choices."""

    def __init__(self, group: _Group, zero: int) -> None:
        self.group, self.zero = group, zero
        rows, offload = group.rows, group.space.offload
        traffic = group.shapes.traffic(group.layouts, group.pp, group.micro_batches, zero)
        self.traffic: StepTraffic = rows.traffic(traffic)
        self.sharded: WeightSeconds | None = rows.sharded(traffic) if zero == 3 else None
        nothing = np.zeros((1, 1))
        self.resident = {host: rows.resident(traffic, zero=zero, host_optimizer=host) for host in offload}
        # [layout, stage] GiB without activations, by whether the optimizer is on the host
        self.empty = {
            host: np.asarray(part.with_activations(rows.framework, nothing, nothing).resident)
            for host, part in self.resident.items()
        }
        tails: list[StepTail] = [rows.tail_after(traffic, self.traffic, host_optimizer=host) for host in offload]
        # [layout, optimizer on the host] seconds from the last stage's gradients on
        self.after = np.stack([update_end(tail) for tail in tails], axis=-1)

    def gradients(self, times: StageSeconds, *, split: bool) -> np.ndarray:
        """Return [layout, stage] seconds from a stage's last task to its gradients. `split`: gradients of weights are
        tasks of their own."""
        framework, m = self.group.setup.framework, self.group.micro_batches
        weight = times.backward_weight if split else None
        exposed, _ = gradients_exposed(
            framework, self.traffic, times.backward, m, zero=self.zero, chunks=self.group.chunks, weight=weight
        )
        return exposed + self.traffic.apart
