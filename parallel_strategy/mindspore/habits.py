"""What MindSpore's compiler makes of the emulator's program: its habits, each a rule with a name.

`graph.collectives` lists what an algorithm needs, which is what is priced and what virtual devices execute.
MindSpore 2.10 moves some of it and adds some. Each rule below was read off its compiled graphs and takes the list to
the one that they hold, before the backend's fusion (`fusion` numbers say what that joins).
"""

import math
from collections.abc import Callable
from dataclasses import replace

from parallel_strategy.graph.collectives import OUTSIDE, Record, collectives_of
from parallel_strategy.graph.groups import Groups
from parallel_strategy.mindspore.layouts import BYTES, Layout, parameter_layouts
from parallel_strategy.mindspore.placement import places_of_layers
from parallel_strategy.spec.model import BYTES as ELEMENT
from parallel_strategy.spec.strategy import Question

TABLES = "embedding_table"
WORDS = "backbone.word_embedding.embedding_table"


class Place:
    """A rank's place in the mesh, with what the rules ask of it."""

    def __init__(self, question: Question, rank: int) -> None:
        self.question, self.rank = question, rank
        self.strategy, self.model = question.strategy, question.model
        self.mesh = question.strategy.mesh
        self.groups = Groups(self.mesh, question.strategy.zero.weight_shard_size)
        self.stage = self.groups.coordinate("pp", rank)
        self.first_stage = self.stage == 0
        self.last_stage = self.stage == places_of_layers(question)[-1].stage
        self.stage_ranks = self.groups.ranks_of_stage(self.stage)

    def record(self, op: str, group: tuple[int, ...], size: float, dtype: str, name: str, **fields) -> list[Record]:
        """A list with this collective, empty where its group is one rank."""
        defaults = {"axis": "", "layer": OUTSIDE, "phase": "step", "micro_batch": OUTSIDE}
        if len(group) == 1:
            return []
        return [Record(op=op, group=group, bytes=round(size), dtype=dtype, name=name, **(defaults | fields))]

    def copies(self, layout: Layout) -> tuple[int, ...]:
        """The ranks of this stage that hold the same slice of a parameter."""
        return self.groups.members("dp", self.rank) if 0 in layout.tensor_map else self.stage_ranks


def conjugates(records: list[Record], place: Place) -> list[Record]:
    """The gradient of an all-reduce is an all-reduce, and the input of a column-split product has none: gradients of
    the residual stream stay partial sums over the tensor group between the row-split products of a layer."""
    kept = [r for r in records if r.name != "head.input.gradient"]
    loss = [r for r in kept if r.name in ("head.loss.target", "head.loss.sum")]
    return kept + [replace(r, phase="backward", name=f"{r.name}.gradient") for r in loss]


def needed_again(records: list[Record], place: Place) -> list[Record]:
    """A recomputed layer does not repeat its last all-reduce: nothing in its backward needs the sum."""
    return [r for r in records if not (r.phase == "recompute" and r.name == "feed_forward.output")]


def fp32_tables(records: list[Record], place: Place) -> list[Record]:
    """Rows are looked up, and summed over the split vocabulary, in fp32; the sum has a conjugate."""
    result = []
    for record in records:
        if record.name == "embedding.word" and record.phase == "forward" and record.op == "all_reduce":
            record = replace(record, bytes=record.bytes * 4 // ELEMENT[record.dtype], dtype="fp32")
            result.append(replace(record, phase="backward", name="embedding.word.gradient"))
        result.append(record)
    return result


def loss_sums(records: list[Record], place: Place) -> list[Record]:
    """Each micro-batch's loss is summed over the data-parallel ranks, and so is its gradient."""
    kept = [r for r in records if not (r.phase == "step" and r.name == "loss")]
    if not place.last_stage:
        return kept
    group, layer = place.groups.members("dp", place.rank), place.model.num_layers
    for micro_batch in range(place.strategy.micro_batches):
        for phase in ("forward", "backward"):
            fields = {"phase": phase, "layer": layer, "micro_batch": micro_batch}
            kept += place.record("all_reduce", group, 4, "fp32", "loss", **fields)
    return kept


def one_by_one(records: list[Record], place: Place) -> list[Record]:
    """Every parameter has its own collectives, gradients in fp32: over the data-parallel ranks where it is split over
    the tensor group, else over all ranks of the stage. With optimizer sharding each is gathered once a step, in the
    type that it is used in, and its gradient reduce-scattered, where its first dimension allows."""
    kept = [r for r in records if not r.name.startswith(("gradients.", "weights."))]
    tied = len(parameter_layouts(place.question)[WORDS].stages) > 1
    for name, layout in parameter_layouts(place.question).items():
        if place.stage not in layout.stages:
            continue
        group, elements = place.copies(layout), math.prod(layout.slice_shape)
        linear = ("layernorm" not in name and not name.endswith(TABLES)) or (name == WORDS and not place.first_stage)
        dtype = place.model.compute_dtype if linear else "fp32"
        shards = 1
        if layout.optimizer_shard_step:
            shards = len(group) if layout.optimizer_shard_size < 0 else layout.optimizer_shard_size
            shared, across = cut(group, place.rank, shards)
            kept += place.record("all_gather", shared, elements * ELEMENT[dtype], dtype, name)
            kept += place.record("reduce_scatter", shared, elements * BYTES, "fp32", name)
            kept += place.record("all_reduce", across, elements * BYTES / shards, "fp32", name)
        else:
            kept += place.record("all_reduce", group, elements * BYTES, "fp32", name)
        if name == WORDS and tied:
            ends = place.groups.members("embedding", place.rank)
            kept += place.record("all_reduce", ends, elements * BYTES / shards, "fp32", "gradients.tied")
    return kept


def cut(group: tuple[int, ...], rank: int, shards: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(the ranks that share one copy with this one, those that hold the same part)."""
    first = group.index(rank) // shards * shards
    return group[first : first + shards], group[group.index(rank) % shards :: shards]


def two_norms(records: list[Record], place: Place) -> list[Record]:
    """The norm is summed over the ranks of the stage, then over the stages."""
    kept = [r for r in records if r.name != "norm"]
    kept += place.record("all_reduce", place.stage_ranks, 4, "fp32", "norm")
    return kept + place.record("all_reduce", place.groups.members("pp", place.rank), 4, "fp32", "norm")


def gathered_rows(records: list[Record], place: Place) -> list[Record]:
    """Micro-batches are cut from the rows of all data-parallel ranks, which are gathered for that."""
    if place.strategy.micro_batches == 1:
        return records
    size = place.strategy.batch.global_ * (place.model.seq_length + 1) * 4
    return records + place.record("all_gather", place.groups.members("dp", place.rank), size, "int32", "rows")


HABITS: dict[str, Callable[[list[Record], Place], list[Record]]] = {
    "gradients of activations stay partial sums until an all-reduce's conjugate": conjugates,
    "a recomputed layer does not repeat what its backward does not need": needed_again,
    "tables are read in fp32": fp32_tables,
    "the loss is summed per micro-batch, forward and backward": loss_sums,
    "a collective for every parameter, gradients in fp32": one_by_one,
    "the norm is summed over the stage, then over the stages": two_norms,
    "micro-batches are cut from gathered rows": gathered_rows,
}


def compiled_collectives(question: Question, rank: int) -> list[Record]:
    """The emulator's collectives of a rank as MindSpore's compiler lays them down."""
    records, place = collectives_of(question, rank), Place(question, rank)
    for rule in HABITS.values():
        records = rule(records, place)
    return records
