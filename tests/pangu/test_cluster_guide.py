"""Every command of docs/cluster.md, in order, in one folder; those that train or need a device say what they do."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pangu.checkpoint.open import MOMENTS, TrainingState
from pangu.checkpoint.save import save_checkpoint
from pangu.cli import main
from tests.conftest import REPOSITORY
from tests.pangu import distributed_run
from tests.pangu.convert_files import random_weights

BLOCK = re.compile(r"(?P<before>[^\n]*\n)```bash\n(?P<commands>.*?)```", re.DOTALL)
SCRIPTS = re.compile(r"^(bash run_scripts/\w+\.sh (?:.*\\\n)*.*?)$", re.MULTILINE)


def commands() -> list[tuple[str, bool]]:
    """(block, whether it needs Ascend)."""
    text = (REPOSITORY / "docs/cluster.md").read_text(encoding="utf-8")
    return [(match["commands"], "needs Ascend" in match["before"]) for match in BLOCK.finditer(text)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout with a corpus, train.yaml, and what a distributed run would have left."""
    distributed_run.write(tmp_path)
    (tmp_path / "strategy.yaml").unlink()
    for name in ("pangu", "parallel_strategy", "run_scripts", "requirements.txt", "pyproject.toml"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    # The scripts find an environment that needs nothing more: a test installs nothing into the one that runs it.
    (tmp_path / ".venv").mkdir()
    for part in Path(sys.prefix).iterdir():
        (tmp_path / ".venv" / part.name).symlink_to(part)
    wanted = "".join((REPOSITORY / name).read_text(encoding="utf-8") for name in ("requirements.txt", "pyproject.toml"))
    for name in ("installed-requirements.txt", "wanted-requirements.txt"):
        (tmp_path / ".venv" / name).unlink(missing_ok=True)
        (tmp_path / ".venv" / name).write_text(wanted, encoding="utf-8")
    (tmp_path / "prompts.txt").write_text("一\n二\n")
    servers = range(256)
    lines = (f"10.0.0.{s} " + " ".join(f"10.{1 + device}.0.{s}" for device in range(8)) for s in servers)
    (tmp_path / "hosts.txt").write_text("\n".join(lines))
    return tmp_path


def write_checkpoint(run: Path, strategy: Path) -> None:
    """The shards of step 2 of a run, as two ranks would write them."""
    from pangu.config import ModelConfig

    model = ModelConfig.load(strategy.parent / "model.yaml")
    weights = random_weights(1, model.hidden_size, model.ffn_hidden_size)
    for name, rows in (("word", model.vocab_size), ("position", model.seq_length), ("top_query", model.seq_length)):
        weights[f"backbone.{name}_embedding.embedding_table"] = weights["backbone.word_embedding.embedding_table"][
            :1
        ].repeat(rows, 0)
    moments = {f"{prefix}{name}": array for prefix in MOMENTS for name, array in weights.items()}
    state = TrainingState(2, 1.0, 0, 0, 10, None)
    whole = save_checkpoint(strategy.parent / "whole-run", state, weights, moments, model, {})
    (run / "checkpoints").mkdir(parents=True)
    (run / "tokenizer").mkdir()  # where there is one, prediction may start
    words = ["reshard", str(whole), "--to", str(strategy), "--out", str(run / "checkpoints/step-00000002")]
    assert main(words) == 0


def test_the_guide(folder: Path) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment |= {"NODE_RANK": "255", "ADDRESS_OF_NODE_0": "10.0.0.0"}
    told = on_ascend = ""
    for block, needs_ascend in commands():
        # What the scripts do is tested in test_distributed.py and test_run_scripts.py.
        block = SCRIPTS.sub(lambda line: line[1] if "--dry-run" in line[1] else f"{line[1]} --dry-run", block)
        block = block.replace("--workers 2 --seconds 5", "--devices 2 --seconds 1 --backend numpy")
        block = block.replace("source /usr/local/", "# ")
        flags, expected = ("-uo", (0, 2)) if needs_ascend else ("-euo", (0,))  # 2: a dry run that finds no device
        shell = ["bash", flags, "pipefail", "-c", block]
        done = subprocess.run(shell, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode in expected, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        if needs_ascend:
            on_ascend += done.stdout
        else:
            told += done.stdout
        if (folder / "two.yaml").exists() and not (folder / "runs/sharded").exists():
            write_checkpoint(folder / "runs/sharded", folder / "two.yaml")
    assert told.count("would start") == 6 and "MISSING" not in told and told.count("--diff") == 1
    # Here nothing is missing but the devices, and the disk for 200 billion parameters.
    assert on_ascend.count("would start") == 4
    missing = {line.split()[1] for line in on_ascend.splitlines() if line.startswith("MISSING")}
    assert missing <= {"8", "disk"}, on_ascend
    assert "would start 8 of 2048 processes, from rank 2040" in on_ascend and "--rank_table_file=exported" in on_ascend
    assert (folder / "weights.safetensors").exists() and (folder / "exported/rank_table.json").exists()
