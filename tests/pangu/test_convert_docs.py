"""Every command of docs/checkpoints.md, run one after the other on small files with the names that it uses."""

import re
import shlex
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from pangu.cli import main
from tests.conftest import REPOSITORY
from tests.pangu import small_model
from tests.pangu.convert_files import random_weights, released_layouts, write_released, write_strategy

PAGE = REPOSITORY / "docs" / "checkpoints.md"


def test_commands_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The layers and widths of size `tiny`, so that the number of heads is known.
    weights = random_weights(blocks=3, hidden=256, ffn=1024, dtype="float16")
    save_file(weights, tmp_path / "model.safetensors")
    write_released(tmp_path / "ckpts" / "checkpoint_file", weights, 2, 2)
    (tmp_path / "ckpts" / "strategy_load_ckpt").mkdir()
    write_strategy(tmp_path / "ckpts" / "strategy_load_ckpt" / "strategy.ckpt", released_layouts(weights, 2, 2))
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    commands = [shlex.split(line) for block in blocks for line in block.splitlines()]
    assert len(commands) == 7
    run, tokenizer = tmp_path / "runs/first", tmp_path / "runs/first/tokenizer"
    small_model.write(run).rename(run / "model.safetensors")
    assert tokenizer.is_dir()
    for command in commands:
        assert command[:3] == ["python", "-m", "pangu"]
        if command[-1] == "--help":
            with pytest.raises(SystemExit) as ended:
                main(command[3:])
            assert ended.value.code == 0
        else:
            assert main(command[3:]) == 0
    outputs = {"model.ckpt", "port.safetensors", "pangu.safetensors", "model.yaml", "pangu-bf16.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == outputs | {"model.safetensors", "ckpts", "runs", "exported"}
