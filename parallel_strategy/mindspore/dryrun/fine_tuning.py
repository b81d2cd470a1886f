"""What a step of a fine-tuning communicates, from what a step of training does: the base is frozen, an adapter is not.

Three things change. Gradients travel for what is trained only; frozen weights are sharded and gathered as trained ones
are. Backward ends at the first layer, at what is trained there: sums for gradients that only frozen weights would use
are not made. And LoRA beside a product that is split by rows multiplies its input by A in parts, which are summed:
`rank` numbers a token, each way.
"""

import argparse
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from pangu.foundation.errors import UserError
from pangu.foundation.settings import nearest_name
from parallel_strategy.graph.collectives import Record, collectives_of, record_of
from parallel_strategy.graph.operator import Collective, Parameter, Phase
from parallel_strategy.graph.program import Program
from parallel_strategy.graph.weight_collectives import (
    GRADIENTS,
    OUTSIDE,
    Holding,
    gradient_collectives,
    micro_batch_collectives,
    weight_collectives,
)
from parallel_strategy.mindspore.pangu_network import LINEAR
from parallel_strategy.mindspore.pipeline_stages import recomputed_layers
from parallel_strategy.spec.strategy import Setup

# As `python -m pangu finetune` calls them: methods, and the linear layers that LoRA stands beside.
METHODS = ("full", "lora", "adapter", "bitfit")
MODULES = {
    "q_proj": "attention.query",
    "k_proj": "attention.key",
    "v_proj": "attention.value",
    "attn.c_proj": "attention.output",
    "c_fc": "feed_forward.up",
    "mlp.c_proj": "feed_forward.down",
}
ALL = "all"
BEHIND = ("attention.output", "feed_forward.down")  # what method adapter stands behind
LAST_SUM = "feed_forward.output"  # of a layer, which a recomputation of the layer alone leaves out
# What of a first layer stands before a collective of backward, in the layer's order: where none of it is trained, the
# collective is not needed. What stands before the embedding's is trained by method full alone.
_ATTENTION = ("attention.norm", "attention.query", "attention.key", "attention.value")
_FEED_FORWARD = (*_ATTENTION, "attention.output", "feed_forward.norm")
BEFORE: dict[str, tuple[str, ...]] = {
    "embedding.word": (),
    "attention.input": ("attention.norm",),
    "attention.all_keys": ("attention.norm", "attention.key"),
    "attention.all_values": ("attention.norm", "attention.value"),
    "attention.output": _ATTENTION,
    "feed_forward.input": _FEED_FORWARD,
    "feed_forward.output": (*_FEED_FORWARD, "feed_forward.up"),
}


@dataclass(frozen=True)
class FineTuning:
    """What is trained of a network. rank, modules: of lora; bottleneck: of adapter."""

    method: str
    rank: int = 8
    modules: tuple[str, ...] = ("q_proj", "v_proj")
    bottleneck: int = 64

    @property
    def linears(self) -> tuple[str, ...]:
        """Return the layers that lora stands beside, as the emulator names them."""
        modules = MODULES if self.modules == (ALL,) else self.modules
        return tuple(MODULES[module] for module in modules) if self.method == "lora" else ()

    def flags(self) -> tuple[str, ...]:
        """Return what the program that compiles is told."""
        sizes = ("--lora-rank", str(self.rank), "--bottleneck", str(self.bottleneck))
        modules = [word for module in self.modules for word in ("--module", module)]
        return ("--method", self.method, *sizes, *modules)

    def check(self, setup: Setup, is_compared: bool) -> None:
        """Raise UserError for what cannot be compiled, or not be compared. is_compared: with the emulator."""
        if self.method not in METHODS:
            raise UserError(
                f"--method {self.method}: is not compiled under a strategy; right: {', '.join(METHODS)}"
                f"{nearest_name(self.method, list(METHODS))}"
            )
        for module in self.modules:
            if module not in MODULES and self.modules != (ALL,):
                raise UserError(f"--module {module}: is unknown{nearest_name(module, list(MODULES))}; or {ALL}")
        hidden = setup.model.hidden_size
        for name, size in (("--lora-rank", self.rank), ("--bottleneck", self.bottleneck)):
            if not 1 <= size <= hidden:
                raise UserError(f"{name} {size}: must be 1 to {hidden}, the hidden size")
        if setup.model.experts is not None:
            raise UserError("model.experts: a fine-tuning drops no token, which no strategy lays out; right: none")
        strategy = setup.strategy
        if self.method == "bitfit" and strategy.mesh.pp > 1 and strategy.pipeline.schedule == "zb_v":
            raise UserError(
                "pipeline.schedule zb_v: MindSpore 2.10 does not compile it where no matrix is trained (bitfit); "
                "right: 1f1b"
            )
        if is_compared and strategy.zero.bucket_mb is not None:
            raise UserError(
                "zero.bucket_mb: which gradients of a fine-tuning are joined is not emulated; right: none, or no --diff"
            )
        if is_compared and strategy.zero.optimizer_shard and strategy.zero.level == 3:
            raise UserError(
                "zero.level 3: which frozen weights are gathered again for backward is not emulated; right: level 1 or "
                "2, or no --diff"
            )

    def trained(self, program: Program, stage: int) -> Iterator[tuple[int, Parameter]]:
        """Yield (layer, weight) of what a rank of a stage trains."""
        for layer, parameter in program.stage_parameters(stage):
            owner, _, kind = parameter.name.rpartition(".")
            if self.method == "full" or (self.method == "bitfit" and (kind == "bias" or owner.endswith(".norm"))):
                yield layer, parameter
            elif kind != "weight":
                continue
            elif owner in self.linears:
                inputs, outputs = parameter.shape
                yield layer, whole_or_part(f"{owner}.lora_A", (self.rank, inputs), is_split=parameter.split == 0)
                yield layer, whole_or_part(f"{owner}.lora_B", (outputs, self.rank), is_split=parameter.split == 1)
            elif self.method == "adapter" and owner in BEHIND:
                hidden, width = program.model.hidden_size, self.bottleneck
                shapes = {"down": (width, hidden), "down_bias": (width,), "up": (hidden, width), "up_bias": (hidden,)}
                for name, shape in shapes.items():
                    yield layer, whole_or_part(f"{owner}.adapter.{name}", shape, is_split=False)


def asked_tuning(arguments: argparse.Namespace, setup: Setup) -> FineTuning | None:
    """Return the fine-tuning that a command line asks for; None: training. Raises UserError."""
    if arguments.module and arguments.method != "lora":
        raise UserError("--module: goes with --method lora")
    if arguments.method is None:
        return None
    for name in ("load", "skeleton"):
        if getattr(arguments, name) is not None:
            raise UserError(f"--{name}: is for a step of training; leave it or --method out")
    modules = {"modules": tuple(arguments.module)} if arguments.module else {}
    tuning = FineTuning(arguments.method, rank=arguments.lora_rank, bottleneck=arguments.bottleneck, **modules)
    tuning.check(setup, arguments.diff)
    return tuning


def whole_or_part(name: str, shape: tuple[int, ...], is_split: bool) -> Parameter:
    """Return an adapter's weight, of this shape on a rank."""
    return Parameter(name, float(math.prod(shape)), replicated_over_tp=not is_split, shape=shape)


def fine_tuning_collectives(program: Program, rank: int, tuning: FineTuning) -> list[Record]:
    """Return everything that a rank sends and receives in a step of a fine-tuning."""
    stage = program.groups.coordinate("pp", rank)
    trained = list(tuning.trained(program, stage))
    first = {layer_operator(parameter.name) for layer, parameter in trained if layer == 0}
    recompute = program.setup.strategy.recompute
    again = recomputed_layers(program.setup) if recompute.mode == "full" and recompute.mp_comm else set()
    records = []
    for record in collectives_of(program, rank):
        if record.name.startswith(GRADIENTS):
            continue
        before = BEFORE.get(record.name.removesuffix(".gradient"))
        is_last = record.phase == "backward" and record.layer == 0 and before is not None
        if is_last and tuning.method != "full" and not first & set(before or ()):
            continue
        # A row has a weight behind each of its ids.
        records.append(replace(record, bytes=2 * record.bytes) if record.name == "rows" else record)
        is_read = tuning.method == "adapter" and record.name == LAST_SUM  # by the adapter behind it, in backward
        if is_read and record.phase == "forward" and record.layer in again:
            records.append(replace(record, phase="recompute"))
    for layer, work, phase, times in [*weights_of(program, trained), *narrow_sums(program, stage, tuning, again)]:
        if program.group(work.axis)[0] > 1:
            records += [record_of(program, work, rank, 0, layer, phase, OUTSIDE)] * times
    return records


def layer_operator(parameter: str) -> str:
    """Return the operator of a layer that a trained weight belongs to."""
    return next((name for name in (*LINEAR, "attention.norm", "feed_forward.norm") if parameter.startswith(name)), "")


Sent = tuple[int, Collective, str, int]  # layer, what, phase, how often in a step


def weights_of(program: Program, trained: list[tuple[int, Parameter]]) -> Iterator[Sent]:
    """Yield the traffic of gradients, and of weights that the base does not have."""
    holding, micro_batches = Holding(trained, []), program.setup.strategy.micro_batches
    added = Holding([one for one in trained if is_added(one[1])], [])
    for layer, work in micro_batch_collectives(program, holding):
        yield layer, work, "step", micro_batches
    for layer, work in [*gradient_collectives(program, holding), *weight_collectives(program, added)]:
        yield layer, work, "step", 1


def is_added(parameter: Parameter) -> bool:
    """Return whether a weight is an adapter's."""
    return ".lora_" in parameter.name or ".adapter." in parameter.name


def narrow_sums(program: Program, stage: int, tuning: FineTuning, again: Collection[int]) -> Iterator[Sent]:
    """Yield the sums of x Aᵀ where x is split, forward and of its gradient. again: the layers that are recomputed."""
    strategy, model = program.setup.strategy, program.model
    size = program.shard.tokens(model) * tuning.rank * model.element_bytes
    for layer, parameter in tuning.trained(program, stage):
        if not parameter.name.endswith(".lora_A") or parameter.replicated_over_tp:
            continue
        work = Collective(parameter.name, "all_reduce", "tp", size, Phase.FORWARD, model.activation_dtype)
        yield layer, work, "forward", strategy.micro_batches
        if layer in again:
            yield layer, work, "recompute", strategy.micro_batches
        yield layer, replace(work, phase=Phase.BACKWARD_INPUT), "backward", strategy.micro_batches
