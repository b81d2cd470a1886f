"""Learning rates: schedules that fit the run, that can be made longer, and that are said where they look wrong."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pangu.checkpoint.open import Checkpoint, TrainingState
from pangu.config import LearningRateConfig, ModelConfig, TrainConfig
from pangu.foundation.errors import UserError
from pangu.training.data import PackedData, Split
from pangu.training.overview import described
from pangu.training.run_directory import with_schedule_of
from pangu.training.schedule import complete, schedule_of

MODEL = ModelConfig(num_layers=2, hidden_size=16, num_heads=2, ffn_hidden_size=32, seq_length=16, vocab_size=64)


def rates(steps: int, **fields: object) -> list[float]:
    schedule = schedule_of(LearningRateConfig(**fields), steps)
    return [schedule(step) for step in range(steps)]


def saved_at(step: int, steps: int, skipped: int = 0, **fields: object) -> Checkpoint:
    began = complete(LearningRateConfig(**fields), steps).model_dump(mode="json")
    state = TrainingState(step, 1.0, 0, 0, 0, None, skipped)
    return Checkpoint(Path("run"), state, MODEL, {"learning_rate": began}, {})


def goes_on(saved: Checkpoint, steps: int, **fields: object) -> LearningRateConfig:
    config = TrainConfig(data="d", out="run", steps=steps, learning_rate=LearningRateConfig(**fields))
    return with_schedule_of(Path("run"), saved, config).learning_rate


@given(st.integers(1, 30_000))
def test_a_warm_up_that_nobody_set_fits_every_run(steps: int) -> None:
    whole = complete(LearningRateConfig(), steps)
    assert whole.warmup_steps == min(2000, steps // 10)
    assert whole.warmup_steps < steps


def test_the_stable_shape_is_flat_and_ends_with_a_line() -> None:
    found = rates(100, peak=1.0, end=0.1, warmup_steps=10, shape="warmup_stable_decay", cooldown_steps=20)
    assert found[:3] == [0.0, 0.1, 0.2] and set(found[10:81]) == {1.0}
    assert found[81] == pytest.approx(1.0 - 0.9 / 20) and found[99] == pytest.approx(0.1 + 0.9 / 20)
    assert all(before > after for before, after in itertools.pairwise(found[80:]))


def test_more_steps_alone_leave_a_cosine_as_it_was() -> None:
    rate = goes_on(saved_at(12, 12, peak=1e-3), 16, peak=1e-3)
    assert rate.decay_steps == 12 and rate.warmup_steps == 1


def test_a_stable_schedule_ends_with_the_longer_run_while_its_line_has_not_begun() -> None:
    fields = {"peak": 1e-3, "shape": "warmup_stable_decay"}
    longer = goes_on(saved_at(90, 100, **fields), 200, **fields)
    assert longer.decay_steps == 200 and longer.cooldown_steps == 10
    assert schedule_of(longer, 200)(150) == 1e-3
    assert goes_on(saved_at(95, 100, **fields), 200, **fields).decay_steps == 100


def test_a_new_schedule_begins_where_the_old_one_was_left() -> None:
    """The rates of what follows depend on the file alone, so a later interruption changes no bit."""
    fields = {"peak": 5e-4, "begin_step": 12, "warmup_steps": 2}
    rate = goes_on(saved_at(12, 12, peak=1e-3), 32, **fields)
    assert rate.decay_steps == 20
    schedule = schedule_of(rate, 32)
    assert [schedule(12), schedule(13)] == [0.0, 2.5e-4]
    assert schedule(22) == pytest.approx(1e-6 + 0.5 * (5e-4 - 1e-6) * (1 + math.cos(math.pi / 2)))
    again = saved_at(20, 32, **fields)
    assert goes_on(again, 32, **fields) == rate
    with pytest.raises(UserError, match=r"begin_step' = 12: the run has made 10 updates"):
        goes_on(saved_at(10, 12, peak=1e-3), 32, **fields)
    with pytest.raises(UserError, match=r"update 13 was made with the rate .*set learning_rate\.begin_step: 14"):
        goes_on(saved_at(14, 40, peak=1e-3, warmup_steps=0), 32, **fields)


@pytest.mark.parametrize("change", [{"peak": 2e-3}, {"end": 1e-4}, {"warmup_steps": 3}, {"decay_steps": 99}], ids=str)
def test_the_past_of_a_run_does_not_change(change: dict) -> None:
    fields = {"peak": 1e-3, "end": 1e-6, "warmup_steps": 2, "decay_steps": 50}
    with pytest.raises(UserError, match=r"field 'learning_rate': update \d+ was made with the rate .*begin_step: 9"):
        goes_on(saved_at(9, 50, **fields), 50, **fields | change)


def test_what_changes_no_rate_that_was_used_is_taken() -> None:
    """In the warm-up nothing but the peak and its length has been used."""
    fields = {"peak": 1e-3, "warmup_steps": 10}
    rate = goes_on(saved_at(9, 50, **fields), 80, **fields, decay_steps=80, end=1e-5)
    assert rate.decay_steps == 80 and rate.end == 1e-5


def test_skipped_updates_do_not_use_up_the_warm_up() -> None:
    saved = saved_at(20, 50, skipped=15, peak=1e-3, warmup_steps=10)
    assert goes_on(saved, 50, peak=1e-3, warmup_steps=10, end=1e-5).end == 1e-5  # five updates of the warm-up are made


def packed(samples: int = 40, length: int = 16, vocabulary: int = 64) -> PackedData:
    splits = {name: Split(name, (), count, 7 * count, 21) for name, count in (("train", samples), ("heldout", 9))}
    return PackedData(Path("packed"), length, vocabulary, 9, 6, "f" * 64, splits)


def said(model: ModelConfig = MODEL, data: PackedData | None = None, step: int = 0, **fields: object) -> list[str]:
    config = TrainConfig(data="d", out="o", **fields)
    return described(model, config, data or packed(), TrainingState(step, 1.0, 0, 0, 0, None))


def test_the_beginning_says_what_will_be_done() -> None:
    lines = said(steps=500, batch_size=8, learning_rate={"peak": 1e-3})
    assert f"{MODEL.num_parameters:,} parameters" in lines[0] and "40 samples of 16 tokens" in lines[1]
    assert "500 steps of 8 samples = 64,000 tokens: 100 epochs" in lines[2]
    assert "after a warm-up of 50 steps, cosine to 1e-06 at 500" in lines[3]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"steps": 40, "learning_rate": {"warmup_steps": 2000}},
            "a warm-up of 2,000 steps is longer than the run",
        ),
        ({"steps": 16, "learning_rate": {"decay_steps": 12}}, "steps 13 to 16 lie behind the schedule, with the rate"),
        ({"steps": 16, "learning_rate": {"decay_steps": 99}}, "the run ends at step 16, before the schedule does (99)"),
        (
            {
                "steps": 50,
                "learning_rate": {"shape": "warmup_stable_decay", "warmup_steps": 10, "cooldown_steps": 45},
            },
            "a warm-up of 10 steps and a cooldown of 45 do not fit a schedule of 50: the rate never reaches 0.0001",
        ),
        ({"steps": 50, "learning_rate": {"peak": 1e-4, "end": 1e-3}}, "the rate rises from 0.0001 to 0.001"),
        ({"steps": 500}, "every sample is read 100 times"),
        ({"steps": 2, "batch_size": 4}, "32 of 40 samples are never read"),
        ({"steps": 2, "batch_size": 4}, "tokens a parameter are hardly any"),
        ({"data": packed(length=8)}, "positions 8 to 15 of the context are never trained"),
        ({"data": packed(vocabulary=50)}, "rows 50 to 63 of the word table are never trained"),
    ],
)
def test_what_looks_wrong_is_said(fields: dict, expected: str) -> None:
    data = fields.pop("data", None)
    lines = [line for line in said(data=data, **fields) if line.startswith("warning: ")]
    assert any(expected in line for line in lines), lines


def test_a_run_as_it_should_be_has_no_warning() -> None:
    data = packed(samples=60_000)
    assert not [line for line in said(data=data, steps=10_000) if line.startswith("warning")]


def test_a_run_behind_its_schedule_says_how_to_go_on() -> None:
    state = replace(TrainingState(12, 1.0, 0, 0, 0, None), skipped=2)
    config = TrainConfig(data="d", out="o", steps=16, learning_rate={"decay_steps": 10, "warmup_steps": 1})
    lines = described(MODEL, config, packed(), state)
    assert any("set learning_rate.begin_step: 10" in line for line in lines)
