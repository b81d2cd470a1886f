"""A run without a whole checkpoint is never begun anew unasked: it stops, and nothing is changed."""

import json
import shutil
from pathlib import Path

import pytest

from pangu.checkpoint.description import sealed, unsealed
from pangu.checkpoint.open import STATE, WEIGHTS, newest_checkpoint, step_directories
from pangu.checkpoint.save import prune_checkpoints
from pangu.cli import main
from pangu.training.run import train
from tests.pangu.small_run import configuration


@pytest.fixture(scope="module")
def finished(corpus: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    train(configuration(corpus, out, steps=12))
    return out


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def in_every(run: Path, change) -> None:
    for directory in step_directories(run):
        change(directory)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def link(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def say_version_2(directory: Path) -> None:
    state = unsealed(directory / STATE)
    (directory / STATE).write_bytes(sealed(STATE, state | {"version": 2, "novelty": 1}))


DAMAGES = {
    "no state": lambda run: in_every(run, lambda step: (step / STATE).unlink()),
    "a bit": lambda run: in_every(run, lambda step: flip(step / WEIGHTS)),
    "cut": lambda run: in_every(run, lambda step: (step / WEIGHTS).write_bytes((step / WEIGHTS).read_bytes()[:-9])),
    "empty state": lambda run: in_every(run, lambda step: (step / STATE).write_bytes(b"")),
    "a state of lists in lists": lambda run: in_every(
        run, lambda step: (step / STATE).write_text("[" * 9000 + "]" * 9000)
    ),
    "an endless state": lambda run: in_every(run, lambda step: link(step / STATE, "/dev/zero")),
    "a list for a state": lambda run: in_every(run, lambda step: (step / STATE).write_text("[]")),
    "no optimizer": lambda run: in_every(run, lambda step: (step / "optimizer.safetensors").unlink()),
    "a later version": lambda run: in_every(run, say_version_2),
    "a later version, newest only": lambda run: say_version_2(step_directories(run)[0]),
    "empty directories": lambda run: in_every(run, lambda step: [path.unlink() for path in step.iterdir()]),
    "no directories": lambda run: shutil.rmtree(run / "checkpoints"),
    "a dead link": lambda run: (
        (run / "checkpoints").rename(run.parent / f"{run.name}-gone"),
        (run / "checkpoints").symlink_to("nowhere"),
    ),
}


def test_no_bit_of_a_description_changes_it_unseen(finished: Path, tmp_path: Path) -> None:
    """Not a step, a rate, a digest, a version or a name; what earlier versions wrote is taken as it stands."""
    whole, place = unsealed(step_directories(finished)[0] / STATE), tmp_path / STATE
    content = sealed(STATE, whole)
    for index in range(8 * len(content)):
        changed = bytearray(content)
        changed[index // 8] ^= 1 << index % 8
        place.write_bytes(changed)
        try:
            assert unsealed(place) == whole | {"sha256": unsealed(place)["sha256"]}, changed
            assert whole["sha256"].items() <= unsealed(place)["sha256"].items(), changed
        except (ValueError, KeyError, TypeError):
            continue
    place.write_text(json.dumps(whole))
    assert unsealed(place) == whole


@pytest.mark.parametrize("damage", DAMAGES)
def test_without_a_whole_checkpoint_it_stops_and_changes_nothing(
    corpus: Path, finished: Path, tmp_path: Path, capsys, damage: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    DAMAGES[damage](run)
    before = tree(run)
    config = configuration(corpus, run, steps=17)
    (tmp_path / "train.yaml").write_text(config.dump())
    capsys.readouterr()
    assert main(["train", str(tmp_path / "train.yaml")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    if "later version" in damage:
        assert "was written by a later version" in error
    else:
        assert "--start-anew" in error
        for directory in step_directories(run):
            assert str(directory) in error
    assert tree(run) == before


def test_to_begin_anew_is_said_and_throws_nothing_away(corpus: Path, finished: Path, tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    DAMAGES["a bit"](run)
    before = tree(run)
    config = configuration(corpus, run, steps=6)
    (tmp_path / "train.yaml").write_text(config.dump())
    assert main(["train", str(tmp_path / "train.yaml"), "--start-anew"]) == 0
    assert "what was there is in earlier-001/" in capsys.readouterr().err
    aside = tree(run / "earlier-001")
    assert aside.items() <= before.items() and any(name.startswith("checkpoints/step-00000012") for name in aside)
    assert newest_checkpoint(run).state.step == 6
    with pytest.raises(StopIteration):
        next(iter((run / "checkpoints").glob("*12")))


def test_pruning_counts_what_the_run_has_reached(finished: Path, tmp_path: Path) -> None:
    """A damaged checkpoint ahead of the run does not push out the whole one that was just written."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "checkpoints/step-00000012").rename(run / "checkpoints/step-00000099")
    shutil.rmtree(run / "checkpoints/step-00000006")
    for step in (8, 9):
        shutil.copytree(run / "checkpoints/step-00000099", run / f"checkpoints/step-{step:08d}")
    (run / "checkpoints/step-00000099" / STATE).unlink()
    prune_checkpoints(run, 1, 9)
    assert [path.name for path in step_directories(run)] == ["step-00000099", "step-00000009"]
