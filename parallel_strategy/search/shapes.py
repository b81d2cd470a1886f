"""What a rank's blocks cost and weigh for every shard shape of the space: priced once each, read by all candidates."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import permutations

import numpy as np

from parallel_strategy.cost.collective import Network
from parallel_strategy.cost.memory import transient_bytes
from parallel_strategy.cost.price import BlockCost, Price
from parallel_strategy.graph.program import Program
from parallel_strategy.spec.strategy import Batch, Mesh, Offload, Pipeline, Question, Zero, divisors

KINDS = ("embedding", "layer", "expert_layer", "query", "head")


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes and order of the axes, and what one micro-batch of a rank is."""

    tp: int
    cp: int
    ep: int
    dp: int
    micro: int
    sequence_parallel: bool
    order: tuple[str, ...]


@dataclass(slots=True)
class ShapeTable:
    """Numbers of every block kind for one layout. Rows of `times`: device, tensor, host of forward, full and selective
    recomputation, backward of activations, backward of weights. Bytes are per micro-batch."""

    times: np.ndarray  # [5 phases, 3, kinds]
    saved: np.ndarray  # [kinds] everything kept
    attention: np.ndarray  # [kinds] what selective recompute drops
    entry: np.ndarray  # [kinds] input of the block
    transient: np.ndarray  # [kinds]
    dense: np.ndarray  # [kinds] parameters
    expert: np.ndarray
    partial: np.ndarray  # [kinds] parameters whose gradients are summed over the tensor group
    weights: np.ndarray  # [kinds] how many tensors the parameters are
    table_elements: float
    boundary: float


@dataclass(slots=True)
class Space:
    """Which values each choice may take. An empty list means: all that are legal."""

    devices: int
    batch: int
    tp: list[int] = field(default_factory=list)
    pp: list[int] = field(default_factory=list)
    cp: list[int] = field(default_factory=lambda: [1])
    ep: list[int] = field(default_factory=list)
    micro: list[int] = field(default_factory=list)
    chunks: list[int] = field(default_factory=lambda: [1, 2, 4])
    schedules: list[str] = field(default_factory=lambda: ["gpipe", "1f1b", "interleaved", "zb_h1", "zb_h2"])
    simulated: list[str] = field(  # tried on the first strategies only: they have no closed form of their own
        default_factory=lambda: ["zb_v", "dualpipe", "mindspore_vpp", "mindspore_vpp_less_memory"]
    )
    recompute: list[tuple[str, float]] = field(
        default_factory=lambda: [
            ("none", 0.0),
            ("selective", 0.5),
            ("selective", 1.0),
            *(("full", n / 8) for n in range(1, 9)),
        ]
    )
    zero: list[int] = field(default_factory=lambda: [0, 1, 2, 3])
    offload: list[bool] = field(default_factory=lambda: [False, True])
    interleave: list[int] = field(default_factory=lambda: [1, 2])  # halves of a micro-batch that run at once
    activation: list[float] = field(default_factory=lambda: [0.0, 0.5, 1.0])  # share on the host
    largest_micro: int = 16
    keeps: Callable[[Layout, int], bool] | None = None  # which layouts with so many stages belong to it

    def layouts(self, question: Question, pp: int) -> list[Layout]:
        """Every legal layout with this many stages."""
        model = question.model
        per_stage = self.devices // pp
        result = []
        for tp in divisors(per_stage):
            if (self.tp and tp not in self.tp) or model.num_heads % tp or tp > 64:
                continue
            for cp in self.cp:
                if per_stage % (tp * cp) or model.seq_length % cp:
                    continue
                dp = per_stage // tp // cp
                if self.batch % dp:
                    continue
                share = self.batch // dp
                micros = [n for n in divisors(share) if n <= self.largest_micro and (not self.micro or n in self.micro)]
                experts = model.experts.count if model.experts else 1
                spreads = (
                    [n for n in divisors(dp * cp) if experts % n == 0 and (not self.ep or n in self.ep)]
                    if experts > 1
                    else [1]
                )
                axes = [axis for axis, size in (("pp", pp), ("dp", dp), ("tp", tp)) if size > 1]
                orders = [(*order[:-1], "cp", order[-1]) if cp > 1 and order else order for order in permutations(axes)]
                for order in orders:
                    for ep in spreads:
                        for micro in micros:
                            for sequence in (False, True) if tp > 1 else (False,):
                                result.append(Layout(tp, cp, ep, dp, micro, sequence, order))
        return [layout for layout in result if self.keeps is None or self.keeps(layout, pp)]


class Shapes:
    """Builds shape tables for a question, with caches by what they depend on."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.network = Network(question.cluster)
        self._prices: dict[tuple, Price] = {}
        self._tables: dict[tuple, ShapeTable] = {}

    def question_of(self, layout: Layout, pp: int) -> Question:
        """The plainest question of this layout: what blocks cost does not depend on the rest."""
        order = list(layout.order)
        mesh = Mesh.model_construct(pp=pp, dp=layout.dp, cp=layout.cp, tp=layout.tp, ep=layout.ep, order=order)
        batch = Batch.model_construct(global_=layout.dp * layout.micro, micro=layout.micro)
        tensor = self.question.strategy.tensor.model_copy(
            update={"sequence_parallel": layout.sequence_parallel, "interleave": 1}
        )
        strategy = self.question.strategy.model_copy(
            update={
                "mesh": mesh,
                "batch": batch,
                "tensor": tensor,
                "pipeline": Pipeline(),
                "zero": Zero(),
                "offload": Offload(),
                "recompute": self.question.strategy.recompute.model_copy(update={"mode": "none", "per_stage": None}),
            }
        )
        return Question.model_construct(
            model=self.question.model,
            cluster=self.question.cluster,
            framework=self.question.framework,
            strategy=strategy,
        )

    def table(self, layout: Layout, pp: int) -> ShapeTable:
        """Tables differ by shard shape and by where the tensor and expert groups lie."""
        strides = self._strides(layout, pp)
        key = (layout.tp, layout.cp, layout.ep, layout.micro, layout.sequence_parallel, strides, pp > 1)
        if key not in self._tables:
            self._tables[key] = self._build(layout, pp)
        return self._tables[key]

    def _strides(self, layout: Layout, pp: int) -> tuple[int, ...]:
        stride, strides = 1, {}
        sizes = {"pp": pp, "dp": layout.dp, "cp": layout.cp, "tp": layout.tp}
        for axis in reversed(layout.order):
            strides[axis] = stride
            stride *= sizes[axis]
        return (
            strides.get("tp", 1),
            strides.get("cp", 1) if layout.cp > 1 else 1,
            strides.get("dp", 1) if layout.ep > 1 else 1,
        )

    def _build(self, layout: Layout, pp: int) -> ShapeTable:
        question = self.question_of(layout, pp)
        shape_key = (layout.tp, layout.cp, layout.ep, layout.micro, layout.sequence_parallel, pp > 1)
        known = self._prices.get(shape_key)
        program = known.program.moved_to(question) if known else Program(question)
        price = Price(program, self.network)
        if known:
            price.kernel_times = known.kernel_times
        else:
            self._prices[shape_key] = price
        count = len(KINDS)
        table = ShapeTable(
            times=np.zeros((5, 3, count)),
            saved=np.zeros(count),
            attention=np.zeros(count),
            entry=np.zeros(count),
            transient=np.zeros(count),
            dense=np.zeros(count),
            expert=np.zeros(count),
            partial=np.zeros(count),
            weights=np.zeros(count),
            table_elements=0.0,
            boundary=program.boundary_bytes,
        )
        for index, kind in enumerate(KINDS):
            block = program.blocks.get(kind)
            if block is None:
                continue
            table.times[:, :, index] = _rows(price.block(block))
            table.saved[index], table.attention[index], table.entry[index] = (
                block.saved_bytes,
                block.attention_bytes,
                block.input_bytes,
            )
            table.transient[index] = transient_bytes(block, self.question.framework)
            table.dense[index], table.expert[index] = block.elements(False), block.elements(True)
            table.partial[index] = sum(p.elements for p in block.parameters if p.partial_over_tp)
            table.weights[index] = len(block.parameters)
            if kind == "embedding":
                table.table_elements = next(p.elements for p in block.parameters if p.name == "embedding.word.weight")
        return table


def _rows(cost: BlockCost) -> np.ndarray:
    phases = (cost.forward, cost.recompute_full, cost.recompute_selective, cost.backward_input, cost.backward_weight)
    return np.array([(phase.device, phase.tensor, phase.host) for phase in phases])
