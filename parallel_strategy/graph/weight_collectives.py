"""Traffic of weights and gradients: what data parallelism, optimizer sharding and tied tables add to the collectives
of the blocks.

Optimizer sharding (Rajbhandari et al. 2020): at level 1 gradients are reduce-scattered at the end of a step and updated
weights gathered; at level 2 each micro-batch's gradients are reduce-scattered; at level 3 each block's weights are
gathered for forward and again for backward, and its gradients reduce-scattered. Every weight is cut by itself, so that
the same part of a tied table lies on the same rank of the first and of the last stage. With `zero.weight_shard_size`
the ranks of a group share one copy, and the groups sum their parts.

Weights travel in buckets, one of dense weights and one of experts, or one by one where the framework does that. Names:
`gradients.dense`, `weights.expert` of buckets; `gradients.attention.query.weight` of one weight.
"""

import fnmatch
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from parallel_strategy.graph.operator import Block, Collective, Parameter, Phase
from parallel_strategy.graph.program import Cut, Program
from parallel_strategy.graph.recompute import skipped_again
from parallel_strategy.mindspore.pangu_network import WORD_TABLES, is_table, is_turned, released_name

GRADIENTS, WEIGHTS = "gradients.", "weights."  # how the names of what is sent here begin
SCALAR_BYTES = 4.0
STORED_BYTES = 4  # of a weight as the optimizer has it
OUTSIDE = -1  # the layer of what is about many
Node = tuple[int, Collective]  # layer and collective


def cut_of(program: Program, parameter: Parameter, layer: int = OUTSIDE) -> Cut:
    """Return the axes and sizes of one weight; `layer` matters where weights are kept whole by name."""
    key = parameter, layer if program.setup.strategy.zero.whole else OUTSIDE
    if key not in program.cuts:
        program.cuts[key] = _cut(program, parameter, layer)
    return program.cuts[key]


def _cut(program: Program, parameter: Parameter, layer: int) -> Cut:
    framework, zero = program.setup.framework, program.setup.strategy.zero
    over_tensor = framework.parameter_collectives and program.shard.tp > 1 and is_partial(program, parameter)
    whole = ("expert_dp" if parameter.expert else "weights") + ("_tp" if over_tensor else "")
    size = program.group(whole)[0]
    shard = ("expert_shard" if parameter.expert else "shard") + ("_tp" if over_tensor else "")
    shards = program.group(shard)[0] if zero.stage else 1
    if framework.parameter_collectives and not _may_be_cut(program, parameter, layer, shards):
        shards = 1
    if shards in (1, size):
        shard = whole
    replica = shard.replace("shard", "replica") if shard != whole else whole
    return Cut(whole, shard, replica, shards, size // shards)


def is_partial(program: Program, parameter: Parameter) -> bool:
    """Return whether each rank of the tensor group has a part of a whole weight's gradient."""
    framework = program.setup.framework
    everywhere = framework.partial_gradients and parameter.replicated_over_tp
    if parameter.expert:  # the second bias alone may be
        everywhere = everywhere and program.shard.biases_sum(framework)
    return everywhere or parameter.partial_over_tp


def is_accumulated_twice(program: Program) -> bool:
    """Return whether one stage has both readers of a tied table, and micro-batches whose gradients it adds up."""
    several = program.setup.strategy.micro_batches > 1
    return several and program.model.tied_embedding and not program.tied_across_stages


def _may_be_cut(program: Program, parameter: Parameter, layer: int, shards: int) -> bool:
    """Leave a weight whole that MindSpore leaves whole: one that is small, named, or whose first dimension does not
    divide. And a tied table at level 3 with micro-batches: 2.10 does not compile the sum of its two readers' gradients.
    """
    zero, model = program.setup.strategy.zero, program.model
    if zero.level == 3 and parameter.name in WORD_TABLES and is_accumulated_twice(program):
        return False
    name = released_name(layer, parameter.name, model.num_layers - 1 if model.query_layer else None)
    first = parameter.shape[1 if is_turned(parameter.name) else 0]
    small = parameter.elements * STORED_BYTES < zero.threshold_kb * 1024
    return first % shards == 0 and not small and not any(fnmatch.fnmatch(name, pattern) for pattern in zero.whole)


def shard_elements(parameter: Parameter, shards: int) -> int:
    """Return the elements of one rank's part; the last part is padded."""
    return -(-int(parameter.elements) // shards)


@dataclass(frozen=True, slots=True)
class Holding:
    """Weights that one rank holds: those of a stage, or of one block. `parameters`: (layer, weight) of each; `blocks`:
    (block, how many)."""

    parameters: list[tuple[int, Parameter]]
    blocks: list[tuple[Block, int]]

    @classmethod
    def of_stage(cls, program: Program, stage: int) -> "Holding":
        return cls(program.stage_parameters(stage), program.stage_blocks(stage))

    @classmethod
    def of_block(cls, block: Block) -> "Holding":
        return cls([(OUTSIDE, parameter) for parameter in block.parameters], [(block, 1)])

    def elements(self, *, expert: bool) -> float:
        return sum(block.elements(expert) * count for block, count in self.blocks)

    def part(self, wanted: Callable[[Parameter], bool], shards: int) -> float:
        """Return the elements of one rank's part of the weights that are wanted."""
        return math.fsum(
            float(count * shard_elements(parameter, shards))
            for block, count in self.blocks
            for parameter in block.parameters
            if wanted(parameter)
        )


def owned_elements(program: Program, holding: Holding) -> float:
    """Return the elements that a rank updates."""
    if program.setup.framework.parameter_collectives:
        return sum(p.elements / cut_of(program, p, layer).shards for layer, p in holding.parameters)
    return sum(holding.elements(expert=expert) / cut.shards for expert, cut in _cuts_by_kind(program).items())


def _cuts_by_kind(program: Program) -> dict[bool, Cut]:
    return {expert: cut_of(program, Parameter("", 0.0, expert)) for expert in (False, True)}


def _collective(
    program: Program, name: str, op: str, axis: str, elements: float, phase: Phase, width: float | None = None
) -> list[Collective]:
    """Return one collective, where it has members and something to send. `width`: bytes of an element, else a
    gradient's."""
    if width is None:
        width = program.setup.framework.gradient_bytes_sent
    if program.group(axis)[0] == 1 or not elements:
        return []
    half = program.model.activation_dtype if program.model.activation_dtype != "fp32" else "fp16"
    return [Collective(name, op, axis, elements * width, phase, "fp32" if width == 4 else half)]


def _weight_width(program: Program, parameter: Parameter) -> float:
    """Return the bytes in which a single weight is gathered: norms, tables and the router, which computes in fp32, as
    they are stored, other matrices as they are used."""
    looked_up = is_table(parameter.name) and parameter.name != "head.logits.weight"
    stored = looked_up or ".norm" in parameter.name or parameter.name == "experts.router.weight"
    return STORED_BYTES if stored else program.model.element_bytes


def gather_weights(
    program: Program, block: Block, phase: Phase, layer: int = OUTSIDE, *, again: bool = False
) -> list[Collective]:
    """Return level 3's weights of a block, before it runs. `again`: backward runs its forward first."""
    if program.setup.strategy.zero.stage < 3:
        return []
    if program.setup.framework.parameter_collectives:
        wanted = block.parameters if phase == Phase.FORWARD else _read_backward(block, again)
        return [node for _, node in _gather_each(program, [(layer, p) for p in wanted], phase)]
    width = program.setup.framework.weight_bytes_sent
    return [
        node
        for expert, cut in _cuts_by_kind(program).items()
        for node in _collective(
            program, f"weights.{_kind(expert)}", "all_gather", cut.shard, block.elements(expert), phase, width
        )
        if cut.shards > 1
    ]


def _read_backward(block: Block, again: bool) -> list[Parameter]:
    """Return the weights that backward reads. The gradients of additions and of looking up rows need none, but what
    runs `again` does."""
    skipped = {node.name for node in skipped_again(block)}

    def is_read(parameter: Parameter) -> bool:
        owner, _, kind = parameter.name.rpartition(".")
        looked_up = is_table(parameter.name) and parameter.name != "head.logits.weight"
        only_added = kind == "bias" and (not again or owner in skipped)
        return not looked_up and not only_added

    return [parameter for parameter in block.parameters if is_read(parameter)]


def _gather_each(program: Program, parameters: list[tuple[int, Parameter]], phase: Phase) -> Iterator[Node]:
    for layer, parameter in parameters:
        cut, width = cut_of(program, parameter, layer), _weight_width(program, parameter)
        if cut.shards > 1:
            name = f"weights.{parameter.name}"
            for node in _collective(program, name, "all_gather", cut.shard, parameter.elements, phase, width):
                yield layer, node


def scatter_gradients(program: Program, block: Block, layer: int = OUTSIDE) -> list[Collective]:
    """Return level 3's gradients of a block, after its backward."""
    if program.setup.strategy.zero.stage < 3:
        return []
    if program.setup.framework.parameter_collectives:
        return [node for _, node in _scatter_each(program, [(layer, p) for p in block.parameters])]
    return [
        node
        for expert, cut in _cuts_by_kind(program).items()
        for node in _scatter(program, f"gradients.{_kind(expert)}", cut, block.elements(expert))
    ]


def _scatter(program: Program, name: str, cut: Cut, elements: float) -> list[Collective]:
    if cut.shards == 1:
        return []
    return _collective(program, name, "reduce_scatter", cut.shard, elements, Phase.BACKWARD_WEIGHT)


def _scatter_each(program: Program, parameters: list[tuple[int, Parameter]]) -> Iterator[Node]:
    for layer, parameter in parameters:
        cut = cut_of(program, parameter, layer)
        for node in _scatter(program, f"gradients.{parameter.name}", cut, parameter.elements):
            yield layer, node


def scatter_micro_batch(program: Program, stage: int) -> list[Node]:
    """Return level 2's gradients of a stage, after each micro-batch."""
    return micro_batch_collectives(program, Holding.of_stage(program, stage))


def micro_batch_collectives(program: Program, holding: Holding) -> list[Node]:
    """Return level 2's gradients of these weights, after each micro-batch."""
    if program.setup.strategy.zero.stage != 2:
        return []
    if program.setup.framework.parameter_collectives:
        parameters = holding.parameters
        if is_accumulated_twice(program):  # MindSpore scatters what its two readers give one after the other
            parameters = parameters + [row for row in parameters if row[1].name in WORD_TABLES]
        return list(_scatter_each(program, parameters))
    return [
        (OUTSIDE, node)
        for expert, cut in _cuts_by_kind(program).items()
        for node in _scatter(program, f"gradients.{_kind(expert)}", cut, holding.elements(expert=expert))
    ]


def step_collectives(program: Program, stage: int) -> list[Node]:
    """Return what a rank of the stage sends once a step, beside its micro-batches, in order: sums of partial and of
    tied gradients, reduction over the ranks that hold the same weights, the norm, the loss, and the updated weights."""
    strategy, holding = program.setup.strategy, Holding.of_stage(program, stage)
    nodes: list[Node] = []
    if program.setup.framework.parameter_collectives:
        if strategy.micro_batches > 1 and strategy.mesh.dp > 1:  # micro-batches are cut from everyone's rows
            rows = 4.0 * strategy.batch.global_ * (program.model.seq_length + 1)
            nodes.append((OUTSIDE, Collective("rows", "all_gather", "dp", rows, Phase.BACKWARD_WEIGHT, "int32")))
        norms = {"norm": "stage", "norm.pipeline": "pp"}
    else:
        norms = {"norm": "world" if strategy.zero.stage or strategy.mesh.spreads_experts else "model"}
    nodes += gradient_collectives(program, holding)
    nodes += [(OUTSIDE, node) for node in _scalars(program, stage, norms)]
    return nodes + weight_collectives(program, holding)


def gradient_collectives(program: Program, holding: Holding) -> list[Node]:
    """Return the sums of these weights' gradients at the end of a step."""
    if program.setup.framework.parameter_collectives:
        return _one_by_one(program, holding)
    level, phase = program.setup.strategy.zero.stage, Phase.BACKWARD_WEIGHT
    cuts = _cuts_by_kind(program)
    held = cuts[False].shards if level >= 2 else 1  # from level 2 on a rank has its part of the gradients only
    partial = holding.part(lambda parameter: is_partial(program, parameter), held)
    nodes = _collective(program, "gradients.partial", "all_reduce", "tp", partial, phase)
    nodes += _tied(program, holding.part(lambda parameter: parameter.name in WORD_TABLES, held))
    for expert, cut in cuts.items():
        size, name = holding.elements(expert=expert), f"gradients.{_kind(expert)}"
        if level == 1:
            nodes += _scatter(program, name, cut, size)
        elif level == 0:
            nodes += _collective(program, name, "all_reduce", cut.whole, size, phase)
    for expert, cut in cuts.items() if level else ():
        part = holding.part(lambda p, kind=expert: p.expert == kind, cut.shards)  # type: ignore[misc]
        name = f"gradients.{_kind(expert)}.replica"
        if cut.replicas > 1:
            nodes += _collective(program, name, "all_reduce", cut.replica, part, phase)
    return [(OUTSIDE, node) for node in nodes]


def _one_by_one(program: Program, holding: Holding) -> list[Node]:
    """Return `gradient_collectives` of a framework that has a collective for every weight."""
    phase = Phase.BACKWARD_WEIGHT
    nodes = list(_scatter_each(program, holding.parameters)) if program.setup.strategy.zero.stage == 1 else []
    for layer, parameter in holding.parameters:
        cut, name = cut_of(program, parameter, layer), f"gradients.{parameter.name}"
        if cut.shards == 1:
            found = _collective(program, name, "all_reduce", cut.whole, parameter.elements, phase)
        else:
            part = shard_elements(parameter, cut.shards)
            found = _collective(program, f"{name}.replica", "all_reduce", cut.replica, part, phase)
            found = found if cut.replicas > 1 else []
        nodes += [(layer, node) for node in found]
    for layer, parameter in holding.parameters:
        if parameter.name in WORD_TABLES:
            part = shard_elements(parameter, cut_of(program, parameter, layer).shards)
            nodes += [(OUTSIDE, node) for node in _tied(program, part)]
    return nodes


def weight_collectives(program: Program, holding: Holding) -> list[Node]:
    """Gather these weights once they are updated (levels 1 and 2)."""
    if program.setup.strategy.zero.stage not in (1, 2):
        return []
    phase, width = Phase.BACKWARD_WEIGHT, program.setup.framework.weight_bytes_sent
    if program.setup.framework.parameter_collectives:
        return list(_gather_each(program, holding.parameters, phase))
    nodes: list[Node] = []
    for expert, cut in _cuts_by_kind(program).items():
        size, name = holding.elements(expert=expert), f"weights.{_kind(expert)}"
        if cut.shards > 1:
            found = _collective(program, name, "all_gather", cut.shard, size, phase, width)
            nodes += [(OUTSIDE, node) for node in found]
    return nodes


def _tied(program: Program, elements: float) -> list[Collective]:
    """Return the sum of a tied table's gradients, or of this rank's part of them, between the first and the last
    stage."""
    if not program.tied_across_stages:
        return []
    return _collective(program, "gradients.tied", "all_reduce", "embedding", elements, Phase.BACKWARD_WEIGHT)


def _scalars(program: Program, stage: int, norms: dict[str, str]) -> list[Collective]:
    """Return the sums of one number: the squared norm over these axes, and the loss where the head does not sum it."""
    axes = dict(norms)
    if stage == program.chunks[-1].stage and not program.setup.framework.partial_gradients:
        axes["loss"] = "weights"
    return [
        Collective(name, "all_reduce", axis, SCALAR_BYTES, Phase.BACKWARD_WEIGHT, "fp32")
        for name, axis in axes.items()
        if program.group(axis)[0] > 1
    ]


def _kind(expert: bool) -> str:
    return "expert" if expert else "dense"
