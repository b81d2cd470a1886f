"""The parts of a MindFormers configuration that say what a model is, and how it is laid over devices."""

import yaml

from parallel_strategy.export import mindformers_model
from parallel_strategy.spec.strategy import Setup, even_stages

# MindSpore's names of the schedules that it has.
SCHEDULERS = {"1f1b": "1f1b", "mindspore_vpp": "1f1b", "gpipe": "gpipe", "zb_v": "zero_bubble_v"}
# Megatron's order of the chunks, for which MindSpore has its own.
NEAR = {"interleaved": "1f1b"}


def chunks(setup: Setup) -> int:
    """Return chunks of layers on each stage: two where the schedule leads there and back again."""
    pipeline = setup.strategy.pipeline
    return 2 if pipeline.schedule == "zb_v" and setup.strategy.mesh.pp > 1 else pipeline.vpp


def offsets(setup: Setup) -> list[int]:
    """Return the layers of each stage beyond the whole part of layers / stages, as MindFormers' `offset` counts
    them."""
    stages = setup.strategy.layers_of_stages(setup.model.num_layers)
    base = setup.model.num_layers // setup.strategy.mesh.pp
    return [layers - base for layers in stages]


def recompute_layers(setup: Setup) -> list[int]:
    """Return recomputed layers of each stage."""
    recompute = setup.strategy.recompute
    stages = setup.strategy.layers_of_stages(setup.model.num_layers)
    if recompute.mode == "none":
        return [0] * len(stages)
    return list(recompute.per_stage) if recompute.per_stage is not None else stages


def by_chunk(of_stages: list[int], chunks: int) -> list[list[int]]:
    """Return the numbers of layers of each stage, spread over the stage's chunks; MindFormers has a row a chunk."""
    return [
        [layers * (chunk + 1) // chunks - layers * chunk // chunks for layers in of_stages] for chunk in range(chunks)
    ]


def unsaid(setup: Setup) -> list[str]:
    """Return what of the strategy no field says."""
    strategy, mesh = setup.strategy, setup.strategy.mesh
    used = [axis for axis in mesh.axes if getattr(mesh, axis) > 1]
    said = {
        "mesh.order": used == [axis for axis in ("pp", "dp", "cp", "tp") if axis in used],
        "zero.level 3": strategy.zero.stage < 3 or strategy.recompute.mode == "full",
        "pipeline.schedule": strategy.mesh.pp == 1 or strategy.pipeline.schedule in SCHEDULERS,
        "pipeline.stages": chunks(setup) == 1 or not any(offsets(setup)),
        "zero.whole": not strategy.zero.whole,
        "offload": not strategy.offload.optimizer and strategy.offload.activation == 0,
        "overrides": not strategy.overrides,
    }
    return [*mindformers_model.unsaid(setup.model), *(field for field, is_said in said.items() if not is_said)]


def fusion(setup: Setup) -> dict:
    """Return MindSpore's `comm_fusion`: collectives of gradients, and of shards, of `bucket_mb` each."""
    zero = setup.strategy.zero
    if zero.bucket_mb is None:
        return {}
    size = {"mode": "size", "config": max(1, round(zero.bucket_mb))}
    kinds = ["allreduce", *(["allgather", "reducescatter"] if zero.optimizer_shard else [])]
    return {"comm_fusion": {kind: dict(size) for kind in kinds}}


def configuration(setup: Setup) -> dict:
    """Return `parallel`, `parallel_config`, `recompute_config` and what of `model` and `runner_config` belongs to
    them."""
    strategy, model = setup.strategy, setup.model
    mesh, zero, recompute = strategy.mesh, strategy.zero, strategy.recompute
    layers = recompute_layers(setup)
    uneven = even_stages(model.num_layers, mesh.pp) != strategy.layers_of_stages(model.num_layers)
    whole = recompute.per_stage is None and not uneven
    rows = by_chunk(layers, chunks(setup))
    by_stage: bool | list = whole or (rows if len(rows) > 1 else layers)
    parallel: dict = {
        "parallel_mode": 1,  # semi_auto_parallel
        "gradients_mean": False,
        "full_batch": True,
        "enable_parallel_optimizer": zero.optimizer_shard,
        "strategy_ckpt_save_file": "./ckpt_strategy.ckpt",
        **fusion(setup),
    }
    if zero.optimizer_shard:
        parallel["parallel_optimizer_config"] = {
            "gradient_accumulation_shard": zero.level >= 2,
            "parallel_optimizer_threshold": zero.threshold_kb,
            "optimizer_weight_shard_size": zero.weight_shard_size,
        }
    parallel_config = {
        "data_parallel": mesh.dp,
        "model_parallel": mesh.tp,
        "context_parallel": mesh.cp,
        "expert_parallel": mesh.ep,
        "pipeline_stage": mesh.pp,
        "micro_batch_num": strategy.micro_batches if mesh.pp > 1 else 1,
        "use_seq_parallel": strategy.tensor.sequence_parallel,
        "vocab_emb_dp": strategy.tensor.vocab == "whole",
        "gradient_aggregation_group": 4,
    }
    model_config: dict = mindformers_model.model_fields(model)
    if mesh.pp > 1:
        model_config["offset"] = offsets(setup) if len(rows) == 1 else 0
    if len(rows) > 1:
        model_config["pp_interleave_num"] = len(rows)
    if mesh.pp > 1 and (scheduler := (SCHEDULERS | NEAR).get(strategy.pipeline.schedule)):
        parallel["pipeline_config"] = {"pipeline_interleave": len(rows) > 1, "pipeline_scheduler": scheduler}
    moe = mindformers_model.moe_fields(model)
    return {
        "use_parallel": mesh.devices > 1,
        "runner_config": {
            "batch_size": strategy.batch.micro // strategy.tensor.interleave,
            "gradient_accumulation_steps": 1 if mesh.pp > 1 else strategy.micro_batches,
        },
        "parallel": parallel,
        "parallel_config": parallel_config,
        "micro_batch_interleave_num": strategy.tensor.interleave,
        **({"moe_config": moe} if moe else {}),
        "recompute_config": {
            "recompute": by_stage if recompute.mode == "full" else False,
            "select_recompute": by_stage if recompute.mode == "selective" else False,
            "parallel_optimizer_comm_recompute": zero.stage == 3 and recompute.mode == "full",
            "mp_comm_recompute": recompute.mp_comm,
            "recompute_slice_activation": recompute.slice_activation,
        },
        "model": {"model_config": model_config},
    }


def text(setup: Setup) -> str:
    """Return the configuration as YAML."""
    head = (
        "# For a MindFormers configuration: what the model is and how it is laid over devices, and no other fields.\n"
    )
    if fields := unsaid(setup):
        head += f"# No field says: {', '.join(fields)}.\n"
    return head + yaml.safe_dump(configuration(setup), sort_keys=False, default_flow_style=None, width=110)
