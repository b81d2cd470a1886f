"""What Megatron-LM's other flags are to a plan: habits of the framework, cost that is not modelled, or nothing."""

# Flags without a value, so that the word after one is not taken for it.
SWITCHES = {
    "--swiglu", "--group-query-attention", "--sequence-parallel", "--fp16", "--bf16", "--disable-bias-linear",
    "--untie-embeddings-and-output-weights", "--multi-latent-attention", "--use-distributed-optimizer",
    "--overlap-grad-reduce", "--overlap-param-gather", "--tp-comm-overlap", "--use-flash-attn", "--moe-grouped-gemm",
    "--use-megatron-fsdp", "--recompute-activations", "--distribute-saved-activations", "--no-bias-gelu-fusion",
    "--openai-gelu", "--use-rotary-position-embeddings", "--use-tp-pp-dp-mapping", "--optimizer-cpu-offload",
    "--use-precision-aware-optimizer", "--cross-entropy-loss-fusion", "--no-gradient-accumulation-fusion",
    "--qk-layernorm", "--add-qkv-bias", "--squared-relu", "--use-mcore-models", "--no-overlap-p2p-communication",
    "--moe-tp-extend-ep", "--account-for-embedding-in-pipeline-split", "--account-for-loss-in-pipeline-split",
    "--use-mc2", "--use-ascend-mc2", "--use-ascend-coc", "--coc-fused-kernel",
}  # fmt: skip

# What a framework file says: fused kernels, what overlaps, how the host issues work.
HABITS = (
    "--overlap-grad-reduce", "--overlap-param-gather", "--tp-comm-overlap", "--use-flash-attn", "--attention-backend",
    "--cross-entropy-loss-fusion", "--cross-entropy-fusion-impl", "--no-gradient-accumulation-fusion",
    "--moe-grouped-gemm", "--moe-permute-fusion", "--no-masked-softmax-fusion", "--no-bias-dropout-fusion",
    "--no-bias-swiglu-fusion", "--no-rope-fusion", "--apply-rope-fusion", "--use-mcore-models", "--transformer-impl",
    "--overlap-p2p-communication", "--no-overlap-p2p-communication", "--overlap-p2p-communication-warmup-flush",
    "--enable-cuda-graph", "--cuda-graph-scope", "--cuda-graph-impl", "--use-precision-aware-optimizer",
    "--make-vocab-size-divisible-by", "--attention-softmax-in-fp32", "--accumulate-allreduce-grads-in-fp32",
    "--use-fused-rmsnorm", "--use-fused-swiglu", "--use-fused-rotary-pos-emb", "--use-fused-ring-attention-update",
    "--moe-token-dispatcher-type", "--ckpt-format", "--grad-reduce-in-bf16", "--delay-wgrad-compute", "--use-nccl-ub",
    "--moe-router-fusion", "--gemm-gradient-accumulation-fusion", "--reuse-fp32-param",
)  # fmt: skip

# Flags that MindSpeed adds for Ascend.
MINDSPEED = (
    "--use-fused-rmsnorm", "--use-fused-swiglu", "--use-fused-rotary-pos-emb", "--use-mc2", "--use-ascend-mc2",
    "--use-ascend-coc", "--num-layer-list", "--schedules-method", "--swap-attention", "--reuse-fp32-param",
    "--moe-tp-extend-ep", "--context-parallel-algo", "--coc-parallel-num", "--coc-mode", "--coc-fused-kernel",
)  # fmt: skip

NOT_MODELLED = {
    "--qk-layernorm": "norms of queries and keys",
    "--add-qkv-bias": "a bias of queries, keys and values alone",
    "--moe-shared-expert-overlap": "shared experts are priced beside nothing",
    "--overlap-moe-expert-parallel-comm": "the experts' collectives are priced beside nothing",
    "--moe-token-drop-policy": "balanced load is priced",
    "--moe-pad-expert-input-to-capacity": "balanced load is priced",
    "--hierarchical-context-parallel-sizes": "one ring over all context-parallel ranks is priced",
    "--cp-comm-type": "a ring is priced",
    "--context-parallel-algo": "a ring is priced",
    "--window-size": "attention is priced over the whole sequence",
    "--coc-mode": "one way of running products and collectives in parts is priced",
    "--coc-fused-kernel": "one way of running products and collectives in parts is priced",
    "--swap-attention": "offload.activation is the field for it; how much is said nowhere",
    "--cpu-offloading-num-layers": "offload.activation is the field for it",
    "--pipeline-model-parallel-split-rank": "decoders only",
    "--encoder-num-layers": "decoders only",
    "--noop-layers": "layers that do nothing are counted",
    "--ulysses-degree-in-cp": "a ring is priced",
    "--fp8-param-gather": "weights are gathered as the framework file says",
    "--fp4-param-gather": "weights are gathered as the framework file says",
    "--moe-router-group-topk": "tokens go to all ranks alike",
}

# Data, files, learning, logging, initial values: beginnings of names, without the dashes.
_NEUTRAL = (
    "adam-", "lr", "min-lr", "weight-decay", "clip-grad", "init-method", "seed", "train-", "eval-", "save", "load",
    "log-", "tensorboard", "wandb", "data-", "split", "tokenizer", "vocab-file", "merge-file", "exit-", "dataloader",
    "num-workers", "no-load", "no-save", "initial-loss-scale", "loss-scale", "hysteresis", "rotary-", "norm-epsilon",
    "moe-router", "moe-aux-loss", "moe-z-loss", "moe-input-jitter", "mtp-loss", "distributed-", "timing-log",
    "override-", "use-checkpoint", "finetune", "mock-data", "legacy-tokenizer", "null-tokenizer",
    "no-create-attention-mask", "use-rope-scaling", "rope-", "fp8-", "fp4-", "max-position", "manual-gc",
    "no-check-for-nan", "check-for-nan", "async-save", "dist-ckpt", "optimizer", "sgd-", "decoupled-lr",
    "start-weight", "end-weight", "use-cpu-init", "kaimin", "apply-layernorm-1p", "calculate-per-token-loss", "bos-",
    "eos-", "reset-", "eod-mask", "local-rank", "position-embedding", "enable-ft", "enable-gloo", "disable-gloo",
    "no-shuffle", "shuffle", "cache-path", "swiglu-", "variable-seq", "padding", "mscale", "beta-", "scaling", "yarn",
    "high-freq", "low-freq", "original-max-position", "mask-", "sequence-", "use-dist-ckpt", "auto-detect-ckpt",
    "ckpt-", "profile", "nccl", "seq-aux", "topk-group", "n-group", "norm-topk", "routed-scaling", "router-",
    "topk-method", "scoring", "aux-loss", "rampup",
)  # fmt: skip


def is_without_effect(flag: str) -> bool:
    """Return whether a flag says nothing of what a step costs."""
    return flag.removeprefix("--").startswith(_NEUTRAL)
