"""The quickstart keeps what was changed by hand, and never takes a new choice for the old one."""

import re
import subprocess
from pathlib import Path

from tests.conftest import REPOSITORY

SCRIPT = (REPOSITORY / "run_scripts/quickstart.sh").read_text(encoding="utf-8")
FRESH = re.search(r"^fresh\(\) \{.*?^\}$", SCRIPT, re.M | re.S)


def fresh(file: Path, content: str) -> subprocess.CompletedProcess:
    """Have the script's own function write a file whose content the options of a call decide."""
    assert FRESH
    words = REPOSITORY / "run_scripts/words.sh"
    program = (
        f'set -euo pipefail\nsource "$3"\n{FRESH[0]}\ninit() {{ printf \'%s\' "$1" > "$2"; }}\nfresh "$1" init "$2"'
    )
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", program, "bash", file, content, words], capture_output=True, text=True
    )


def test_what_nobody_changed_follows_the_options(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    for content in ("seed: 1\n", "seed: 1\n", "seed: 2\n"):
        assert fresh(file, content).returncode == 0
        assert file.read_text() == content
    assert {path.name for path in tmp_path.iterdir()} == {"train.yaml", ".written-train.yaml"}


def test_what_was_changed_is_kept_and_said(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    fresh(file, "minimum: 150\n")
    file.write_text("minimum: 20\n")
    for _ in range(2):
        done = fresh(file, "minimum: 150\n")
        assert done.returncode == 0 and "was changed by hand: kept" in done.stdout
        assert file.read_text() == "minimum: 20\n"


def test_a_file_of_an_earlier_version_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("mine\n")
    assert "kept" in fresh(file, "new\n").stdout and file.read_text() == "mine\n"


def test_a_new_choice_that_the_kept_file_would_not_obey_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    fresh(file, "steps: 100\n")
    file.write_text("steps: 100\nseed: 7\n")
    done = fresh(file, "steps: 200\n")
    assert done.returncode == 2 and "asks for something else than the last one" in done.stderr
    assert "steps: 200" in done.stderr
    assert file.read_text() == "steps: 100\nseed: 7\n"
    assert {path.name for path in tmp_path.iterdir()} == {"train.yaml", ".written-train.yaml"}
