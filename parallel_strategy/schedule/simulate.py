"""Discrete-event simulation of a pipeline schedule: one rank per stage, since the ranks of a stage do the same.

Each stage runs its list in order; a task starts when the stage is free and what it needs has arrived. Streams: compute,
sends (beside compute, or on it where the framework blocks), gradient traffic (after the last backward).
"""

import math
from dataclasses import dataclass

from parallel_strategy.schedule.orders import Order, Task


@dataclass(frozen=True, slots=True)
class Event:
    """A task with its times in seconds, on its stage."""

    stage: int
    task: Task
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Replay:
    """What the simulation saw. `busy`: compute seconds of each stage."""

    seconds: float
    busy: list[float]
    begin: list[float]
    finish: list[float]
    events: list[Event]

    @property
    def span(self) -> float:
        """Return the longest time a stage is at work: the step time where no barrier joins the stages between steps
        (ZB)."""
        return max(end - start for start, end in zip(self.begin, self.finish, strict=True))

    @property
    def bubble(self) -> float:
        """Return idle share of the pipeline, averaged over stages."""
        return 1.0 - sum(self.busy) / (len(self.busy) * self.seconds)


class Deadlock(RuntimeError):
    """A schedule in which every stage waits for another."""


def replay(
    order: Order,
    costs: list[tuple[float, float, float]],
    send: float,
    *,
    blocking: bool,
    split: bool,
    keep: bool = False,
) -> Replay:
    """Run `order`. `costs`: F, B, W of each chunk in seconds; where `split` is false B includes W.

    `send`: seconds of a stage boundary; `blocking`: the sender's compute waits for it.
    """
    stages, chunks = len(order), len(costs)
    last = chunks - 1
    stage_of = [0] * chunks
    for stage, tasks in enumerate(order):
        for task in tasks:
            stage_of[task.chunk] = stage
    micro_batches = 1 + max((task.micro_batch for task in order[0]), default=0)
    # [chunk][micro-batch] when its activations, or their gradients, are with whoever needs them; not yet: infinite
    forward_done, backward_done = ([[math.inf] * micro_batches for _ in range(chunks)] for _ in range(2))
    at_start = [0.0] * micro_batches
    forward_needs = [at_start, *forward_done[:-1]]
    backward_needs = [*backward_done[1:], forward_done[-1]]
    # sends of each chunk: none within a stage
    sends_on = [send if chunk < last and stage_of[chunk + 1] != stage_of[chunk] else 0.0 for chunk in range(chunks)]
    sends_back = [send if chunk > 0 and stage_of[chunk - 1] != stage_of[chunk] else 0.0 for chunk in range(chunks)]
    clock, busy, position = [0.0] * stages, [0.0] * stages, [0] * stages
    begin, finish = [-1.0] * stages, [0.0] * stages
    events: list[Event] = []
    durations = [(f, b if split else b + w, w) for f, b, w in costs]
    remaining = sum(len(tasks) for tasks in order)
    while remaining:
        moved = False
        for stage in range(stages):
            tasks, index, time, work = order[stage], position[stage], clock[stage], busy[stage]
            first = index
            while index < len(tasks):
                task = tasks[index]
                kind, chunk, micro_batch = task
                if kind == "F":
                    start, away, done = forward_needs[chunk][micro_batch], sends_on[chunk], forward_done
                    duration = durations[chunk][0]
                elif kind == "B":
                    start, away, done = backward_needs[chunk][micro_batch], sends_back[chunk], backward_done
                    duration = durations[chunk][1]
                else:
                    start, away, done, duration = time, 0.0, None, durations[chunk][2]
                if start == math.inf:
                    break
                if start < time:
                    start = time
                if index == 0:
                    begin[stage] = start
                time = end = start + duration
                work += duration
                if done is not None:
                    done[chunk][micro_batch] = end + away
                if blocking:
                    time += away
                if keep:
                    events.append(Event(stage, task, start, end))
                finish[stage] = end
                index += 1
            if index > first:
                moved = True
                remaining -= index - first
            position[stage], clock[stage], busy[stage] = index, time, work
        if not moved:
            stuck = [
                f"stage {s} waits for {order[s][position[s]]}" for s in range(stages) if position[s] < len(order[s])
            ]
            raise Deadlock("; ".join(stuck))
    return Replay(max(finish), busy, begin, finish, events)
