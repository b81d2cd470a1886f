"""States of a fine-tuning: a damaged one is named and the one before is taken; none is thrown away for it."""

import json
from pathlib import Path

import numpy as np
import pytest

from pangu.foundation.errors import UserError
from pangu.tuning.states import MOMENTS, STATE, TRAINED, newest_state, places_of, write_state

NAMES = {"a", "b"}


def arrays(step: int) -> dict[str, np.ndarray]:
    return {name: np.full((3, 4), step + place, np.float32) for place, name in enumerate(sorted(NAMES))}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    for step in (2, 4, 6):
        write_state(tmp_path, step, arrays(step), arrays(-step), "base")
    return tmp_path


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def steps_of(out: Path) -> list[int]:
    return [int(place.name[5:]) for place in places_of(out)]


@pytest.mark.parametrize("victim", [TRAINED, MOMENTS, STATE])
@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_the_state_before_a_damaged_one_is_taken(out: Path, victim: str, damage, capsys) -> None:
    assert steps_of(out) == [4, 6]
    damage(out / "states/step-00000006" / victim)
    state = newest_state(out, NAMES, NAMES)
    assert state is not None and state.step == 4
    np.testing.assert_array_equal(state.trained["b"], arrays(4)["b"])
    np.testing.assert_array_equal(state.moments["a"], arrays(-4)["a"])
    told = capsys.readouterr().err.strip()
    assert "step-00000006" in told and victim in told and "\n" not in told
    # what a run writes on its way back costs no whole state, and mends the damaged one in the end
    write_state(out, 5, arrays(5), arrays(5), "base")
    assert steps_of(out) == [4, 5, 6]
    write_state(out, 6, arrays(6), arrays(6), "base")
    state = newest_state(out, NAMES, NAMES)
    assert steps_of(out) == [5, 6] and state is not None and state.step == 6


def test_without_a_whole_state_it_stops_and_changes_nothing(out: Path) -> None:
    for place in places_of(out):
        cut(place / MOMENTS)
    before = sorted(out.rglob("*"))
    with pytest.raises(UserError, match="no state is whole, and nothing was changed"):
        newest_state(out, NAMES, NAMES)
    assert sorted(out.rglob("*")) == before


def test_a_state_of_another_network_or_without_digests(out: Path, tmp_path_factory) -> None:
    with pytest.raises(UserError, match="no state is whole"):
        newest_state(out, NAMES | {"c"}, NAMES)
    (out / "states/step-00000006" / STATE).write_text(json.dumps({"step": 6, "base": "base"}))
    state = newest_state(out, NAMES, NAMES)
    assert state is not None and state.step == 4
    assert newest_state(tmp_path_factory.mktemp("empty"), NAMES, NAMES) is None
