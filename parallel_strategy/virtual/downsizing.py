"""A strategy at a size that a laptop proves: the same mesh, schedule and cuts over a narrow, shallow model.

Kept: every axis but data parallelism (which is lowered to at most the devices asked for), what divides what, uneven
stages and recomputation, padding of the vocabulary, and whether a stage has one layer or more.
"""

import math
from dataclasses import dataclass

from pangu.foundation.errors import UserError
from parallel_strategy.spec.model import ModelSpec
from parallel_strategy.spec.strategy import CHUNKED, Setup, StrategySpec, divisors

HEAD_WIDTH = 4
LARGEST_DEVICES = 64


@dataclass(frozen=True, slots=True)
class Reduced:
    """The setup that is proved, and in words what was made smaller."""

    setup: Setup
    changes: tuple[str, ...]


def check_provable(model: ModelSpec, strategy: StrategySpec) -> None:
    """Raise UserError for what virtual devices cannot run."""
    if model.latent_attention is not None:
        raise UserError("latent attention has no virtual kernels: prove a model without it")
    if model.position == "alibi":
        raise UserError("position 'alibi' has no virtual kernels; proved are: learned, rotary, none")
    if model.prediction_layers:
        raise UserError(f"prediction_layers {model.prediction_layers} cannot be proved; nearest: 0")
    if model.experts is not None and model.experts.shared:
        raise UserError(f"experts.shared {model.experts.shared} cannot be proved; nearest: 0")
    if model.key_value_heads % strategy.mesh.tp:
        raise UserError(
            f"mesh.tp {strategy.mesh.tp} must divide the {model.key_value_heads} key-value heads to be proved; "
            f"nearest: {max(d for d in divisors(model.key_value_heads) if d <= strategy.mesh.tp)}"
        )
    if strategy.tensor.interleave > 1:
        raise UserError(f"tensor.interleave {strategy.tensor.interleave} is priced but not executed; nearest: 1")
    if strategy.overrides:
        raise UserError("overrides are MindSpore's own shardings of single operators, and are not in the program")


def reduced(setup: Setup, devices: int = LARGEST_DEVICES) -> Reduced:
    """Return the setup at proof size. `devices`: data parallelism is lowered until at most so many are left, if it
    can."""
    check_provable(setup.model, setup.strategy)
    strategy = _small_strategy(setup, devices)
    model = _small_model(setup.model, strategy, setup.strategy)
    small = Setup.model_construct(model=model, cluster=setup.cluster, framework=setup.framework, strategy=strategy)
    strategy.check_model(model)
    return Reduced(small, tuple(_changes(setup, small)))


def _small_strategy(setup: Setup, devices: int) -> StrategySpec:
    whole, model = setup.strategy, setup.model
    mesh, pipeline, recompute = whole.mesh, whole.pipeline, whole.recompute
    dp = _data_parallel(whole, devices)
    micro_batches = _micro_batches(whole)
    micro = min(whole.batch.micro, 2)
    stages = whole.layers_of_stages(model.num_layers)
    chunks = whole.chunks_per_stage
    small_stages = [_layers(n, chunks, stages) for n in stages] if pipeline.stages else None
    small_chunks = [_rank(n, pipeline.chunks) for n in pipeline.chunks] if pipeline.chunks else None
    cut = whole.model_copy(update={"pipeline": pipeline.model_copy(update={"chunks": small_chunks})})
    layers = small_stages or cut.layers_of_stages(_total_layers(model.num_layers, mesh.pp * chunks))
    per_stage = None
    if recompute.per_stage is not None:
        per_stage = [_share(r, n, small) for r, n, small in zip(recompute.per_stage, stages, layers, strict=True)]
    shard = whole.zero.weight_shard_size
    if shard > 0:  # groups of a sharded copy, smaller as data parallelism is
        shard = min(shard, max(2, dp * mesh.cp // 2))
    return whole.model_copy(
        update={
            "mesh": mesh.model_copy(update={"dp": dp}),
            "batch": whole.batch.model_copy(update={"global_": dp * micro * micro_batches, "micro": micro}),
            "pipeline": pipeline.model_copy(
                update={"stages": small_stages, "chunks": small_chunks, "micro_batches": None}
            ),
            "recompute": recompute.model_copy(update={"per_stage": per_stage}),
            "zero": whole.zero.model_copy(update={"weight_shard_size": shard, "threshold_kb": 0}),
        }
    )


def _data_parallel(whole: StrategySpec, devices: int) -> int:
    """Return the largest divisor of dp that leaves at most `devices`; at least 2 (4 with groups of a sharded copy)
    where there are as many, and whatever the experts need."""
    mesh = whole.mesh
    rest = mesh.devices // mesh.dp
    least = min(mesh.dp, 4 if whole.zero.optimizer_shard and whole.zero.weight_shard_size > 0 else 2)
    ranks, experts = mesh.cp, mesh.ep
    if mesh.is_folded:
        ranks, experts = mesh.cp * mesh.tp, mesh.ep * mesh.expert_tensor
    legal = [d for d in divisors(mesh.dp) if d >= least and (d * ranks) % experts == 0]
    return max((d for d in legal if d * rest <= devices), default=min(legal))


def _micro_batches(whole: StrategySpec) -> int:
    """Return micro-batches enough for the schedule's steady state."""
    count, pp = whole.micro_batches, whole.mesh.pp
    if pp == 1:
        return min(count, 2)
    wanted = 2 * pp if pp <= 4 or whole.pipeline.schedule == "zb_h2" else pp
    if whole.pipeline.schedule in CHUNKED and whole.pipeline.vpp > 1:
        wanted = -(-wanted // pp) * pp
    return min(count, wanted)


def _total_layers(layers: int, chunks: int) -> int:
    """Return a few layers a chunk, and the same remainder, so that the same stages are longer than others."""
    base, extra = divmod(layers, chunks)
    wanted = 4 if chunks == 1 else 2 if chunks <= 4 else 1
    return max(chunks * min(base, wanted) + extra, min(layers, 2))


def _layers(layers: int, chunks: int, stages: list[int]) -> int:
    """Return the same order among the stages' sizes, with as few layers as that needs."""
    return chunks + sorted(set(stages)).index(layers) if layers > chunks else layers


def _rank(layers: int, chunks: list[int]) -> int:
    """Return the place of a chunk's size among those that occur; 0 stays 0."""
    return sorted({0, *chunks}).index(layers)


def _share(recomputed: int, layers: int, small: int) -> int:
    if recomputed in (0, layers):
        return min(recomputed, small)
    return min(max(1, small * recomputed // layers), max(1, small - 1))


def _small_model(model: ModelSpec, strategy: StrategySpec, whole: StrategySpec) -> ModelSpec:
    mesh = strategy.mesh
    tp = mesh.tp
    groups = model.num_heads // model.key_value_heads
    kv_heads = tp if tp > 1 else min(2, model.key_value_heads)
    heads = kv_heads * min(groups, 2)
    cut = mesh.cp * (tp if strategy.tensor.sequence_parallel else 1)
    if model.seq_length % cut:
        raise UserError(
            f"mesh.cp x mesh.tp = {cut} must divide the sequence {model.seq_length} with sequence parallelism; "
            f"nearest: {max(d for d in divisors(model.seq_length) if d <= cut)}"
        )
    if model.ffn_hidden_size % tp:
        raise UserError(f"mesh.tp {tp} must divide ffn_hidden_size {model.ffn_hidden_size}")
    chunks = mesh.pp * strategy.chunks_per_stage
    said = strategy.pipeline.stages or strategy.pipeline.chunks
    layers = sum(said) if said else _total_layers(model.num_layers, chunks)
    updates: dict[str, object] = {
        "num_layers": layers,
        "num_heads": heads,
        "kv_heads": kv_heads if model.kv_heads is not None else None,
        "head_size": HEAD_WIDTH if model.head_size is not None else None,
        "hidden_size": heads * HEAD_WIDTH,
        "ffn_hidden_size": tp * max(2, 16 // tp),
        "seq_length": cut * max(1, 8 // cut),
        "vocab_size": tp * max(3, 24 // tp) + (1 if model.vocab_size % tp else 0),
    }
    if model.kv_heads is None:  # as many as heads
        updates["num_heads"] = heads = kv_heads
        updates["hidden_size"] = heads * HEAD_WIDTH
    if model.experts is not None:
        count = model.experts.count if model.experts.count <= 8 else mesh.ep * max(1, -(-4 // mesh.ep))
        top_k = min(model.experts.top_k, 2, count)
        updates["experts"] = model.experts.model_copy(
            update={
                "count": count,
                "top_k": top_k,
                "ffn_hidden_size": math.lcm(tp, mesh.expert_tensor) * max(2, 8 // tp),
                "capacity_factor": count / top_k,  # a place for every token: what is dropped depends on the layout
                "first_layer": min(model.experts.first_layer, 1),
            }
        )
    return model.model_copy(update=updates)


def _changes(whole: Setup, small: Setup) -> list[str]:
    pairs: list[tuple[str, float, float]] = [
        ("layers", whole.model.num_layers, small.model.num_layers),
        ("hidden", whole.model.hidden_size, small.model.hidden_size),
        ("heads", whole.model.num_heads, small.model.num_heads),
        ("ffn", whole.model.ffn_hidden_size, small.model.ffn_hidden_size),
        ("sequence", whole.model.seq_length, small.model.seq_length),
        ("vocabulary", whole.model.vocab_size, small.model.vocab_size),
        ("dp", whole.strategy.mesh.dp, small.strategy.mesh.dp),
        ("weight_shard_size", whole.strategy.zero.weight_shard_size, small.strategy.zero.weight_shard_size),
        ("threshold_kb", whole.strategy.zero.threshold_kb, small.strategy.zero.threshold_kb),
        ("micro", whole.strategy.batch.micro, small.strategy.batch.micro),
        ("micro-batches", whole.strategy.micro_batches, small.strategy.micro_batches),
    ]
    if whole.model.experts is not None and small.model.experts is not None:
        pairs.append(("experts", whole.model.experts.count, small.model.experts.count))
        pairs.append(("capacity", whole.model.experts.capacity_factor, small.model.experts.capacity_factor))
    return [f"{name} {before:g} → {after:g}" for name, before, after in pairs if before != after]
