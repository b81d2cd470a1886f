"""Prompts shared out to processes: the answers of one process, in order, whoever dies on the way."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pangu.checkpoint.contents import contents_of
from pangu.checkpoint.open import meant_checkpoint
from pangu.cli import main
from pangu.commands import generate, predict
from pangu.distributed.predictor import PredictionRequest, Predictor, shares_of
from pangu.foundation.errors import UserError
from tests.conftest import REPOSITORY
from tests.pangu.test_generation_command import COMMON

pytestmark = pytest.mark.timeout(180)


@given(st.lists(st.integers(0, 99), unique=True, min_size=1), st.integers(1, 120))
def test_every_prompt_has_one_process(indices: list[int], workers: int) -> None:
    shares = shares_of(indices, workers)
    assert [index for share in shares for index in share] == indices
    assert len(shares) == min(workers, len(indices))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_the_options_of_generate_are_passed_on() -> None:
    def parse(module, words: list[str]) -> argparse.Namespace:
        parser = argparse.ArgumentParser()
        module.add_arguments(parser)
        return parser.parse_args(words)

    asked = ["--stop=-。", "--stop-id", "3", "--stop-id", "4", "--temperature", "0", "--slide", "--dtype", "bf16"]
    asked += ["--frequency-penalty", "-0.5", "--seed", "7", "--tokenizer", "a b"]
    here = parse(predict, ["run", "--file", "f", "--out", "o", "--workers", "2", *asked])
    there = parse(generate, ["run", "--file", "f", *predict.options_of(here)])
    assert vars(there) == {name: getattr(here, name) for name in vars(there)}


# What stands in for `pangu generate`: says every prompt backwards; {trouble} is what happens before an answer.
FAKE = """
import json, os, sys, time
from pathlib import Path
for prompt in Path(sys.argv[1]).read_text().splitlines():
    {trouble}
    print(json.dumps({{"prompt": prompt, "text": prompt[::-1]}}), flush=True)
"""


class Faked(PredictionRequest):
    def command(self, prompts: Path) -> list[str]:
        return [sys.executable, "-c", FAKE.format(trouble=self.options[0]), str(prompts)]


def asked_of(folder: Path, trouble: str, workers: int = 3, count: int = 11) -> Faked:
    prompts = [f"prompt {index}" for index in range(count)]
    return Faked(folder / "model", prompts, [trouble], "CPU", workers, folder / "out.jsonl", folder / "logs")


def texts(path: Path) -> list[str]:
    return [json.loads(line)["text"][::-1] for line in path.read_text().splitlines()]


def leftovers(folder: Path) -> str:
    return subprocess.run(["pgrep", "-f", str(folder)], capture_output=True, text=True).stdout


def test_one_that_dies_stops_all_and_the_rest_is_answered(tmp_path: Path, capsys) -> None:
    once = tmp_path / "once"
    trouble = f"if prompt == 'prompt 5' and not os.path.exists({str(once)!r}): "
    trouble += f"open({str(once)!r}, 'w').close(); os.kill(os.getpid(), 9)"
    asked = asked_of(tmp_path, trouble)
    assert Predictor(asked, restarts=1).run() == 0
    told = capsys.readouterr().err
    assert "a process ended with code -9" in told and "starting again: " in told
    assert texts(asked.out) == asked.prompts
    again = json.loads((asked.logs / "start-002/shares.json").read_text())
    assert 5 in [index for share in again for index in share] and sum(map(len, again)) < len(asked.prompts)
    assert not (asked.logs / "done.jsonl").exists() and leftovers(tmp_path) == ""


def test_one_that_dies_ends_the_others_at_once(tmp_path: Path) -> None:
    trouble = "if prompt == 'prompt 0': sys.exit(7)\n    time.sleep(600)"
    start = time.monotonic()
    with pytest.raises(UserError, match="gave up after 2 failures without a new answer"):
        Predictor(asked_of(tmp_path, trouble), restarts=1).run()
    assert time.monotonic() - start < 60 and leftovers(tmp_path) == "" and not (tmp_path / "out.jsonl").exists()


def test_a_mistake_is_told_once(tmp_path: Path) -> None:
    trouble = "print('error: this prompt is too long', file=sys.stderr); sys.exit(2)"
    with pytest.raises(UserError, match="this prompt is too long"):
        Predictor(asked_of(tmp_path, trouble), restarts=5).run()
    assert len(list((tmp_path / "logs").glob("start-*"))) == 1


def test_a_call_that_is_killed_goes_on_where_it_was(tmp_path: Path, capsys) -> None:
    """kill -9 of the call itself; its processes work on, and a second call is refused until they have ended."""
    wait = (
        f"while prompt in ('prompt 2', 'prompt 9') and not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.02)"
    )
    asked = asked_of(tmp_path, wait, workers=2)
    program = (
        "import sys; from pathlib import Path; from pangu.distributed.predictor import Predictor\n"
        "from tests.pangu.test_predict import asked_of\n"
        "sys.exit(Predictor(asked_of(Path(sys.argv[1]), sys.argv[2], workers=2), 0).run())"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path), wait], cwd=REPOSITORY)
    # both wait now: the first before prompt 2, the second before prompt 9
    for answered, count in (("answers_0.jsonl", 2), ("answers_1.jsonl", 4)):
        answers = asked.logs / "start-001" / answered
        while not (answers.exists() and answers.read_bytes().count(b"\n") == count):
            assert process.poll() is None
            time.sleep(0.02)
    process.kill()
    process.wait()
    with pytest.raises(UserError, match="processes of another call are still at work there"):
        Predictor(asked, restarts=0).run()
    for left in leftovers(tmp_path).split():
        os.kill(int(left), signal.SIGKILL)
    (tmp_path / "go").touch()
    while leftovers(tmp_path):
        time.sleep(0.02)
    capsys.readouterr()
    assert Predictor(asked, restarts=0).run() == 0
    assert "going on: 6 of 11 prompts are answered" in capsys.readouterr().err
    assert texts(asked.out) == asked.prompts
    # Another request begins anew.
    other = asked_of(tmp_path, "pass", workers=1, count=3)
    assert Predictor(other, restarts=0).run() == 0 and texts(other.out) == other.prompts


def test_a_line_mark_of_unicode_does_not_cut_an_answer(tmp_path: Path) -> None:
    asked = asked_of(tmp_path, "pass")
    asked.logs.mkdir()
    answers = {0: '{"text": "一\u2028二\u0085三"}', 2: '{"text": ""}'}
    first = Predictor(asked, restarts=0)
    assert first.known() == {}
    first.remember(answers)
    assert Predictor(asked, restarts=0).known() == answers
    (asked.logs / "done.jsonl").write_text('{"index": 0')
    with pytest.raises(UserError, match=r"done\.jsonl: is damaged: .*; remove it to begin anew"):
        Predictor(asked, restarts=0).known()


@pytest.mark.parametrize("what", ["weights", "network", "tokenizer", "prompts", "options"])
def test_answers_of_another_model_are_never_mixed_in(tmp_path: Path, what: str, capsys) -> None:
    """The first call is cut off after its first answers; whatever changes in between, the second begins anew."""
    contents = {"weights": "a", "network": "b", "tokenizer": "c"}
    trouble = "sys.exit(7) if prompt == 'prompt 7' else None"
    first = replace(asked_of(tmp_path, trouble, workers=1), contents=lambda: contents)
    with pytest.raises(UserError, match="gave up"):
        Predictor(first, restarts=0).run()
    capsys.readouterr()
    second = replace(first, contents=lambda: contents | ({what: "other"} if what in contents else {}))
    if what == "prompts":
        second = replace(second, prompts=["another", *first.prompts[1:7]])
    if what == "options":
        second = replace(second, options=["pass"])
    code = Predictor(second, restarts=0).run if what in ("prompts", "options") else None
    if code:
        assert code() == 0 and texts(second.out) == second.prompts
    else:
        with pytest.raises(UserError, match="gave up"):
            Predictor(second, restarts=0).run()
    said = capsys.readouterr().err
    assert f"({what} differ): beginning anew" in said and "going on" not in said
    assert [path.name for path in first.logs.glob("start-*")] == ["start-001"]


def test_weights_that_change_between_two_starts_of_one_call_end_it(tmp_path: Path) -> None:
    asked = asked_of(tmp_path, "sys.exit(7) if prompt == 'prompt 7' else None", workers=1)
    digests = iter("aabb")
    asked = replace(asked, contents=lambda: {"weights": next(digests)})
    next(digests)
    with pytest.raises(UserError, match="changed during this call"):
        Predictor(asked, restarts=5).run()


def test_the_digests_are_of_contents_and_not_of_paths(run_directory: Path, tmp_path: Path) -> None:
    step = meant_checkpoint(run_directory)
    moved = tmp_path / "elsewhere/checkpoints" / step.name
    shutil.copytree(step, moved)
    shutil.copytree(run_directory / "tokenizer", tmp_path / "elsewhere/tokenizer")
    before = contents_of(step, None, None)
    assert contents_of(moved, None, None) == before
    file = tmp_path / "w.safetensors"
    shutil.copy(step / "model.safetensors", file)
    of_file = contents_of(file, None, str(run_directory / "tokenizer"))
    assert of_file["network"] == before["network"] and of_file["tokenizer"] == before["tokenizer"]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    times = file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # not even the time tells
    changed = contents_of(file, None, str(run_directory / "tokenizer"))
    assert {name for name in changed if changed[name] != of_file[name]} == {"weights"}
    settings = tmp_path / "elsewhere/tokenizer/tokenizer.json"
    fields = json.loads(settings.read_text())
    fields["special"]["pad"], fields["special"]["mask"] = fields["special"]["mask"], fields["special"]["pad"]
    settings.write_text(json.dumps(fields))
    changed = contents_of(moved, None, None)
    assert {name for name in changed if changed[name] != before[name]} == {"tokenizer"}


def test_an_interrupt_stops_all(tmp_path: Path) -> None:
    asked = asked_of(tmp_path, "time.sleep(600)")
    predictor = Predictor(asked, restarts=0, advance=lambda _: os.kill(os.getpid(), signal.SIGINT))
    assert predictor.run() == 130
    assert leftovers(tmp_path) == "" and not asked.out.exists()


def test_what_is_missing_is_named_before_a_start(run_directory: Path, tmp_path: Path, capsys) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("今天\n北京\n")
    out = tmp_path / "out.jsonl"

    def complaint(*words: object) -> str:
        capsys.readouterr()
        assert main(["predict", *map(str, words)]) == 2
        return capsys.readouterr().err.splitlines()[-1]

    common = ("--file", prompts, "--out", out)
    assert "no such file or directory" in complaint(tmp_path / "none", *common)
    assert "holds no whole checkpoint" in complaint(tmp_path, *common)
    assert "2 NPUs on this node: 0 found" in complaint(run_directory, *common, "--device", "Ascend", "--workers", 2)
    weights = run_directory.parent / "weights.safetensors"
    assert "give --tokenizer" in complaint(weights, *common, "--model", "tiny")
    assert "no such directory" in complaint(run_directory, "--file", prompts, "--out", tmp_path / "a/b")
    assert "is for one process" in complaint(run_directory, "--interactive", "--out", out)
    assert "--workers must be at least 1" in complaint(run_directory, *common, "--workers", 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prompts.txt"]


@pytest.mark.slow
def test_two_processes_write_what_one_writes(run_directory: Path, tmp_path: Path, capsys) -> None:
    """By the script that a person types, from a folder with a space in its name."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "my prompts.txt").write_text("今天\n\n北京是\n人\n")
    words = [str(run_directory), "--file", "my prompts.txt", "--seed", "3", *COMMON]
    script = ["bash", str(REPOSITORY / "run_scripts/run_distributed_predict.sh"), *words]
    done = subprocess.run([*script, "--workers", "2", "--out", "out.jsonl"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "starts 2 processes for 1+2 prompts" in done.stderr and "wrote out.jsonl: 3 answers" in done.stdout
    assert (folder / "out.jsonl.logs/start-001/worker_1.log").exists()
    file = str(folder / "my prompts.txt")
    assert main(["generate", str(run_directory), "--file", file, "--seed", "3", *COMMON, "--json"]) == 0
    assert (folder / "out.jsonl").read_text() == capsys.readouterr().out
