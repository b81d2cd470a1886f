"""Pipeline schedules: in which order each stage runs forward (F), backward of activations (B) and of weights (W).

A schedule without W treats backward as one task. Sources: GPipe (Huang et al. 2019), 1F1B (PipeDream-Flush),
interleaved (Narayanan et al. SC'21, as in Megatron's schedules.py), ZB-H1 / ZB-H2 (Qi et al. ICLR 2024, section 2),
ZB-V (Qi et al. 2024, controllable memory), DualPipe in its V form (DeepSeek-V3 report, section 3.2.1; Sea AI Lab's
"cut-in-half").
"""

from functools import lru_cache
from typing import Literal, NamedTuple

Kind = Literal["F", "B", "W"]


class Task(NamedTuple):
    kind: Kind
    chunk: int  # position in the model
    micro_batch: int


Order = list[list[Task]]


@lru_cache(maxsize=128)
def order_of(schedule: str, pp: int, chunks: int, micro_batches: int) -> Order:
    """Return the task lists of all stages; `chunks` per stage. Shared between callers: not to be changed."""
    if pp == 1:
        tasks: list[Task] = []
        for m in range(micro_batches):
            tasks += [Task("F", c, m) for c in range(chunks)]
            tasks += [Task("B", c, m) for c in reversed(range(chunks))]
        return [tasks]
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
        return _v_shaped(pp, micro_batches)
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
    """Return Megatron's depth-first order: pp micro-batches of a chunk, then of the next chunk, and so on.

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
    """Return the orders of ZB-H1, which keeps 1F1B's memory: stage s may fall behind with s weight gradients. ZB-H2 has
    twice of both."""
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


def _v_shaped(pp: int, micro_batches: int) -> Order:
    """Return two chunks a stage, there and back again, as a block that repeats every six slots (Qi et al. 2024, V-ZB).

    With tasks of one slot each, the ways out (F of the first chunk, B of the second) take x slots a stage, the ways
    back 6 - x: then a stage's four tasks keep their distance in slots modulo six on every stage, and both W fill the
    two that are left. The simulation squeezes the block; only its order counts. Memory is that of 1F1B: 2 pp
    half-size activations.
    """
    out, back = 3, 3
    forward_back = out * (pp - 1) + 1
    while (forward_back + back * (pp - 1)) % 6 == 0:
        forward_back += 1
    taken = [0, (forward_back + back * (pp - 1)) % 6]
    backward_out = forward_back + back * (pp - 1) + 1
    while backward_out % 6 in taken:
        backward_out += 1
    taken.append(backward_out % 6)
    backward_back = backward_out + out * (pp - 1) + 1
    while (backward_back + back * (pp - 1)) % 6 in taken:
        backward_back += 1
    taken.append((backward_back + back * (pp - 1)) % 6)
    free = [slot for slot in range(6) if slot not in taken]
    orders: Order = []
    for stage in range(pp):
        from_end = pp - 1 - stage
        times: dict[tuple[Kind, int], int] = {
            ("F", stage): out * stage, ("F", 2 * pp - 1 - stage): forward_back + back * from_end,
            ("B", 2 * pp - 1 - stage): backward_out + out * stage, ("B", stage): backward_back + back * from_end,
        }  # fmt: skip
        slots = {(slot + out * stage) % 6 for slot in free}
        for chunk in (2 * pp - 1 - stage, stage):
            earliest = times["B", chunk] + 1
            while earliest % 6 not in slots:
                earliest += 1
            slots.remove(earliest % 6)
            times["W", chunk] = earliest
        tasks = [
            (time + 6 * m, Task(kind, chunk, m)) for (kind, chunk), time in times.items() for m in range(micro_batches)
        ]
        orders.append([task for _, task in sorted(tasks)])
    return orders
