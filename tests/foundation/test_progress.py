"""Progress off a terminal: lines that come neither too often nor never."""

import sys

import pytest

from pangu.foundation import progress
from pangu.foundation.progress import Estimate, Progress, amount, duration


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    return clock


def test_a_log_gets_a_line_every_ten_seconds_and_one_at_once_where_the_beginning_is_long(clock: Clock, capsys) -> None:
    with Progress("train", 1000, unit="steps", done=100, status="compiling", announce=True) as shown:
        shown.estimate.now = clock
        shown.estimate.started = clock()
        for step in range(101, 301):
            clock.seconds += 0.25
            shown.update(step, f"loss {step}")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "train: 100 of 1,000 steps (10 %); compiling"
    assert 5 <= len(lines) <= 6
    assert lines[1] == "train: 141 of 1,000 steps (14 %), 4 steps/s, 3:35 left; loss 141"


def test_short_work_says_nothing(clock: Clock, capsys) -> None:
    with Progress("convert", 10, unit="bytes") as shown:
        for _ in range(10):
            shown.advance()
    with Progress("other ranks", 10, announce=True, is_shown=False) as shown:
        clock.seconds += 60
        shown.advance(5)
    assert capsys.readouterr() == ("", "")


def test_a_closed_standard_error_costs_nothing(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with Progress("train", 10, announce=True) as shown:
        clock.seconds += 60
        shown.advance()


def test_time_left_is_said_only_where_it_is_no_guess() -> None:
    clock = Clock()
    estimate = Estimate(100, now=clock)
    assert estimate.seconds_left is None
    estimate.done, clock.seconds = 50, clock.seconds + 0.5
    assert estimate.seconds_left is None
    clock.seconds += 9.5
    assert estimate.seconds_left == 10 and estimate.rate == 5
    estimate.done = 100
    assert estimate.seconds_left is None
    assert Estimate(None, now=clock).words("lines") == "0 lines"
    assert Estimate(0, now=clock).words("lines") == "0 of 0 lines (100 %)"


def test_amounts_and_durations() -> None:
    assert [amount(n, "bytes") for n in (0, 999, 1500, 2_500_000, 3e12)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "2.5 MB",
        "3000.0 GB",
    ]
    assert [amount(n, "steps") for n in (1, 0.123, 1234.6)] == ["1 steps", "0.123 steps", "1,235 steps"]
    assert [duration(n) for n in (0, 59.4, 61, 3725)] == ["0:00", "0:59", "1:01", "1:02:05"]
