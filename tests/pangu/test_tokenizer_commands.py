"""`python -m pangu tokenize` and `detokenize`."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipeline.stages.tokenizer.training_process import train_tokenizer
from pangu.cli import main
from pangu.foundation.errors import UserError
from pangu.tokenizer import Tokenizer
from pangu.tokenizer.parallel_map import map_in_order
from tests.conftest import REPOSITORY
from tests.pangu.strange_text import strange_lines


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    train_tokenizer(strange_lines(seed=1, size=100_000), folder, vocab_size=1000)
    return folder


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Strange lines, one of them empty, one longer than a block, the last without a newline."""
    lines = [*strange_lines(seed=2, size=50_000), "", "很长" * 300_000, *strange_lines(seed=3, size=50_000), "完"]
    path = tmp_path / "text.txt"
    path.write_bytes("\n".join(lines).encode())
    return path


@pytest.mark.parametrize("processes", ["1", "2"])
def test_there_and_back(model: Path, text: Path, tmp_path: Path, processes: str) -> None:
    ids, back = tmp_path / "ids.jsonl", tmp_path / "back.txt"
    common = ["--model", str(model), "--workers", processes]
    assert main(["tokenize", str(text), "--out", str(ids), *common]) == 0
    tokenizer = Tokenizer.load(model)
    lines = text.read_bytes().decode().split("\n")
    assert [json.loads(row) for row in ids.read_text().splitlines()] == [tokenizer.encode(line) for line in lines]
    assert main(["detokenize", str(ids), "--out", str(back), *common]) == 0
    assert back.read_bytes() == text.read_bytes() + b"\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back.txt", "ids.jsonl", "text.txt"]


def test_json_keeps_a_text_with_newlines_on_one_line(model: Path, tmp_path: Path) -> None:
    ids, back = tmp_path / "ids.jsonl", tmp_path / "back.jsonl"
    texts = ["一\n二\r\n", "\0▃\u2028"]
    tokenizer = Tokenizer.load(model)
    ids.write_text("".join(json.dumps(tokenizer.encode(text)) + "\n" for text in texts))
    assert main(["detokenize", str(ids), "--json", "--out", str(back), "--model", str(model)]) == 0
    assert [json.loads(row) for row in back.read_bytes().split(b"\n")[:-1]] == texts


def test_standard_streams(model: Path) -> None:
    command = [sys.executable, "-m", "pangu", "tokenize", "-", "--model", str(model)]
    result = subprocess.run(command, input="你好\n\r\n".encode(), capture_output=True, cwd=REPOSITORY)
    tokenizer = Tokenizer.load(model)
    assert [json.loads(row) for row in result.stdout.splitlines()] == [tokenizer.encode("你好"), tokenizer.encode("\r")]
    assert (result.returncode, result.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("verb", "content", "message"),
    [
        ("tokenize", b"ok\nab\xff\n", "in.txt: line 2: byte 3 (0xff) is not UTF-8"),
        ("tokenize", b"\xed\xa0\x80\n", "in.txt: line 1: byte 1 (0xed) is not UTF-8"),
        ("detokenize", b"[1]\n[1,\n", "in.txt: line 2"),
        ("detokenize", b"3\n", "in.txt: line 1: a list of whole numbers"),
        ("detokenize", b"[true]\n", "in.txt: line 1: a list of whole numbers"),
        ("detokenize", b"[-1]\n", "in.txt: line 1: token id -1 is outside the vocabulary"),
        ("detokenize", b"[99999999999999999999]\n", "in.txt: line 1"),
    ],
)
def test_a_bad_line_is_named_and_nothing_written(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture, verb: str, content: bytes, message: str
) -> None:
    source, out = tmp_path / "in.txt", tmp_path / "out"
    source.write_bytes(content)
    for processes in ("1", "2") if verb == "tokenize" else "1":
        arguments = [verb, str(source), "--out", str(out), "--model", str(model), "--workers", processes]
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]


def test_a_killed_worker_ends_the_run() -> None:
    with pytest.raises(UserError, match="a worker process died"):
        list(map_in_order(_die, None, range(10), 2))


def _die(state: None, item: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_places_that_do_not_exist(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "in.txt").write_text("天")
    source, absent = str(tmp_path / "in.txt"), str(tmp_path / "no" / "file")
    for arguments in (
        ["tokenize", absent, "--model", str(model)],
        ["tokenize", source, "--model", str(model), "--out", absent],
        ["tokenize", source, "--model", absent],
        ["tokenize", str(tmp_path), "--model", str(model)],
        ["tokenize", source, "--model", str(model), "--workers", "0"],
    ):
        assert main(arguments) == 2
        assert capsys.readouterr().err.count("\n") == 1
