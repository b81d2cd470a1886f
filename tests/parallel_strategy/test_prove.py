"""The verb prove: what it prints, its exit codes, and what it makes smaller."""

import json
from itertools import pairwise

import pytest

from pangu.foundation.errors import UserError
from parallel_strategy.cli import main
from parallel_strategy.spec.model import ModelSpec
from parallel_strategy.virtual.downsizing import reduced
from parallel_strategy.virtual.proof import prove
from tests.parallel_strategy.strategies import setup_of


@pytest.fixture
def strategy(tmp_path):
    path = tmp_path / "strategy.yaml"
    arguments = ["--model", "pangu-alpha-13b", "--cluster", "atlas-800-910a"]
    for axis in ("pp", "dp", "tp"):
        arguments += ["--set", f"mesh.{axis}", "2"]
    assert main(["init", str(path), *arguments]) == 0
    return path


def test_a_13b_strategy_is_proved_and_says_at_which_size(strategy, capsys):
    assert main(["prove", str(strategy)]) == 0
    out = capsys.readouterr().out
    assert "8 virtual devices (pp 2 x dp 2 x tp 2)" in out
    assert "layers 40 → 4" in out and "hidden 5120 → " in out
    assert "equal to the emulator's list" in out and "largest difference" in out
    assert "hccs" in out and "all_reduce" in out  # traffic per level
    assert out.rstrip().splitlines()[-1].startswith("equal, float64")


def test_json_and_float32(strategy, capsys):
    assert main(["prove", str(strategy), "--json", "--dtype", "float32", "--steps", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["equal"] and 0 < found["largest"] <= 1e-5
    assert found["devices"] == 8 and found["collectives"] > 100
    assert {row["level"] for row in found["traffic"]} >= {"hccs"}


def test_a_broken_program_gives_exit_code_1(strategy, capsys, monkeypatch):
    from parallel_strategy.virtual import exchange

    monkeypatch.setitem(exchange.COLLECTIVES, "all_reduce", lambda shards, axis: list(shards))
    assert main(["prove", str(strategy)]) == 1
    assert "NOT equal" in capsys.readouterr().out


def test_mistakes_are_one_line(strategy, capsys):
    assert main(["prove", str(strategy), "--devices", "0"]) == 2
    assert capsys.readouterr().err == "error: --devices 0 must be at least 1\n"


@pytest.mark.parametrize(
    ("preset", "cluster", "fields"),
    [
        (
            "pangu-alpha-200b", "cloudbrain2-2048",
            {"batch": {"global": 512}, "mesh": {"pp": 16, "dp": 16, "tp": 8}, "recompute": {"mode": "full"}},
        ),
        (
            "pangu-alpha-13b", "cloudbrain2-2048",
            {
                "batch": {"global": 64}, "mesh": {"pp": 4, "dp": 8, "tp": 8},
                "pipeline": {"schedule": "1f1b", "stages": [9, 11, 11, 9]},
                "recompute": {"mode": "full", "per_stage": [9, 6, 3, 0]},
                "zero": {"optimizer_shard": True, "weight_shard_size": 4},
            },
        ),
        (
            "llama2-70b", "dgx-h100",
            {"batch": {"global": 32}, "mesh": {"dp": 4, "tp": 8}, "tensor": {"sequence_parallel": True}},
        ),
        ("mixtral-8x7b", "dgx-h100", {"batch": {"global": 32}, "mesh": {"dp": 8, "tp": 2, "ep": 8}}),
        ("gpt-175b", "dgx-a100", {"batch": {"global": 32}, "mesh": {"pp": 8, "tp": 8}}),
    ],
)  # fmt: skip
def test_what_is_kept_when_a_strategy_is_reduced(preset, cluster, fields):
    asked = setup_of(ModelSpec.preset(preset), cluster, "mindspore", **fields)
    small = reduced(asked, 64)
    mesh, before = small.setup.strategy.mesh, asked.strategy.mesh
    assert (mesh.pp, mesh.tp, mesh.cp, mesh.ep) == (before.pp, before.tp, before.cp, before.ep)
    assert mesh.devices <= max(64, 4 * before.devices // before.dp)
    small.setup.strategy.check_model(small.setup.model)
    whole, model = asked.model, small.setup.model
    assert (whole.vocab_size % mesh.tp == 0) == (model.vocab_size % mesh.tp == 0)
    assert (whole.query_layer, whole.final_norm, whole.norm) == (model.query_layer, model.final_norm, model.norm)
    stages, short = asked.strategy.pipeline.stages, small.setup.strategy.pipeline.stages
    if stages is not None:
        assert [a < b for a, b in pairwise(stages)] == [a < b for a, b in pairwise(short)]
    assert any(change.startswith("hidden") for change in small.changes)


def test_an_uneven_13b_layout_is_proved():
    asked = setup_of(
        ModelSpec.preset("pangu-alpha-13b"), "cloudbrain2-2048", "mindspore", batch={"global": 64},
        mesh={"pp": 4, "dp": 8, "tp": 2}, pipeline={"schedule": "1f1b", "stages": [9, 11, 11, 9]},
        recompute={"mode": "full", "per_stage": [9, 6, 3, 0]}, zero={"optimizer_shard": True, "weight_shard_size": 4},
    )  # fmt: skip
    proof = prove(reduced(asked, 32).setup, steps=1)
    assert proof.equal, (proof.problem, proof.differences)


def test_what_cannot_be_proved_is_said():
    asked = setup_of(ModelSpec.preset("deepseek-v2"), "dgx-h100", batch={"global": 8}, mesh={"dp": 8})
    with pytest.raises(UserError, match="latent attention"):
        reduced(asked)
