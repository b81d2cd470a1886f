"""Names in measured tables, and what they stand for here: cluster presets, framework presets, families of models."""

import re

# (pattern, preset), the first that matches
CLUSTERS = [
    (r"GB300", "gb300-nvl72"),
    (r"GB200", "gb200-nvl72"),
    (r"B300", "dgx-b300"),
    (r"B200", "dgx-b200"),
    (r"H100.*500 ?W", "h100-500w"),
    (r"(?i)H200|H100", "dgx-h100"),
    (r"V100.*Jean Zay", "jean-zay-v100"),
    (r"Jean Zay", "jean-zay-a100"),
    (r"4x HDR200|800 Gb", "a100-hdr-800"),
    (r"a100_40gb", "a100-40gb-roce-1600"),
    (r"a100_80gb", "a100-roce-1600"),
    (r"A100.*RoCE", "a100-roce-800"),
    (r"A100.*(Selene|SuperPOD|2048 GPUs)", "dgx-a100"),
    (r"A100-SXM4-80GB, 8/node$", "a100-server"),
    (r"A100", "dgx-a100"),
    (r"Cloudbrain", "cloudbrain2-2048"),
    (r"910A|Ascend 910 production", "atlas-800-910a"),
    (r"910B|Ascend, 8 NPUs", "atlas-800t-a2-910b1"),
    (r"910C|A3", "atlas-900-a3-384"),
    (r"this machine", "this-machine"),
]
FRAMEWORKS = [
    (r"zero-bubble", "zero-bubble"),
    (r"DeepSpeed ZeRO-3", "deepspeed-zero3"),
    (r"DeepSpeed\+Megatron", "deepspeed-pipeline"),
    (r"Megatron-DeepSpeed", "megatron-deepspeed"),
    (r"Megatron-LM 0\.1\d", "megatron-core-0.14"),
    (r"Megatron-Core", "megatron-core"),
    (r"Megatron-Bridge", "megatron-bridge"),
    (r"NeMo-Megatron", "nemo-megatron"),
    (r"NeMo", "megatron-bridge"),
    (r"Megatron-LM", "megatron-lm-2022"),
    (r"nanotron", "nanotron"),
    (r"InternEvo|InternLM", "internevo"),
    (r"Composer FSDP", "composer-fsdp"),
    (r"torchtitan", "torchtitan"),
    (r"FSDP", "fsdp-meta"),
    (r"MindSpeed|ModelLink", "mindspeed"),
    (r"MindFormers", "mindformers"),
    (r"pangu on a CPU", "pangu-cpu"),
    (r"PyTorch eager", "pytorch-eager"),
    (r"MindSpore", "mindspore"),
]
LLAMA: dict[str, object] = {
    "gated_ffn": True,
    "norm": "rms_norm",
    "position": "rotary",
    "activation": "silu",
    "bias": False,
    "tied_embedding": False,
    "dropout_rate": 0.0,
}
# (pattern of a model's name, experts), the first that matches; sizes as the families' configurations publish them
EXPERTS: list[tuple[str, dict[str, int]]] = [
    (r"mixtral.*8x22", {"count": 8, "top_k": 2, "ffn_hidden_size": 16384}),
    (r"mixtral", {"count": 8, "top_k": 2, "ffn_hidden_size": 14336}),
    (r"minicpm-8x2b", {"count": 8, "top_k": 2, "ffn_hidden_size": 5760}),
    (
        r"deepseek-?(v?3(?![\db])|r1(?!.*distill))",
        {"count": 256, "top_k": 8, "ffn_hidden_size": 2048, "shared": 1, "first_layer": 3},
    ),
    (
        r"deepseek-(coder-)?v?2(\.5)?-?lite",
        {"count": 64, "top_k": 6, "ffn_hidden_size": 1408, "shared": 2, "first_layer": 1},
    ),
    (
        r"deepseek-?(coder-)?v?2(?![\db])",
        {"count": 160, "top_k": 6, "ffn_hidden_size": 1536, "shared": 2, "first_layer": 1},
    ),
    (r"deepseek-?moe", {"count": 64, "top_k": 6, "ffn_hidden_size": 1408, "shared": 2, "first_layer": 1}),
    (r"kimi-?k2", {"count": 384, "top_k": 8, "ffn_hidden_size": 2048, "shared": 1, "first_layer": 1}),
    (r"qwen3.*235b", {"count": 128, "top_k": 8, "ffn_hidden_size": 1536}),
    (r"qwen3.*30b-?a3b", {"count": 128, "top_k": 8, "ffn_hidden_size": 768}),
    (r"qwen.*(2\.7b|a2\.7b)", {"count": 60, "top_k": 4, "ffn_hidden_size": 1408, "shared": 4}),
    (r"qwen2.*57b", {"count": 64, "top_k": 8, "ffn_hidden_size": 2560, "shared": 8}),
    (r"gpt-?oss.*120b", {"count": 128, "top_k": 4, "ffn_hidden_size": 2880}),
    (r"gpt-?oss.*20b", {"count": 32, "top_k": 4, "ffn_hidden_size": 2880}),
    (r"llama-?4.*scout", {"count": 16, "top_k": 1, "ffn_hidden_size": 8192, "shared": 1}),
    (r"phi-?3\.5-?moe", {"count": 16, "top_k": 2, "ffn_hidden_size": 6400}),
    (r"grok", {"count": 8, "top_k": 2, "ffn_hidden_size": 32768}),
    (r"dbrx", {"count": 16, "top_k": 4, "ffn_hidden_size": 10752}),
]
LATENT = {"query_rank": 1536, "key_value_rank": 512, "head_size": 128, "rotary_head_size": 64, "value_head_size": 128}
# heads whose width is not hidden size over their number
HEAD_SIZES = [(r"qwen3(?!\d)", 128), (r"gpt-?oss", 64), (r"mistral-?nemo", 128), (r"gemma", 256)]


def cluster_of(hardware: str) -> str | None:
    return next((preset for pattern, preset in CLUSTERS if re.search(pattern, hardware)), None)


def framework_of(framework: str, source: str = "", hardware: str = "") -> str | None:
    """Return the preset of a framework; the same name meant other software in the paper of 2021, and BLOOM's scripts
    set CUDA_LAUNCH_BLOCKING, so the row's source and hardware decide too."""
    if framework == "Megatron-LM" and "2104.04473" in source:
        return "megatron-lm-2021"
    if framework == "Megatron-DeepSpeed" and re.search(r"A100.*Jean Zay", hardware):
        return "megatron-deepspeed-bloom"
    preset = next((preset for pattern, preset in FRAMEWORKS if re.search(pattern, framework)), None)
    return _bridge_of(source, hardware) if preset == "megatron-bridge" else preset


def _bridge_of(source: str, hardware: str) -> str:
    """Return the preset of a release of Megatron-Bridge: what its recipes for the hardware leave to the host."""
    named = re.search(r"\[(\d\d\.\d\d)[\d.]* NeMo", source)
    release, is_rack = named.group(1) if named else "", re.search(r"GB[23]00", hardware)
    if not release or release < "25.11":
        return "megatron-bridge-eager"
    if release < "26.04":
        return "megatron-bridge-fused-router" if is_rack else "megatron-bridge-eager"
    if release < "26.06" or "H100" in hardware:
        return "megatron-bridge-layer-graphs" if is_rack else "megatron-bridge-fused-router"
    return "megatron-bridge"


def model_traits(name: str) -> dict[str, object]:
    """Return what a family's name says beyond its sizes."""
    low = re.sub(r"[\s_]+", "-", name.lower())
    if re.search(r"pangu", low):
        return {"query_layer": True, "vocab_size": 40000}
    if re.match(r"(gpt|bloom|mpt|opt|mt-nlg|megatron|nemotron)", low) and "oss" not in low:
        traits: dict[str, object] = {}
        if low.startswith("mpt"):
            traits = {"position": "alibi", "bias": False, "dropout_rate": 0.0}
        elif low.startswith("bloom"):
            traits = {"position": "alibi", "dropout_rate": 0.0}
        return traits
    traits = dict(LLAMA)
    if re.search(r"gpt-?oss", low):
        traits.update(bias=True)
    if re.search(r"glm", low):
        traits.update(num_heads=32)
    if re.search(r"qwen2?-?(0\.?5b|1\.?5b)|qwen2-(0point5b|1point5b)|gemma", low):
        traits.update(tied_embedding=True)
    experts = next((sizes for pattern, sizes in EXPERTS if re.search(pattern, low)), None)
    if experts is not None:
        traits["experts"] = experts
        if re.search(r"deepseek-?(coder-)?(v?[23]|r1)|kimi", low):
            traits["latent_attention"] = LATENT | ({"query_rank": 0} if "lite" in low else {})
    head_size = next((size for pattern, size in HEAD_SIZES if re.search(pattern, low)), None)
    if head_size is not None:
        traits["head_size"] = head_size
    if "vocab_size" not in traits and re.search(r"llama|baichuan-", low):
        third = re.search(r"llama-?3([.-]|[1-3]-|$)", low)  # llama-33b is of the first generation
        traits["vocab_size"] = 128256 if third else 32000 if "llama" in low else 64000
    return traits
