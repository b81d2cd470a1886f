"""Pipeline schedules: in which order each stage runs forward (F), backward of activations (B) and of weights (W).

A schedule without W treats backward as one task. Sources: GPipe (Huang et al. 2019), 1F1B (PipeDream-Flush), interleaved
(Narayanan et al. SC'21, as in Megatron's schedules.py), ZB-H1 / ZB-H2 (Qi et al. ICLR 2024, section 2) and ZB-V (Qi et al.
2024, controllable memory), DualPipe in its V form (DeepSeek-V3 report, section 3.2.1; Sea AI Lab's "cut-in-half").
"""

import heapq
from typing import Literal, NamedTuple

Kind = Literal["F", "B", "W"]


class Task(NamedTuple):
    kind: Kind
    chunk: int  # position in the model
    micro_batch: int


Order = list[list[Task]]


def order_of(
    schedule: str,
    pp: int,
    chunks: int,
    micro_batches: int,
    costs: "list[tuple[float, float, float]] | None" = None,
    send: float = 0.0,
) -> Order:
    """The task lists of all stages. `chunks` per stage; `costs` (F, B, W of each chunk) steer the V-shaped schedules."""
    if pp == 1:
        return [
            [
                Task(kind, c, m)
                for m in range(micro_batches)
                for kind, row in (("F", range(chunks)), ("B", range(chunks)[::-1]))
                for c in row
            ]
        ]
    if schedule == "gpipe":
        return [
            [Task("F", s, m) for m in range(micro_batches)] + [Task("B", s, m) for m in range(micro_batches)]
            for s in range(pp)
        ]
    if schedule in ("interleaved", "mindspore_vpp", "mindspore_vpp_less_memory") and chunks > 1:
        return [
            _interleaved(s, pp, chunks, micro_batches, less_memory=schedule.endswith("less_memory")) for s in range(pp)
        ]
    if schedule in ("zb_h1", "zb_h2"):
        return [_zero_bubble(s, pp, micro_batches, wide=schedule == "zb_h2") for s in range(pp)]
    if schedule in ("zb_v", "dualpipe"):
        return _v_shaped(pp, micro_batches, costs or [(1.0, 1.0, 1.0)] * (2 * pp), send)
    return [_one_forward_one_backward(s, pp, micro_batches) for s in range(pp)]


def splits_backward(schedule: str) -> bool:
    return schedule.startswith("zb_") or schedule == "dualpipe"


def _one_forward_one_backward(stage: int, pp: int, micro_batches: int) -> list[Task]:
    warm = min(micro_batches, pp - stage - 1)
    tasks = [Task("F", stage, m) for m in range(warm)]
    for m in range(micro_batches):
        if warm + m < micro_batches:
            tasks.append(Task("F", stage, warm + m))
        tasks.append(Task("B", stage, m))
    return tasks


def _interleaved(stage: int, pp: int, chunks: int, micro_batches: int, *, less_memory: bool) -> list[Task]:
    """Megatron's depth-first order: pp micro-batches of a chunk, then of the next chunk, and so on.

    MindSpore's less-memory variant starts its backward earlier: one forward less per later stage in the warm-up.
    """
    total = micro_batches * chunks

    def forward(step: int) -> Task:
        group, inside = divmod(step, pp * chunks)
        return Task("F", (inside // pp) * pp + stage, group * pp + inside % pp)

    def backward(step: int) -> Task:
        group, inside = divmod(step, pp * chunks)
        return Task("B", (chunks - 1 - inside // pp) * pp + stage, group * pp + inside % pp)

    ahead = (pp - stage - 1) * (1 if less_memory else 2) + (chunks - 1) * pp
    warm = total if micro_batches == pp and not less_memory else min(total, ahead)
    tasks = [forward(step) for step in range(warm)]
    for step in range(total):
        if warm + step < total:
            tasks.append(forward(warm + step))
        tasks.append(backward(step))
    return tasks


def _zero_bubble(stage: int, pp: int, micro_batches: int, *, wide: bool) -> list[Task]:
    """ZB-H1 keeps 1F1B's memory: stage s may fall behind with s weight gradients. ZB-H2 has twice of both."""
    warm = min(micro_batches, 2 * (pp - stage) - 1 if wide else pp - stage)
    lag = 2 * stage if wide else stage
    tasks = [Task("F", stage, m) for m in range(warm)]
    written = 0
    for m in range(micro_batches):
        tasks.append(Task("B", stage, m))
        if m - written >= lag:
            tasks.append(Task("W", stage, written))
            written += 1
        if warm + m < micro_batches:
            tasks.append(Task("F", stage, warm + m))
    return tasks + [Task("W", stage, m) for m in range(written, micro_batches)]


def _v_shaped(pp: int, micro_batches: int, costs: list[tuple[float, float, float]], send: float) -> Order:
    """List scheduling for two chunks a stage, there and back again: B before F before W, within 1F1B's memory.

    A stage holds at most 2 pp half-size activations (ZB-V's limit); a W runs when nothing else can or memory is full.
    """
    limit = 2 * pp
    last = 2 * pp - 1
    stage_of = [c if c < pp else 2 * pp - 1 - c for c in range(2 * pp)]
    ready: list[list[tuple[float, int, int, Task]]] = [[] for _ in range(pp)]  # (time, rank of kind, micro-batch, task)
    clock, held = [0.0] * pp, [0] * pp
    pending: list[list[Task]] = [[] for _ in range(pp)]
    orders: Order = [[] for _ in range(pp)]

    def offer(task: Task, time: float) -> None:
        ready[stage_of[task.chunk]].append((time, 0 if task.kind == "B" else 1, task.micro_batch, task))

    for m in range(micro_batches):
        offer(Task("F", 0, m), 0.0)
    events = [(0.0, s) for s in range(pp)]
    left = 6 * pp * micro_batches
    while left:
        time, s = heapq.heappop(events)
        if time < clock[s]:
            heapq.heappush(events, (clock[s], s))
            continue
        now = [entry for entry in ready[s] if entry[0] <= time + 1e-12]
        choice = min((e for e in now if e[1] == 0), key=lambda e: (-e[3].chunk, e[2]), default=None)
        if choice is None:
            # the second chunk first: it frees memory sooner; the first chunk leaves room for what will come back
            room = [
                e for e in now if e[1] == 1 and held[s] < (limit if e[3].chunk >= pp else limit - (pp - 1 - s) // 2)
            ]
            choice = min(room, key=lambda e: (-(e[3].chunk >= pp), e[2]), default=None)
        if choice is not None:
            ready[s].remove(choice)
            task = choice[3]
        elif pending[s]:
            task = pending[s].pop(0)
        else:
            later = [e[0] for e in ready[s] if e[0] > time]
            heapq.heappush(events, (min(later, default=time + min(min(c) for c in costs) * 0.25 + 1e-9), s))
            continue
        index = "FBW".index(task.kind)
        clock[s] = time + costs[task.chunk][index]
        orders[s].append(task)
        left -= 1
        if task.kind == "F":
            held[s] += 1
            following = (
                Task("F", task.chunk + 1, task.micro_batch) if task.chunk < last else Task("B", last, task.micro_batch)
            )
        elif task.kind == "B":
            pending[s].append(Task("W", task.chunk, task.micro_batch))
            following = Task("B", task.chunk - 1, task.micro_batch) if task.chunk else None
        else:
            held[s] -= 1
            following = None
        if following is not None:
            away = 0.0 if stage_of[following.chunk] == s else send
            offer(following, clock[s] + away)
        heapq.heappush(events, (clock[s], s))
    return orders
