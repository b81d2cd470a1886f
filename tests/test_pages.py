"""The pages' own examples run: docs/python.md outside the repository, and the cells of every notebook, in order."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from parallel_strategy.cli import main as plan
from tests.conftest import REPOSITORY
from tests.pangu import small_model

# in place of a run: weights of random numbers
SMALL = 'model = pangu.load("work/weights.safetensors", model="work/run/model.yaml", tokenizer="work/run/tokenizer")'
NOTEBOOKS = sorted(REPOSITORY.glob("docs/notebooks/*.ipynb"))


def run_program(program: str, folder: Path, **variables: str) -> str:
    """Run a program in a folder, as a user whose packages are installed, and return what it prints."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), **variables}
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, timeout=280
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with work/run and work/strategy.yaml."""
    folder = tmp_path_factory.mktemp("elsewhere")
    small_model.write(folder / "work/run")
    os.rename(folder / "work/run/weights.safetensors", folder / "work/weights.safetensors")
    assert plan(["init", str(folder / "work/strategy.yaml"), "--model", "pangu-alpha-2.6b"]) == 0
    return folder


def test_every_block_of_the_python_page_runs_outside_the_repository(folder: Path) -> None:
    text = (REPOSITORY / "docs/python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 6
    program = "\n".join(blocks)
    first = program.index("\n", program.index("model = pangu.load"))
    small = (
        'model = pangu.load("work/weights.safetensors", model="work/run/model.yaml", tokenizer="work/run/tokenizer")'
    )
    program = program[: program.index("model = pangu.load")] + small + program[first:]
    printed = run_program(program, folder)
    assert "temperature" in printed  # the nearest option's name
    assert "今天天气很好" in printed  # the extracted page


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_cells_of_a_notebook_run_in_order(path: Path, folder: Path, tmp_path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(not cell.get("outputs") for cell in notebook["cells"])
    program = "\n".join(cells)
    if path.stem == "pangu":
        load = re.search(r"^model = pangu\.load\(.*\)$", program, re.MULTILINE)
        assert load
        program = program.replace(load[0], SMALL.replace('"work/', f'"{folder}/work/'))
    assert run_program(program, tmp_path).strip()


def test_there_is_a_notebook_for_each_package() -> None:
    assert {path.stem for path in NOTEBOOKS} == {"data_pipeline", "pangu", "parallel_strategy"}
