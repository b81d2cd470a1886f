"""Prices every candidate of a space in closed form, all candidates with the same number of stages and chunks at once.

The formulas are those of `Prediction.closed_form_seconds` and of the memory walk, written over arrays: a test
compares them candidate by candidate.

Exhaustive are layouts, micro-batches, two halves, schedules, chunks, recomputation, optimizer sharding and the
optimizer's place. Two halves are left out where no collective could hide behind the other half. Activations that are
copied to the host cost time and never save any, so such a candidate is priced only where its twin on the device does
not fit and is faster than the fastest that does: all others lose, whatever copying costs.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from parallel_strategy.cost.kernel import smooth_maximum
from parallel_strategy.cost.memory import GIB
from parallel_strategy.graph.program import Program
from parallel_strategy.schedule.closed_form import stage_finish
from parallel_strategy.search.activations import LAYERS, Activations
from parallel_strategy.search.candidates import Candidates
from parallel_strategy.search.shapes import KINDS, Layout, Shapes, ShapeTable, Space
from parallel_strategy.search.step_end import StepEnd
from parallel_strategy.spec.strategy import Question, divisors


def evaluate(question: Question, space: Space, limits: Sequence[float] = ()) -> list[Candidates]:
    """Every candidate of the space, priced. Candidates that break a rule of the strategy file are not in it.

    `limits`: GiB within which the fastest candidate is wanted, the device's first; for these, activations on the host
    are tried.
    """
    shapes = Shapes(question)
    groups: list[_Group] = []
    for pp in divisors(space.devices):
        if (space.pp and pp not in space.pp) or pp > question.model.num_layers:
            continue
        layouts = space.layouts(question, pp)
        if not layouts:
            continue
        tables = [shapes.table(layout, pp) for layout in layouts]
        for chunks in space.chunks if pp > 1 else [1]:
            if chunks > 1 and question.model.num_layers % (pp * chunks):
                continue
            group = _Group(question, space, shapes, pp, chunks, layouts, tables)
            if group.schedules and group.recompute:
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
        question: Question,
        space: Space,
        shapes: Shapes,
        pp: int,
        chunks: int,
        layouts: list[Layout],
        tables: list[ShapeTable],
    ) -> None:
        self.question, self.space, self.shapes, self.pp, self.chunks = question, space, shapes, pp, chunks
        self.layouts = layouts
        chunked = [s for s in space.schedules if (s in ("interleaved", "mindspore_vpp")) == (chunks > 1)]
        self.schedules = ["1f1b"] if pp == 1 else chunked
        self.recompute = [choice for choice in space.recompute if chunks == 1 or choice[1] in (0.0, 1.0)]
        # {halves of a micro-batch: [layouts, phases, 3, kinds]}
        self.times = {1: np.stack([table.times for table in tables])}
        self.micro_batches = np.array([space.batch // layout.dp // layout.micro for layout in layouts])
        self.counts, self.layers = self._counts()
        self.ends = StepEnd(
            question, space.devices, shapes.network, pp, layouts, tables, self.micro_batches, self.counts
        )
        lost = 1.0 + question.framework.fragmentation
        self.activations = Activations(tables, self.counts, self.micro_batches, lost)
        jitter = question.framework.jitter
        self.slowest = np.array([1.0 + jitter * np.sqrt(2.0 * np.log(x.tp * x.cp * x.dp * pp)) for x in layouts])
        self.legal = self._legal()
        for index, halves in enumerate(space.interleave):
            if halves > 1:
                able = self.legal[:, index].any(axis=-1)
                self.times[halves] = np.stack(
                    [
                        halves * shapes.table(replace(x, micro=x.micro // halves), pp).times if right else table.times
                        for x, table, right in zip(layouts, tables, able, strict=True)
                    ]
                )
        self.priced: list[tuple[float, np.ndarray, np.ndarray]] = []  # share on the host, seconds, GiB

    def _counts(self) -> tuple[np.ndarray, np.ndarray]:
        """[stage, chunk, kind] blocks, and [stage, chunk] transformer layers, as the program lays them out."""
        layout = Layout(1, 1, 1, 1, 1, False, ("pp",))
        question = self.shapes.question_of(layout, self.pp)
        pipeline = question.strategy.pipeline.model_copy(
            update={"vpp": self.chunks, "schedule": "interleaved" if self.chunks > 1 else "1f1b"}
        )
        strategy = question.strategy.model_copy(update={"pipeline": pipeline})
        program = Program(Question.model_construct(**{**question.__dict__, "strategy": strategy}))
        counts = np.zeros((self.pp, self.chunks, len(KINDS)))
        for chunk in program.chunks:
            for piece in chunk.pieces:
                counts[chunk.stage, chunk.index // self.pp, KINDS.index(piece.block.kind)] += piece.count
        return counts, counts[..., LAYERS].sum(axis=-1)

    def _legal(self) -> np.ndarray:
        """[layouts, halves, schedules]: which pairs keep the rules of the strategy file."""
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
        space, ends = self.space, self.ends
        seconds, gib = np.full(self.shape, np.inf), np.full(self.shape, np.inf)
        static = {(zero, host): ends.static(zero, host) for zero in space.zero for host in space.offload}
        after = {(zero, host): ends.after(zero, host) for zero in space.zero for host in space.offload}
        beside = self.question.framework.context_gib + self.question.framework.workspace_mib / 1024
        for choice, (mode, part) in enumerate(self.recompute):
            if wanted is not None and not wanted[:, choice].any():
                continue
            again = np.ceil(self.layers * part) if mode != "none" else np.zeros_like(self.layers)
            kept, working = self.activations.of_a_micro_batch(mode, again)
            for index, schedule in enumerate(self.schedules):
                held = self.activations.at_the_peak(schedule, kept * (1.0 - share), working)
                for level, zero in enumerate(space.zero):
                    for host, offload in enumerate(space.offload):
                        total = (static[zero, offload] + held).max(axis=-1) / GIB + beside
                        gib[:, choice, :, index, level, host] = total[:, None]
            for half, halves in enumerate(space.interleave):
                for sharded in sorted({zero == 3 for zero in space.zero}):
                    levels = [level for level, zero in enumerate(space.zero) if (zero == 3) == sharded]
                    rows_of = [self._rows(choice, half, index, levels, wanted) for index in range(len(self.schedules))]
                    if not any(map(len, rows_of)):
                        continue
                    forward, back, weight, paced = self._stage_times(mode, again, sharded, halves, share * kept)
                    for index, schedule in enumerate(self.schedules):
                        rows = rows_of[index]
                        if not len(rows):
                            continue
                        finish = stage_finish(
                            schedule,
                            forward[rows],
                            back[rows],
                            weight[rows],
                            self.micro_batches[rows],
                            ends.boundary[rows],
                            chunks=self.chunks,
                            paced=paced[rows],
                            blocking=not self.question.framework.p2p_overlap,
                        )
                        backward = (back + weight)[rows]
                        for level in levels:
                            zero = space.zero[level]
                            done = (finish + ends.first(zero, backward, rows)).max(axis=-1)
                            for host, offload in enumerate(space.offload):
                                seconds[rows, choice, half, index, level, host] = done + after[zero, offload][rows]
        if wanted is not None:
            seconds[~wanted] = np.inf
        self.priced.append((share, seconds, gib))

    def _rows(self, choice: int, half: int, schedule: int, levels: list[int], wanted: np.ndarray | None) -> np.ndarray:
        """Layouts that need pricing with these choices."""
        rows = self.legal[:, half, schedule]
        if wanted is not None:
            rows = rows & wanted[:, choice, half, schedule, levels].any(axis=(1, 2))
        return np.flatnonzero(rows)

    def fastest(self, limit: float) -> float:
        """Seconds of the fastest candidate so far that fits into `limit` GiB."""
        return min(float(seconds[gib <= limit].min(initial=np.inf)) for _, seconds, gib in self.priced)

    def worth_moving(self, fastest: list[tuple[float, float]]) -> np.ndarray:
        """Which candidates could be the fastest within one of the limits with activations on the host: those that do
        not fit and would be faster if they did."""
        _, seconds, gib = self.priced[0]
        wanted = np.zeros(self.shape, dtype=bool)
        for limit, best in fastest:
            wanted |= (gib > limit) & (seconds < best)
        return wanted

    def candidates(self, limit: float) -> Candidates:
        """All that were priced, as flat arrays. `limit`: GiB of the device."""
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

    def _stage_times(
        self, mode: str, again: np.ndarray, sharded: bool, halves: int, moved: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """[layouts, pp] forward, backward of activations, backward of weights: all chunks of a stage; [layouts] the
        pace of a micro-batch whose every chunk waits for its slowest stage."""
        totals = [np.zeros((len(self.layouts), self.pp)) for _ in range(3)]
        paced = np.zeros(len(self.layouts))
        slowest = self.slowest[:, None]
        for chunk in range(self.chunks):
            forward, back, weight = self._phases(self.counts[:, chunk, :], again[:, chunk], mode, sharded, halves)
            fore = np.asarray(smooth_maximum(forward[:, 0] + forward[:, 1], forward[:, 2]))
            both_device = back[:, 0] + back[:, 1] + weight[:, 0] + weight[:, 1]
            both = np.asarray(smooth_maximum(both_device, back[:, 2] + weight[:, 2]))
            copied = moved[:, :, chunk] / (self.question.cluster.host.h2d_gbps * 1e9)
            if copied.any():
                fore, both = np.maximum(fore, copied), np.maximum(both, copied)
            part = weight[:, 0] / np.maximum(1e-30, back[:, 0] + back[:, 1] + weight[:, 0])
            paced += (fore.max(axis=-1) + both.max(axis=-1)) * self.slowest
            totals[0] += fore * slowest
            totals[1] += both * slowest * (1 - part)
            totals[2] += both * slowest * part
        return totals[0], totals[1], totals[2], paced

    def _phases(
        self, counts: np.ndarray, again: np.ndarray, mode: str, sharded: bool, halves: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """[layouts, (device, tensor, host), pp] of forward, backward of activations and backward of weights of one
        chunk. `counts`: [pp, kinds]."""
        totals = [np.zeros((len(self.layouts), 3, self.pp)) for _ in range(3)]
        times = self.times[halves]
        left = again.copy()  # recomputed layers are the first of a stage
        for kind in range(len(KINDS)):
            stages = np.flatnonzero(counts[:, kind])
            if not len(stages):
                continue
            count = counts[stages, kind]
            forward, back, weight = (times[:, phase, :, kind, None] * count for phase in (0, 3, 4))
            if kind in LAYERS and mode != "none":
                taken = np.minimum(count, left[stages])
                left[stages] -= taken
                back = back + times[:, 1 if mode == "full" else 2, :, kind, None] * taken
            if sharded:
                self._gather(kind, count, forward, back, weight)
            if halves > 1:
                forward, back = (self._interleaved(cost, count) for cost in (forward, back))
            for total, part in zip(totals, (forward, back, weight), strict=True):
                total[:, :, stages] += part
        return totals[0], totals[1], totals[2]

    def _gather(self, kind: int, count: np.ndarray, forward: np.ndarray, back: np.ndarray, weight: np.ndarray) -> None:
        """ZeRO-3 in place: a kind's weights gathered for forward and backward and its gradients scattered."""
        framework = self.question.framework
        gather = self.ends.gathered(kind, "all_gather", framework.weight_bytes_sent) * count
        scatter = self.ends.gathered(kind, "reduce_scatter", framework.gradient_bytes_sent) * count
        hidden = np.minimum(gather * framework.gather_overlap, forward[:, 0] + forward[:, 1])
        forward[:, 0] += framework.interference * hidden
        forward[:, 1] += gather - hidden
        traffic = gather + scatter
        hidden = np.minimum(traffic * framework.dp_overlap, back[:, 0] + back[:, 1] + weight[:, 0])
        back[:, 0] += framework.interference * hidden
        back[:, 1] += traffic - hidden

    def _interleaved(self, cost: np.ndarray, count: np.ndarray) -> np.ndarray:
        """Collectives of one half beside the computation of the other, but for the first and the last of a run."""
        hidden = np.minimum(cost[:, 1] * (1.0 - 0.5 / np.maximum(1.0, count)), cost[:, 0])
        interference = self.question.framework.interference
        return np.stack([cost[:, 0] + interference * hidden, cost[:, 1] - hidden, cost[:, 2]], axis=1)
