"""Time and memory of one question: the program, its price, its schedule replayed, its memory walked."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from parallel_strategy.cost.collective import Network
from parallel_strategy.cost.memory import Memory, StageMemory
from parallel_strategy.cost.price import Price, StepTail
from parallel_strategy.graph.program import Program
from parallel_strategy.schedule.closed_form import CLOSED, stage_finish
from parallel_strategy.schedule.orders import Order, order_of, splits_backward
from parallel_strategy.schedule.simulate import Replay, replay
from parallel_strategy.spec.strategy import Question


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
    """A priced question. Everything is computed when it is asked for."""

    def __init__(self, question: Question, *, program: Program | None = None, network: Network | None = None) -> None:
        self.question = question
        self.program = program or Program(question)
        self.price = Price(self.program, network)

    def with_figures(self, question: Question) -> "Prediction":
        """The same program at other prices: `question` differs in figures of cluster and framework only, links
        excepted."""
        return Prediction(question, program=self.program.moved_to(question), network=self.price.network)

    @cached_property
    def chunk_costs(self) -> list[tuple[float, float, float]]:
        return [(c.forward, c.backward_input, c.backward_weight) for c in self.price.chunks]

    @cached_property
    def order(self) -> Order:
        strategy, program = self.question.strategy, self.program
        return order_of(strategy.pipeline.schedule, program.pp, program.chunks_per_stage, strategy.micro_batches)

    def replay(self, *, keep: bool = False) -> Replay:
        schedule = self.question.strategy.pipeline.schedule
        return replay(
            self.order,
            self.chunk_costs,
            self.price.boundary,
            blocking=not self.question.framework.p2p_overlap,
            split=splits_backward(schedule) and self.program.pp > 1,
            keep=keep,
        )

    @cached_property
    def tails(self) -> list[StepTail]:
        """Of each stage; stages that hold the same blocks end the step alike."""
        alike: dict[tuple, StepTail] = {}
        result = []
        for stage in range(self.program.pp):
            key = tuple(chunk.contents for chunk in self.program.stage_chunks(stage))
            if key not in alike:
                alike[key] = self.price.tail(stage)
            result.append(alike[key])
        return result

    @cached_property
    def replayed(self) -> Replay:
        return self.replay()

    @cached_property
    def seconds(self) -> float:
        """Step time by event simulation: each stage's tail begins when its last task is done; the step ends with the
        last."""
        return self.step_end(self.replayed.finish)

    def gradients_done(self, finish: list[float]) -> float:
        """When the last stage has its gradients: their norm joins the stages before the update."""
        return max(
            done + tail.gradient_reduce + tail.embedding_reduce for done, tail in zip(finish, self.tails, strict=True)
        )

    def step_end(self, finish: list[float]) -> float:
        return self.gradients_done(finish) + max(
            tail.optimizer + tail.weight_gather + tail.fixed for tail in self.tails
        )

    @cached_property
    def closed_form_seconds(self) -> float:
        """Step time in closed form; for schedules that have none, the simulation's."""
        strategy, program = self.question.strategy, self.program
        schedule = strategy.pipeline.schedule
        if schedule not in CLOSED and program.pp > 1:
            return self.seconds
        # [F, B, W of a chunk; chunk of a stage; stage]
        costs = np.array(self.chunk_costs).T.reshape(3, program.chunks_per_stage, program.pp)
        by_stage = costs.sum(axis=1)
        paced = costs[0].max(axis=-1).sum() + (costs[1] + costs[2]).max(axis=-1).sum()
        finish = stage_finish(
            schedule,
            by_stage[0][None],
            by_stage[1][None],
            by_stage[2][None],
            np.array([strategy.micro_batches]),
            np.array([self.price.boundary]),
            chunks=program.chunks_per_stage,
            paced=np.array([paced]),
            blocking=not self.question.framework.p2p_overlap,
        )[0]
        return self.step_end([float(end) for end in finish])

    @cached_property
    def memory(self) -> Memory:
        return Memory(self.program, self.order)

    @cached_property
    def stage_memory(self) -> list[StageMemory]:
        return [self.memory.stage(stage) for stage in range(self.program.pp)]

    @cached_property
    def gib(self) -> float:
        """Of the fullest stage."""
        return max(memory.total for memory in self.stage_memory)

    @property
    def out_of_memory(self) -> bool:
        return self.gib > self.memory.usable_gib()

    @cached_property
    def stages(self) -> list[StageSummary]:
        result = []
        for stage in range(self.program.pp):
            chunks = self.program.stage_chunks(stage)
            result.append(
                StageSummary(
                    stage,
                    sum(chunk.layers for chunk in chunks),
                    sum(self.price.chunks[c.index].forward for c in chunks),
                    sum(self.price.chunks[c.index].backward for c in chunks),
                    self.tails[stage],
                    self.stage_memory[stage],
                )
            )
        return result

    @property
    def tokens_per_second(self) -> float:
        return self.question.strategy.batch.global_ * self.question.model.seq_length / self.seconds

    @property
    def model_flops_utilisation(self) -> float:
        """Matrix-product FLOPs of forward and backward, without recomputation, over peak."""
        devices = self.question.strategy.mesh.devices
        peak = self.question.cluster.device.peak(self.question.model.compute_dtype)
        return self.program.flops_per_step() / (self.seconds * devices * peak)
