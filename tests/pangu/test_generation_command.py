"""`python -m pangu generate`: prompts from everywhere, JSON, and one clear line for every mistake."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pangu.cli import main
from pangu.tokenizer import Tokenizer

COMMON = ["--max-new-tokens", "6", "--batch-size", "2"]
SEEDED = [*COMMON, "--seed", "1"]


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_prompts_in_order_as_json_and_as_text(run_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = ["今天", "北京是中国", "人"]
    flags = [word for prompt in prompts for word in ("--prompt", prompt)]
    assert main(["generate", str(run_directory), *flags, *SEEDED, "--ignore-end", "--json"]) == 0
    rows = lines(capsys)
    assert [row["prompt"] for row in rows] == prompts
    assert all(len(row["ids"]) == 6 and row["finish"] == "length" for row in rows)
    assert rows[0]["text"] == Tokenizer.load(run_directory / "tokenizer").decode(rows[0]["ids"])
    assert main(["generate", str(run_directory), *flags, *SEEDED, "--ignore-end"]) == 0
    assert capsys.readouterr().out == "".join(f"{row['prompt']}{row['text']}\n\n" for row in rows)
    assert main(["generate", str(run_directory), *flags[:2], *SEEDED, "--ignore-end"]) == 0
    assert capsys.readouterr().out == f"今天{rows[0]['text']}\n"


def test_every_kind_of_checkpoint_and_source(
    run_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("今天\n\n北京是\n", encoding="utf-8")
    tokenizer = ["--tokenizer", str(run_directory / "tokenizer")]
    alone = [str(run_directory.parent / "weights.safetensors"), "--model", str(run_directory.parent / "small.yaml")]
    outputs = []
    for place in ([str(run_directory)], [str(run_directory / "checkpoints/step-00000003")], [*alone, *tokenizer]):
        assert main(["generate", *place, "--file", str(file), *SEEDED, "--json"]) == 0
        outputs.append(lines(capsys))
    mindspore = ["--file", str(file), *SEEDED, "--engine", "mindspore", "--json"]
    assert main(["generate", str(run_directory), *mindspore]) == 0
    outputs.append(lines(capsys))
    draft = ["--file", str(file), *COMMON, "--seed", "1", "--draft", alone[0], "--draft-tokens", "2", "--json"]
    assert main(["generate", str(run_directory), *draft]) == 2  # the file says no network
    assert "does not say its network" in capsys.readouterr().err
    assert main(["generate", str(run_directory), *draft[:-4], str(run_directory), *draft[-3:]]) == 0
    outputs.append(lines(capsys))
    assert [row["prompt"] for row in outputs[0]] == ["今天", "北京是"]
    assert outputs[0] == outputs[1] == outputs[2] == outputs[3] == outputs[4]
    typed = "今天\n" + "很" * 200 + "\n北京是\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(typed.encode())))
    assert main(["generate", str(run_directory), "--interactive", *SEEDED]) == 0
    captured = capsys.readouterr()
    assert captured.out == "".join(f"{row['prompt']}{row['text']}\n" for row in outputs[0])
    assert "the context 64" in captured.err


MISTAKES: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "nothing there": (lambda run: [str(run / "none"), "--prompt", "今"], "no such file or directory"),
    "no tokenizer": (
        lambda run: [
            str(run.parent / "weights.safetensors"),
            "--model",
            str(run.parent / "small.yaml"),
            "--prompt",
            "今",
        ],
        "give --tokenizer",
    ),
    "no file": (lambda run: [str(run), "--file", "none.txt"], "none.txt: cannot be read"),
    "long prompt": (lambda run: [str(run), "--prompt", "很" * 200], "the context 64"),
    "temperature": (lambda run: [str(run), "--prompt", "今", "--temperature", "-1"], "temperature = -1.0: must be 0"),
    "bf16": (
        lambda run: [str(run), "--prompt", "今", "--dtype", "bf16", "--engine", "mindspore"],
        "no bf16 kernels for a CPU",
    ),
    "engine": (
        lambda run: [str(run), "--prompt", "今", "--engine", "compiled", "--device", "Ascend"],
        "--engine compiled is for a CPU",
    ),
    "threads": (lambda run: [str(run), "--prompt", "今", "--threads", "0"], "threads = 0: must be at least 1"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line(name: str, run_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, message = MISTAKES[name]
    assert main(["generate", *arguments(run_directory)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and not captured.out


def test_truncating_and_sliding(run_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = ["generate", str(run_directory), "--prompt", "很" * 200, "--ignore-end", "--json"]
    assert main([*long, *COMMON, "--truncate"]) == 0
    assert len(lines(capsys)[0]["ids"]) == 6
    assert main([*long, "--max-new-tokens", "80", "--slide"]) == 0
    assert len(lines(capsys)[0]["ids"]) == 80
