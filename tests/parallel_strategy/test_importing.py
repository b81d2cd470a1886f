"""Models and jobs as others describe them: what is read, what is said not to be, and what our exports read back as."""

import json
from pathlib import Path

import pytest
import yaml

from pangu.foundation.errors import PlacedError, UserError
from pangu.foundation.yaml_document import parse_document
from parallel_strategy.cli import main
from parallel_strategy.export import megatron, mindformers
from parallel_strategy.graph.program import model_parameters
from parallel_strategy.importing.huggingface_config import FAMILIES, read_config
from parallel_strategy.importing.imported import Imported, json_document
from parallel_strategy.importing.megatron_arguments import read_arguments
from parallel_strategy.importing.mindformers_yaml import read_yaml
from parallel_strategy.spec.model import ModelSpec
from parallel_strategy.spec.strategy import Setup, StrategySpec
from tests.parallel_strategy.strategies import setup_of

LLAMA = {
    "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 131072,
    "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "bfloat16", "rms_norm_eps": 1e-5,
    "rope_scaling": {"rope_type": "llama3", "original_max_position_embeddings": 8192},
}  # fmt: skip
SIZES = {
    "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4,
    "intermediate_size": 6144, "vocab_size": 151936, "max_position_embeddings": 4096, "torch_dtype": "bfloat16",
}  # fmt: skip
DEEPSEEK = {
    "model_type": "deepseek_v2", "hidden_size": 5120, "num_hidden_layers": 60, "num_attention_heads": 128,
    "num_key_value_heads": 128, "intermediate_size": 12288, "moe_intermediate_size": 1536, "n_routed_experts": 160,
    "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1, "moe_layer_freq": 1,
    "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "vocab_size": 102400, "max_position_embeddings": 4096,
}  # fmt: skip
# The published numbers of parameters. What of them is not modelled (norms of a latent, biases) is below the tolerance.
COUNTED = {
    "gpt2": ({"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024,
        "vocab_size": 50257, "resid_pdrop": 0.1, "attn_pdrop": 0.1, "embd_pdrop": 0.1}, 124_439_808),
    "llama-3.1-8b": (LLAMA, 8_030_261_248),
    "qwen2-7b": (SIZES | {"model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28, "vocab_size": 152064,
        "num_attention_heads": 28, "intermediate_size": 18944}, 7_615_616_512),
    "qwen3-30b-a3b": (SIZES | {"model_type": "qwen3_moe", "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8,
        "moe_intermediate_size": 768, "mlp_only_layers": []}, 30_532_122_624),
    "mixtral-8x7b": (LLAMA | {"model_type": "mixtral", "vocab_size": 32000, "num_local_experts": 8,
        "num_experts_per_tok": 2}, 46_702_792_704),
    "deepseek-v2": (DEEPSEEK, 235_741_434_880),
    "baichuan2-7b": ({"model_type": "baichuan", "hidden_size": 4096, "num_hidden_layers": 32, "vocab_size": 125696,
        "num_attention_heads": 32, "intermediate_size": 11008, "max_position_embeddings": 4096}, 7_505_977_344),
    "pangu-2.6b": ({"model_type": "gpt_pangu", "vocab_size": 40000, "max_position_embeddings": 1024, "num_layers": 32,
        "num_heads": 32, "hidden_size": 2560, "intermediate_size": None}, 2_625_295_360),
}  # fmt: skip


def config_of(fields: dict) -> Imported:
    return read_config(json_document(json.dumps(fields, indent=1), "config.json"))


@pytest.mark.parametrize("name", COUNTED)
def test_a_config_json_is_read_to_the_published_number_of_parameters(name: str) -> None:
    fields, count = COUNTED[name]
    found = config_of(fields)
    assert model_parameters(found.model) == pytest.approx(count, rel=5e-5)
    assert found.unknown == []


def test_every_field_is_read_or_named() -> None:
    found = config_of(LLAMA | {"attention_bias": True, "sliding_window": 1024, "shiny_new_thing": 3})
    told = " ".join([*found.read, *found.not_modelled, *found.without_effect, *found.unknown])
    assert all(name in told for name in [*LLAMA, "attention_bias", "sliding_window", "shiny_new_thing"])
    assert found.unknown == ["shiny_new_thing"] and len(found.not_modelled) == 2
    assert found.model.seq_length == 8192 and any("131072" in note for note in found.notes)
    assert {config_of({**DEEPSEEK, **SIZES, **COUNTED["gpt2"][0], **COUNTED["pangu-2.6b"][0], "model_type": kind,
        "num_experts": 8, "num_local_experts": 8, "num_experts_per_tok": 2, "n_routed_experts": 8,
        "intermediate_size": 6144, "hidden_size": 2048, "n_embd": 2048, "n_head": 32,
        "n_layer": 48, "num_hidden_layers": 48, "num_attention_heads": 32}).model.hidden_size
        for kind in FAMILIES} == {2048}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("[1, 2]", "JSON object"),
        ("{\"a\": 1,}", "is not JSON"),
        ('{"model_type": "gpt2", "model_type": "llama"}', "is there twice"),
        (json.dumps(LLAMA | {"model_type": "mamba2"}), "no family that is read"),
        (json.dumps({"hidden_size": 3}), "'model_type' is missing"),
        (json.dumps({"model_type": "llava", "text_config": {}}), "text_config"),
        (json.dumps(LLAMA | {"num_hidden_layers": "32"}, indent=1), "'32' is not a whole number"),
        (json.dumps(LLAMA | {"num_hidden_layers": True}), "is not a whole number"),
        (json.dumps(LLAMA | {"num_hidden_layers": -1}), "is no size"),
        (json.dumps(LLAMA | {"num_hidden_layers": 0}), "field 'num_hidden_layers'"),
        (json.dumps(LLAMA | {"hidden_size": 1e300}), "is no size"),
        (json.dumps(LLAMA | {"hidden_dropout": 10**400}), "is larger than any size"),
        (json.dumps(LLAMA | {"num_key_value_heads": 7}, indent=1), "json:6: field 'num_key_value_heads': 7 must"),
        (json.dumps(LLAMA | {"hidden_act": "mish"}), "'mish' is none of silu"),
        (json.dumps(LLAMA | {"torch_dtype": "int4"}), "'int4' is no type of ours"),
        (json.dumps(LLAMA | {"dtype": "float16"}), "contradicts torch_dtype"),
        (json.dumps({key: value for key, value in LLAMA.items() if key != "vocab_size"}), "'vocab_size' is missing"),
        (json.dumps(LLAMA | {"resid_pdrop": 7.0}), "resid_pdrop"),
        (json.dumps(LLAMA | {"hidden_size": float("nan")}), "nan is not a finite number"),
        (json.dumps(LLAMA | {"num_hidden_layers": float("inf")}), "inf is not a finite number"),
        (json.dumps(COUNTED["qwen3-30b-a3b"][0] | {"moe_intermediate_size": 0}), "0 is no size"),
    ],
)  # fmt: skip
def test_a_wrong_config_json_is_one_line(tmp_path: Path, capsys, text: str, words: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert main(["init", str(tmp_path / "s.yaml"), "--from", str(tmp_path / "config.json")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "config.json" in said and words in said
    assert not (tmp_path / "s.yaml").exists() and not (tmp_path / "model.yaml").exists()


def test_init_from_a_folder_writes_a_strategy_that_predict_takes(tmp_path: Path, capsys) -> None:
    (tmp_path / "Llama").mkdir()
    (tmp_path / "Llama" / "config.json").write_text(json.dumps(LLAMA))
    out = str(tmp_path / "s.yaml")
    words = ["init", out, "--from", str(tmp_path / "Llama"), "--cluster", "dgx-h100", "--framework", "megatron-core"]
    assert main(words) == 0
    assert "read: " in capsys.readouterr().out
    assert main(words) == 2 and "--overwrite" in capsys.readouterr().err
    assert main(["predict", out, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["parameters"] == 8_030_261_248
    assert "# read: " in (tmp_path / "model.yaml").read_text()
    assert main(["init", out, "--from", str(tmp_path), "--model", "gpt-13b"]) == 2
    capsys.readouterr()
    assert main([*words, "--force", "--set", "mesh.tp", "3"]) == 2 and "mesh.tp 3" in capsys.readouterr().err
    assert main(["init", str(tmp_path / "model.yaml"), "--from", str(tmp_path / "Llama"), "--force"]) == 2


SCRIPT = """#!/bin/bash
GPUS_PER_NODE=8
NNODES=${SLURM_NNODES:-4}
TP=4; PP=2
MODEL_ARGS=(
    --num-layers 32    # a comment with "quotes
    --hidden-size 4096 --num-attention-heads 32 --group-query-attention --num-query-groups 8
    --ffn-hidden-size=14336 --seq-length 8192 --swiglu --normalization RMSNorm --disable-bias-linear
    --untie-embeddings-and-output-weights --position-embedding-type rope --vocab-size 128256
    --attention-dropout 0 --hidden-dropout 0.0
)
MODEL_ARGS+=(--qk-layernorm)
PAR="--tensor-model-parallel-size $TP --pipeline-model-parallel-size ${PP} \\
  --sequence-parallel --use-distributed-optimizer --overlap-grad-reduce --foo-bar 3"
torchrun --nproc_per_node $GPUS_PER_NODE --nnodes $NNODES pretrain_gpt.py ${MODEL_ARGS[@]} $PAR \\
  --micro-batch-size 1 --global-batch-size $((16*NNODES)) --bf16 --lr 1e-4 --data-path $DATA \\
  --recompute-granularity full --recompute-method block --recompute-num-layers 4
""".replace('with "quotes', "with words")


def test_a_megatron_script_is_read_with_its_variables_arrays_and_arithmetic(tmp_path: Path, capsys) -> None:
    (tmp_path / "job.sh").write_text(SCRIPT)
    assert main(["init", str(tmp_path / "s.yaml"), "--from", str(tmp_path / "job.sh")]) == 0
    told = capsys.readouterr().out
    assert "unknown, so not read: --foo-bar" in told and "not modelled: --qk-layernorm" in told
    setup = Setup.load(tmp_path / "s.yaml")
    mesh, strategy = setup.strategy.mesh, setup.strategy
    assert (mesh.pp, mesh.dp, mesh.tp, strategy.batch.global_) == (2, 4, 4, 64)
    assert strategy.recompute.per_stage == [4, 4] and strategy.zero.stage == 1 and strategy.tensor.sequence_parallel
    assert model_parameters(setup.model) == 8_030_261_248
    assert (setup.cluster.name, setup.framework.name) == ("dgx-h100", "megatron-core")


def test_a_mindspeed_script_is_for_ascend_and_a_known_tokenizer_says_the_vocabulary(tmp_path: Path, capsys) -> None:
    text = SCRIPT.replace("GPUS_PER_NODE", "NPUS_PER_NODE").replace("--vocab-size 128256", "--use-mc2")
    text = text.replace("--bf16", "--bf16 --tokenizer-type Llama2Tokenizer --distributed-backend nccl")
    (tmp_path / "job.sh").write_text(text + "  | tee logs/train.log\n")
    assert main(["init", str(tmp_path / "s.yaml"), "--from", str(tmp_path / "job.sh")]) == 0
    told = capsys.readouterr().out
    assert "32,000 words of Llama2Tokenizer taken" in told and "--use-mc2 chooses the parts" in told
    setup = Setup.load(tmp_path / "s.yaml")
    assert (setup.framework.name, setup.model.vocab_size) == ("mindspeed", 32_000)
    assert setup.strategy.tensor.overlap == 8
    assert setup.cluster.device.name == "Ascend910B1" and setup.strategy.mesh.dp == 4


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("--num-layers 32", "--num-layer 32", "'--num-layers': is missing"),
        ("--num-layers 32", "--num-layers 32 --num-layers 40", "job.sh:6: field '--num-layers': is given twice"),
        ("--num-layers 32", "--num-layers $LAYERS", "set nowhere"),
        ("--num-layers 32", "--num-layers many", "'many' is not a whole number"),
        ("--num-layers 32", "--num-layers", "has no value"),
        ("--vocab-size 128256", "", "'--vocab-size': is missing"),
        ("--normalization RMSNorm", "--normalization BatchNorm", "none of LayerNorm, RMSNorm"),
        ("TP=4", "TP=3", "does not divide the 32 processes"),
        ("--num-query-groups 8", "--num-query-groups 5", "5 must divide num_heads 32"),
        ("--bf16", "--bf16 --fp16", "contradicts --bf16"),
        ("$((16*NNODES))", "$((16*NNODES+1))", "batch.global': 65 must be a multiple"),
        ("--swiglu", "'--swiglu", "No closing quotation"),
        ("--swiglu", "--swiglu --pipeline-model-parallel-layout Et|tL", "does not draw 32 layers"),
        ("--swiglu", "--swiglu --num-experts 8 --moe-layer-freq [1,0]*x", "is no list of 32 layers"),
        ("--micro-batch-size 1", "--micro-batch-size 0", "0 is out of range; nearest: 1"),
        ("PP=2", "PP=0", "0 is out of range"),
    ],
)
def test_a_wrong_megatron_script_is_one_line(tmp_path: Path, capsys, old: str, new: str, words: str) -> None:
    assert old in SCRIPT
    (tmp_path / "job.sh").write_text(SCRIPT.replace(old, new))
    assert main(["init", str(tmp_path / "s.yaml"), "--from", str(tmp_path / "job.sh")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "job.sh" in said and words in said


STRATEGIES: dict[str, dict] = {
    "plain": {"mesh": {"dp": 2}},
    "pipeline": {"mesh": {"pp": 4, "dp": 2, "tp": 2, "order": ["dp", "pp", "tp"]},
        "tensor": {"sequence_parallel": True}},
    "chunks": {"mesh": {"pp": 2, "dp": 2}, "pipeline": {"schedule": "interleaved", "vpp": 2}},
    "shards": {"mesh": {"dp": 4}, "zero": {"optimizer_shard": True, "level": 3, "threshold_kb": 0, "bucket_mb": 32}},
    "recompute": {"mesh": {"pp": 2, "tp": 2}, "recompute": {"mode": "full", "per_stage": [3, 3]}},
    "short ends": {"mesh": {"pp": 2}, "pipeline": {"schedule": "interleaved", "vpp": 2, "chunks": [7, 9, 9, 7]}},
    "no layer at the ends": {"mesh": {"pp": 2}, "pipeline": {"schedule": "interleaved", "vpp": 2,
        "chunks": [0, 16, 16, 0]}},
}  # fmt: skip


@pytest.mark.parametrize("name", [*ModelSpec.preset_names(), "qwen3-30b"])
def test_what_export_writes_reads_back_as_the_same_model(name: str, cases_moe: ModelSpec) -> None:
    model = cases_moe if name == "qwen3-30b" else ModelSpec.preset(name)
    own = {"mesh": {"pp": 2, "dp": 4, "tp": 2, "ep": 4 if model.experts else 1}, "tensor": {"sequence_parallel": True}}
    for framework, exported, unsaid in (
        ("megatron-core", megatron.text, megatron.unsaid),
        ("mindformers", mindformers.text, mindformers.unsaid),
    ):
        asked = setup_of(model, "dgx-h100", framework, batch={"global": 16, "micro": 1}, **own)
        text = exported(asked)
        if framework == "mindformers":
            found = read_yaml(parse_document(text, "mindformers.yaml"), model.name)
        else:
            found = read_arguments(text, "megatron.txt", model.name)
        lost = [field for field in unsaid(asked) if field.startswith("model.")]
        heads = {"kv_heads": model.kv_heads if model.kv_heads != model.num_heads else None}
        if not lost:
            assert found.model == model.model_copy(update=heads)
        assert found.unknown == [] and found.not_modelled == []
        again = StrategySpec.from_fields(found.strategy, "again")
        assert (again.mesh, again.batch) == (asked.strategy.mesh, asked.strategy.batch)


@pytest.fixture(scope="module")
def cases_moe() -> ModelSpec:
    return config_of(COUNTED["qwen3-30b-a3b"][0]).model.model_copy(update={"name": "qwen3-30b"})


@pytest.mark.parametrize("case", STRATEGIES)
def test_what_export_writes_reads_back_as_the_same_layout(case: str) -> None:
    model = ModelSpec.preset("llama2-7b")
    asked = setup_of(model, "dgx-h100", "megatron-core", batch={"global": 16, "micro": 1}, **STRATEGIES[case])
    found = read_arguments(megatron.text(asked), "megatron.txt", model.name)
    again, strategy = StrategySpec.from_fields(found.strategy, "again"), asked.strategy
    assert megatron.unsaid(asked) == []
    for section in ("batch", "pipeline", "tensor", "recompute"):
        assert getattr(again, section) == getattr(strategy, section), section
    assert again.mesh.model_dump(exclude={"order"}) == strategy.mesh.model_dump(exclude={"order"})
    assert again.zero.stage == strategy.zero.stage and again.zero.bucket_mb == strategy.zero.bucket_mb


@pytest.mark.parametrize(("etp", "ep"), [(1, 8), (1, 16), (4, 4), (2, 2)])
def test_experts_over_ranks_of_their_own_come_back(cases_moe: ModelSpec, etp: int, ep: int) -> None:
    mesh = {"dp": 4, "tp": 4, "ep": ep, "etp": etp}
    fields = {"batch": {"global": 64}, "mesh": mesh, "tensor": {"sequence_parallel": True}}
    asked = setup_of(cases_moe, "dgx-h100", "megatron-bridge", **fields)
    text = megatron.text(asked)
    assert f"--expert-tensor-parallel-size {etp}" in text.splitlines() and megatron.unsaid(asked) == []
    found = StrategySpec.from_fields(read_arguments(text, "megatron.txt", "m").strategy, "again")
    assert (found.mesh.expert_tensor, found.mesh.ep, found.mesh.dp) == (etp, ep, 4)


def test_mindspeed_s_tp_extend_ep_spreads_experts_over_both(cases_moe: ModelSpec) -> None:
    mesh = {"dp": 4, "tp": 4, "ep": 4}
    fields = {"batch": {"global": 64}, "mesh": mesh, "tensor": {"sequence_parallel": True}}
    text = megatron.text(setup_of(cases_moe, "dgx-h100", "megatron-bridge", **fields))
    found = read_arguments(text + "--moe-tp-extend-ep\n", "megatron.txt", "m")
    assert (found.strategy["mesh"]["ep"], found.strategy["mesh"]["etp"]) == (16, 1)
    assert found.not_modelled == [] and found.unknown == []


@pytest.mark.parametrize(
    ("flags", "chunks"),
    [
        ("--account-for-embedding-in-pipeline-split --account-for-loss-in-pipeline-split", [7, 8, 8, 7]),
        ("--account-for-loss-in-pipeline-split --num-virtual-stages-per-pipeline-rank 2", [4] * 7 + [3]),
        ("--num-layers-in-first-pipeline-stage 3 --num-layers-in-last-pipeline-stage 9", [3, 9, 9, 9]),
        ('--pipeline-model-parallel-layout "E|(tt|)*6L"', [0, *[2] * 6, 0]),
        ('--pipeline-model-parallel-layout "Et|(tt|)*6tL"', [1, *[2] * 6, 1]),
    ],
)
def test_layers_that_the_ends_count_for_come_back(flags: str, chunks: list[int]) -> None:
    model, layers = ModelSpec.preset("llama2-7b"), sum(chunks)
    asked = setup_of(model, "dgx-h100", "megatron-core", batch={"global": 16}, mesh={"pp": 4})
    text = megatron.text(asked).replace("--num-layers 32", f"--num-layers {layers}")
    found = read_arguments(f"{text}{flags}\n", "megatron.txt", "m")
    assert StrategySpec.from_fields(found.strategy, "again").layers_of_chunks(layers) == chunks


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--account-for-loss-in-pipeline-split", "33 more"),
        ("--coc-parallel-num 3 --use-ascend-coc", "none of 1, 2, 4, 8"),
        ("--expert-tensor-parallel-size 0", "out of range"),
    ],
)
def test_ends_parts_and_folds_that_cannot_be_are_one_line(flags: str, words: str) -> None:
    asked = setup_of(ModelSpec.preset("llama2-7b"), "dgx-h100", "megatron-core", batch={"global": 16}, mesh={"pp": 4})
    with pytest.raises(PlacedError) as error:
        read_arguments(f"{megatron.text(asked)}{flags}\n", "megatron.txt", "m")
    assert words.replace("33 more", "do not make 4 equal chunks") in str(error.value)


def test_products_in_parts_come_back_from_mindspeed_s_line() -> None:
    fields = {"mesh": {"tp": 4}, "tensor": {"sequence_parallel": True, "overlap": 4}, "batch": {"global": 16}}
    asked = setup_of(ModelSpec.preset("llama2-7b"), "atlas-800t-a2-910b2", "mindspeed", **fields)
    text = megatron.text(asked)
    assert "--use-ascend-coc" in text.splitlines() and "--coc-parallel-num 4" in text.splitlines()
    assert megatron.unsaid(asked) == []
    assert read_arguments(text, "megatron.txt", "m").strategy["tensor"]["overlap"] == 4


def test_experts_are_exported_at_their_own_width(cases_moe: ModelSpec) -> None:
    """They came out as wide as the dense layer, 8 times too wide, and without what makes it a Llama."""
    mesh, tensor = {"dp": 2, "tp": 4, "ep": 2}, {"sequence_parallel": True}
    asked = setup_of(cases_moe, "dgx-h100", "megatron-core", batch={"global": 64}, mesh=mesh, tensor=tensor)
    words = megatron.text(asked)
    for line in ("--moe-ffn-hidden-size 768", "--kv-channels 128", "--swiglu", "--normalization RMSNorm",
        "--disable-bias-linear", "--position-embedding-type rope", "--untie-embeddings-and-output-weights",
        "--vocab-size 151936", "--expert-tensor-parallel-size 4"):  # fmt: skip
        assert line in words.splitlines()
    narrow = cases_moe.model_copy(update={"compute_dtype": "fp4"})
    assert "--fp4-format e2m1" in megatron.text(setup_of(narrow, batch={"global": 8}))


MINDFORMERS = """
seed: 0
use_parallel: True
runner_config: {epochs: 2, batch_size: 4, sink_mode: True}
parallel: {parallel_mode: 1, enable_parallel_optimizer: True, full_batch: True}
parallel_config:
  data_parallel: 4
  model_parallel: 4
  pipeline_stage: 1
  vocab_emb_dp: True
micro_batch_interleave_num: 1
moe_config: {expert_num: 1, capacity_factor: 1.05}
recompute_config: {recompute: True, mp_comm_recompute: True}
model:
  model_config:
    type: PanguAlphaConfig
    seq_length: 1024
    vocab_size: 40000
    hidden_size: 5120
    ffn_hidden_size: 20480
    num_layers: 40
    num_heads: 40
    compute_dtype: 'float16'
    hidden_dropout_rate: 0.1
    hidden_act: 'fast_gelu'
    odd_field: 3
"""


def test_a_mindformers_configuration_is_read_with_its_layout(tmp_path: Path, capsys) -> None:
    (tmp_path / "run.yaml").write_text(MINDFORMERS)
    assert main(["init", str(tmp_path / "s.yaml"), "--from", str(tmp_path / "run.yaml")]) == 0
    assert "unknown, so not read: model.model_config.odd_field" in capsys.readouterr().out
    setup = Setup.load(tmp_path / "s.yaml")
    assert model_parameters(setup.model) == model_parameters(ModelSpec.preset("pangu-alpha-13b"))
    strategy = setup.strategy
    assert (strategy.mesh.dp, strategy.mesh.tp, strategy.batch.global_, strategy.batch.micro) == (4, 4, 16, 4)
    assert strategy.tensor.vocab == "whole" and strategy.recompute.mode == "full" and strategy.zero.optimizer_shard


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("PanguAlphaConfig", "PanguAlfaConfig", "did you mean 'PanguAlphaConfig'"),
        ("num_layers: 40", "num_layers: forty", "run.yaml:21: field 'model.model_config.num_layers': 'forty' is not"),
        ("num_layers: 40", "num_layers: 40\n    offset: [1, 1]", "not a number for each of 1 stages"),
        ("'float16'", "int8", "none of float16"),
        ("recompute: True,", "recompute: [1, 2],", "for each of 1 stages"),
        ("ffn_hidden_size: 20480", "ffn_hidden_size: 20480\n    intermediate_size: 5", "contradicts intermediate_size"),
        ("model:\n", "modell:\n", "has no model.model_config"),
        ("model_parallel: 4", "model_parallel: 3", "mesh.tp': 3 must divide num_heads 40"),
        ("model_parallel: 4", "model_parallel: 4\n  model_parallel: 5", "twice"),
    ],
)
def test_a_wrong_mindformers_configuration_is_one_line(tmp_path: Path, capsys, old: str, new: str, words: str) -> None:
    assert old in MINDFORMERS
    (tmp_path / "run.yaml").write_text(MINDFORMERS.replace(old, new))
    assert main(["init", str(tmp_path / "s.yaml"), "--from", str(tmp_path / "run.yaml")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "run.yaml" in said and words in said


def test_uneven_stages_of_a_mindformers_configuration_come_back() -> None:
    model = ModelSpec.preset("pangu-alpha-2.6b")
    fields = {
        "batch": {"global": 16, "micro": 1}, "mesh": {"pp": 2, "dp": 2, "tp": 2}, "tensor": {"vocab": "whole"},
        "pipeline": {"stages": [15, 17]}, "recompute": {"mode": "full", "per_stage": [3, 9]},
        "zero": {"optimizer_shard": True, "level": 2, "weight_shard_size": 2, "bucket_mb": 32},
    }  # fmt: skip
    asked = setup_of(model, "atlas-800-910a", "mindformers", **fields)
    found = yaml.safe_load(mindformers.text(asked))
    again = read_yaml(parse_document(yaml.safe_dump(found), "again.yaml"), model.name)
    strategy = StrategySpec.from_fields({"framework": "mindformers", **again.strategy}, "again")
    assert strategy.model_copy(update={"mesh": asked.strategy.mesh}) == asked.strategy


def test_a_file_of_no_kind_is_one_line(tmp_path: Path) -> None:
    from parallel_strategy.importing.read import read_import

    for name, content, words in (
        ("a.txt", b"hello world", "begin with --"),
        ("a.yaml", b"batch: {global: 3}", "no MindFormers configuration"),
        ("b.sh", b"\xff\xfe--num", "is not UTF-8"),
        ("c.sh", b"   \n", "is empty"),
        ("d.json", b'{"model_type": ' + b"[" * 3000, "is not JSON"),
        ("e.sh", b"--num-layers " * 30000, "words"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=words):
            read_import(tmp_path / name)
    with pytest.raises(UserError, match="cannot be read"):
        read_import(tmp_path / "absent.json")
