"""What is exported for MindFormers and Megatron-LM, against what those two take: names, types and combinations.

Written down from mindformers 2.1.0 (tools/register/template.py, trainer/base_trainer.py and the LayerSetting of its
training graph) and from Megatron-LM core 0.16's megatron/training/arguments.py: its parsers and its validate_args.
"""

from itertools import accumulate

import pytest
import yaml

from parallel_strategy.export import megatron, mindformers
from tests.parallel_strategy.exported import setup_of

CASES: dict[str, dict] = {
    "one device": {"mesh": {}, "zero": {}, "recompute": {}},
    "pipeline": {},
    "accumulation": {"mesh": {"dp": 4, "tp": 2}, "batch": {"global": 16, "micro": 2}},
    "halves": {"mesh": {"dp": 4, "tp": 2}, "batch": {"global": 16, "micro": 2}, "tensor": {"interleave": 2}},
    "uneven": {"pipeline": {"stages": [15, 17]}, "recompute": {"mode": "full", "per_stage": [3, 9]}},
    "uneven ends": {"mesh": {"pp": 4, "tp": 2}, "pipeline": {"stages": [7, 9, 9, 7]}},
    "uneven middle": {"mesh": {"pp": 4, "tp": 2}, "pipeline": {"stages": [7, 9, 8, 8]}},
    "chunks": {"pipeline": {"schedule": "mindspore_vpp", "vpp": 2}, "recompute": {"mode": "selective"}},
    "uneven chunks": {
        "pipeline": {"schedule": "mindspore_vpp", "vpp": 2, "stages": [15, 17]},
        "recompute": {"mode": "full", "per_stage": [3, 9]},
    },
    "there and back": {"pipeline": {"schedule": "zb_v"}},
    "buckets": {"zero": {"optimizer_shard": True, "bucket_mb": 25.5, "threshold_kb": 0}},
    "shards in groups": {
        "mesh": {"dp": 8},
        "zero": {"optimizer_shard": True, "level": 2, "weight_shard_size": 2, "threshold_kb": 0},
    },
    "weights sharded": {"mesh": {"dp": 8}, "zero": {"optimizer_shard": True, "level": 3, "bucket_mb": 64}},
    "Adam on the host": {"offload": {"optimizer": True}},
    "sequence parallel": {"tensor": {"sequence_parallel": True, "vocab": "whole"}},
    "slices": {"recompute": {"mode": "full", "slice_activation": True, "mp_comm": False}},
}


# {section: {key: types that its value may have}}
NUMBER, SWITCH, LAYERS = (int,), (bool,), (bool, list)
MINDFORMERS = {
    "runner_config": {"batch_size": NUMBER, "gradient_accumulation_steps": NUMBER},
    "parallel_config": {
        **dict.fromkeys(("data_parallel", "model_parallel", "context_parallel", "expert_parallel"), NUMBER),
        **dict.fromkeys(("pipeline_stage", "micro_batch_num", "gradient_aggregation_group"), NUMBER),
        **dict.fromkeys(("use_seq_parallel", "vocab_emb_dp"), SWITCH),
    },
    "recompute_config": {
        **dict.fromkeys(("recompute", "select_recompute"), LAYERS),
        **dict.fromkeys(("parallel_optimizer_comm_recompute", "mp_comm_recompute"), SWITCH),
        "recompute_slice_activation": SWITCH,
    },
    "parallel": {
        "parallel_mode": NUMBER,
        **dict.fromkeys(("gradients_mean", "full_batch", "enable_parallel_optimizer"), SWITCH),
        "strategy_ckpt_save_file": (str,),
        **dict.fromkeys(("parallel_optimizer_config", "pipeline_config", "comm_fusion"), (dict,)),
    },
    "moe_config": {"expert_num": NUMBER, "num_experts_chosen": NUMBER},
    "model": {"model_config": (dict,)},
}
TOP = {"use_parallel": SWITCH, "micro_batch_interleave_num": NUMBER, **dict.fromkeys(MINDFORMERS, (dict,))}


def layers_of_chunks(model: dict, pp: int) -> list[list[int]]:
    """Layers of [chunk][stage], by MindFormers' LayerSetting."""
    chunks = model.get("pp_interleave_num", 1)
    offset = model.get("offset", 0)
    rows = offset if isinstance(offset, list) and isinstance(offset[0], list) else [offset] * chunks
    assert len(rows) == chunks
    average = model["num_layers"] // (pp * chunks)
    found = [[average + (row[stage] if isinstance(row, list) else row) for stage in range(pp)] for row in rows]
    assert sum(map(sum, found)) == model["num_layers"], "the sum of offset must be what even chunks leave"
    return found


@pytest.mark.parametrize("case", CASES)
def test_mindformers_takes_every_field(case: str) -> None:
    asked = setup_of(**CASES[case])
    strategy = asked.strategy
    said = yaml.safe_load(mindformers.text(asked))
    for key, value in said.items():
        assert type(value) in TOP[key], key
        if key in MINDFORMERS:
            for name, field in value.items():
                assert type(field) in MINDFORMERS[key][name], f"{key}.{name}: {field!r}"
    runner, parallel = said["runner_config"], said["parallel_config"]
    pp, dp = parallel["pipeline_stage"], parallel["data_parallel"]
    parts = parallel["micro_batch_num"] if pp > 1 else runner["gradient_accumulation_steps"]
    assert runner["batch_size"] * dp * parts * said["micro_batch_interleave_num"] == strategy.batch.global_
    assert pp == 1 or parallel["micro_batch_num"] >= pp
    model = said["model"]["model_config"]
    if "pipeline.stages" not in mindformers.unsaid(asked):
        stages = [sum(column) for column in zip(*layers_of_chunks(model, pp), strict=True)]
        assert stages == strategy.layers_of_stages(asked.model.num_layers)
    interleaves = said["parallel"].get("pipeline_config", {}).get("pipeline_interleave", False)
    assert interleaves == ("pp_interleave_num" in model)
    for layers in (said["recompute_config"]["recompute"], said["recompute_config"]["select_recompute"]):
        if isinstance(layers, list):
            rows = layers if isinstance(layers[0], list) else [layers]
            assert len(rows) == model.get("pp_interleave_num", 1) and {len(row) for row in rows} == {pp}
            assert [sum(column) for column in zip(*rows, strict=True)] == mindformers.recompute_layers(asked)


def test_mindspore_takes_the_parallel_section() -> None:
    """As MindFormers hands it over: keyword arguments of set_auto_parallel_context."""
    from mindspore import context

    for case in ("buckets", "shards in groups", "weights sharded", "chunks", "there and back"):
        parallel = mindformers.configuration(setup_of(**CASES[case]))["parallel"]
        assert parallel["parallel_mode"] == 1
        try:
            context.set_auto_parallel_context(**parallel | {"parallel_mode": "semi_auto_parallel"})
            for key in ("enable_parallel_optimizer", "full_batch", "gradients_mean"):
                assert context.get_auto_parallel_context(key) == parallel[key]
            if "comm_fusion" in parallel:
                found = context.get_auto_parallel_context("comm_fusion")
                assert parallel["comm_fusion"].items() <= found.items()
        finally:
            context.reset_auto_parallel_context()


def test_what_neither_says_is_named() -> None:
    def comments(text: str) -> str:
        return " ".join(line for line in text.splitlines() if line.startswith("#"))

    halves = setup_of(**CASES["halves"])
    assert "tensor.interleave" in comments(megatron.text(halves))
    assert mindformers.configuration(halves)["micro_batch_interleave_num"] == 2
    host = setup_of(offload={"optimizer": True, "activation": 0.5}, zero={})
    assert "offload" in comments(mindformers.text(host))
    assert "offload.optimizer, offload.activation" in comments(megatron.text(host))
    back = comments(megatron.text(setup_of(**CASES["there and back"])))
    assert "no argument says: model.query_layer, pipeline.schedule" in back
    plain = setup_of(model={"preset": "gpt-2.7b"}, zero={"optimizer_shard": True, "threshold_kb": 0})
    assert "no argument says" not in comments(megatron.text(plain))
    assert "No field says" not in comments(mindformers.text(setup_of()))
    buckets = mindformers.configuration(setup_of(**CASES["buckets"]))["parallel"]["comm_fusion"]
    assert buckets == {kind: {"mode": "size", "config": 26} for kind in ("allreduce", "allgather", "reducescatter")}


WHOLE, TEXT = int, str
# {flag: type of its value; None where it takes none}
MEGATRON = {
    **dict.fromkeys(("--num-layers", "--hidden-size", "--ffn-hidden-size", "--num-attention-heads"), WHOLE),
    **dict.fromkeys(("--seq-length", "--max-position-embeddings", "--num-query-groups"), WHOLE),
    **dict.fromkeys(("--tensor-model-parallel-size", "--pipeline-model-parallel-size"), WHOLE),
    **dict.fromkeys(("--context-parallel-size", "--expert-model-parallel-size"), WHOLE),
    **dict.fromkeys(("--micro-batch-size", "--global-batch-size", "--num-experts", "--moe-router-topk"), WHOLE),
    **dict.fromkeys(("--num-virtual-stages-per-pipeline-rank", "--recompute-num-layers", "--ddp-bucket-size"), WHOLE),
    **dict.fromkeys(("--decoder-first-pipeline-num-layers", "--decoder-last-pipeline-num-layers"), WHOLE),
    "--num-distributed-optimizer-instances": WHOLE,
    **dict.fromkeys(("--fp8-format", "--recompute-granularity", "--recompute-method", "--ckpt-format"), TEXT),
    **dict.fromkeys(("--pipeline-model-parallel-layout", "--data-parallel-sharding-strategy"), TEXT),
    **dict.fromkeys(("--group-query-attention", "--sequence-parallel", "--fp16", "--bf16"), None),
    **dict.fromkeys(("--use-distributed-optimizer", "--use-megatron-fsdp", "--overlap-grad-reduce"), None),
    **dict.fromkeys(("--optimizer-cpu-offload", "--use-precision-aware-optimizer"), None),
    "--distribute-saved-activations": None,
    **dict.fromkeys(("--vocab-size", "--make-vocab-size-divisible-by", "--kv-channels"), WHOLE),
    **dict.fromkeys(("--position-embedding-type", "--normalization", "--attention-backend", "--fp4-format"), TEXT),
    **dict.fromkeys(("--hidden-dropout", "--attention-dropout"), float),
    **dict.fromkeys(("--swiglu", "--disable-bias-linear", "--untie-embeddings-and-output-weights"), None),
    **dict.fromkeys(("--overlap-param-gather", "--no-gradient-accumulation-fusion", "--use-tp-pp-dp-mapping"), None),
}
CHOICES = {
    "--recompute-granularity": {"full", "selective"},
    "--recompute-method": {"uniform", "block"},
    "--position-embedding-type": {"learned_absolute", "rope", "mrope", "yarn", "relative", "none"},
    "--normalization": {"LayerNorm", "RMSNorm"},
    "--attention-backend": {"flash", "fused", "unfused", "local", "auto"},
    "--data-parallel-sharding-strategy": {"no_shard", "optim", "optim_grads", "optim_grads_params"},
    "--ckpt-format": {"torch", "torch_dist", "torch_dcp", "fsdp_dtensor"},
}


def parsed(words: list[str]) -> dict[str, object]:
    """The arguments as Megatron's parser takes them."""
    found: dict[str, object] = {}
    rest = iter(words)
    for flag in rest:
        assert flag not in found, f"{flag} is there twice"
        kind = MEGATRON[flag]
        found[flag] = True if kind is None else kind(next(rest))
        assert flag not in CHOICES or found[flag] in CHOICES[flag]
    return found


@pytest.mark.parametrize("case", CASES)
def test_megatron_takes_every_argument_and_their_combination(case: str) -> None:
    asked = setup_of(**CASES[case])
    strategy, mesh = asked.strategy, asked.strategy.mesh
    lines = megatron.text(asked).splitlines()
    words = [word for line in lines if not line.startswith("#") for word in line.split()]
    said = parsed(words)
    comments = " ".join(line for line in lines if line.startswith("#"))
    pp, tp = said["--pipeline-model-parallel-size"], said["--tensor-model-parallel-size"]
    assert mesh.devices % (pp * tp * said.get("--context-parallel-size", 1)) == 0
    assert said["--global-batch-size"] % (said["--micro-batch-size"] * mesh.dp) == 0
    # Stages: one way to say them, and all layers in them.
    ends = ("--decoder-first-pipeline-num-layers", "--decoder-last-pipeline-num-layers")
    ways = [ends[0] in said, "--pipeline-model-parallel-layout" in said]
    assert sum(ways) <= 1 and ("--num-virtual-stages-per-pipeline-rank" in said) + ways[1] <= 1
    stages = [said["--num-layers"] // pp] * pp
    if ways[0]:
        middle = (said["--num-layers"] - said[ends[0]] - said[ends[1]]) / (pp - 2)
        stages = [said[ends[0]], *[middle] * (pp - 2), said[ends[1]]]
    elif ways[1]:
        drawn = str(said["--pipeline-model-parallel-layout"])
        assert drawn[0] == "E" and drawn[-1] == "L"
        chunks = [chunk.count("t") for chunk in drawn.split("|")]
        assert chunks == strategy.layers_of_chunks(asked.model.num_layers)
        stages = [sum(chunks[stage::pp]) for stage in range(pp)]
    if "pipeline.stages" not in comments:
        assert stages == strategy.layers_of_stages(asked.model.num_layers)
        assert list(accumulate(stages))[-1] == asked.model.num_layers
    # Recomputation.
    if said.get("--recompute-granularity") == "selective":
        assert "--recompute-method" not in said
    if "--distribute-saved-activations" in said:
        assert tp > 1 and said["--recompute-granularity"] == "full" and "--recompute-method" in said
        assert "--sequence-parallel" not in said
    # The optimizer.
    if "--use-megatron-fsdp" in said:
        assert said["--ckpt-format"] == "fsdp_dtensor" and "CUDA_DEVICE_MAX_CONNECTIONS" not in comments
    else:
        assert "--data-parallel-sharding-strategy" not in said and "--ckpt-format" not in said
        assert ("CUDA_DEVICE_MAX_CONNECTIONS=1" in comments) == (tp > 1)
    if "--optimizer-cpu-offload" in said:
        assert {"--use-precision-aware-optimizer", "--use-distributed-optimizer"} <= said.keys()
    if "--num-distributed-optimizer-instances" in said:
        assert mesh.dp % said["--num-distributed-optimizer-instances"] == 0 and "--use-distributed-optimizer" in said
    assert "--ddp-bucket-size" not in said or "--overlap-grad-reduce" in said
    assert not ({"--fp16", "--bf16"} <= said.keys())
