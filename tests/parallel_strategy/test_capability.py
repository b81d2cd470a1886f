"""What a framework cannot carry out is priced and said by `predict`, and refused by all that would execute it."""

import json
from pathlib import Path

import pytest
import yaml

from parallel_strategy.cli import main
from parallel_strategy.spec.capability import outside
from parallel_strategy.spec.framework import Executes, FrameworkSpec
from parallel_strategy.spec.model import ModelSpec
from parallel_strategy.spec.strategy import Setup, StrategySpec
from parallel_strategy.spec.unpriced import unpriced
from tests.parallel_strategy.strategies import setup_of

EVERYTHING = {
    "batch": {"global": 16, "micro": 2}, "mesh": {"pp": 2, "dp": 2, "tp": 2},
    "pipeline": {"schedule": "dualpipe"}, "tensor": {"sequence_parallel": True, "interleave": 2},
    "zero": {"optimizer_shard": True, "level": 3}, "offload": {"activation": 0.5, "optimizer": True},
    "overrides": [{"operator": "attention.query", "strategy": [[1, 1], [1, 1]]}],
}  # fmt: skip


def fields(framework: str, model: str = "pangu-alpha-2.6b", **changes) -> list[str]:
    asked = setup_of(ModelSpec.preset(model), "cloudbrain2-2048", framework, **(EVERYTHING | changes))
    lines = outside(asked)
    assert all("\n" not in line and f": {framework} does not execute " in line for line in lines)
    return [line.partition(":")[0] for line in lines]


def test_each_field_that_leaves_the_record_is_a_line() -> None:
    assert fields("mindspore-2.10") == ["pipeline.schedule", "tensor.interleave", "batch.micro", "offload.activation"]
    assert fields("pangu-cpu") == [
        "mesh.pp", "mesh.tp", "zero.level", "offload.optimizer", "offload.activation", "overrides",
    ]  # fmt: skip
    assert fields("megatron-lm-2021", zero={}) == [
        "pipeline.schedule", "tensor.interleave", "tensor.sequence_parallel", "offload.optimizer",
        "offload.activation", "overrides",
    ]  # fmt: skip
    plain = {name: {} for name in ("pipeline", "tensor", "zero", "offload")} | {"overrides": []}
    assert fields("mindspore-2.10", **plain) == []
    assert fields("mindspore-2.10", "llama2-7b", **plain) == ["model"]
    assert fields("mindspore-2.10", **plain, mesh={"dp": 3, "tp": 1}, batch={"global": 6}) == ["mesh"]
    one = {"pp": 2, "dp": 2, "tp": 2}
    assert fields("mindspore-2.10", **plain, mesh=one, batch={"global": 4, "micro": 2}) == ["batch.micro"]
    order = {"dp": 2, "tp": 4, "order": ["pp", "tp", "dp"]}
    assert fields("mindspore-2.10", **plain, mesh=order) == ["mesh.order"]
    # what has no effect leaves nothing: a schedule of one stage, sequence parallelism and a vocabulary of one rank
    assert fields("mindspore-2.10", offload={}, overrides=[], mesh={"dp": 8}, batch={"global": 8}, tensor={}) == []


def test_the_released_strategies_and_every_framework_without_limits_leave_nothing() -> None:
    for name in StrategySpec.preset_names():
        assert outside(Setup.resolve(StrategySpec.preset(name), Path())) == []
    asked = setup_of(ModelSpec.preset("pangu-alpha-2.6b"), "cloudbrain2-2048", "mindspore-2.10", **EVERYTHING)
    free = asked.framework.model_copy(update={"executes": Executes()})
    assert outside(asked.model_copy(update={"framework": free})) == []


def test_every_preset_says_what_it_executes() -> None:
    for name in FrameworkSpec.preset_names():
        executes = FrameworkSpec.preset(name).executes
        assert executes.dtypes is not None and (executes.schedules is not None or "pp" not in (executes.axes or ["pp"]))


@pytest.fixture
def strategy(tmp_path: Path) -> Path:
    path = tmp_path / "s.yaml"
    text = yaml.safe_dump({"mesh": {"pp": 2, "dp": 2, "tp": 2}, "pipeline": {"schedule": "zb_h1"}}, sort_keys=False)
    path.write_text("batch: {global: 16}\nframework: mindspore-2.10\n" + text + "tensor: {interleave: 1}\n")
    return path


def test_predict_says_it_and_the_others_refuse_it(strategy: Path, tmp_path: Path, capsys) -> None:
    what = "mindspore-2.10 does not execute 'zb_h1'; nearest: 'zb_v' (legal: 1f1b, gpipe, mindspore_vpp, zb_v)"
    assert main(["predict", str(strategy)]) == 0
    assert f"priced only: pipeline.schedule: {what}\n" in capsys.readouterr().out
    assert main(["predict", str(strategy), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["priced_only"] == [f"pipeline.schedule: {what}"]
    for verb in (["prove"], ["export", "--out", str(tmp_path / "out")], ["compile"]):
        assert main([verb[0], str(strategy), *verb[1:]]) == 2
        assert capsys.readouterr().err == f"error: {strategy}:8: field 'pipeline.schedule': {what}\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("framework", "model", "cluster", "devices"),
    [
        ("mindspore-2.10", "pangu-alpha-13b", "cloudbrain2-2048", 32),
        ("mindspore", "pangu-alpha-2.6b", "atlas-800-910a", 8),
        ("megatron-core", "llama2-7b", "dgx-a100", 8),
        ("mindspeed", "mixtral-8x7b", "atlas-800t-a2-910b1", 8),
        ("pangu-cpu", "pangu-alpha-350m", "this-machine", 2),
    ],
)
def test_what_search_recommends_can_be_executed(tmp_path: Path, capsys, framework, model, cluster, devices) -> None:
    path, best = tmp_path / "s.yaml", tmp_path / "best.yaml"
    text = f"model: {{preset: {model}}}\ncluster: {{preset: {cluster}}}\nframework: {framework}\n"
    path.write_text(text + "batch: {global: 16}\nmesh: {dp: 2}\n")
    dtype = "" if framework != "pangu-cpu" else "model: {preset: pangu-alpha-350m, dtype: fp32}\n"
    if dtype:
        path.write_text(dtype + path.read_text().partition("\n")[2])
    words = ["search", str(path), "--devices", str(devices), "--micro", "1", "--out", str(best), "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["priced_only"] == [] and outside(Setup.load(best)) == []
    assert main(["export", str(best), "--out", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    if framework == "mindspore-2.10":
        assert main([*words, "--beyond"]) == 0
        priced_only = json.loads(capsys.readouterr().out)["priced_only"]
        assert priced_only == outside(Setup.load(best)) != []


def test_what_is_asked_of_search_and_not_executed_is_one_line(strategy: Path, capsys) -> None:
    assert main(["search", str(strategy), "--schedules", "zb_h1"]) == 2
    error = capsys.readouterr().err
    assert "schedules zb_h1: mindspore-2.10 executes none of these; --beyond prices them" in error
    assert error.count("\n") == 1
    strategy.write_text("model: {preset: llama2-7b, dtype: fp16}\n" + strategy.read_text())
    assert main(["search", str(strategy)]) == 2
    assert "does not execute a model with position 'rotary'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "mesh", "words"),
    [
        ("gemma-2-27b", {"dp": 8}, ["sliding windows", "soft-capped"]),
        ("Qwen3 Next 80B", {"dp": 8}, ["no attention"]),
        ("llama", {"dp": 4, "cp": 2}, ["Ulysses"]),
        ("llama", {"dp": 8}, []),
    ],
)
def test_what_a_price_leaves_out_is_said(name, mesh, words):
    model = ModelSpec(name=name, num_layers=4, hidden_size=512, num_heads=8, ffn_hidden_size=2048, seq_length=1024)
    said = unpriced(setup_of(model, batch={"global": 8}, mesh=mesh))
    assert len(said) == len(words) and all(word in line for word, line in zip(words, said, strict=True))


def test_what_experts_and_fp4_leave_out_is_said():
    model = ModelSpec.preset("deepseek-v3").model_copy(update={"compute_dtype": "fp4"})
    mesh = {"pp": 4, "dp": 2, "tp": 2, "ep": 2}
    pipeline = {"schedule": "interleaved", "vpp": 4}
    said = unpriced(setup_of(model, batch={"global": 64}, mesh=mesh, pipeline=pipeline))
    assert len(said) == 3
    assert all(words in line for words, line in zip(("balanced", "fp4", "latent"), said, strict=True))


@pytest.mark.parametrize(
    ("field", "framework", "fields"),
    [
        ("mesh.etp", "mindformers", {"mesh": {"dp": 2, "tp": 2, "ep": 2, "etp": 1}}),
        ("pipeline.chunks", "mindspore", {"mesh": {"pp": 2}, "pipeline": {"vpp": 2, "chunks": [2, 3, 2, 1]}}),
        ("tensor.overlap", "megatron-core", {"mesh": {"tp": 2}, "tensor": {"overlap": 4, "sequence_parallel": True}}),
    ],
)
def test_a_framework_that_cannot_fold_cut_or_overlap_says_so(field, framework, fields):
    experts = {"count": 4, "top_k": 1, "ffn_hidden_size": 512} if field == "mesh.etp" else None
    sizes = {"num_layers": 8, "hidden_size": 512, "num_heads": 8, "ffn_hidden_size": 2048}
    model = ModelSpec(**sizes, compute_dtype="bf16", experts=experts)
    fields = {"batch": {"global": 8}, "tensor": {"sequence_parallel": True}} | fields
    if "pipeline" in fields:
        fields["pipeline"] = {"schedule": "interleaved"} | fields["pipeline"]
    lines = outside(setup_of(model, "atlas-800t-a2-910b2", framework, **fields))
    assert any(line.startswith(f"{field}: {framework} does not execute") for line in lines)
