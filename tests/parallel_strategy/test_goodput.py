"""Trainings that fail now and then: the formula against a simulation, and against Llama 3's published figures."""

import json
import random
from pathlib import Path

import pytest

from parallel_strategy.cli import main
from parallel_strategy.commands.goodput import LLAMA_3_HOURS
from parallel_strategy.cost.goodput import Reliability, best_interval, daly, goodput, useful_share, young


def simulated(interval: float, stall: float, restart: float, mtbf: float, parts: int) -> float:
    """The useful share of so many parts, with failures at random; a restart may fail too."""
    choose, elapsed = random.Random(5), 0.0
    for _ in range(parts):
        failure = choose.expovariate(1 / mtbf)
        while failure < interval + stall:
            elapsed += failure
            failure = choose.expovariate(1 / mtbf)
            while failure < restart:
                elapsed += failure
                failure = choose.expovariate(1 / mtbf)
            elapsed += restart
            failure -= restart
        elapsed += interval + stall
    return parts * interval / elapsed


@pytest.mark.parametrize(("interval", "stall", "restart"), [(300, 10, 100), (1000, 60, 600), (200, 1, 2000)])
def test_the_share_of_useful_time_is_that_of_a_simulation(interval: float, stall: float, restart: float) -> None:
    found = useful_share(interval, stall, restart, 2000.0)
    assert simulated(interval, stall, restart, 2000.0, 40_000) == pytest.approx(found, rel=0.02)  # 40,000 draws


@pytest.mark.parametrize("stall", [0.01, 1.0, 30.0, 600.0, 5000.0])
def test_the_best_interval_is_no_worse_than_its_neighbours_and_the_approximations(stall: float) -> None:
    best = best_interval(stall, 3600.0)
    share = useful_share(best, stall, 300.0, 3600.0)
    for other in (best * 0.97, best * 1.03, young(stall, 3600.0), daly(stall, 3600.0)):
        assert useful_share(other, stall, 300.0, 3600.0) <= share * (1 + 1e-12)
    if stall < 100:
        assert daly(stall, 3600.0) == pytest.approx(best, rel=0.01)


def test_llama_3_made_progress_for_more_than_nine_tenths_of_the_time() -> None:
    """Published: 419 interruptions in 54 days on 16,384 devices, and more than 90 % of effective time."""
    size = 405e9 * 14 / 1e9  # weights, fp32 copy, both moments
    found = goodput(16_384, 6.0, size, Reliability(LLAMA_3_HOURS, storage_gbps=2000.0, restart_seconds=600.0))
    assert found.failures_a_day == pytest.approx(419 / 54)
    assert 0.90 < found.useful_share < 0.95
    beside = goodput(16_384, 6.0, size, Reliability(LLAMA_3_HOURS, 2000.0, 600.0, copy_gbps=45.0))
    assert found.useful_share < beside.useful_share < 0.96 and beside.stall_seconds < 0.01
    assert beside.interval_seconds >= beside.write_seconds


@pytest.fixture(scope="module")
def strategy(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("goodput") / "s.yaml"
    path.write_text("model: {preset: gpt-2.7b}\ncluster: {preset: dgx-a100}\nframework: megatron-core\n"
        "batch: {global: 64}\nmesh: {dp: 8, tp: 2}\nzero: {optimizer_shard: true}\n")  # fmt: skip
    return str(path)


def test_strategies_side_by_side_with_days_money_and_energy(strategy: str, capsys) -> None:
    words = ["goodput", strategy, strategy, "--tokens", "300B", "--price", "2", "--watts", "500"]
    assert main([*words, "--json"]) == 0
    one, two = json.loads(capsys.readouterr().out)
    assert one == two and one["days"] > one["days_without_failures"]
    assert one["cost"] == pytest.approx(2 * one["device_hours"])
    assert one["energy_mwh"] == pytest.approx(one["device_hours"] * 500 / 1e6)
    assert one["checkpoint_gb"] == pytest.approx(2.65e9 * 14 / 1e9, rel=0.02)
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "useful time" in told and "MWh" in told and "300B" not in told


@pytest.mark.parametrize("verb", ["goodput", "compare"])
def test_a_long_path_cuts_no_word_and_no_digit(strategy: str, tmp_path: Path, monkeypatch, capsys, verb: str) -> None:
    path = tmp_path / "一个很长的文件夹名字" / "another-long-name-of-a-strategy.yaml"
    path.parent.mkdir()
    path.write_text(Path(strategy).read_text())
    monkeypatch.setenv("COLUMNS", "60")
    assert main([verb, str(path), str(path), *(["--tokens", "300B"] if verb == "goodput" else [])]) == 0
    told = capsys.readouterr().out
    for words in {"goodput": ("between failures", "useful time"), "compare": ("over the first", "pipeline idle")}[verb]:
        assert words in told


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--tokens", "nan"], "--tokens"),
        (["--tokens", "-3"], "--tokens"),
        (["--tokens", "B"], "--tokens"),
        (["--tokens", "1B", "--mtbf-hours", "0"], "--mtbf-hours"),
        (["--tokens", "1B", "--storage-gbps", "inf"], "--storage-gbps"),
        (["--tokens", "1B", "--price", "many"], "--price"),
        (["--tokens", "1B", "--mtbf-hours", "1e-9"], "gets nowhere"),
        (["--tokens", "1B", "--restart-seconds", "1e14"], "gets nowhere"),
        (["--tokens", "1B", "--checkpoint-gb", "1e14"], "gets nowhere"),
        ([], "--tokens"),
    ],
)
def test_bad_input_is_one_line(strategy: str, capsys, more: list[str], words: str) -> None:
    try:
        code = main(["goodput", strategy, *more])
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr().err
    assert code == 2 and words in said and said.count("\n") == 1


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path, capsys) -> None:
    assert main(["goodput", str(tmp_path / "none.yaml"), "--tokens", "1B"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
