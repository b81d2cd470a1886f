"""The network as Megatron-LM's arguments, and what of it no argument says.

`importing.megatron_arguments` reads them back to the same model.
"""

from parallel_strategy.spec.framework import FrameworkSpec
from parallel_strategy.spec.model import ModelSpec
from parallel_strategy.spec.strategy import Setup

POSITIONS = {"learned": "learned_absolute", "rotary": "rope", "none": "none"}
PRECISIONS = {
    "fp16": ["--fp16"],
    "bf16": ["--bf16"],
    "fp8": ["--bf16", "--fp8-format", "hybrid"],
    "fp4": ["--bf16", "--fp4-format", "e2m1"],
    "fp32": [],
}


def model_arguments(setup: Setup) -> list:
    """Return every argument that says what the network is."""
    model = setup.model
    words: list = [
        *("--num-layers", model.num_layers, "--hidden-size", model.hidden_size),
        *("--ffn-hidden-size", model.ffn_hidden_size, "--num-attention-heads", model.num_heads),
        *("--seq-length", model.seq_length, "--max-position-embeddings", model.seq_length),
        *("--vocab-size", model.vocab_size, "--make-vocab-size-divisible-by", setup.framework.pad_vocab_to),
    ]
    if model.kv_heads not in (None, model.num_heads):
        words += ["--group-query-attention", "--num-query-groups", model.kv_heads]
    if model.head_size is not None and model.latent_attention is None:
        words += ["--kv-channels", model.head_size]
    words += ["--position-embedding-type", POSITIONS.get(model.position, "none")]
    words += ["--normalization", "RMSNorm" if model.norm == "rms_norm" else "LayerNorm"]
    if model.gated_ffn:
        words += ["--swiglu"]
    elif model.activation == "gelu_erf":
        words += ["--no-bias-gelu-fusion"]  # the fused kernel is the one with tanh
    if not model.bias:
        words += ["--disable-bias-linear"]
    if not model.tied_embedding:
        words += ["--untie-embeddings-and-output-weights"]
    rate = f"{model.dropout_rate:g}"
    words += ["--hidden-dropout", rate, "--attention-dropout", rate]
    if model.prediction_layers:
        words += ["--mtp-num-layers", model.prediction_layers]
    return words + latent_attention(model) + experts(setup) + PRECISIONS[model.compute_dtype]


def latent_attention(model: ModelSpec) -> list:
    latent = model.latent_attention
    if latent is None:
        return []
    rank = ["--q-lora-rank", latent.query_rank] if latent.query_rank else []
    return [
        *("--multi-latent-attention", *rank, "--kv-lora-rank", latent.key_value_rank),
        *("--qk-head-dim", latent.head_size, "--qk-pos-emb-head-dim", latent.rotary_head_size),
        *("--v-head-dim", latent.value_head_size),
    ]


def experts(setup: Setup) -> list:
    model, mesh = setup.model, setup.strategy.mesh
    if model.experts is None:
        return []
    one = model.experts
    words: list = [
        *("--num-experts", one.count, "--moe-router-topk", one.top_k, "--moe-ffn-hidden-size", one.ffn_hidden_size),
        *("--moe-grouped-gemm", "--moe-token-dispatcher-type", "alltoall"),
        *("--expert-model-parallel-size", mesh.ep, "--expert-tensor-parallel-size", mesh.expert_tensor),
    ]
    if one.shared:
        words += ["--moe-shared-expert-intermediate-size", one.shared * one.ffn_hidden_size]
    if one.first_layer:
        dense = min(one.first_layer, model.num_layers)
        words += ["--moe-layer-freq", f"([0]*{dense}+[1]*{model.num_layers - dense})"]
    if one.capacity_factor != 1.0:
        words += ["--moe-expert-capacity-factor", f"{one.capacity_factor:g}"]
    return words


def habits(framework: FrameworkSpec, *, tp: int, sequence_parallel: bool, chunks: int, sharded: bool) -> list[str]:
    """Return the switches of what the framework file prices: kernels that are fused, and what overlaps."""
    words = ["--attention-backend", "flash" if framework.attention == "flash" else "unfused"]
    if framework.dp_overlap > 0:
        words += ["--overlap-grad-reduce"]
        if sharded and framework.gather_overlap > 0:
            words += ["--overlap-param-gather"]
    if framework.tp_overlap > 0 and tp > 1 and sequence_parallel:
        words += ["--tp-comm-overlap"]
    if chunks > 1 and not framework.p2p_overlap:
        words += ["--no-overlap-p2p-communication"]
    if framework.fused_cross_entropy:
        words += ["--cross-entropy-loss-fusion"]
    if not framework.fused_gradient_accumulation:
        words += ["--no-gradient-accumulation-fusion"]
    return words


def unsaid(model: ModelSpec) -> list[str]:
    """Return what of the network no argument says."""
    activations = ("silu",) if model.gated_ffn else ("gelu_tanh", "gelu_erf")
    said = {
        f"model.activation {model.activation}": model.activation in activations,
        f"model.position {model.position}": model.position in POSITIONS,
        "model.query_layer": not model.query_layer,
    }
    return [field for field, is_said in said.items() if not is_said]
