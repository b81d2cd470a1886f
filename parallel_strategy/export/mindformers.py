"""The parts of a MindFormers configuration that say how a model is laid over devices."""

import yaml

from parallel_strategy.spec.strategy import Question, even_stages


def offsets(question: Question) -> list[int]:
    """Layers of each stage beyond the whole part of layers / stages, as MindFormers' `offset` counts them."""
    stages = question.strategy.layers_of_stages(question.model.num_layers)
    base = question.model.num_layers // question.strategy.mesh.pp
    return [layers - base for layers in stages]


def recompute_layers(question: Question) -> list[int]:
    """Recomputed layers of each stage."""
    recompute = question.strategy.recompute
    stages = question.strategy.layers_of_stages(question.model.num_layers)
    if recompute.mode == "none":
        return [0] * len(stages)
    return list(recompute.per_stage) if recompute.per_stage is not None else stages


def configuration(question: Question) -> dict:
    """`parallel`, `parallel_config`, `recompute_config` and what of `model` and `runner_config` belongs to them."""
    strategy, model = question.strategy, question.model
    mesh, zero, recompute = strategy.mesh, strategy.zero, strategy.recompute
    layers = recompute_layers(question)
    uneven = even_stages(model.num_layers, mesh.pp) != strategy.layers_of_stages(model.num_layers)
    whole = recompute.per_stage is None and not uneven
    by_stage: bool | list[int] = whole if whole else layers
    parallel: dict = {
        "parallel_mode": 1,  # semi_auto_parallel
        "gradients_mean": False,
        "full_batch": True,
        "enable_parallel_optimizer": zero.optimizer_shard,
        "strategy_ckpt_save_file": "./ckpt_strategy.ckpt",
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
    model_config: dict = {"num_layers": model.num_layers, "seq_length": model.seq_length}
    if mesh.pp > 1:
        model_config["offset"] = offsets(question)
    if strategy.pipeline.vpp > 1:
        model_config["pp_interleave_num"] = strategy.pipeline.vpp
        parallel["pipeline_config"] = {"pipeline_interleave": True, "pipeline_scheduler": "1f1b"}
    return {
        "use_parallel": mesh.devices > 1,
        "runner_config": {
            "batch_size": strategy.batch.micro,
            "gradient_accumulation_steps": 1 if mesh.pp > 1 else strategy.micro_batches,
        },
        "parallel": parallel,
        "parallel_config": parallel_config,
        "micro_batch_interleave_num": 1,
        "recompute_config": {
            "recompute": by_stage if recompute.mode == "full" else False,
            "select_recompute": by_stage if recompute.mode == "selective" else False,
            "parallel_optimizer_comm_recompute": zero.stage == 3 and recompute.mode == "full",
            "mp_comm_recompute": recompute.mp_comm,
            "recompute_slice_activation": recompute.slice_activation,
        },
        "model": {"model_config": model_config},
    }


def text(question: Question) -> str:
    """The configuration as YAML."""
    head = "# For a MindFormers configuration: these fields say how the model is laid over devices, and no others.\n"
    return head + yaml.safe_dump(configuration(question), sort_keys=False, default_flow_style=None, width=110)
