"""A run that did not come to its end says so, in `stats` and in the first lines of its report."""

from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipeline.cli import main
from data_pipeline.engine import run_recipe
from data_pipeline.engine.progress import Quiet
from data_pipeline.recipe import Recipe
from tests.data_pipeline.conftest import make_text, write_jsonl


class _Stopped(Exception):
    """Stands in for a kill."""


class _StopsAtClean(Quiet):
    def step_started(self, plan: object) -> None:
        if plan.stage.name == "clean":  # type: ignore[attr-defined]
            raise _Stopped


def test_stages_that_never_began_are_not_up_to_date(
    tmp_path: Path, recipe_at: Callable[..., Path], capsys: pytest.CaptureFixture
) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": make_text(number, 20)} for number in range(5)])
    recipe, out = recipe_at([{"name": "a", "paths": "a.jsonl"}], ["read", "clean", "dedup_exact"]), tmp_path / "out"
    with pytest.raises(_Stopped):
        run_recipe.run(Recipe.load(recipe), out, _StopsAtClean())
    assert main(["stats", str(out)]) == 0
    told = capsys.readouterr().out
    assert "not finished: stage clean is not run" in told and told.count("not run") == 3
    assert [summary.state for summary in run_recipe.summarise(out)] == ["finished", "not run", "not run"]
    assert main(["report", str(out)]) == 0
    assert "This run is not finished: stage clean" in (out / "report.html").read_text(encoding="utf-8")
    capsys.readouterr()
    assert main(["run", str(recipe), "--out", str(out)]) == 0
    capsys.readouterr()
    assert main(["stats", str(out)]) == 0
    told = capsys.readouterr().out
    assert "not finished" not in told and "files: 1 jsonl" in told
