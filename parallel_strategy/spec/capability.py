"""What of a strategy its framework cannot carry out: one record, one function, asked by every verb.

The record is `executes` of a framework file. A strategy that leaves it can be priced, which shows what a change of the
framework would win; nothing can run it.
"""

import difflib
from collections.abc import Iterator, Sequence

from pangu.foundation.errors import UserError
from pangu.foundation.yaml_document import shown
from parallel_strategy.spec.divide import divisors, nearest
from parallel_strategy.spec.framework import Executes
from parallel_strategy.spec.model import ModelSpec
from parallel_strategy.spec.strategy import Setup, StrategySpec

# What PanGu-alpha is, of a model's fields.
PANGU_ALPHA: dict[str, tuple[object, ...]] = {
    "position": ("learned",),
    "norm": ("layer_norm",),
    "activation": ("gelu_tanh", "gelu_erf", "fast_gelu"),
    "latent_attention": (None,),
    "prediction_layers": (0,),
    "gated_ffn": (False,),
    "bias": (True,),
    "tied_embedding": (True,),
}


def outside(setup: Setup) -> list[str]:
    """Return what the setup's framework cannot carry out, a line each: `field: what; nearest: what would be right`.

    Fields that have no effect (the schedule of one stage) leave nothing.
    """
    strategy, model, framework = setup.strategy, setup.model, setup.framework
    executes = framework.executes
    lines = [
        *_mesh(strategy, executes),
        *_fields(strategy, executes),
        *_model(strategy, model, executes),
    ]
    return [f"{field}: {framework.name} does not execute {what}" for field, what in lines]


def check_executed(setup: Setup) -> None:
    """Raise UserError for a strategy that its framework cannot carry out: the first line, and the other fields."""
    lines = outside(setup)
    if lines:
        others = ", ".join(line.partition(":")[0] for line in lines[1:])
        raise UserError(lines[0] + (f" (nor as it stands: {others})" if others else ""))


def _mesh(strategy: StrategySpec, executes: Executes) -> Iterator[tuple[str, str]]:
    mesh = strategy.mesh
    for axis in ("pp", "dp", "cp", "tp", "ep"):
        size = getattr(mesh, axis)
        if size > 1 and executes.axes is not None and axis not in executes.axes:
            legal = ", ".join(executes.axes)
            yield f"mesh.{axis}", f"{axis} {size}; nearest: 1 (axes that may be larger: {legal})"
    if mesh.is_folded and not executes.expert_tensor:
        yield "mesh.etp", f"experts over {mesh.expert_tensor} ranks and all else over tp {mesh.tp}; nearest: {mesh.tp}"
    used = [axis for axis in mesh.axes if getattr(mesh, axis) > 1 and axis in (executes.order or ())]
    if executes.order is not None and used != [axis for axis in executes.order if axis in used]:
        yield "mesh.order", f"ranks in the order {', '.join(used)}; nearest: {', '.join(executes.order)}"
    server = executes.server_devices
    if server and mesh.devices % server and server % (2 * mesh.devices):
        sizes = [n for n in divisors(server) if 2 * n <= server] + [server * max(1, round(mesh.devices / server))]
        yield "mesh", f"{mesh.devices} devices on servers of {server}; nearest: {nearest(sizes, mesh.devices)}"


def _fields(strategy: StrategySpec, executes: Executes) -> Iterator[tuple[str, str]]:
    pipeline, tensor, tp = strategy.pipeline, strategy.tensor, strategy.mesh.tp
    if strategy.mesh.pp > 1 and executes.schedules is not None and pipeline.schedule not in executes.schedules:
        yield "pipeline.schedule", f"{pipeline.schedule!r}; {_nearest_name(pipeline.schedule, executes.schedules)}"
    if strategy.mesh.pp > 1 and pipeline.chunks is not None and not executes.chunk_sizes:
        yield "pipeline.chunks", "chunks of sizes of their own; nearest: null"
    count = strategy.micro_batches
    fewest = strategy.mesh.pp * executes.micro_batches_per_stage.get(pipeline.schedule, 0)
    if strategy.mesh.pp > 1 and count < fewest:
        legal = max(1, strategy.batch.micro * count // fewest)
        yield "batch.micro", f"a pipeline of {count} micro-batches; nearest: {legal} ({fewest} or more)"
    stages = executes.zero_stages
    if strategy.mesh.dp * strategy.mesh.cp > 1 and stages is not None and strategy.zero.stage not in stages:
        yield "zero.level", f"optimizer sharding of stage {strategy.zero.stage}; nearest: {max(stages)}"
    if tensor.overlap > 1 and tp > 1 and not executes.overlap:
        yield "tensor.overlap", f"products in {tensor.overlap} parts beside their collectives; nearest: 1"
    if tensor.interleave > 1 and not executes.interleave:
        yield "tensor.interleave", f"{tensor.interleave} halves of a micro-batch; nearest: 1"
    if tensor.sequence_parallel and tp > 1:
        most = executes.sequence_parallel_micro
        if not executes.sequence_parallel:
            yield "tensor.sequence_parallel", "sequence parallelism; nearest: false"
        elif most is not None and strategy.batch.micro > most:
            yield "batch.micro", f"{strategy.batch.micro} sequences with tensor.sequence_parallel; nearest: {most}"
    if strategy.mesh.cp > 1 and strategy.batch.micro > (executes.sequence_parallel_micro or strategy.batch.micro):
        most = executes.sequence_parallel_micro
        yield "batch.micro", f"{strategy.batch.micro} sequences with mesh.cp {strategy.mesh.cp}; nearest: {most}"
    if strategy.offload.optimizer and not executes.offload_optimizer:
        yield "offload.optimizer", "Adam on the host; nearest: false"
    if strategy.offload.activation and not executes.offload_activation:
        yield "offload.activation", f"{strategy.offload.activation:g} of the activations on the host; nearest: 0"
    if strategy.overrides and not executes.overrides:
        yield "overrides", "other splits of single operators; nearest: []"


def _model(strategy: StrategySpec, model: ModelSpec, executes: Executes) -> Iterator[tuple[str, str]]:
    if executes.dtypes is not None and model.compute_dtype not in executes.dtypes:
        yield "model", f"compute_dtype {model.compute_dtype}; legal: {', '.join(executes.dtypes)}"
    tp = strategy.mesh.tp if strategy.tensor.vocab == "split" else 1
    if not executes.uneven_vocabulary and model.vocab_size % tp:
        yield "tensor.vocab", f"a vocabulary of {model.vocab_size} in {tp} parts; nearest: 'whole'"
    if not executes.only_pangu_alpha:
        return
    if strategy.mesh.cp > 1 and strategy.overrides:
        yield "overrides", f"other splits of single operators with mesh.cp {strategy.mesh.cp}; nearest: []"
    if strategy.mesh.cp > 1 and strategy.mesh.tp > 1:
        yield "mesh.cp", f"context parallelism with mesh.tp {strategy.mesh.tp}; nearest: 1"
    wrong = [name for name, legal in PANGU_ALPHA.items() if getattr(model, name) not in legal]
    if model.experts is not None and model.experts.routing is None:
        wrong.append("experts")
    if model.key_value_heads != model.num_heads:
        wrong.append("kv_heads")
    elif model.experts is not None:
        yield from _experts(strategy, model)
    if wrong:
        values = ", ".join(f"{name} {shown(getattr(model, name))}" for name in wrong[:3])
        yield "model", f"a model with {values}: it has PanGu-alpha's network only"


def _experts(strategy: StrategySpec, model: ModelSpec) -> Iterator[tuple[str, str]]:
    """Yield what of PanGu-alpha's experts no strategy splits."""
    experts, mesh = model.experts, strategy.mesh
    assert experts is not None
    if experts.routing not in ("switch", "top_k"):
        yield "model", f"experts.routing {experts.routing!r}; nearest: 'switch' (or top_k)"
    if experts.unlimited:
        yield "model", "experts without a limit of places; nearest: capacity_factor 1.25"
    if experts.shared:
        yield "model", f"experts.shared {experts.shared}; nearest: 0"
    if mesh.cp > 1:
        yield "mesh.cp", "context parallelism with experts, whose places are counted along a row; nearest: 1"
    if mesh.dp % mesh.ep:
        yield "mesh.ep", f"ep {mesh.ep} that does not divide mesh.dp {mesh.dp}; nearest: 1"
    if strategy.tensor.sequence_parallel and mesh.tp > 1:
        yield "tensor.sequence_parallel", "sequence parallelism with experts; nearest: false"


def _nearest_name(name: str, legal: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, legal, n=1, cutoff=0.65)
    best = close[0] if close else "1f1b" if "1f1b" in legal else legal[0]
    return f"nearest: {best!r} (legal: {', '.join(legal)})"
