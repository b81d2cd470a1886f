"""Hugging Face's config.json: the fields of each family of networks, and what of them our cost does not depend on."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pangu.foundation.settings import nearest_name
from pangu.foundation.yaml_document import YamlDocument
from parallel_strategy.importing.imported import DTYPES, Fields, Imported, model_of, places_of

ACTIVATIONS = {
    "silu": "silu", "swish": "silu", "gelu": "gelu_erf", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh", "quick_gelu": "fast_gelu", "relu": "relu",
    "gelu_tanh": "gelu_tanh", "gelu_erf": "gelu_erf", "fast_gelu": "fast_gelu",  # as the PyTorch port of ours has them
}  # fmt: skip

# What is said of tokens, files, initial values, inference and the loss: not of what a step costs.
WITHOUT_EFFECT = (
    "_name_or_path", "architectures", "auto_map", "transformers_version", "model_type", "bos_token_id",
    "eos_token_id", "pad_token_id", "unk_token_id", "initializer_range", "rms_norm_eps", "layer_norm_epsilon",
    "layer_norm_eps", "use_cache", "rope_theta", "rope_scaling", "rope_parameters", "pretraining_tp",
    "task_specific_params", "n_ctx", "summary_activation", "summary_first_dropout", "summary_proj_to_labels",
    "summary_type", "summary_use_proj", "scale_attn_weights", "scale_attn_by_inverse_layer_idx",
    "reorder_and_upcast_attn", "router_aux_loss_coef", "output_router_logits", "router_jitter_noise",
    "norm_topk_prob", "aux_loss_alpha", "seq_aux", "scoring_func", "topk_method", "topk_group", "n_group",
    "routed_scaling_factor", "max_window_layers", "ep_size", "head_dim_padded", "tokenizer_class",
    "generation_config", "use_bfloat16", "chunk_size_feed_forward", "output_attentions", "output_hidden_states",
    "return_dict", "torchscript", "is_decoder", "is_encoder_decoder", "add_cross_attention", "max_length",
    "min_length", "do_sample", "gradient_checkpointing", "attn_implementation", "_attn_implementation",
    "z_loss_weight", "rope_interleave", "num_ctx", "activation_dropout", "name_or_path", "id2label", "label2id",
    "finetuning_task", "problem_type", "tokenizer_file", "cross_attention_hidden_size", "pruned_heads", "qkv_bias",
    "tie_encoder_decoder", "prefix", "user_cache", "original_max_position_embeddings",
)  # fmt: skip


@dataclass(frozen=True)
class Family:
    """One `model_type`. fixed: what its network always is. more: reads what only this family has.

    implied: what its network has and ours has not, without a field that says so.
    """

    fixed: dict[str, Any]
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    activation: str = "hidden_act"
    tied: bool = False
    more: tuple[Callable[[Fields, dict[str, Any]], None], ...] = ()
    implied: tuple[str, ...] = ()


LLAMA_NAMES = {
    "num_layers": ("num_hidden_layers",),
    "hidden_size": ("hidden_size",),
    "num_heads": ("num_attention_heads",),
    "ffn_hidden_size": ("intermediate_size",),
    "vocab_size": ("vocab_size",),
    "seq_length": ("max_position_embeddings", "model_max_length"),
}
GPT2_NAMES = {
    "num_layers": ("n_layer", "num_hidden_layers"),
    "hidden_size": ("n_embd", "hidden_size"),
    "num_heads": ("n_head", "num_attention_heads"),
    "ffn_hidden_size": ("n_inner",),
    "vocab_size": ("vocab_size",),
    "seq_length": ("n_positions", "max_position_embeddings"),
}
PANGU_NAMES = LLAMA_NAMES | {"num_layers": ("num_layers",), "num_heads": ("num_heads",)}
LLAMA = {
    "gated_ffn": True, "norm": "rms_norm", "position": "rotary", "activation": "silu", "bias": False,
    "dropout_rate": 0.0,
}  # fmt: skip
GPT2 = {"gated_ffn": False, "norm": "layer_norm", "position": "learned", "activation": "gelu_tanh", "bias": True}
QKV_BIAS = "the bias of queries, keys and values (priced without any bias)"
QK_NORM = "the norms of queries and keys"


def grouped_heads(config: Fields, model: dict[str, Any]) -> None:
    """Read grouped-query attention and a head size of its own."""
    heads = config.take(int, "num_key_value_heads", default=model["num_heads"], ours="kv_heads")
    model["kv_heads"] = None if heads == model["num_heads"] else heads
    size = config.take(int, "head_dim", default=None, ours="head_size")
    model["head_size"] = None if size is None or size * model["num_heads"] == model["hidden_size"] else size


def biases(config: Fields, model: dict[str, Any]) -> None:
    """Read the two switches for biases; ours is one for all."""
    given = [config.take(bool, name, default=False, ours="bias") for name in ("attention_bias", "mlp_bias")]
    if all(given):
        model["bias"] = True
    for name, is_on in zip(("attention_bias", "mlp_bias"), given, strict=True):
        if is_on and not all(given):
            config.leave(name, "ours are all biases or none; priced without any")


def window(config: Fields, model: dict[str, Any]) -> None:
    """Say that attention over a sliding window is priced over the whole sequence."""
    size = config.data.get("sliding_window")
    is_used = config.data.get("use_sliding_window", True) and isinstance(size, int) and size < model["seq_length"]
    if is_used:
        config.leave("sliding_window", "attention is priced over the whole sequence")
    kinds = config.data.get("layer_types")
    others = [kind for kind in kinds if kind != "full_attention"] if isinstance(kinds, list) else []
    if others and (is_used or "linear_attention" in others):
        config.leave("layer_types", "all layers are priced alike")
    config.ignore(["sliding_window", "use_sliding_window", "layer_types"])


def mixtral_experts(config: Fields, model: dict[str, Any]) -> None:
    model["experts"] = {
        "count": config.take(int, "num_local_experts", ours="experts"),
        "top_k": config.take(int, "num_experts_per_tok", default=2, ours="experts"),
        "ffn_hidden_size": model["ffn_hidden_size"],
    }


def qwen_experts(config: Fields, model: dict[str, Any]) -> None:
    inner = config.take(int, "moe_intermediate_size", ours="experts", least=1)
    model["experts"] = {
        "count": config.take(int, "num_experts", "num_local_experts", ours="experts"),
        "top_k": config.take(int, "num_experts_per_tok", ours="experts"),
        "ffn_hidden_size": inner,
    }
    shared = config.take(int, "shared_expert_intermediate_size", default=0, ours="experts")
    if shared % inner:
        config.leave("shared_expert_intermediate_size", f"no multiple of {inner}: {round(shared / inner)} of it taken")
    model["experts"]["shared"] = round(shared / inner)
    step = config.take(int, "decoder_sparse_step", default=1, ours="experts")
    if step != 1:
        config.leave("decoder_sparse_step", "experts are priced in every layer after the first dense ones")
    dense = config.take(list, "mlp_only_layers", default=[], ours="experts")
    if dense == list(range(len(dense))):
        model["experts"]["first_layer"] = len(dense)
    else:
        config.leave("mlp_only_layers", "only the first layers can be dense; all are priced with experts")


def deepseek_experts(config: Fields, model: dict[str, Any]) -> None:
    count = config.take(int, "n_routed_experts", "num_local_experts", default=None, ours="experts")
    shared = config.take(int, "n_shared_experts", default=0, ours="experts")
    first = config.take(int, "first_k_dense_replace", default=0, ours="experts")
    inner = config.take(int, "moe_intermediate_size", default=None, ours="experts")
    top = config.take(int, "num_experts_per_tok", default=None, ours="experts")
    step = config.take(int, "moe_layer_freq", default=1, ours="experts")
    if step != 1:
        config.leave("moe_layer_freq", "experts are priced in every layer after the first dense ones")
    if count is None:
        return
    if inner is None or top is None:
        missing = "moe_intermediate_size" if inner is None else "num_experts_per_tok"
        raise config.mistake("n_routed_experts", f"{count} experts, and no {missing}")
    experts = {"count": count, "top_k": top, "ffn_hidden_size": inner, "shared": shared, "first_layer": first}
    model["experts"] = experts


def latent(config: Fields, model: dict[str, Any]) -> None:
    """Read DeepSeek's latent attention, where grouped heads have no meaning."""
    model["latent_attention"] = {
        "query_rank": config.take(int, "q_lora_rank", default=0, ours="latent_attention"),
        "key_value_rank": config.take(int, "kv_lora_rank", ours="latent_attention"),
        "head_size": config.take(int, "qk_nope_head_dim", ours="latent_attention"),
        "rotary_head_size": config.take(int, "qk_rope_head_dim", ours="latent_attention"),
        "value_head_size": config.take(int, "v_head_dim", ours="latent_attention"),
    }
    config.ignore(["num_key_value_heads", "head_dim", "qk_head_dim"])


def prediction_layers(config: Fields, model: dict[str, Any]) -> None:
    model["prediction_layers"] = config.take(int, "num_nextn_predict_layers", default=0, ours="prediction_layers")


def baichuan(config: Fields, model: dict[str, Any]) -> None:
    """Tell the 13B from the 7B: only the 7B has a table of positions, and rotary ones."""
    if "max_position_embeddings" not in config.data:
        model["position"] = "alibi"


def query_layer(config: Fields, model: dict[str, Any]) -> None:
    model["query_layer"] = True
    norm = {"before_query": "before_query", "after_query": "after_query"}
    model["final_norm"] = config.choose("final_norm", norm, "before_query")


HEADS = (grouped_heads, window)
FAMILIES: dict[str, Family] = {
    "gpt2": Family(GPT2, GPT2_NAMES, "activation_function", True),
    "pangu_alpha": Family(GPT2, GPT2_NAMES, "activation", True, (query_layer,)),
    "gpt_pangu": Family(GPT2, PANGU_NAMES, "activation_function", True, (query_layer,)),
    "llama": Family(LLAMA, more=(*HEADS, biases)),
    "mistral": Family(LLAMA, more=HEADS),
    "qwen2": Family(LLAMA, more=HEADS, implied=(QKV_BIAS,)),
    "qwen3": Family(LLAMA, more=(*HEADS, biases), implied=(QK_NORM,)),
    "mixtral": Family(LLAMA, more=(*HEADS, mixtral_experts)),
    "qwen2_moe": Family(LLAMA, more=(*HEADS, qwen_experts), implied=(QKV_BIAS, "the gate of the shared expert")),
    "qwen3_moe": Family(LLAMA, more=(*HEADS, biases, qwen_experts), implied=(QK_NORM,)),
    "deepseek_v2": Family(LLAMA, more=(latent, deepseek_experts, biases)),
    "deepseek_v3": Family(LLAMA, more=(latent, deepseek_experts, biases, prediction_layers)),
    "baichuan": Family(LLAMA, more=(grouped_heads, baichuan)),
}


def read_config(document: YamlDocument) -> Imported:
    """Return the model of a config.json. Raises PlacedError for a family that is none of ours, and for mistakes."""
    config = Fields(document)
    kind = config.take(str, "model_type")
    if kind not in FAMILIES:
        inner = " (it has a text_config: give that part as a file)" if "text_config" in config.data else ""
        hint = nearest_name(kind, list(FAMILIES), cutoff=0.7)
        raise config.mistake("model_type", f"{kind!r} is no family that is read{inner}{hint}")
    family = FAMILIES[kind]
    names = family.names or LLAMA_NAMES
    model: dict[str, Any] = dict(family.fixed)
    notes: list[str] = []
    for ours, theirs in names.items():
        optional = ours == "ffn_hidden_size" and kind in ("gpt2", "pangu_alpha", "gpt_pangu")
        default = 4 * model["hidden_size"] if optional else None if ours == "seq_length" else ...
        model[ours] = config.take(int, *theirs, ours=ours, least=1, **({} if default is ... else {"default": default}))
    model["seq_length"] = _sequence(config, model["seq_length"], notes)
    model["activation"] = config.choose(family.activation, ACTIVATIONS, model["activation"])
    model["tied_embedding"] = config.take(bool, "tie_word_embeddings", default=family.tied, ours="tied_embedding")
    dropouts = {name: config.take(float, name, default=None, ours="dropout_rate") for name in DROPOUTS}
    given = [rate for rate in dropouts.values() if rate is not None]
    if given:
        model["dropout_rate"] = float(given[0])
        for name, rate in dropouts.items():
            if rate is not None and rate != given[0]:
                config.leave(name, f"one rate for all: {given[0]:g} taken")
    dtype = config.take(str, "torch_dtype", "dtype", default=None, ours="compute_dtype")
    if dtype is not None and dtype.removeprefix("torch.") not in DTYPES:
        raise config.mistake(
            "torch_dtype" if "torch_dtype" in config.data else "dtype", f"{dtype!r} is no type of ours"
        )
    model["compute_dtype"] = DTYPES[dtype.removeprefix("torch.")] if dtype else "bf16"
    if dtype is None:
        notes.append("no torch_dtype: bf16 taken")
    for more in family.more:
        more(config, model)
    if "quantization_config" in config.data:
        config.leave("quantization_config", "weights are priced in the type that is computed in")
    config.ignore(WITHOUT_EFFECT)
    model["name"] = str(config.data.get("_name_or_path") or kind).rstrip("/").split("/")[-1] or kind
    spec = model_of(model, places_of([config]), document.where)
    not_modelled = [*config.not_modelled, *family.implied]
    return Imported(
        f"a configuration of {kind}", spec, {}, config.read(), not_modelled, config.neutral, config.rest(), notes
    )


DROPOUTS = (
    "resid_pdrop", "embd_pdrop", "attn_pdrop", "hidden_dropout", "attention_dropout", "hidden_dropout_prob",
    "attention_probs_dropout_prob",
)  # fmt: skip


def _sequence(config: Fields, most: int | None, notes: list[str]) -> int:
    """Return the sequence length: the one that positions were trained for, where they are stretched afterwards."""
    scaling = config.data.get("rope_scaling") or config.data.get("rope_parameters")
    before = scaling.get("original_max_position_embeddings") if isinstance(scaling, dict) else None
    length = before if isinstance(before, int) and before > 0 else most
    if length is None:
        notes.append("no max_position_embeddings: seq_length 4096 taken")
        return 4096
    if length > 8192 or length != most:
        notes.append(f"seq_length {length} of the file's {most}; `--set model.seq N` for another")
    return length
