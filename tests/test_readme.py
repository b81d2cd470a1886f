"""Every block of README.md and README_CN.md runs, in order, as a reader would copy it from a fresh clone.

The clone lies in a folder with a space and Chinese characters in its name. What needs the network or the
released weights has a stand-in of the same form; what takes minutes is made shorter by the replacements below.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_pipeline import demo_corpus
from data_pipeline.dedup_check.chinese_grammar import documents
from data_pipeline.stages.tokenizer.training_process import train_tokenizer
from tests.conftest import REPOSITORY
from tests.pangu.convert_files import released_layouts, shapes_of, write_released, write_strategy

READMES = ("README.md", "README_CN.md")
BLOCK = re.compile(r"```(?P<language>bash|python)\n(?P<commands>.*?)```", re.DOTALL)
SHORTER = (
    ("quickstart.sh\n", "quickstart.sh --steps 3\n"),
    ("--steps 500", "--steps 2"),
    ("--set steps 200", "--set steps 3"),
    ("lora --steps 20", "lora --steps 2"),
    ("max_new_tokens=40", "max_new_tokens=4"),
    # The released weights at reduced size, whose number of heads is in no table.
    ("--model-yaml\n", "--model-yaml --heads 8\n"),
    ("bash run_scripts/test.sh", "bash run_scripts/test.sh --collect-only -q tests/pangu/test_sizes.py"),
)


def blocks(readme: str) -> list[tuple[str, str]]:
    """Return (language, commands) of each block."""
    text = (REPOSITORY / readme).read_text(encoding="utf-8")
    return [(match["language"], match["commands"]) for match in BLOCK.finditer(text)]


def shorter(commands: str) -> str:
    for long, short in SHORTER:
        commands = commands.replace(long, short)
    return commands


def write_demo(folder: Path) -> None:
    """Write what `demo` would have downloaded, with fewer documents."""
    folder.mkdir(parents=True)
    counts, sizes = {}, {}
    for name, seed in (("newspaper.jsonl", 3), ("reviews.jsonl", 6)):
        texts = list(documents(seed=seed, count=60))
        lines = [json.dumps({"id": f"{name}-{i}", "text": text}, ensure_ascii=False) for i, text in enumerate(texts)]
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        counts[name], sizes[name] = len(lines), (folder / name).stat().st_size
    note = {"version": demo_corpus.VERSION, "documents": counts, "bytes": sizes}
    (folder / demo_corpus.NOTE).write_text(json.dumps(note))


def write_weights(folder: Path) -> None:
    """Write weights in the form of the released ones."""
    vocabulary = train_tokenizer(list(documents(seed=4, count=40)), folder / "tokenizer", vocab_size=600).vocab_size
    random = np.random.default_rng(5)
    shapes = shapes_of(blocks=1, hidden=512, ffn=512, seq=32, vocab=vocabulary)
    weights = {name: random.normal(0, 0.02, shape).astype(np.float32) for name, shape in shapes.items()}
    write_released(folder / "checkpoint_file", weights)
    (folder / "strategy_load_ckpt").mkdir()
    write_strategy(folder / "strategy_load_ckpt/strategy.ckpt", released_layouts(weights, 64, 8))


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A clone with this Python's environment as its .venv."""
    if not Path(sys.prefix, "bin/activate").is_file():
        pytest.skip("this Python is not in a virtual environment")
    clone = tmp_path_factory.mktemp("clone") / "盘古 alpha"
    clone.mkdir()
    for name in ("pangu", "data_pipeline", "parallel_strategy", "run_scripts", "tests", "requirements.txt"):
        (clone / name).symlink_to(REPOSITORY / name)
    (clone / "pyproject.toml").symlink_to(REPOSITORY / "pyproject.toml")
    (clone / ".venv").mkdir()
    for part in Path(sys.prefix).iterdir():
        if part.suffix != ".txt":
            (clone / ".venv" / part.name).symlink_to(part)
    wanted = "".join((REPOSITORY / name).read_text("utf-8") for name in ("requirements.txt", "pyproject.toml"))
    for name in ("installed-requirements.txt", "installed-requirements-test.txt"):
        (clone / ".venv" / name).write_text(wanted, encoding="utf-8")
    write_demo(clone / "work/demo")
    write_demo(clone / "work/quickstart/demo")
    write_weights(clone / "ckpts")
    return clone


def test_both_readmes_have_the_same_blocks() -> None:
    english, chinese = (blocks(readme) for readme in READMES)
    assert len(english) >= 10
    assert chinese == english


def test_every_replacement_is_of_something_that_is_there() -> None:
    text = "".join(commands for _, commands in blocks(READMES[0]))
    assert [long for long, _ in SHORTER if long not in text] == []


@pytest.mark.parametrize(
    "page", [*READMES, *sorted(str(p.relative_to(REPOSITORY)) for p in REPOSITORY.glob("docs/*.md"))]
)
def test_every_link_leads_somewhere(page: str) -> None:
    path = REPOSITORY / page
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not target.startswith(("https://", "http://")):
            assert (path.parent / target).exists(), f"{page}: {target}"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_block_runs(clone: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH")}
    for language, commands in blocks(READMES[0]):  # those of the other are the same
        command = ["bash", "-euo", "pipefail", "-c"] if language == "bash" else [".venv/bin/python", "-c"]
        result = subprocess.run(
            [*command, shorter(commands)],
            cwd=clone,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, f"{commands}\n{result.stdout}\n{result.stderr}"
