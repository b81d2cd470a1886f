"""The states of a fine-tuning, from which it goes on: `OUT/states/step-N`, each whole or not there.

`state.json` has the digests of the other files. A damaged state is named and the one before is taken; where none is
whole nothing is changed, and the run does not begin anew by itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pangu.checkpoint.description import sealed, unsealed
from pangu.checkpoint.open import file_digest
from pangu.foundation.atomic_file import write_whole
from pangu.foundation.best_effort import reason_of, warn
from pangu.foundation.directory import commit_directory, hidden_directory, remove_directory
from pangu.foundation.errors import UserError
from pangu.tuning import adapter_file

TRAINED, MOMENTS, STATE = "trained.safetensors", "moments.safetensors", "state.json"
KEPT = 2


@dataclass(frozen=True)
class State:
    """Where a fine-tuning stands."""

    step: int
    trained: dict[str, np.ndarray]
    moments: dict[str, np.ndarray]


def places_of(out: Path) -> list[Path]:
    """Return the directories of the states, oldest first."""
    return sorted((out / "states").glob("step-*"))


def write_state(
    out: Path, step: int, trained: Mapping[str, np.ndarray], moments: Mapping[str, np.ndarray], base: str
) -> None:
    """Write a state, whole or not at all, and keep the newest two of those that the run has reached."""
    final = out / f"states/step-{step:08d}"
    final.parent.mkdir(exist_ok=True)
    with hidden_directory(final) as hidden:
        for name, arrays in ((TRAINED, trained), (MOMENTS, moments)):
            adapter_file.save_tensors(hidden / name, dict(arrays), {})
        digests = {name: file_digest(hidden / name) for name in (TRAINED, MOMENTS)}
        write_whole(hidden / STATE, sealed(STATE, {"step": step, "base": base, "sha256": digests}))
        commit_directory(hidden, final)
    reached = [place for place in places_of(out) if place.name <= final.name]
    for old in reached[:-KEPT]:
        remove_directory(old)


def read_state(place: Path, names: tuple[set[str], set[str]]) -> State:
    """Read one state. Raises UserError for a damaged one. names: of what is trained and of the moments."""
    try:
        said = unsealed(place / STATE)
        step, digests = int(said["step"]), said["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place / STATE}: is damaged or missing: {reason_of(error)}") from None
    found = []
    for name, wanted in zip((TRAINED, MOMENTS), names):
        tensors = adapter_file.read_tensors(place / name)
        if name in digests and file_digest(place / name) != digests[name]:
            raise UserError(f"{place / name}: is damaged: its sha256 is not what was written")
        if missing := sorted(wanted - tensors.keys()):
            raise UserError(f"{place / name}: lacks {missing[0]} and {len(missing) - 1} more")
        found.append(tensors)
    return State(step, *found)


def newest_state(out: Path, trained: set[str], moments: set[str]) -> State | None:
    """Return the newest whole state; None where there is none at all. Raises UserError where all are damaged."""
    places = places_of(out)
    for place in reversed(places):
        try:
            return read_state(place, (trained, moments))
        except UserError as error:
            warn(f"warning: {error}")
    if places:
        raise UserError(
            f"{out / 'states'}: no state is whole, and nothing was changed; move it away to begin anew, or give "
            "another --out"
        )
    return None
