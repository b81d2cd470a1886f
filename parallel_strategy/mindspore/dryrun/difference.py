"""The emulator's collectives of a rank against those of MindSpore's compiler: each difference by name."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from parallel_strategy.graph.collectives import Record, collectives_of
from parallel_strategy.graph.program import Program
from parallel_strategy.graph.weight_collectives import GRADIENTS, WEIGHTS
from parallel_strategy.mindspore import fusion
from parallel_strategy.mindspore.dryrun.compiled_collectives import CompiledCollective
from parallel_strategy.mindspore.dryrun.fine_tuning import FineTuning, fine_tuning_collectives
from parallel_strategy.mindspore.fusion import Fused
from parallel_strategy.mindspore.limits import as_compiled
from parallel_strategy.spec.strategy import Setup

Compared = TypeVar("Compared", "CollectiveKind", Fused)


@dataclass(frozen=True, order=True)
class CollectiveKind:
    """What has to agree. Two collectives of one kind cannot be told apart."""

    phase: str
    layer: int
    op: str
    group: tuple[int, ...]
    bytes: int
    dtype: str

    def __str__(self) -> str:
        where = f", layer {self.layer}" if self.layer >= 0 else ""
        return f"{self.phase}{where}: {self.op} of {self.bytes} bytes {self.dtype} over {ranks_text(self.group)}"


@dataclass(frozen=True)
class CompileDifference:
    """How often a kind, or a fused collective, runs in a step, by either."""

    kind: CollectiveKind | Fused
    emulator: int
    mindspore: int

    def __str__(self) -> str:
        return f"{self.kind}: emulator {self.emulator}, MindSpore {self.mindspore}"


def emulated(
    setup: Setup, rank: int, *, whole_batch: bool = False, tuning: FineTuning | None = None
) -> Counter[CollectiveKind]:
    """Return what the emulator's program of a strategy communicates on this rank. `whole_batch`: every rank is given
    all rows, which then need no gathering. `tuning`: in a step of a fine-tuning."""
    program = Program(as_compiled(setup))
    records = fine_tuning_collectives(program, rank, tuning) if tuning else collectives_of(program, rank)
    return of_emulator(record for record in records if not (whole_batch and record.name == "rows"))


def of_emulator(records: Iterable[Record]) -> Counter[CollectiveKind]:
    """Count traffic of weights and gradients as a step's, whenever it is: the compiler's graph says no more of
    it."""
    return Counter(
        kind(
            "step" if r.name.startswith((GRADIENTS, WEIGHTS)) else r.phase,
            r.layer,
            r.op,
            r.group,
            round(r.bytes),
            r.dtype,
        )
        for r in records
    )


def kind(phase: str, layer: int, op: str, group: tuple[int, ...], size: int, dtype: str) -> CollectiveKind:
    """Return what happens once a step, and a message between stages, belongs to no layer."""
    outside = phase == "step" or op in ("send", "receive")
    return CollectiveKind(phase, -1 if outside else layer, op, group, size, dtype)


def of_mindspore(collectives: Iterable[CompiledCollective]) -> Counter[CollectiveKind]:
    counted: Counter[CollectiveKind] = Counter()
    for found in collectives:
        counted[kind(found.phase, found.layer, found.op, found.group, found.bytes, found.dtype)] += found.times
    return counted


def differences(emulator: Mapping[Compared, int], mindspore: Mapping[Compared, int]) -> list[CompileDifference]:
    """Return the differences; none: the same count, bytes and group of every collective."""
    found = []
    for one in sorted(emulator.keys() | mindspore.keys()):
        ours, theirs = emulator.get(one, 0), mindspore.get(one, 0)
        if ours != theirs:
            found.append(CompileDifference(one, ours, theirs))
    return found


def fused_differences(setup: Setup, rank: int, collectives: Iterable[CompiledCollective]) -> list[CompileDifference]:
    """Return the differences of what the gradients' all-reduces are joined to, where the strategy says a size and
    weights are whole."""
    size, strategy = fusion.whole_megabytes(setup), setup.strategy
    if size is None or strategy.zero.optimizer_shard:
        return []
    limit = size * 2**20 if strategy.micro_batches == 1 else None
    ours = fusion.of_emulator(collectives_of(as_compiled(setup), rank), limit)
    return differences(ours, fusion.of_mindspore(collectives))


def ranks_text(group: tuple[int, ...]) -> str:
    """Return `0 1 2 3`, or `0, 8, .. 504 (64 ranks)` where there are many."""
    if len(group) <= 8:
        return " ".join(map(str, group))
    return f"{group[0]}, {group[1]}, .. {group[-1]} ({len(group)} ranks)"
