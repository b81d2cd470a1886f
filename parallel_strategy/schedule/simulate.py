"""Discrete-event simulation of a pipeline schedule: one rank per stage, since the ranks of a stage do the same.

Each stage runs its list in order; a task starts when the stage is free and what it needs has arrived. Streams: compute,
sends (beside compute, or on it where the framework blocks), gradient traffic (after the last backward).
"""

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
        """The longest a stage is at work: the step time where no barrier joins the stages between steps (ZB)."""
        return max(end - start for start, end in zip(self.begin, self.finish, strict=True))

    @property
    def bubble(self) -> float:
        """Idle share of the pipeline, averaged over stages."""
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
    forward_done: dict[tuple[int, int], float] = {}
    backward_done: dict[tuple[int, int], float] = {}
    clock, busy, position = [0.0] * stages, [0.0] * stages, [0] * stages
    begin, finish = [-1.0] * stages, [0.0] * stages
    events: list[Event] = []
    durations = [(f, b if split else b + w, w) for f, b, w in costs]
    remaining = sum(len(tasks) for tasks in order)
    while remaining:
        moved = False
        for stage in range(stages):
            tasks, index, time = order[stage], position[stage], clock[stage]
            while index < len(tasks):
                kind, chunk, micro_batch = task = tasks[index]
                if kind == "F":
                    arrival = 0.0 if chunk == 0 else forward_done.get((chunk - 1, micro_batch))
                    duration = durations[chunk][0]
                elif kind == "B":
                    arrival = (
                        backward_done.get((chunk + 1, micro_batch))
                        if chunk < last
                        else forward_done.get((chunk, micro_batch))
                    )
                    duration = durations[chunk][1]
                else:
                    arrival, duration = time, durations[chunk][2]
                if arrival is None:
                    break
                start = arrival if arrival > time else time
                if index == 0:
                    begin[stage] = start
                end = start + duration
                time = end
                busy[stage] += duration
                if kind == "F":
                    away = send if chunk < last and stage_of[chunk + 1] != stage else 0.0
                    forward_done[chunk, micro_batch] = end + away if chunk < last else end
                elif kind == "B":
                    away = send if chunk > 0 and stage_of[chunk - 1] != stage else 0.0
                    backward_done[chunk, micro_batch] = end + away
                else:
                    away = 0.0
                if blocking:
                    time += away
                if keep:
                    events.append(Event(stage, task, start, end))
                finish[stage] = end
                index += 1
                remaining -= 1
                moved = True
            position[stage], clock[stage] = index, time
        if not moved:
            stuck = [
                f"stage {s} waits for {order[s][position[s]]}" for s in range(stages) if position[s] < len(order[s])
            ]
            raise Deadlock("; ".join(stuck))
    return Replay(max(finish), busy, begin, finish, events)
