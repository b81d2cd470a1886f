"""The complete list of collectives of one rank in one step, in the order of its schedule: what is priced, what virtual
devices execute, and what a compiler's output is compared with."""

from dataclasses import dataclass

from parallel_strategy.graph.operator import Collective
from parallel_strategy.graph.program import Program
from parallel_strategy.graph.tasks import Tasks
from parallel_strategy.graph.weight_collectives import OUTSIDE, step_collectives
from parallel_strategy.schedule.orders import order_of
from parallel_strategy.spec.strategy import Setup


@dataclass(frozen=True, slots=True, order=True)
class Record:
    """One collective as one rank takes part in it.

    `group`: the ranks, in the group's order; of a send or receive (source, destination). `bytes`: of the whole tensor
    (all_to_all: what one rank sends; send, receive: the message), in `dtype`. `phase`: forward, recompute, backward,
    step. `layer` and `micro_batch` are -1 for what happens once a step; `layer` also for a stage's whole gradients.
    """

    op: str
    axis: str
    group: tuple[int, ...]
    bytes: int
    dtype: str
    layer: int
    phase: str
    micro_batch: int
    name: str


def collectives_of(setup: Setup | Program, rank: int) -> list[Record]:
    """Return everything that `rank` sends and receives in a step; groups of one rank are left out."""
    program = setup if isinstance(setup, Program) else Program(setup)
    strategy = program.setup.strategy
    stage = program.groups.coordinate("pp", rank)
    order = order_of(strategy.pipeline.schedule, program.pp, program.chunks_per_stage, strategy.micro_batches)
    tasks, records = Tasks(program), []
    for kind, chunk, micro_batch in order[stage]:
        for step in tasks.steps(kind, chunk):
            if isinstance(step.work, Collective):
                records.append(record_of(program, step.work, rank, chunk, step.layer, step.phase, micro_batch))
    for layer, work in step_collectives(program, stage):
        records.append(record_of(program, work, rank, 0, layer, "step", OUTSIDE))
    return records


def record_of(
    program: Program, work: Collective, rank: int, chunk: int, layer: int, phase: str, micro_batch: int
) -> Record:
    group = group_of(program, work, rank, chunk)
    return Record(work.op, work.axis, group, round(work.bytes), work.dtype, layer, phase, micro_batch, work.name)


def group_of(program: Program, work: Collective, rank: int, chunk: int) -> tuple[int, ...]:
    """Return the ranks of a collective; of a boundary of `chunk`, (source, destination)."""
    if work.op not in ("send", "receive"):
        return program.groups.members(work.axis, rank)
    before = work.name in ("receive_activation", "send_gradient")  # which neighbour it is
    other = program.chunks[chunk + (-1 if before else 1)].stage
    groups = program.groups
    peer = rank + (other - groups.coordinate("pp", rank)) * groups.strides["pp"]
    return (rank, peer) if work.op == "send" else (peer, rank)
