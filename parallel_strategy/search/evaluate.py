"""Prices every candidate of a space in closed form, all candidates with the same number of stages and chunks at once.

The formulas are those of `Prediction.closed_form_seconds` and of the memory walk, written over arrays: a test
compares them candidate by candidate.
"""

from dataclasses import dataclass

import numpy as np

from parallel_strategy.cost.kernel import smooth_maximum
from parallel_strategy.cost.memory import GIB
from parallel_strategy.graph.program import Program
from parallel_strategy.schedule.closed_form import stage_finish
from parallel_strategy.search.shapes import KINDS, Layout, Shapes, ShapeTable, Space
from parallel_strategy.spec.strategy import Question, StrategySpec, divisors, even_stages

HEAD = KINDS.index("head")
EMBEDDING = KINDS.index("embedding")
MODES = ("none", "selective", "full")


@dataclass(slots=True)
class Candidates:
    """Candidates that share stages and chunks, as parallel arrays; `layout` indexes `layouts`, `choice` indexes
    `recompute`."""

    pp: int
    chunks: int
    layouts: list[Layout]
    recompute: list[tuple[str, float]]
    schedules: list[str]
    layout: np.ndarray
    choice: np.ndarray
    schedule: np.ndarray
    zero: np.ndarray
    offload: np.ndarray
    seconds: np.ndarray
    gib: np.ndarray

    def strategy_fields(self, index: int, question: Question) -> dict:
        """The fields of strategy.yaml of one candidate."""
        layout = self.layouts[int(self.layout[index])]
        mode, share = self.recompute[int(self.choice[index])]
        stages = stage_layers(question, self.pp, self.chunks)
        zero = int(self.zero[index])
        partial = mode != "none" and share < 1.0
        return {
            "model": question.strategy.model.model_dump(exclude_none=True),
            "cluster": question.strategy.cluster.model_dump(exclude_none=True),
            "framework": question.strategy.framework,
            "batch": {"global": question.strategy.batch.global_, "micro": layout.micro},
            "mesh": {
                "pp": self.pp,
                "dp": layout.dp,
                "cp": layout.cp,
                "tp": layout.tp,
                "ep": layout.ep,
                "order": list(layout.order) or ["pp", "dp", "tp"],
            },
            "pipeline": {"schedule": self.schedules[int(self.schedule[index])], "vpp": self.chunks},
            "tensor": {"sequence_parallel": layout.sequence_parallel, "vocab": question.strategy.tensor.vocab},
            "zero": {"optimizer_shard": zero > 0, "level": max(1, zero)},
            "recompute": {
                "mode": mode,
                "per_stage": [recomputed(n, share) for n in stages] if partial else None,
                "mp_comm": question.strategy.recompute.mp_comm,
            },
            "offload": {"optimizer": bool(self.offload[index])},
        }

    def strategy(self, index: int, question: Question) -> StrategySpec:
        return StrategySpec.from_fields(self.strategy_fields(index, question), "candidate")


def recomputed(layers: int, share: float) -> int:
    return int(np.ceil(layers * share))


def stage_layers(question: Question, pp: int, chunks: int) -> list[int]:

    sizes = even_stages(question.model.num_layers, pp * chunks)
    return [sum(sizes[stage::pp]) for stage in range(pp)]


def evaluate(question: Question, space: Space) -> list[Candidates]:
    """Every candidate of the space, priced. Candidates that break a rule of the strategy file are not in it."""
    shapes = Shapes(question)
    result = []
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
            candidates = group.evaluate()
            if candidates is not None:
                result.append(candidates)
    return result


class _Group:
    """The candidates of one (stages, chunks) pair."""

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
        self.times = np.stack([table.times for table in tables])  # [layouts, phases, 3, kinds]
        self.saved, self.attention, self.entry, self.transient, self.dense, self.expert, self.partial = (
            np.stack([getattr(table, name) for table in tables])
            for name in ("saved", "attention", "entry", "transient", "dense", "expert", "partial")
        )
        self.boundary_bytes = np.array([table.boundary for table in tables])
        self.table_elements = np.array([table.table_elements for table in tables])
        self.micro_batches = np.array([space.batch // layout.dp // layout.micro for layout in layouts])
        self.counts, self.layers = self._counts()
        self.weights_groups = [self._weights_group(layout) for layout in layouts]
        self.expert_groups = [self._expert_group(layout) for layout in layouts]
        self.dense_shards = np.array([size for size, _ in self.weights_groups], dtype=float)
        self.expert_shards = np.array([size for size, _ in self.expert_groups], dtype=float)
        self.boundary = np.array([self._send(x, size) for x, size in zip(layouts, self.boundary_bytes, strict=True)])
        self.stage_dense, self.stage_expert = self._stage_elements()
        self.gathers: dict[tuple[int, str], np.ndarray] = {}

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
        layers = counts.sum(axis=-1) - counts[..., HEAD] - counts[..., EMBEDDING]
        return counts, layers

    def evaluate(self) -> Candidates | None:
        space, pp = self.space, self.pp
        schedules = [s for s in space.schedules if (s in ("interleaved", "mindspore_vpp")) == (self.chunks > 1)]
        if pp == 1:
            schedules = ["1f1b"]
        recompute = [r for r in space.recompute if self.chunks == 1 or r[1] in (0.0, 1.0)]
        if not schedules or not recompute:
            return None
        n, r, s, z, o = len(self.layouts), len(recompute), len(schedules), len(space.zero), len(space.offload)
        seconds, gib = np.full((n, r, s, z, o), np.inf), np.full((n, r, s, z, o), np.inf)
        legal = np.ones((n, s), dtype=bool)
        for index, schedule in enumerate(schedules):
            if self.chunks > 1:
                legal[:, index] = self.micro_batches % pp == 0
            elif schedule == "zb_h2":
                legal[:, index] = self.micro_batches >= 2 * pp - 1
        tails = self._tails()
        static = {(zero, offload): self._static(zero, offload) for zero in space.zero for offload in space.offload}
        for choice, (mode, share) in enumerate(recompute):
            again = np.ceil(self.layers * share) if mode != "none" else np.zeros_like(self.layers)
            memory_parts = self._activations(mode, again, schedules)
            for sharded in sorted({level == 3 for level in space.zero}):
                forward, back, weight, paced = self._stage_times(mode, again, sharded)
                for index, schedule in enumerate(schedules):
                    rows = np.flatnonzero(legal[:, index])
                    if not len(rows):
                        continue
                    finish = stage_finish(
                        schedule,
                        forward[rows],
                        back[rows],
                        weight[rows],
                        self.micro_batches[rows],
                        self.boundary[rows],
                        chunks=self.chunks,
                        paced=paced[rows],
                        blocking=not self.question.framework.p2p_overlap,
                    )
                    for level, zero in enumerate(space.zero):
                        if (zero == 3) != sharded:
                            continue
                        for host, offload in enumerate(space.offload):
                            traffic, after = self._tail_seconds(tails, zero, offload, (back + weight)[rows], rows)
                            end = (finish + traffic).max(axis=-1) + after.max(axis=-1)
                            seconds[rows, choice, index, level, host] = end
                            held = static[zero, offload][rows] + memory_parts[index][rows]
                            gib[rows, choice, index, level, host] = held.max(axis=-1) / GIB
        keep = np.flatnonzero(np.isfinite(seconds.ravel()))
        where = np.unravel_index(keep, seconds.shape)
        return Candidates(
            pp,
            self.chunks,
            self.layouts,
            recompute,
            schedules,
            where[0],
            where[1],
            where[2],
            np.array(space.zero)[where[3]],
            np.array(space.offload)[where[4]],
            seconds.ravel()[keep],
            gib.ravel()[keep] + self.question.framework.context_gib + self.question.framework.workspace_mib / 1024,
        )

    def _send(self, layout: Layout, size: float) -> float:
        if self.pp == 1:
            return 0.0
        network = self.shapes.network
        seconds = network.seconds("send", size, self.pp, self._stride(layout, "pp"))
        if self.question.framework.p2p_scatter_gather and layout.tp > 1 and not layout.sequence_parallel:
            seconds += network.seconds("all_gather", size * layout.tp, layout.tp, self._stride(layout, "tp"))
        return seconds

    def _stride(self, layout: Layout, axis: str) -> int:
        stride = 1
        sizes = {"pp": self.pp, "dp": layout.dp, "cp": layout.cp, "tp": layout.tp}
        for inner in reversed(layout.order):
            if inner == axis:
                return stride
            stride *= sizes[inner]
        return stride

    def _weights_group(self, layout: Layout) -> tuple[int, int]:
        stride = self._stride(layout, "dp")
        return layout.dp * layout.cp, min(stride, self._stride(layout, "cp")) if layout.cp > 1 else stride

    def _expert_group(self, layout: Layout) -> tuple[int, int]:
        return layout.dp * layout.cp // layout.ep, self._stride(layout, "dp") * max(1, layout.ep // layout.cp)

    def _stage_times(self, mode: str, again: np.ndarray, sharded: bool) -> tuple[np.ndarray, ...]:
        """[layouts, pp] forward, backward of activations, backward of weights: all chunks of a stage; [layouts] the
        pace of a micro-batch whose every chunk waits for its slowest stage."""
        framework = self.question.framework
        totals = [np.zeros((len(self.layouts), self.pp)) for _ in range(3)]
        paced = np.zeros(len(self.layouts))
        slowest = np.array(
            [
                1.0 + framework.jitter * np.sqrt(2.0 * np.log(layout.tp * layout.cp * layout.dp * self.pp))
                for layout in self.layouts
            ]
        )[:, None]
        layer_kinds = [i for i in range(len(KINDS)) if i not in (HEAD, EMBEDDING)]
        for chunk in range(self.chunks):
            counts = self.counts[:, chunk, :]  # [pp, kinds]
            forward = np.einsum("lck,pk->lcp", self.times[:, 0], counts)
            back = np.einsum("lck,pk->lcp", self.times[:, 3], counts)
            weight = np.einsum("lck,pk->lcp", self.times[:, 4], counts)
            if mode != "none":
                # recomputed layers are the first of a stage
                left = again[:, chunk].copy()
                phase = 1 if mode == "full" else 2
                for kind in layer_kinds:
                    taken = np.minimum(counts[:, kind], left)
                    left = left - taken
                    back = back + self.times[:, phase, :, kind, None] * taken[None, None, :]
            if sharded:
                self._add_gathers(forward, back, weight, counts, again[:, chunk], mode)
            fore = np.asarray(smooth_maximum(forward[:, 0] + forward[:, 1], forward[:, 2]))
            both_device = back[:, 0] + back[:, 1] + weight[:, 0] + weight[:, 1]
            both = np.asarray(smooth_maximum(both_device, back[:, 2] + weight[:, 2]))
            share = weight[:, 0] / np.maximum(1e-30, back[:, 0] + back[:, 1] + weight[:, 0])
            paced += (fore.max(axis=-1) + both.max(axis=-1)) * slowest[:, 0]
            totals[0] += fore * slowest
            totals[1] += both * slowest * (1 - share)
            totals[2] += both * slowest * share
        return totals[0], totals[1], totals[2], paced

    def _add_gathers(
        self,
        forward: np.ndarray,
        back: np.ndarray,
        weight: np.ndarray,
        counts: np.ndarray,
        again: np.ndarray,
        mode: str,
    ) -> None:
        """ZeRO-3 in place: weights gathered for forward and backward and gradients scattered, piece by piece."""
        framework = self.question.framework
        left = again.copy()
        for kind in range(len(KINDS)):
            if not (self.dense[:, kind] + self.expert[:, kind]).any() or not counts[:, kind].any():
                continue
            gather = self._collected(kind, "all_gather", framework.weight_bytes_sent)
            scatter = self._collected(kind, "reduce_scatter", framework.gradient_bytes_sent)
            count = counts[None, :, kind]
            taken = np.zeros_like(left)
            if kind not in (HEAD, EMBEDDING) and mode != "none":
                taken = np.minimum(counts[:, kind], left)
                left = left - taken
            phase = 1 if mode == "full" else 2
            busy = (self.times[:, 0, 0, kind] + self.times[:, 0, 1, kind])[:, None] * count
            hidden = np.minimum(gather * count * framework.gather_overlap, busy)
            forward[:, 0] += framework.interference * hidden
            forward[:, 1] += gather * count - hidden
            busy = sum((self.times[:, p, c, kind])[:, None] * count for p, c in ((3, 0), (3, 1), (4, 0)))
            busy = busy + (self.times[:, phase, 0, kind] + self.times[:, phase, 1, kind])[:, None] * taken[None, :]
            traffic = (gather + scatter) * count
            hidden = np.minimum(traffic * framework.dp_overlap, busy)
            back[:, 0] += framework.interference * hidden
            back[:, 1] += traffic - hidden

    def _collected(self, kind: int, op: str, sent: float) -> np.ndarray:
        """[layouts, 1] seconds of one collective of a block's weights, `sent` bytes each, over the ranks that share
        them."""
        if (kind, op) not in self.gathers:
            seconds = self.shapes.network.seconds
            parts = zip(self.dense[:, kind], self.weights_groups, self.expert[:, kind], self.expert_groups, strict=True)
            both = [
                seconds(op, dense * sent, *ranks) + seconds(op, expert * sent, *expert_ranks)
                for dense, ranks, expert, expert_ranks in parts
            ]
            self.gathers[kind, op] = np.array(both)[:, None]
        return self.gathers[kind, op]

    def _stage_elements(self) -> tuple[np.ndarray, np.ndarray]:
        """[layouts, pp] parameters, dense and expert."""
        return self._held(self.dense), self._held(self.expert)

    def _held(self, elements: np.ndarray) -> np.ndarray:
        """[layouts, kinds] elements of a block -> [layouts, pp] of a stage. The head counts once however often it
        runs."""
        counts = self.counts.sum(axis=1)
        counts[:, HEAD] = np.minimum(counts[:, HEAD], 1)
        return elements @ counts.T

    def _tails(self) -> dict[str, np.ndarray]:
        """[layouts, pp] seconds of every collective that a step's end may need."""
        framework, network = self.question.framework, self.shapes.network
        dense, expert = self.stage_dense, self.stage_expert
        names = ("all_reduce", "reduce_scatter", "all_gather", "apart", "apart_sharded")
        tails = {name: np.zeros_like(dense) for name in names}
        tied = self.question.model.tied_embedding and self.pp > 1
        partial = self._held(self.partial)
        for row, layout in enumerate(self.layouts):
            groups = [(dense[row], self.weights_groups[row]), (expert[row], self.expert_groups[row])]
            for elements, group in groups:
                for value in np.unique(elements):
                    if value:
                        here = elements == value
                        for op in ("all_reduce", "reduce_scatter", "all_gather"):
                            sent = framework.weight_bytes_sent if op == "all_gather" else framework.gradient_bytes_sent
                            tails[op][row, here] += network.seconds(op, value * sent, *group)
            for name, shards in (("apart", 1.0), ("apart_sharded", self.dense_shards[row])):
                sent = framework.gradient_bytes_sent / shards
                if tied:
                    stride = (self.pp - 1) * self._stride(layout, "pp")
                    seconds = network.seconds("all_reduce", self.table_elements[row] * sent, 2, stride)
                    tails[name][row, [0, -1]] = seconds
                for stage, elements in enumerate(partial[row]):
                    group = layout.tp, self._stride(layout, "tp")
                    tails[name][row, stage] += network.seconds("all_reduce", elements * sent, *group)
        tails["dense"], tails["expert"] = dense, expert
        return tails

    def _tail_seconds(
        self, tails: dict[str, np.ndarray], zero: int, offload: bool, backward: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """[rows, pp]: what each stage adds to its own finish, and what follows once all are done."""
        framework, cluster = self.question.framework, self.question.cluster
        traffic, gather = np.zeros_like(backward), np.zeros_like(backward)
        if zero == 0:
            traffic = tails["all_reduce"][rows]
        elif zero < 3:
            traffic, gather = tails["reduce_scatter"][rows], tails["all_gather"][rows]
        room = backward
        if zero == 2:
            traffic = traffic * self.micro_batches[rows, None]
            room = backward * self.micro_batches[rows, None]
        hidden = np.minimum(framework.dp_overlap * traffic, room)
        hidden_gather = framework.gather_overlap * gather
        dense_shards, expert_shards = self._shards(zero > 0)
        owned = tails["dense"][rows] / dense_shards[rows, None] + tails["expert"][rows] / expert_shards[rows, None]
        hbm, host = cluster.device.hbm, cluster.host
        update = owned * framework.optimizer_bytes_per_parameter / (hbm.gbps * 1e9 * hbm.eff)
        if offload:
            copied = owned * (framework.gradient_bytes_sent + framework.weight_bytes_sent)
            per_server = min(cluster.devices_per_server, self.space.devices)
            update = copied / (host.h2d_gbps * 1e9) + owned * 28 * per_server / (host.adam_gbps * 1e9)
        fixed = framework.step_overhead_ms * 1e-3 * host.launch_scale
        apart = tails["apart_sharded" if zero >= 2 else "apart"][rows]
        first = traffic - hidden + framework.interference * hidden + apart
        return first, update + gather - hidden_gather + framework.interference * hidden_gather + fixed

    def _shards(self, sharded: bool) -> tuple[np.ndarray, np.ndarray]:
        if not sharded:
            return np.ones(len(self.layouts)), np.ones(len(self.layouts))
        return self.dense_shards, self.expert_shards

    def _static(self, zero: int, offload: bool) -> np.ndarray:
        """[layouts, pp] bytes of weights, gradients, optimizer and buffers."""
        framework = self.question.framework
        dense, expert = self.stage_dense, self.stage_expert
        shards = self._shards(True)
        parts = np.zeros_like(dense)
        for elements, size in ((dense, shards[0][:, None]), (expert, shards[1][:, None])):
            parts = parts + elements / (size if zero >= 3 else 1) * framework.weight_bytes
            parts = parts + elements / (size if zero >= 2 else 1) * framework.gradient_bytes
            if not offload:
                parts = parts + elements / (size if zero >= 1 else 1) * (
                    framework.master_bytes + framework.moment_bytes
                )
        if zero >= 3:
            largest = (self.dense + self.expert).max(axis=1)
            parts = parts + 2 * largest[:, None] * framework.weight_bytes
        if self.pp > 1:
            parts = parts + 2 * self.boundary_bytes[:, None]
        return parts

    def _activations(self, mode: str, again: np.ndarray, schedules: list[str]) -> list[np.ndarray]:
        """[layouts, pp] bytes of activations at the fullest moment, for each schedule."""
        kept = np.zeros((len(self.layouts), self.pp, self.chunks))
        working = np.zeros_like(kept)
        layer_kinds = [i for i in range(len(KINDS)) if i not in (HEAD, EMBEDDING)]
        for chunk in range(self.chunks):
            counts = self.counts[:, chunk, :]
            kept[:, :, chunk] = self.saved @ counts.T
            left = again[:, chunk].copy()
            for kind in range(len(KINDS)):
                present = counts[:, kind] > 0
                taken = np.zeros(self.pp)
                if kind in layer_kinds and mode != "none":
                    taken = np.minimum(counts[:, kind], left)
                    left = left - taken
                dropped = self.saved[:, kind] - self.entry[:, kind] if mode == "full" else self.attention[:, kind]
                kept[:, :, chunk] -= dropped[:, None] * taken[None, :]
                rerun = self.saved[:, kind] if mode == "full" else self.attention[:, kind]
                need = np.where(taken > 0, rerun[:, None], 0.0) + self.transient[:, kind][:, None]
                working[:, :, chunk] = np.maximum(working[:, :, chunk], np.where(present, need, 0.0))
        lost = 1.0 + self.question.framework.fragmentation
        stages = np.arange(self.pp)
        m = self.micro_batches[:, None]
        result = []
        for schedule in schedules:
            if self.chunks > 1:
                ahead = (self.pp - stages - 1) * 2 + (self.chunks - 1) * self.pp + 1
                full = np.where(m == self.pp, m * self.chunks, np.minimum(ahead, m * self.chunks))
                result.append(lost * (_interleaved_kept(kept, full, self.pp) + working.max(axis=-1)))
                continue
            if schedule == "gpipe":
                flying = m + np.zeros(self.pp)
            elif schedule == "zb_h2":
                flying = np.minimum(m, np.full(self.pp, 2 * self.pp - 1)[None, :])
            elif schedule == "zb_h1":
                flying = np.minimum(m, np.full(self.pp, self.pp)[None, :])
            else:
                flying = np.minimum(m, (self.pp - stages)[None, :])
            result.append(lost * (kept[:, :, 0] * flying + working[:, :, 0]))
        return result


def _interleaved_kept(kept: np.ndarray, flying: np.ndarray, pp: int) -> np.ndarray:
    """Bytes of the chunks in flight: rounds of pp micro-batches through the stage's chunks, first chunk first."""
    chunks = kept.shape[-1]
    total = np.zeros(kept.shape[:2])
    rounds, rest = np.divmod(flying, pp * chunks)
    for chunk in range(chunks):
        here = rounds * pp + np.clip(rest - chunk * pp, 0, pp)
        total += here * kept[:, :, chunk]
    return total
