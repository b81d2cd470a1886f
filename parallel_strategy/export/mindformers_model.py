"""The network as a MindFormers configuration has it (2.1), and what of it no field says.

`importing.mindformers_yaml` reads it back to the same model.
"""

from typing import Any

from parallel_strategy.spec.model import ModelSpec

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
ACTIVATIONS = {"gelu_tanh": "gelu", "fast_gelu": "fast_gelu", "relu": "relu"}


def model_fields(model: ModelSpec) -> dict[str, Any]:
    """Return `model.model_config`, as far as it says what the network is."""
    fields: dict[str, Any] = {
        "type": kind(model),
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "num_heads": model.num_heads,
        "vocab_size": model.vocab_size,
        "seq_length": model.seq_length,
        "compute_dtype": DTYPES.get(model.compute_dtype, "bfloat16"),
        "softmax_compute_type": DTYPES[model.softmax_dtype],
    }
    if is_llama(model):
        fields["intermediate_size"] = model.ffn_hidden_size
        if model.kv_heads not in (None, model.num_heads):
            fields["n_kv_heads"] = model.kv_heads
        if model.tied_embedding:
            fields["tie_word_embeddings"] = True
    else:
        fields |= (
            {"ffn_hidden_size": model.ffn_hidden_size}
            if model.query_layer
            else {"expand_ratio": model.ffn_hidden_size // model.hidden_size}
        )
        fields["hidden_act"] = ACTIVATIONS.get(model.activation, "gelu")
        rate = model.dropout_rate
        fields |= {"hidden_dropout_rate": rate, "attention_dropout_rate": rate, "embedding_dropout_prob": rate}
    latent = model.latent_attention
    if latent is not None:
        fields |= {
            "q_lora_rank": latent.query_rank,
            "kv_lora_rank": latent.key_value_rank,
            "qk_nope_head_dim": latent.head_size,
            "qk_rope_head_dim": latent.rotary_head_size,
            "v_head_dim": latent.value_head_size,
        }
    if model.prediction_layers:
        fields["mtp_depth"] = model.prediction_layers
    return fields


def moe_fields(model: ModelSpec) -> dict[str, Any]:
    """Return `moe_config`, empty for a network without experts."""
    one = model.experts
    if one is None:
        return {}
    fields: dict[str, Any] = {"expert_num": one.count, "num_experts_chosen": one.top_k}
    fields |= {"moe_intermediate_size": one.ffn_hidden_size, "shared_expert_num": one.shared}
    return fields | {"first_k_dense_replace": one.first_layer, "capacity_factor": one.capacity_factor}


def is_llama(model: ModelSpec) -> bool:
    return model.gated_ffn or model.norm == "rms_norm" or model.position == "rotary"


def kind(model: ModelSpec) -> str:
    """Return the network of MindFormers that is nearest."""
    if model.query_layer:
        return "PanguAlphaConfig"
    if model.latent_attention is not None:
        return "DeepseekV3Config" if model.prediction_layers else "DeepseekV2Config"
    return "LlamaConfig" if is_llama(model) else "GPT2Config"


def unsaid(model: ModelSpec) -> list[str]:
    """Return what of the network no field says."""
    llama = is_llama(model)
    said = {
        f"model.compute_dtype {model.compute_dtype}": model.compute_dtype in DTYPES,
        f"model.position {model.position}": model.position == ("rotary" if llama else "learned"),
        f"model.norm {model.norm}": model.norm == ("rms_norm" if llama else "layer_norm"),
        f"model.activation {model.activation}": model.activation in (["silu"] if llama else ACTIVATIONS),
        "model.gated_ffn": model.gated_ffn == llama,
        "model.bias": model.bias != llama,
        "model.head_size": model.head_size is None or model.latent_attention is not None,
        "model.kv_heads": llama or model.key_value_heads == model.num_heads,
        "model.ffn_hidden_size": llama or model.query_layer or model.ffn_hidden_size % model.hidden_size == 0,
        "model.tied_embedding": llama or model.tied_embedding,
        "model.final_norm": not model.query_layer or model.final_norm == "before_query",
        "model.dropout_rate": not llama or model.dropout_rate == 0,
    }
    return [field for field, is_said in said.items() if not is_said]
