"""A tracking service is told what metrics.jsonl holds, is never required, and never costs a run."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from pangu.foundation.errors import UserError
from pangu.training.step_metrics import MetricsWriter, read_metrics
from pangu.training.tracker import Tracker


def fake(monkeypatch, name: str, **functions: object) -> list:
    """A library of that name; returns its calls."""
    calls: list = []
    module = ModuleType(name)
    for function in ("init", "log", "finish"):
        given = functions.get(function)
        setattr(module, function, given or (lambda *a, _name=function, **k: calls.append((_name, a, k))))
    monkeypatch.setitem(sys.modules, name, module)
    return calls


@pytest.mark.parametrize("name", ["wandb", "swanlab"])
def test_the_service_is_told_the_same(tmp_path: Path, monkeypatch, name: str) -> None:
    calls = fake(monkeypatch, name)
    for step in (1, 2):  # begun, and gone on
        writer = MetricsWriter(tmp_path, step - 1, Tracker(name, tmp_path, {"steps": 2}))  # type: ignore[arg-type]
        writer.write({"step": step, "loss": 2.0, "global_norm": float("nan")})
        writer.close()
    begins = [named for called, _, named in calls if called == "init"]
    assert begins[0]["id"] == begins[1]["id"] and begins[0]["config"] == {"steps": 2}
    assert [(args[0], named["step"]) for called, args, named in calls if called == "log"] == [
        ({"loss": 2.0}, 1),
        ({"loss": 2.0}, 2),
    ]


def test_a_service_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="field 'track' = 'wandb': it is not installed"):
        Tracker("wandb", tmp_path, {})


def test_a_service_that_fails_costs_nothing(tmp_path: Path, monkeypatch, capsys) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no network\nsecond line")

    fake(monkeypatch, "wandb", init=fail, log=fail, finish=fail)
    writer = MetricsWriter(tmp_path, 0, Tracker("wandb", tmp_path, {}))
    writer.write({"step": 1, "loss": 2.0})
    writer.close()
    assert capsys.readouterr().err == "warning: wandb: no network; training goes on without it\n"
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 2.0}]
