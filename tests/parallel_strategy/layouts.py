"""Random layouts of tiny models for virtual devices."""

from hypothesis import strategies as st

from parallel_strategy.spec.model import Experts, ModelSpec
from parallel_strategy.spec.strategy import Setup
from tests.parallel_strategy.strategies import setup_of

FRAMEWORKS = (
    "mindspore", "mindspore-2.10", "mindspore-2.10", "mindformers", "megatron-lm-2022", "megatron-core",
    "megatron-deepspeed",
)  # fmt: skip
SCHEDULES = (
    "gpipe", "1f1b", "interleaved", "mindspore_vpp", "mindspore_vpp_less_memory", "zb_h1", "zb_h2", "zb_v", "dualpipe",
)  # fmt: skip
LLAMA = {
    "gated_ffn": True, "norm": "rms_norm", "position": "rotary", "activation": "silu", "bias": False,
    "tied_embedding": False,
}  # fmt: skip
KINDS = ("pangu", "pangu", "pangu_after", "gpt", "llama", "experts", "llama_experts")


def tiny_model(
    kind: str, layers: int, *, heads: int = 4, kv_heads: int = 4, vocabulary: int = 24, dropout: float = 0.0
) -> ModelSpec:
    fields: dict = {}
    if kind.startswith("pangu"):
        fields = {"query_layer": True, "final_norm": "after_query" if kind.endswith("after") else "before_query"}
    if kind.startswith("llama"):
        fields = {**LLAMA, "kv_heads": kv_heads}
    if kind.endswith("experts"):  # room for every token with every expert: what is dropped depends on the layout
        experts = Experts(count=4, top_k=2, ffn_hidden_size=8, capacity_factor=2.0, first_layer=1)
        fields = {**fields, "experts": experts}
    return ModelSpec(
        num_layers=layers, hidden_size=4 * heads, num_heads=heads, ffn_hidden_size=16, seq_length=8,
        vocab_size=vocabulary, dropout_rate=dropout, **fields,
    )  # fmt: skip


@st.composite
def layouts(draw, largest: int = 8, kinds: tuple[str, ...] = KINDS) -> Setup:
    """A legal strategy of a tiny model on at most `largest` devices."""
    kind = draw(st.sampled_from(kinds))
    pp = draw(st.sampled_from([n for n in (1, 2, 3, 4) if n <= largest]))
    tp = draw(st.sampled_from([n for n in (1, 2, 4) if n * pp <= largest]))
    dp = draw(st.sampled_from([n for n in (1, 2, 3, 4, 8) if n * pp * tp <= largest]))
    cp = draw(st.sampled_from([n for n in (1, 2) if n * dp * pp * tp <= largest]))
    schedule = draw(st.sampled_from(SCHEDULES)) if pp > 1 else "1f1b"
    chunked = schedule in ("interleaved", "mindspore_vpp", "mindspore_vpp_less_memory")
    vpp = draw(st.sampled_from([1, 2])) if chunked else 1
    chunks = pp * (2 if schedule in ("zb_v", "dualpipe") else vpp)
    layers = max(2, chunks + draw(st.integers(0, 2)))
    groups = pp * draw(st.integers(1, 2)) if vpp > 1 else draw(st.integers(1, 2 * pp))
    if schedule == "zb_h2":
        groups = max(groups, 2 * pp - 1)
    micro = draw(st.sampled_from([1, 2]))
    stages = None
    if vpp == 1 and chunks == pp and pp > 1 and draw(st.booleans()):  # uneven
        stages = [1] * pp
        for _ in range(layers - pp):
            stages[draw(st.integers(0, pp - 1))] += 1
    mode = draw(st.sampled_from(["none", "selective", "full"]))
    per_stage = None
    if mode != "none" and stages is not None and draw(st.booleans()):
        per_stage = [draw(st.integers(0, n)) for n in stages]
    experts = [n for n in (1, 2, 4) if (dp * cp) % n == 0] if kind.endswith("experts") else [1]
    order = draw(st.permutations(["pp", "dp", "cp", "tp"]))
    sequence_parallel = draw(st.booleans()) and 8 % (cp * tp) == 0
    folds = [n for n in (1, 2, 4) if (dp * cp * tp) % n == 0 and n != tp]
    etp, ep = None, draw(st.sampled_from(experts))
    if kind.endswith("experts") and folds and (tp == 1 or sequence_parallel) and draw(st.booleans()):
        etp, order = draw(st.sampled_from(folds)), ["pp", "dp", "cp", "tp"]
        ep = draw(st.sampled_from([n for n in (1, 2, 4) if (dp * cp * tp // etp) % n == 0]))
    sizes = None
    if vpp > 1 and draw(st.booleans()):  # chunks of sizes of their own, with none at the ends
        sizes = [draw(st.integers(index not in (0, chunks - 1), 2)) for index in range(chunks)]
        layers = sum(sizes)
    return setup_of(
        tiny_model(
            kind, layers, kv_heads=draw(st.sampled_from([n for n in (2, 4) if n >= tp])),
            vocabulary=draw(st.sampled_from([24, 23])), dropout=draw(st.sampled_from([0.0, 0.1])),
        ),
        "dgx-a100",
        draw(st.sampled_from(FRAMEWORKS)),
        batch={"global": dp * micro * groups, "micro": micro},
        mesh={"pp": pp, "dp": dp, "tp": tp, "cp": cp, "ep": ep, "etp": etp, "order": order},
        pipeline={"schedule": schedule, "vpp": vpp, "stages": stages, "chunks": sizes},
        tensor={
            "sequence_parallel": sequence_parallel,
            "vocab": draw(st.sampled_from(["split", "whole"])),
        },
        zero={
            "optimizer_shard": draw(st.booleans()), "level": draw(st.sampled_from([1, 2, 3])),
            "weight_shard_size": draw(st.sampled_from([-1, -1, 2] if dp * cp % 2 == 0 else [-1])),
            "threshold_kb": draw(st.sampled_from([0, 0, 1])),
        },
        recompute={
            "mode": mode, "per_stage": per_stage, "mp_comm": draw(st.booleans()),
            "slice_activation": draw(st.booleans()),
        },
        offload={"optimizer": draw(st.booleans())},
    )  # fmt: skip
