"""Which all-reduces of gradients MindSpore makes one, with `comm_fusion` by size (`zero.bucket_mb`).

Its compiler numbers them in the order in which the loss uses the weights, and a backend joins those with one number and
one group. A number is full when the next does not fit; what opens a number takes nothing of its room
(mindspore/ccsrc/frontend/parallel/allreduce_fusion, SetFusionBySize; a test compares the numbers of a compiled graph).
With micro-batches, and with sharded weights, everything keeps the number 1: the size is then the backend's matter.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from parallel_strategy.graph.collectives import Record
from parallel_strategy.mindspore.dryrun.compiled_collectives import CompiledCollective
from parallel_strategy.spec.strategy import Setup


@dataclass(frozen=True, order=True)
class Fused:
    """One collective of a backend: so many of the program's, of so many bytes together."""

    group: tuple[int, ...]
    members: int
    bytes: int

    def __str__(self) -> str:
        return f"all_reduce of {self.members} gradients, {self.bytes} bytes, over {len(self.group)} ranks"


def whole_megabytes(setup: Setup) -> int | None:
    """Return `comm_fusion`, which takes whole megabytes. None: MindSpore's default."""
    limit = setup.strategy.zero.bucket_mb
    return None if limit is None else max(1, round(limit))


def numbers(sizes: Iterable[int], limit: int) -> list[int]:
    """Return MindSpore's fusion number of each, for `limit` bytes."""
    found: list[int] = []
    number, room, first = 1, limit, True
    for size in sizes:
        if first or size < room:
            room, first = room - size, False
        else:
            number, room = number + 1, limit
        found.append(number)
    return found


def of_emulator(records: Iterable[Record], limit: int | None) -> Counter[Fused]:
    """Return what the emulator's gradients become; `limit` None: all of a group one."""
    found = (record for record in records if record.name.startswith("gradients.") and record.op == "all_reduce")
    gradients = in_graph_order([record for record in found if record.layer >= 0])
    joined: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    sizes = [record.bytes for record in gradients]
    for record, number in zip(gradients, numbers(sizes, limit or sum(sizes) + 1), strict=True):
        joined.setdefault((number, record.group), []).append(record.bytes)
    return Counter(Fused(group, len(parts), sum(parts)) for (_, group), parts in joined.items())


def in_graph_order(gradients: list[Record]) -> list[Record]:
    """Return the program's order, but for the query layer: its queries come before the norm of its keys and values."""
    with_queries = {record.layer for record in gradients if record.name == "gradients.query_embedding.weight"}
    ordered: list[Record] = []
    held: list[Record] = []
    for record in gradients:
        if record.layer in with_queries and record.name.startswith("gradients.attention.norm."):
            held.append(record)
            continue
        if record.name == "gradients.attention.key.weight":
            ordered += held
            held = []
        ordered.append(record)
    return ordered + held


def of_mindspore(collectives: Iterable[CompiledCollective]) -> Counter[Fused]:
    """Return what the numbers of the compiled graph say."""
    joined: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    for found in collectives:
        if found.op == "all_reduce" and found.fusion:
            joined.setdefault((found.fusion, found.group), []).append(found.bytes)
    return Counter(Fused(group, len(parts), sum(parts)) for (_, group), parts in joined.items())
