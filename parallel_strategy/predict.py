"""Time and memory of one setup: the program, its price, its schedule replayed, its memory at the fullest."""

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np

from parallel_strategy.cost.block_table import BlockTable
from parallel_strategy.cost.candidate_arrays import CostRows, ZeroTraffic
from parallel_strategy.cost.collective import Network
from parallel_strategy.cost.memory import (
    Resident,
    StageMemory,
    at_the_fullest,
    host_gib,
    kept_bytes,
    usable_gib,
    walk,
    working_bytes,
)
from parallel_strategy.cost.price import Price
from parallel_strategy.cost.stage_time import (
    ChunkSeconds,
    Phases,
    StageSeconds,
    chunk_seconds,
    engine_seconds,
    phases,
    stage_seconds,
)
from parallel_strategy.cost.step_end import StepTail, StepTraffic, gradients_end, gradients_exposed, update_end
from parallel_strategy.cost.weight_traffic import BETWEEN, WeightBytes
from parallel_strategy.graph.program import Program
from parallel_strategy.graph.stages import LAYERS, SLOTS, Places
from parallel_strategy.graph.weight_collectives import Holding, gradient_collectives
from parallel_strategy.schedule.closed_form import CLOSED, stage_finish
from parallel_strategy.schedule.orders import Order, Task, order_of, splits_backward
from parallel_strategy.schedule.simulate import Replay, replay
from parallel_strategy.spec.strategy import Setup

FOUR_OF_FIVE = 1.2816  # standard deviations within which 80 % of a normal distribution lie


@dataclass(frozen=True, slots=True)
class ChunkTime:
    """Seconds of one chunk for one micro-batch: forward, backward of activations (with recomputation), of weights."""

    forward: float
    backward_input: float
    backward_weight: float

    @property
    def backward(self) -> float:
        return self.backward_input + self.backward_weight


@dataclass(frozen=True, slots=True)
class StageSummary:
    """One pipeline stage: seconds of one micro-batch, its tail, its memory in GiB."""

    stage: int
    layers: int
    forward: float
    backward: float
    tail: StepTail
    memory: StageMemory


class Prediction:
    """A priced setup. Everything is computed when it is asked for, as arrays of one candidate."""

    def __init__(self, setup: Setup, *, program: Program | None = None, network: Network | None = None) -> None:
        self.setup = setup
        self.program = program or Program(setup)
        self.price = Price(self.program, network)

    def with_figures(self, setup: Setup) -> "Prediction":
        """Return the same program at other prices: `setup` differs in figures of cluster and framework only, links
        excepted."""
        return Prediction(setup, program=self.program.moved_to(setup), network=self.price.network)

    @cached_property
    def places(self) -> Places:
        by_layer = bool(self.price.overrides)  # which may name single layers
        return Places.of(self.setup.model, self.setup.strategy, by_layer=by_layer)

    @cached_property
    def rows(self) -> CostRows:
        setup = self.setup
        return CostRows(
            setup.framework,
            setup.cluster,
            self.price.network,
            setup.model.compute_dtype,
            [self.program.groups],
            BlockTable.stack([BlockTable.of(self.price)]),
            np.array([setup.strategy.micro_batches]),
            self.places.held,
            setup.strategy.zero.weight_shard_size,
        )

    @cached_property
    def zero_traffic(self) -> ZeroTraffic:
        return ZeroTraffic([WeightBytes.of(self.program)], np.array([0]))

    @cached_property
    def phases(self) -> Phases:
        """Return the phases of each distinct place."""
        strategy = self.setup.strategy
        return phases(
            self.rows.table.times,
            self.places,
            strategy.recompute.mode,
            self.setup.framework,
            sharded=self.rows.sharded(self.zero_traffic) if strategy.zero.stage >= 3 else None,
            two_halves=self.price.two_halves,
            overrides=self.overrides,
        )

    @cached_property
    def overrides(self) -> np.ndarray | None:
        """Return [place, slot] seconds that overridden operators add, forward and backward."""
        seconds = self.price.overrides
        if not seconds:
            return None
        added = np.zeros_like(self.places.counts)
        for place, runs in enumerate(self.places.runs):
            for run in runs:
                if run.slot in LAYERS:
                    parts: list[int | str] = [run.first + layer for layer in range(run.count)]
                else:
                    parts = [run.slot]
                added[place, SLOTS.index(run.slot)] = sum(seconds.get(part, 0.0) for part in parts)
        return added

    @cached_property
    def place_seconds(self) -> ChunkSeconds:
        engine = engine_seconds(self.setup.framework, self.program.pp, self.program.chunks_per_stage)
        return chunk_seconds(self.phases, self.rows.slowest, self.copied, engine)

    @cached_property
    def stage_seconds(self) -> StageSeconds:
        return stage_seconds(self.place_seconds, self.places)

    @cached_property
    def copied(self) -> np.ndarray:
        """Return [1, place] seconds of copying a chunk's share of saved activations to the host, or back."""
        table, strategy = self.rows.table, self.setup.strategy
        saved = kept_bytes(table.saved, table, self.places, strategy.recompute.mode)
        return strategy.offload.activation * saved / (self.setup.cluster.host.h2d_gbps * 1e9)

    @cached_property
    def place_of_chunk(self) -> list[int]:
        """Return the distinct place of each chunk of the model."""
        result, seen = [], [0] * self.program.pp
        for chunk in self.program.chunks:
            result.append(int(self.places.index[chunk.stage, seen[chunk.stage]]))
            seen[chunk.stage] += 1
        return result

    @cached_property
    def chunks(self) -> list[ChunkTime]:
        seconds = self.place_seconds
        columns = [part[0].tolist() for part in (seconds.forward, seconds.backward_input, seconds.backward_weight)]
        times = [ChunkTime(*place) for place in zip(*columns, strict=True)]
        return [times[place] for place in self.place_of_chunk]

    @cached_property
    def chunk_costs(self) -> list[tuple[float, float, float]]:
        return [(c.forward, c.backward_input, c.backward_weight) for c in self.chunks]

    @cached_property
    def order(self) -> Order:
        strategy, program = self.setup.strategy, self.program
        return order_of(strategy.pipeline.schedule, program.pp, program.chunks_per_stage, strategy.micro_batches)

    def replay(self, *, keep: bool = False) -> Replay:
        schedule = self.setup.strategy.pipeline.schedule
        return replay(
            self.order,
            self.chunk_costs,
            float(self.rows.boundary[0]),
            blocking=not self.setup.framework.p2p_overlap,
            split=splits_backward(schedule) and self.program.pp > 1,
            keep=keep,
        )

    @cached_property
    def traffic(self) -> StepTraffic:
        """Return seconds of the step's collectives, [1, stage]."""
        traffic, zero = self.rows.traffic(self.zero_traffic), self.setup.strategy.zero
        if zero.bucket_mb is None or zero.stage >= 2:
            return traffic
        whole = self.rows.seconds_of_role(self.zero_traffic, "reduce")
        buckets = []
        for stage in range(self.program.pp):
            nodes = [node for _, node in gradient_collectives(self.program, Holding.of_stage(self.program, stage))]
            buckets.append(self.price.bucketed([n for n in nodes if n.name not in BETWEEN], zero.bucket_mb * 2**20))
        total, last = (np.array([column]) for column in zip(*buckets, strict=True))
        return StepTraffic(traffic.reduce - whole + total, traffic.apart, traffic.gather, last)

    @cached_property
    def tail(self) -> StepTail:
        """Return what follows the micro-batches, as arrays [1, stage]."""
        strategy, framework, m = self.setup.strategy, self.setup.framework, self.rows.micro_batches
        seconds, schedule = self.stage_seconds, strategy.pipeline.schedule
        exposed, hidden = gradients_exposed(
            framework,
            self.traffic,
            seconds.backward,
            m,
            zero=strategy.zero.stage,
            chunks=strategy.pipeline.vpp if self.program.pp > 1 else 1,
            weight=seconds.backward_weight if splits_backward(schedule) and self.program.pp > 1 else None,
        )
        after = self.rows.tail_after(self.zero_traffic, self.traffic, host_optimizer=strategy.offload.optimizer)
        return replace(after, gradient_reduce=exposed, gradient_hidden=hidden)  # type: ignore[arg-type]

    @cached_property
    def tails(self) -> list[StepTail]:
        return [StepTail(*numbers) for numbers in _by_stage(self.tail, self.program.pp)]

    @cached_property
    def replayed(self) -> Replay:
        return self.replay()

    @cached_property
    def factor(self) -> float:
        """Return what a calibration multiplies the step time by."""
        residual = self.setup.residual
        return 1.0 if residual is None else residual.factor(self.setup.model, self.setup.strategy)

    @property
    def interval(self) -> float:
        """Return the factor within which four of five measured step times lie, as far as is known."""
        residual = self.setup.residual
        if residual is None:
            return math.exp(FOUR_OF_FIVE * self.setup.framework.spread)
        return residual.interval(self.setup.model, self.setup.strategy)

    @cached_property
    def seconds(self) -> float:
        """Step time by event simulation: each stage's tail begins when its last task is done; the step ends with the
        last."""
        return self.step_end(self.replayed.finish) * self.factor

    def gradients_done(self, finish: list[float]) -> float:
        """Return when the last stage has its gradients: their norm joins the stages before the update."""
        gradients = np.asarray(self.tail.gradient_reduce + self.tail.embedding_reduce)
        return float(gradients_end(np.array([finish]), gradients)[0])

    def step_end(self, finish: list[float]) -> float:
        return self.gradients_done(finish) + float(update_end(self.tail)[0])

    @cached_property
    def closed_form_seconds(self) -> float:
        """Step time in closed form; for schedules and sizes of chunks that have none, the simulation's."""
        strategy, program = self.setup.strategy, self.program
        schedule = strategy.pipeline.schedule
        if (schedule not in CLOSED or strategy.pipeline.chunks is not None) and program.pp > 1:
            return self.seconds
        seconds = self.stage_seconds
        finish = stage_finish(
            schedule,
            seconds.forward,
            seconds.backward_input,
            seconds.backward_weight,
            self.rows.micro_batches,
            self.rows.boundary,
            chunks=program.chunks_per_stage,
            paced=seconds.paced,
            blocking=not self.setup.framework.p2p_overlap,
        )[0]
        return self.step_end(finish.tolist()) * self.factor

    @cached_property
    def activations(self) -> tuple[np.ndarray, np.ndarray]:
        """Return [1, place] bytes that one micro-batch keeps until its backward, and that backward needs beside."""
        table, strategy = self.rows.table, self.setup.strategy
        kept = kept_bytes(table.kept, table, self.places, strategy.recompute.mode)
        return kept * (1.0 - strategy.offload.activation), working_bytes(table, self.places, strategy.recompute.mode)

    @cached_property
    def resident(self) -> Resident:
        zero, offload = self.setup.strategy.zero, self.setup.strategy.offload
        return self.rows.resident(self.zero_traffic, zero=zero.stage, host_optimizer=offload.optimizer)

    @cached_property
    def memory(self) -> StageMemory:
        """Return the memory at the fullest moment of each stage, as arrays [1, stage]."""
        schedule = self.setup.strategy.pipeline.schedule
        fullest = at_the_fullest(schedule, self.places, *self.activations, self.rows.micro_batches)
        return self.resident.with_activations(self.setup.framework, *fullest)

    @cached_property
    def host_gib(self) -> float:
        """Return the GiB of the fullest server's own memory."""
        strategy, table = self.setup.strategy, self.rows.table
        kept = kept_bytes(table.kept, table, self.places, strategy.recompute.mode) * strategy.offload.activation
        schedule, m = strategy.pipeline.schedule, self.rows.micro_batches
        moved, _ = at_the_fullest(schedule, self.places, kept, np.zeros_like(kept), m)
        return float(host_gib(self.setup.cluster, strategy.mesh.devices, self.resident, moved)[0])

    def fits(self, usable: float) -> bool:
        """Return whether it fits into `usable` GiB of each device, and into its servers."""
        return self.gib <= usable and self.host_gib <= self.setup.cluster.host.dram_gb

    @cached_property
    def stage_memory(self) -> list[StageMemory]:
        return [StageMemory(*numbers) for numbers in _by_stage(self.memory, self.program.pp)]

    def memory_walk(self, stage: int) -> list[tuple[Task, float, float]]:
        """Return the activation bytes after each task of a stage, and at its peak."""
        kept, working = self.activations
        mine = self.program.stage_chunks(stage)
        places = {chunk.index: int(place) for chunk, place in zip(mine, self.places.index[stage], strict=True)}
        chunks = {index: (float(kept[0, place]), float(working[0, place])) for index, place in places.items()}
        split = splits_backward(self.setup.strategy.pipeline.schedule) and self.program.pp > 1
        return walk(self.order[stage], chunks, split=split)

    @property
    def usable_gib(self) -> float:
        return usable_gib(self.setup.cluster)

    @cached_property
    def gib(self) -> float:
        """Return the GiB of the fullest stage."""
        return float(np.asarray(self.memory.total).max())

    @property
    def out_of_memory(self) -> bool:
        return not self.fits(self.usable_gib)

    @cached_property
    def stages(self) -> list[StageSummary]:
        result = []
        for stage in range(self.program.pp):
            chunks = self.program.stage_chunks(stage)
            result.append(
                StageSummary(
                    stage,
                    sum(chunk.layers for chunk in chunks),
                    sum(self.chunks[c.index].forward for c in chunks),
                    sum(self.chunks[c.index].backward for c in chunks),
                    self.tails[stage],
                    self.stage_memory[stage],
                )
            )
        return result

    @property
    def tokens_per_second(self) -> float:
        return self.setup.strategy.batch.global_ * self.setup.model.seq_length / self.seconds

    @property
    def model_flops_utilisation(self) -> float:
        """Return matrix-product FLOPs of forward and backward, without recomputation, over peak."""
        devices = self.setup.strategy.mesh.devices
        peak = self.setup.cluster.device.peak(self.setup.model.compute_dtype)
        return self.program.flops_per_step() / (self.seconds * devices * peak)


def _by_stage(arrays: StageMemory | StepTail, pp: int) -> list[tuple[float, ...]]:
    """Return the numbers of each stage, out of fields that are arrays [1, stage], [1, 1] or one number."""
    columns = (np.broadcast_to(getattr(arrays, field.name), (1, pp))[0].tolist() for field in fields(arrays))
    return list(zip(*columns, strict=True))
