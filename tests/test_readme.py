"""Every command block of README.md and README_CN.md runs, in a new folder, as a reader would type it.

What a block would take too long over is made smaller by arguments added to it, which are listed here. A block after
`<!-- needs Ascend -->` is left out.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.dedup_check.chinese_grammar import documents
from data_pipeline.stages.tokenizer.training_process import train_tokenizer
from tests.conftest import REPOSITORY
from tests.pangu.convert_files import released_layouts, shapes_of, write_released, write_strategy

READMES = ("README.md", "README_CN.md")
BLOCK = re.compile(r"(?P<before>[^\n]*\n[^\n]*\n)```bash\n(?P<commands>.*?)```", re.DOTALL)
SMALLER = {
    "bash run_scripts/quickstart.sh": " --corpus my-documents --steps 3",
    # The released weights at reduced size, whose number of heads is in no table.
    "python -m pangu convert ckpts": " --heads 8",
    "bash run_scripts/test.sh": " --collect-only -q tests/pangu/test_sizes.py",
}


def blocks(readme: str) -> list[str]:
    text = (REPOSITORY / readme).read_text(encoding="utf-8")
    found = [match for match in BLOCK.finditer(text) if "needs Ascend" not in match["before"]]
    return [match["commands"] for match in found]


def smaller(commands: str) -> str:
    lines = commands.splitlines()
    for index, line in enumerate(lines):
        for start, addition in SMALLER.items():
            if line.startswith(start):
                lines[index] += addition
    return "\n".join(lines)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder that looks like a checkout with some documents and released weights in it."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in (
        "pangu",
        "data_pipeline",
        "parallel_strategy",
        "run_scripts",
        "tests",
        "requirements.txt",
        "pyproject.toml",
    ):
        (folder / name).symlink_to(REPOSITORY / name)
    (folder / ".venv").symlink_to(sys.prefix)
    if not (folder / ".venv/installed-requirements.txt").is_file():
        pytest.skip("this Python is not the .venv that run_scripts/environment.sh makes")
    (folder / "my-documents").mkdir()
    with (folder / "my-documents/news.jsonl").open("w", encoding="utf-8") as file:
        for number, text in enumerate(documents(seed=3, count=120)):
            file.write(json.dumps({"id": str(number), "text": text}, ensure_ascii=False) + "\n")
    released = folder / "ckpts"
    texts = list(documents(seed=4, count=40))
    vocabulary = train_tokenizer(texts, released / "tokenizer", vocab_size=600).vocab_size
    random = np.random.default_rng(5)
    shapes = shapes_of(blocks=1, hidden=512, ffn=512, seq=32, vocab=vocabulary)
    weights = {name: random.normal(0, 0.02, shape).astype(np.float32) for name, shape in shapes.items()}
    write_released(released / "checkpoint_file", weights)
    (released / "strategy_load_ckpt").mkdir()
    layouts = released_layouts(weights, 64, 8)
    write_strategy(released / "strategy_load_ckpt/strategy.ckpt", layouts)
    return folder


def test_both_readmes_have_the_same_commands() -> None:
    english, chinese = (blocks(readme) for readme in READMES)
    assert len(english) >= 5
    assert chinese == english


def test_every_link_leads_somewhere() -> None:
    for readme in READMES:
        text = (REPOSITORY / readme).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert (REPOSITORY / target).exists(), f"{readme}: {target}"


@pytest.mark.timeout(600)
def test_every_command_block_runs(folder: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH")}
    for commands in blocks(READMES[0]):  # those of the other are the same
        result = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", smaller(commands)],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, f"{commands}\n{result.stdout}\n{result.stderr}"
