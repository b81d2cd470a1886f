"""Traffic of weights and gradients: what data parallelism, optimizer sharding and tied tables add to the collectives
of the blocks.

Optimizer sharding (Rajbhandari et al. 2020): at level 1 gradients are reduce-scattered at the end of a step and updated
weights gathered; at level 2 each micro-batch's gradients are reduce-scattered; at level 3 each block's weights are
gathered for forward and again for backward, and its gradients reduce-scattered. Every weight is cut by itself, so that
the same part of a tied table lies on the same rank of the first and of the last stage.

With `zero.weight_shard_size` the ranks of a group share one copy, and the groups sum their parts.
"""

from collections.abc import Callable
from dataclasses import dataclass

from parallel_strategy.graph.operator import Block, Collective, Parameter, Phase
from parallel_strategy.graph.program import Program

SCALAR_BYTES = 4.0


@dataclass(frozen=True, slots=True)
class Cut:
    """How weights of one kind are spread: `shard` ranks share a copy, `replica` groups of them hold the same."""

    shard: str
    replica: str
    shards: int
    replicas: int


def cut_of(program: Program, *, expert: bool) -> Cut:
    """Axes and sizes for dense weights or for experts."""
    whole = "expert_dp" if expert else "weights"
    prefix = "expert_" if expert else ""
    size = program.group(whole)[0]
    if not program.question.strategy.zero.stage:
        return Cut(whole, whole, 1, size)
    shards = program.group(f"{prefix}shard")[0]
    return Cut(whole if shards == size else f"{prefix}shard", f"{prefix}replica", shards, size // shards)


def shard_elements(parameter: Parameter, shards: int) -> int:
    """Elements of one rank's part; the last part is padded."""
    return -(-int(parameter.elements) // shards)


def _traffic(
    program: Program, name: str, op: str, axis: str, elements: float, phase: Phase, *, weights: bool = False
) -> list[Collective]:
    """One collective, where it has members and something to send."""
    framework = program.question.framework
    width = framework.weight_bytes_sent if weights else framework.gradient_bytes_sent
    if program.group(axis)[0] == 1 or not elements:
        return []
    half = program.model.activation_dtype if program.model.activation_dtype != "fp32" else "fp16"
    return [Collective(name, op, axis, elements * width, phase, "fp32" if width == 4 else half)]


def gather_weights(program: Program, block: Block, phase: Phase) -> list[Collective]:
    """Level 3: the weights of a block, before it runs."""
    if program.question.strategy.zero.stage < 3:
        return []
    result = []
    for expert in (False, True):
        axis, size = cut_of(program, expert=expert).shard, block.elements(expert)
        result += _traffic(program, f"weights.{_kind(expert)}", "all_gather", axis, size, phase, weights=True)
    return result


def scatter_gradients(program: Program, block: Block) -> list[Collective]:
    """Level 3: the gradients of a block, after its backward."""
    if program.question.strategy.zero.stage < 3:
        return []
    result = []
    for expert in (False, True):
        axis, size = cut_of(program, expert=expert).shard, block.elements(expert)
        name = f"gradients.{_kind(expert)}"
        result += _traffic(program, name, "reduce_scatter", axis, size, Phase.BACKWARD_WEIGHT)
    return result


def scatter_micro_batch(program: Program, stage: int) -> list[Collective]:
    """Level 2: the gradients of a stage, after each micro-batch."""
    if program.question.strategy.zero.stage != 2:
        return []
    return _reduction(program, stage, Phase.BACKWARD_WEIGHT)


def _reduction(program: Program, stage: int, phase: Phase) -> list[Collective]:
    level, result = program.question.strategy.zero.stage, []
    for expert in (False, True):
        axis, size = cut_of(program, expert=expert).shard, program.stage_elements(stage, expert=expert)
        op = "reduce_scatter" if level else "all_reduce"
        result += _traffic(program, f"gradients.{_kind(expert)}", op, axis, size, phase)
    return result


def step_collectives(program: Program, stage: int) -> list[Collective]:
    """What a rank of the stage sends once a step, after its last micro-batch, in order: sums of partial and of tied
    gradients, reduction over the ranks that hold the same weights, the norm, and the updated weights."""
    level = program.question.strategy.zero.stage
    cuts = {expert: cut_of(program, expert=expert) for expert in (False, True)}
    phase = Phase.BACKWARD_WEIGHT
    result: list[Collective] = []

    def elements(wanted: Callable[[Parameter], bool], shards: int) -> float:
        """Elements of one rank's part of the weights that are wanted."""
        return sum(
            float(count * shard_elements(parameter, shards))
            for block, count in program.stage_blocks(stage)
            for parameter in block.parameters
            if wanted(parameter)
        )

    held = cuts[False].shards if level >= 2 else 1  # from level 2 on a rank has its part of the gradients only
    partial = elements(lambda parameter: parameter.partial_over_tp, held)
    result += _traffic(program, "gradients.partial", "all_reduce", "tp", partial, phase)
    if program.tied_across_stages and stage in (program.chunks[0].stage, program.chunks[-1].stage):
        table = elements(lambda parameter: parameter.name in WORD_TABLES, held)
        result += _traffic(program, "gradients.tied", "all_reduce", "embedding", table, phase)
    if level < 2:
        result += _reduction(program, stage, phase)
    if level:
        for expert, cut in cuts.items():
            part = elements(lambda parameter, expert=expert: parameter.expert == expert, cut.shards)  # type: ignore[misc]
            name = f"gradients.{_kind(expert)}.replica"
            result += _traffic(program, name, "all_reduce", cut.replica, part, phase)
    whole_norm = "world" if level or program.question.strategy.mesh.ep > 1 else "model"
    if program.group(whole_norm)[0] > 1:
        result.append(Collective("norm", "all_reduce", whole_norm, SCALAR_BYTES, phase, "fp32"))
    if stage == program.chunks[-1].stage and program.group("weights")[0] > 1:
        result.append(Collective("loss", "all_reduce", "weights", SCALAR_BYTES, phase, "fp32"))
    if level in (1, 2):
        for expert, cut in cuts.items():
            size = program.stage_elements(stage, expert=expert)
            result += _traffic(program, f"weights.{_kind(expert)}", "all_gather", cut.shard, size, phase, weights=True)
    return result


WORD_TABLES = ("embedding.word.weight", "head.logits.weight")


def _kind(expert: bool) -> str:
    return "expert" if expert else "dense"
