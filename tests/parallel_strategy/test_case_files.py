"""Small files that once came out wrong, each with what is right now. Their figures stand in the cases' own README."""

import json
from pathlib import Path

import numpy as np
import pytest

from parallel_strategy.calibrate.measured_runs import read_rows
from parallel_strategy.cli import main
from parallel_strategy.cost.kernel import matmul_seconds
from parallel_strategy.predict import Prediction
from parallel_strategy.search.executable import keep_to_framework
from parallel_strategy.search.find import search
from parallel_strategy.search.shapes import Space
from parallel_strategy.spec.capability import outside
from parallel_strategy.spec.cluster import ClusterSpec
from parallel_strategy.spec.strategy import Setup


@pytest.fixture
def cases(shared: Path) -> Path:
    return shared.parent / "cases" / "parallel"


def predict(path: Path, capsys, *more: str) -> dict:
    """What `predict --json` says; exit code 3 is a file that does not fit."""
    capsys.readouterr()
    assert main(["predict", str(path), "--json", *more]) in (0, 3)
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("cluster", ["dgx-h100", "gb300-nvl72", "jean-zay-a100", "atlas-800t-a2-910b1"])
def test_tokens_of_an_expert_that_are_no_multiple_of_8_cost_nothing_more(cluster: str) -> None:
    """`moe_m_align.py`: 10,922 rows took 2.7 to 8 times as long as 10,920."""
    device = ClusterSpec.preset(cluster).device
    one, n, k, batch = (np.array([float(size)]) for size in (0, 4096, 7168, 6))
    seconds = [float(matmul_seconds(device, "bf16", one + m, n, k, batch)[0]) for m in (10920, 10922)]
    assert seconds[1] == pytest.approx(seconds[0], rel=0.01)


def test_a_model_is_not_taken_for_another_whose_name_begins_alike(cases: Path) -> None:
    """`name.csv`: deepseek-33b, a dense model, was priced as DeepSeek-V3."""
    rows, skipped = read_rows(cases / "name.csv")
    assert skipped == [] and rows[0].setup.model.experts is None
    first, second = (Prediction(row.setup).seconds for row in rows)
    assert first == second


def test_the_planner_gets_the_calibrated_figure_with_its_interval(cases: Path, capsys) -> None:
    """`cal.yaml`: `search` had no --calibration, and `predict` no interval."""
    path = cases / "cal.yaml"
    plain, calibrated = predict(path, capsys), predict(path, capsys, "--calibration", "shipped")
    least, most = calibrated["four_of_five_within_seconds"]
    assert plain["step_seconds"] != calibrated["step_seconds"] and least < calibrated["step_seconds"] < most
    limits = ["--tp", "8", "--pp", "1", "--micro", "4", "--keep", "1", "--on-device", "--json"]
    assert main(["search", str(path), "--calibration", "shipped", *limits]) == 0
    assert json.loads(capsys.readouterr().out)["best"][0]["seconds"] <= calibrated["step_seconds"] * (1 + 1e-9)


def test_predict_and_export_say_what_nobody_will_obey(cases: Path, tmp_path: Path, capsys) -> None:
    path = cases / "bugs" / "kv2-tp4.yaml"
    gated = ["model.activation gelu_tanh"]  # a gate of silu is the only one that Megatron has
    assert predict(path, capsys)["unsaid"] == gated
    odd = ["--set", "recompute", "{mode: full, mp_comm: false}", "--set", "tensor.vocab", "whole"]
    assert predict(path, capsys, *odd)["unsaid"] == [*gated, "tensor.vocab whole", "recompute.mp_comm"]
    assert main(["predict", str(path), *odd]) == 0 and "so nobody obeys: model.act" in capsys.readouterr().out
    assert main(["export", str(path), "--out", str(tmp_path / "out"), "--json", *odd]) == 0
    assert any("nobody will obey" in note for note in json.loads(capsys.readouterr().out)["notes"])


def test_a_13b_plan_is_one_that_its_framework_runs(cases: Path, capsys) -> None:
    """`runnable/`: the winner under mindspore-2.10 was dualpipe, which the compiler refuses."""
    asked = Setup.load(cases / "runnable" / "s-p13.yaml")
    space = Space(32, 256, tp=[1], pp=[4], micro=[2], zero=[1], recompute=[("none", 0.0)])
    found = search(asked, keep_to_framework(asked, space), keep=3)
    assert found.best and all(outside(one.setup) == [] for one in found.best)
    for verb in ("compile", "export"):
        words = ["--out", "never"] if verb == "export" else []
        assert main([verb, str(cases / "runnable" / "best-p13.yaml"), *words]) == 2
        said = capsys.readouterr().err
        assert "does not execute 'dualpipe'; nearest: '1f1b'" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fp4", "has no fp4; nearest: 'fp8'"),
        ("moe-tp4ep8", "8 must divide dp x cp = 2; nearest: 2"),
    ],
)
def test_what_no_device_can_run_is_one_line(cases: Path, capsys, name: str, words: str) -> None:
    for verb, more in (("predict", []), ("export", ["--show", "megatron.txt"])):
        assert main([verb, str(cases / "bugs" / f"{name}.yaml"), *more]) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("micro-lt-pp", "a pipeline of 2 micro-batches; nearest: 1 (4 or more)"),
        ("micro-lt-pp-s", "a pipeline of 2 micro-batches; nearest: 1 (4 or more)"),
        ("v-pangu", "a vocabulary of 40001 in 4 parts; nearest: 'whole'"),
    ],
)
def test_what_the_compiler_refuses_is_priced_and_said_before_it(cases: Path, capsys, name: str, words: str) -> None:
    path = cases / "bugs" / f"{name}.yaml"
    assert any(words in line for line in predict(path, capsys)["priced_only"])
    assert main(["compile", str(path)]) == 2
    assert words in capsys.readouterr().err


def test_the_other_files_are_priced_and_recomputation_trades_memory_for_time(cases: Path, capsys) -> None:
    bugs = cases / "bugs"
    for name in ("ds5305", "ds5305f"):
        full, none = (predict(bugs / f"{name}-{mode}.yaml", capsys) for mode in ("full", "none"))
        assert full["memory_gib"] < none["memory_gib"] and full["step_seconds"] > none["step_seconds"]
    layers = [stage["layers"] for stage in predict(bugs / "layers30pp4.yaml", capsys)["stages"]]
    assert layers == [7, 8, 8, 7]
    narrow, wide = (predict(bugs / f"kv2-tp{tp}.yaml", capsys) for tp in (4, 8))  # two key-value heads: copies
    assert wide["memory_gib"] < narrow["memory_gib"]
    for name in ("ep-experts-tp", "moe-ep8", "moe-tp4ep2", "fp8mem", "override-sub"):
        told = predict(bugs / f"{name}.yaml", capsys)
        assert told["step_seconds"] > 0 and told["priced_only"] == []
