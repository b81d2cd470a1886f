"""A MindFormers configuration (2.1 and earlier): the network and its layout, from the YAML that starts a training."""

from typing import Any

from pangu.foundation.settings import nearest_name
from pangu.foundation.yaml_document import YamlDocument, shown
from parallel_strategy.importing.imported import DTYPES, Fields, Imported, model_of, places_of
from parallel_strategy.spec.divide import even_stages

LLAMA = {
    "gated_ffn": True, "norm": "rms_norm", "position": "rotary", "activation": "silu", "bias": False,
    "tied_embedding": False, "dropout_rate": 0.0,
}  # fmt: skip
GPT = {"gated_ffn": False, "norm": "layer_norm", "position": "learned", "bias": True, "tied_embedding": True}
FAMILIES: dict[str, dict[str, Any]] = {
    "PanguAlphaConfig": GPT | {"query_layer": True, "activation": "fast_gelu"},
    "GPT2Config": GPT | {"activation": "gelu_tanh"},
    "LlamaConfig": LLAMA,
    "DeepseekV2Config": LLAMA,
    "DeepseekV3Config": LLAMA,
}
# MindSpore's "gelu" is the tanh approximation.
ACTIVATIONS = {"gelu": "gelu_tanh", "fast_gelu": "fast_gelu", "relu": "relu", "silu": "silu", "swiglu": "silu"}
SCHEDULES = {"1f1b": "1f1b", "gpipe": "gpipe", "zero_bubble_v": "zb_v"}

MODEL_WITHOUT_EFFECT = (
    "batch_size", "bos_token_id", "eos_token_id", "pad_token_id", "ignore_token_id", "rms_norm_eps",
    "layernorm_epsilon", "layernorm_compute_type", "softmax_compute_type", "softmax_compute_dtype", "rotary_dtype",
    "param_init_type", "router_dense_type", "embedding_init_type", "use_past", "extend_method", "scaling_factor",
    "theta", "auto_register", "checkpoint_name_or_path", "repetition_penalty", "max_decode_length", "top_k", "top_p",
    "do_sample", "block_size", "num_blocks", "is_dynamic", "llm_backend", "use_rope_slice", "return_extra_loss",
    "mtp_loss_factor", "max_length", "post_layernorm_residual", "use_relative_positions", "initializer_range",
    "max_position_embeddings", "residual_dtype", "max_position_embedding", "use_attn_mask_compression",
    "use_eod_attn_mask_compression", "input_sliced_sig", "multiple_of", "ffn_dim_multiplier", "expert_num",
    "per_token_num_experts_chosen", "use_moe", "calculate_per_token_loss",
)  # fmt: skip
HABITS = (
    "use_flash_attention", "fused_rms_norm", "qkv_concat", "fine_grain_interleave", "use_fused_swiglu",
    "use_fused_rope", "fused_kernel", "enable_fa_var_len",
)  # fmt: skip
SECTIONS = (
    "seed", "run_mode", "output_dir", "load_checkpoint", "auto_trans_ckpt", "resume_training", "context",
    "runner_wrapper", "trainer", "train_dataset", "train_dataset_task", "eval_dataset", "eval_dataset_task",
    "processor", "lr_schedule", "layer_scale", "layer_decay", "lr_scale", "lr_scale_factor", "optimizer", "callbacks",
    "eval_callbacks", "metric", "auto_tune", "filepath_prefix", "autotune_per_step", "profile", "profile_start_step",
    "profile_stop_step", "init_start_profile", "profile_communication", "profile_memory", "remote_save_url",
    "only_save_strategy", "load_ckpt_format", "src_strategy_path_or_dir", "do_eval", "eval_step_interval",
    "eval_epoch_interval", "use_parallel", "transform_process_num", "print_separate_loss", "ignore_data_skip",
    "data_skip_steps", "train_precision_sync", "monitor_config", "remove_redundancy", "load_ckpt_async",
    "use_graceful_exit", "device_num",
)  # fmt: skip


def read_yaml(document: YamlDocument, name: str) -> Imported:
    """Return the model and the strategy of a configuration. Raises PlacedError for mistakes."""
    top = Fields(document)
    config = Fields(document, ("model", "model_config"))
    moe, parallel = Fields(document, ("moe_config",)), Fields(document, ("parallel",))
    mesh, runner = Fields(document, ("parallel_config",)), Fields(document, ("runner_config",))
    again = Fields(document, ("recompute_config",))
    parts = [config, moe, mesh, runner, parallel, again]
    if not config.data:
        raise document.mistake("has no model.model_config, so it does not say what the network is")
    kind = config.take(str, "type", ours="type")
    if kind not in FAMILIES:
        raise config.mistake("type", f"{kind!r} is no network that is read{nearest_name(kind, list(FAMILIES), 0.6)}")
    model = _model(config, moe, dict(FAMILIES[kind]))
    model["name"] = name
    spec = model_of(model, places_of([config, moe]), document.where)
    strategy = _strategy(top, mesh, runner, parallel, again, config, spec.num_layers)
    for section in ("model", "moe_config", "parallel", "parallel_config", "runner_config", "recompute_config"):
        top.taken[section] = ""
    for section in ("swap", "swap_config"):
        if section in top.data:
            top.leave(section, "offload.activation is the field for it; how much is said nowhere")
    _leave_rest(top, config, moe, mesh, runner, parallel, again)
    habits = [config.named(one) for one in HABITS if one in config.data]
    notes = [f"said by the framework file, not by the strategy: {', '.join(habits)}"] if habits else []
    everything = [top, *parts]
    return Imported(
        "a MindFormers configuration",
        spec,
        strategy,
        [one for part in everything for one in part.read()],
        [one for part in everything for one in part.not_modelled],
        [one for part in everything for one in part.neutral],
        [one for part in everything for one in part.rest()],
        notes,
    )


def _model(config: Fields, moe: Fields, model: dict[str, Any]) -> dict[str, Any]:
    for ours in ("num_layers", "hidden_size", "num_heads", "vocab_size", "seq_length"):
        model[ours] = config.take(int, ours, ours=ours, least=1)
    hidden, heads = model["hidden_size"], model["num_heads"]
    inner = config.take(int, "intermediate_size", "ffn_hidden_size", default=None, ours="ffn_hidden_size")
    ratio = config.take(int, "expand_ratio", default=4, ours="ffn_hidden_size")
    model["ffn_hidden_size"] = inner or (_llama_width(config, hidden) if model["gated_ffn"] else ratio * hidden)
    groups = config.take(int, "n_kv_heads", default=heads, ours="kv_heads")
    model["kv_heads"] = None if groups == heads else groups
    size = config.take(int, "head_dim", default=None, ours="head_size")
    model["head_size"] = None if size is None or size * heads == hidden else size
    if "hidden_act" in config.data:
        model["activation"] = config.choose("hidden_act", ACTIVATIONS)
        config.taken["hidden_act"] = "activation"
    dtype = config.take(str, "compute_dtype", default="float16", ours="compute_dtype")
    if dtype not in DTYPES:
        raise config.mistake("compute_dtype", f"{shown(dtype)} is none of float16, bfloat16, float32")
    model["compute_dtype"] = DTYPES[dtype]
    tied = config.take(bool, "tie_word_embeddings", default=model["tied_embedding"], ours="tied_embedding")
    model["tied_embedding"] = tied
    for name in ("hidden_dropout_rate", "attention_dropout_rate", "embedding_dropout_prob", "dropout_rate"):
        rate = config.take(float, name, default=None, ours="dropout_rate")
        if rate is not None and rate != model.setdefault("dropout_rate", rate):
            config.leave(name, f"one rate for all: {model['dropout_rate']:g} taken")
    model["prediction_layers"] = config.take(int, "mtp_depth", default=0, ours="prediction_layers")
    for name in ("qkv_has_bias", "attn_proj_has_bias"):
        if config.take(bool, name, default=False, ours="bias"):
            config.leave(name, "ours are all biases or none; priced without any")
    if "kv_lora_rank" in config.data:
        model |= {"latent_attention": _latent(config), "kv_heads": None, "head_size": None}
    experts = _experts(moe, model["ffn_hidden_size"])
    return model | ({"experts": experts} if experts else {})


def _llama_width(config: Fields, hidden: int) -> int:
    """Return the inner width as MindFormers works it out where it is not given."""
    multiple = config.take(int, "multiple_of", default=256, ours="ffn_hidden_size") or 1
    factor = config.take(float, "ffn_dim_multiplier", default=None, ours="ffn_hidden_size")
    width = 4 * hidden if factor is None else int((factor + 0.01) * 4 * hidden)
    return -(-int(2 * width / 3) // multiple) * multiple


def _latent(config: Fields) -> dict[str, int]:
    names = {
        "query_rank": "q_lora_rank", "key_value_rank": "kv_lora_rank", "head_size": "qk_nope_head_dim",
        "rotary_head_size": "qk_rope_head_dim", "value_head_size": "v_head_dim",
    }  # fmt: skip
    found = {ours: config.take(int, theirs, default=0, ours="latent_attention") for ours, theirs in names.items()}
    return found


def _experts(moe: Fields, ffn: int) -> dict[str, Any] | None:
    count = moe.take(int, "expert_num", default=1, ours="experts")
    top = moe.take(int, "num_experts_chosen", default=1, ours="experts")
    inner = moe.take(int, "moe_intermediate_size", default=ffn, ours="experts", least=1)
    shared = moe.take(int, "shared_expert_num", default=0, ours="experts")
    first = moe.take(int, "first_k_dense_replace", default=0, ours="experts")
    capacity = moe.take(float, "capacity_factor", default=1.1, ours="experts")
    if count <= 1:
        return None
    experts = {"count": count, "top_k": top, "ffn_hidden_size": inner, "shared": shared, "first_layer": first}
    return experts | {"capacity_factor": float(capacity) if capacity > 0 else 1.0}  # -1: as many as come


def _strategy(
    top: Fields, mesh: Fields, runner: Fields, parallel: Fields, again: Fields, config: Fields, layers: int
) -> dict[str, Any]:
    names = {"dp": "data_parallel", "tp": "model_parallel", "pp": "pipeline_stage", "cp": "context_parallel",
        "ep": "expert_parallel"}  # fmt: skip
    sizes = {axis: mesh.take(int, name, default=1, ours=f"mesh.{axis}", least=1) for axis, name in names.items()}
    halves = top.take(int, "micro_batch_interleave_num", default=1, ours="tensor.interleave", least=1)
    micro = runner.take(int, "batch_size", default=1, ours="batch.micro", least=1) * halves
    parts = mesh.take(int, "micro_batch_num", default=1, ours="batch.global", least=1)
    steps = runner.take(int, "gradient_accumulation_steps", default=1, ours="batch.global", least=1)
    count = parts if sizes["pp"] > 1 else steps
    chunks = config.take(int, "pp_interleave_num", default=1, ours="pipeline.vpp", least=1)
    return {
        "batch": {"global": micro * count * sizes["dp"], "micro": micro},
        "mesh": sizes | {"order": ["pp", "dp", "cp", "tp"]},
        "pipeline": _pipeline(config, parallel, layers, sizes["pp"], chunks),
        "tensor": {
            "sequence_parallel": mesh.take(bool, "use_seq_parallel", default=False, ours="tensor.sequence_parallel"),
            "vocab": "whole" if mesh.take(bool, "vocab_emb_dp", default=True, ours="tensor.vocab") else "split",
            "interleave": halves,
        },
        "zero": _zero(parallel, again),
        "recompute": _recompute(again, layers, sizes["pp"], chunks),
    }


def _pipeline(config: Fields, parallel: Fields, layers: int, pp: int, chunks: int) -> dict[str, Any]:
    offset = config.data.get("offset", 0)
    config.taken["offset"] = "pipeline.stages" if "offset" in config.data else ""
    if "offset" not in config.data:
        del config.taken["offset"]
    rows = offset if isinstance(offset, list) and offset and isinstance(offset[0], list) else [offset]
    base, whole = divmod(layers, pp * len(rows))
    stages = [0] * pp
    for row in rows:
        cells = row if isinstance(row, list) else [row] * pp
        if len(cells) != pp or not all(isinstance(cell, int) for cell in cells):
            raise config.mistake("offset", f"{shown(offset)} is not a number for each of {pp} stages")
        stages = [have + base + cell for have, cell in zip(stages, cells, strict=True)]
    if offset == 0 and whole:
        stages = even_stages(layers, pp)
    if sum(stages) != layers or min(stages) < 1:
        raise config.mistake("offset", f"{shown(offset)} makes {sum(stages)} layers of {layers} on {pp} stages")
    pipe = Fields(parallel.document, (*parallel.location, "pipeline_config"))
    if "pipeline_config" in parallel.data:
        parallel.taken["pipeline_config"] = "pipeline.schedule"
    kind = pipe.choose("pipeline_scheduler", SCHEDULES, "1f1b")
    is_interleaved = pipe.take(bool, "pipeline_interleave", default=chunks > 1)
    if kind == "zb_v":
        chunks = 1  # two, which the schedule has by itself
    elif chunks > 1 and is_interleaved:
        kind = "mindspore_vpp"
    uneven = stages if stages != even_stages(layers, pp) else None
    return {"schedule": kind if pp > 1 else "1f1b", "vpp": chunks if kind == "mindspore_vpp" else 1, "stages": uneven}


def _zero(parallel: Fields, again: Fields) -> dict[str, Any]:
    if not parallel.take(bool, "enable_parallel_optimizer", default=False, ours="zero.optimizer_shard"):
        return {"optimizer_shard": False}
    inner = Fields(parallel.document, (*parallel.location, "parallel_optimizer_config"))
    if "parallel_optimizer_config" in parallel.data:
        parallel.taken["parallel_optimizer_config"] = "zero"
    level = 2 if inner.take(bool, "gradient_accumulation_shard", default=False) else 1
    if level == 2 and again.take(bool, "parallel_optimizer_comm_recompute", default=False, ours="zero.level"):
        level = 3
    zero: dict[str, Any] = {
        "optimizer_shard": True,
        "level": level,
        "threshold_kb": inner.take(int, "parallel_optimizer_threshold", default=64),
    }
    size = inner.data.get("optimizer_weight_shard_size", -1)
    if not isinstance(size, int) or size == 0 or size < -1:
        raise inner.mistake("optimizer_weight_shard_size", f"{shown(size)} is neither -1 nor a number of ranks")
    zero["weight_shard_size"] = size
    fusion = Fields(parallel.document, (*parallel.location, "comm_fusion", "allreduce"))
    if "comm_fusion" in parallel.data:
        parallel.taken["comm_fusion"] = "zero.bucket_mb"
        if fusion.data.get("mode") == "size":
            zero["bucket_mb"] = fusion.take(float, "config", default=64)
    return zero


def _recompute(again: Fields, layers: int, pp: int, chunks: int) -> dict[str, Any]:
    full = _by_stage(again, "recompute", pp)
    selective = _by_stage(again, "select_recompute", pp)
    if full and selective:
        again.leave("select_recompute", "one mode for all layers: full taken")
    recompute: dict[str, Any] = {"mode": "full" if full else "selective" if selective else "none"}
    counts = full or selective
    if isinstance(counts, list):
        recompute["per_stage"] = counts
    recompute["mp_comm"] = again.take(bool, "mp_comm_recompute", default=True, ours="recompute.mp_comm")
    sliced = again.take(bool, "recompute_slice_activation", default=False, ours="recompute.slice_activation")
    return recompute | {"slice_activation": sliced}


def _by_stage(again: Fields, name: str, pp: int) -> bool | list[int]:
    """Return True for all layers, numbers of layers by stage, or False for none."""
    value = again.data.get(name, False)
    if name in again.data:
        again.taken[name] = "recompute.mode"
    if value is None or isinstance(value, bool):
        return bool(value)
    rows = value if isinstance(value, list) and value and isinstance(value[0], list) else [value]
    if not all(isinstance(row, list) and len(row) == pp and all(type(n) in (int, bool) for n in row) for row in rows):
        raise again.mistake(name, f"{shown(value)} is neither true, false nor a number for each of {pp} stages")
    counts = [sum(int(n) for n in column) for column in zip(*rows, strict=True)]
    return counts if any(counts) else False


def _leave_rest(
    top: Fields, config: Fields, moe: Fields, mesh: Fields, runner: Fields, parallel: Fields, again: Fields
) -> None:
    """Take what has no effect, and say what has and is not modelled."""
    config.ignore(MODEL_WITHOUT_EFFECT)
    for name in HABITS:
        config.taken.setdefault(name, "")
    moe.ignore(moe.data)
    top.ignore(SECTIONS)
    mesh.ignore(("optimizer_shard", "gradient_aggregation_group", "mem_coeff", "dataset_parallel"))
    for name in ("context_parallel_algo", "ulysses_degree_in_cp"):
        if name in mesh.data:
            mesh.leave(name, "a ring is priced")
    runner.ignore(("epochs", "sink_mode", "sink_size", "gradient_accumulation_shard", "num_classes", "initial_epoch",
        "initial_step", "has_trained_epoches", "has_trained_steps"))  # fmt: skip
    parallel.ignore(("parallel_mode", "gradients_mean", "full_batch", "strategy_ckpt_save_file", "search_mode",
        "loss_repeated_mean", "dataset_strategy", "enable_alltoall", "strategy_ckpt_config",
        "parallel_optimizer_config", "stra_ckpt_save_file", "comm_fusion"))  # fmt: skip
    again.ignore(("parallel_optimizer_comm_recompute", "select_comm_recompute", "swap"))
