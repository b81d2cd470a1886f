"""`tune`: what it says of another threshold is what a run with that threshold does."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipeline.cli import main
from tests.data_pipeline.conftest import make_text, run_recipe, write_jsonl


@pytest.fixture
def sources(tmp_path: Path) -> list[dict]:
    rows = [{"id": f"{i}", "text": make_text(i, 2 + i % 9) + "1" * (i % 4 * 9)} for i in range(60)]
    write_jsonl(tmp_path / "a.jsonl", rows)
    return [{"name": "a", "paths": "a.jsonl"}]


def filter_stage(**bounds: float) -> list:
    rules = {"short": {"signal": "characters", "minimum": bounds.get("short", 100)}}
    rules["too_many_digits"] = {"signal": "digit_share", "maximum": bounds.get("numbers", 0.1)}
    return ["read", {"filter": {"preset": None, "rules": rules}}]


def tuned(capsys: pytest.CaptureFixture, *arguments: str) -> dict:
    assert main(["tune", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_what_it_says_is_what_happens(
    tmp_path: Path, sources: list[dict], recipe_at: Callable[..., Path], capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    before = run_recipe(recipe_at(sources, filter_stage(), workers=1), out)["filter"]
    for threshold in (60, 100, 160):
        said = tuned(capsys, str(out), "short", "--threshold", str(threshold))
        again = run_recipe(recipe_at(sources, filter_stage(short=threshold), workers=1), tmp_path / f"t{threshold}")
        after = again["filter"]
        assert said["breaks_now"] == before.dropped["short"] and said["breaks_then"] == after.dropped.get("short", 0)
        assert said["documents"] == 60 and said["current"]["minimum"] == 100
        assert said["thresholds"] == sorted(said["thresholds"], key=lambda row: row["minimum"])
        here = next(row["drops"] for row in said["thresholds"] if row["minimum"] == threshold)
        assert here == said["breaks_then"]
        if threshold != 100:
            kind = "newly_dropped" if threshold > 100 else "comes_back"
            assert said[kind] > 0 and 0 < len(said["samples"][kind]) <= 3
            values = [abs(sample["value"] - threshold) for sample in said["samples"][kind]]
            assert values == sorted(values) and all(sample["text"] for sample in said["samples"][kind])


def test_signals_and_rules_of_clean(
    tmp_path: Path, sources: list[dict], recipe_at: Callable[..., Path], capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    run_recipe(recipe_at(sources, ["read", {"clean": {"minimum_characters": 100}}], workers=1), out)
    said = tuned(capsys, str(out), "too_short", "--threshold", "120", "-n", "1")
    assert said["newly_dropped"] > 0 and len(said["samples"]["newly_dropped"]) == 1
    said = tuned(capsys, str(out), "clean.han_share")
    assert said["current"] == said["proposed"] and set(said["samples"]) == {"dropped", "kept"}
    assert tuned(capsys, str(out), "symbols_removed", "--maximum", "0")["current"] is None
    assert main(["tune", str(out), "too_short", "--threshold", "120"]) == 0
    assert "newly dropped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shrt"], "did you mean 'short'?"),
        (["digit_share"], "give --minimum or --maximum"),
        (["short", "--threshold", "1", "--minimum", "2"], "give --minimum or --maximum"),
        (["short", "--threshold", "nan"], "not a number"),
        (["short", "-n", "-1"], "nearest: 0"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path,
    sources: list[dict],
    recipe_at: Callable[..., Path],
    capsys: pytest.CaptureFixture,
    arguments: list[str],
    message: str,
) -> None:
    run_recipe(recipe_at(sources, filter_stage(), workers=1), tmp_path / "out")
    capsys.readouterr()
    assert main(["tune", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and message in error[0]
    assert main(["tune", str(tmp_path), "short"]) == 2


def test_a_damaged_run_is_one_line(
    tmp_path: Path, sources: list[dict], recipe_at: Callable[..., Path], capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    run_recipe(recipe_at(sources, filter_stage(), workers=1), out)
    for damage in (b"junk", None):
        for path in (out / "stages/filter/kept").glob("*.parquet"):
            path.write_bytes(damage) if damage else path.unlink()
        for command in (["tune", str(out), "short"], ["report", str(out)]):
            assert main(command) == 2
            error = capsys.readouterr().err.strip().splitlines()
            assert len(error) == 1 and "run --verify" in error[0]
