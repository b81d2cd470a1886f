"""A full disk, a quota and a folder that vanished: what is only told never costs a run, and nothing hangs."""

import contextlib
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pangu.checkpoint.open import WEIGHTS, newest_checkpoint, step_directories
from pangu.distributed.launch import Launch, Nodes
from pangu.distributed.predictor import PredictionRequest, Predictor
from pangu.distributed.supervise import Supervisor
from pangu.foundation.best_effort import BestEffortFile
from pangu.foundation.errors import UserError
from pangu.training.run import train
from pangu.training.step_metrics import MetricsWriter, read_metrics
from tests.conftest import REPOSITORY
from tests.pangu.small_run import LONG, STEPS, assert_same_end, configuration, long_configuration

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def file_size_limit(size: int):
    """Let no file of this process grow beyond `size` bytes, as a quota does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_did_not_fit_is_written_when_there_is_room_again(tmp_path: Path, capsys) -> None:
    file = BestEffortFile(tmp_path / "file")
    file.append(b"one\n")
    with file_size_limit(6):
        file.append(b"two\n")
        file.append(b"three\n")
        assert (tmp_path / "file").read_bytes() == b"one\n"
    file.append(b"four\n")
    assert (tmp_path / "file").read_bytes() == b"one\ntwo\nthree\nfour\n"
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "File too large" in lines[0] and "nothing is missing" in lines[1]


def test_a_file_that_vanishes_is_made_again_with_what_it_held(tmp_path: Path) -> None:
    file = BestEffortFile(tmp_path / "folder/file")
    file.append(b"one\n")
    shutil.rmtree(tmp_path / "folder")
    file.append(b"two\n")
    assert (tmp_path / "folder/file").read_bytes() == b"one\ntwo\n"


def test_metrics_forget_what_came_after_the_checkpoint_without_needing_room(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, 0)
    for step in range(1, 5):
        writer.write({"step": step, "loss": 1.0})
    writer.close()
    with file_size_limit(10):
        MetricsWriter(tmp_path, 2).close()
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2]


def test_tensorboard_reads_what_is_written(tmp_path: Path) -> None:
    """The events are read back by TFRecord's rules, with tensorboardX's own protocol buffers and checksum."""
    import struct

    from tensorboardX.crc32c import crc32c
    from tensorboardX.proto.event_pb2 import Event

    writer = MetricsWriter(tmp_path, 7)
    writer.write({"step": 8, "loss": 2.5, "global_norm": float("nan"), "updated": True})
    writer.speed(8, 0.5, 100.0)
    writer.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    content, events = file.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        for block, stored in ((content[:8], content[8:12]), (content[12 : 12 + length], content[12 + length :][:4])):
            value = crc32c(block)
            masked = (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF
            assert struct.pack("<I", masked) == stored
        events.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    assert events[0].file_version == "brain.Event:2"
    assert events[1].session_log.status == 1 and events[1].step == 8  # forget step 8 and later of older files
    values = {value.tag: value.simple_value for event in events[2:] for value in event.summary.value}
    assert values == {"loss": 2.5, "updated": 1.0, "tokens_per_second": 100.0}


@pytest.mark.parametrize("victim", ["tensorboard/", "metrics.jsonl", "loss.png"])
def test_a_run_goes_on_without_what_only_tells(
    corpus: Path, uninterrupted: Path, tmp_path: Path, capsys, monkeypatch, victim: str
) -> None:
    """The disk has no room for one of them, from some step on: one warning, the same weights."""
    run = tmp_path / "run"
    real = os.pwrite

    def pwrite(descriptor: int, content: bytes, offset: int) -> int:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        if victim in name and offset > 1000:
            raise FULL
        return real(descriptor, content, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    if victim == "loss.png":
        from matplotlib.figure import Figure

        monkeypatch.setattr(Figure, "savefig", lambda *_, **__: (_ for _ in ()).throw(FULL))
    summary = train(configuration(corpus, run))
    errors = capsys.readouterr().err
    (line,) = [line for line in errors.splitlines() if "No space left on device" in line]
    assert line.startswith("warning: ") and victim in line
    assert summary.step == STEPS and not list(run.glob(".loss*"))
    if victim != "metrics.jsonl":
        assert_same_end(run, uninterrupted)
    last = f"checkpoints/step-{STEPS:08d}/{WEIGHTS}"
    assert (run / last).read_bytes() == (uninterrupted / last).read_bytes()


def start(config, file: Path, **options) -> subprocess.Popen:
    file.write_text(config.dump(), encoding="utf-8")
    words = [sys.executable, "-m", "pangu", "train", str(file)]
    return subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def wait_until(condition, process: subprocess.Popen) -> None:
    while process.poll() is None and not condition():
        time.sleep(0.02)


def test_a_disk_that_fills_between_checkpoints_stops_nothing_until_weights_must_be_written(
    corpus: Path, small_disk: Path, tmp_path: Path
) -> None:
    run = small_disk / "run"
    config = configuration(corpus, run, steps=400, checkpoint_every=40, evaluate_every=40, keep_last=1)
    process = start(config, tmp_path / "train.yaml")
    wait_until(lambda: step_directories(run) and len(read_metrics(run)) % 40 > 5, process)
    before = {path.name for path in step_directories(run)}
    with contextlib.suppress(OSError), (small_disk / "fill").open("wb", buffering=0) as fill:
        while True:
            fill.write(bytes(1024))
    told, errors = process.communicate(timeout=300)
    assert process.returncode == 2, (told, errors)
    lines = errors.splitlines()
    assert "the work goes on without it" in errors and "Traceback" not in errors
    assert [line for line in lines if line.startswith("error")] == lines[-1:]
    assert "the checkpoint cannot be written" in lines[-1] and "No space left" in lines[-1]
    assert {path.name for path in step_directories(run)} == before
    assert newest_checkpoint(run) is not None


def test_a_full_disk_does_not_keep_a_run_from_ending_when_asked(corpus: Path, small_disk: Path, tmp_path: Path) -> None:
    run = small_disk / "run"
    process = start(configuration(corpus, run, steps=100_000, checkpoint_every=50_000), tmp_path / "train.yaml")
    wait_until(lambda: len(read_metrics(run)) > 5, process)
    with contextlib.suppress(OSError), (small_disk / "fill").open("wb", buffering=0) as fill:
        while True:
            fill.write(bytes(1024))
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2 and "the checkpoint cannot be written" in errors.splitlines()[-1]


def test_a_closed_terminal_saves_as_ctrl_c_does(corpus: Path, long_run: Path, tmp_path: Path) -> None:
    """A shell and the system both send SIGHUP when a terminal closes, and then nobody reads what the run says."""
    run = tmp_path / "run"
    config = long_configuration(corpus, run)
    # as from a terminal, though the tests themselves may run under nohup
    process = start(config, tmp_path / "train.yaml", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL))
    wait_until(lambda: len(read_metrics(run)) > 2, process)
    assert process.stderr and process.stdout
    process.stderr.close()
    process.stdout.close()
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=300) == 130
    saved = newest_checkpoint(run)
    assert saved is not None and 3 <= saved.state.step < LONG
    train(config)
    assert_same_end(run, long_run)


def test_under_nohup_a_closed_terminal_changes_nothing(corpus: Path, tmp_path: Path) -> None:
    config = configuration(corpus, tmp_path / "run", steps=6)
    process = start(config, tmp_path / "train.yaml", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    wait_until(lambda: (tmp_path / "run/metrics.jsonl").exists(), process)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=300)
    assert process.returncode == 0


def test_nothing_that_is_not_finite_stands_in_json(corpus: Path, tmp_path: Path, capsys) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    run = tmp_path / "run"
    train(configuration(corpus, run, steps=4, precision="fp16", loss_scale={"initial": 2.0**60}))
    for file in (run / "metrics.jsonl", *run.glob("checkpoints/*/state.json")):
        for text in file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]:
            json.loads(text, parse_constant=refuse)
    norms = [record["global_norm"] for record in read_metrics(run) if "loss" in record]
    assert norms == [None] * 4


@pytest.mark.parametrize("words", [["sizes"], ["sizes", "--json"]])
def test_a_full_standard_output_is_one_line(words: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pangu", *words], cwd=REPOSITORY, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2
    assert done.stderr == "error: standard output: cannot be written: No space left on device\n"


def launch_of(program: str, logs: Path) -> Launch:
    return Launch(["-c", program], "CPU", 1, Nodes(), None, logs)


def test_a_worker_whose_log_did_not_fit_is_not_started_again(tmp_path: Path) -> None:
    """Its one line went to the disk that is full; exit code 2 says that another start would end the same."""
    with pytest.raises(UserError, match=r"exit code 2 and no log in .*start-001 says why; .* MB are free"):
        Supervisor(launch_of("raise SystemExit(2)", tmp_path / "logs"), tmp_path, restarts=3).run()
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["start-001"]


def test_logs_that_cannot_be_made_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"worker_0.log: cannot be written: Not a directory"):
        Supervisor(launch_of("", tmp_path / "logs"), tmp_path, restarts=3).run()


def test_answers_that_do_not_fit_end_predict_with_one_line(small_disk: Path, monkeypatch) -> None:
    """The processes write until the disk is full; what they have answered stays known."""
    out = small_disk / "out.jsonl"
    program = (
        "import sys\nfrom pangu.foundation.best_effort import *\ntry:\n"
        " for number in range(100):\n  print('x' * 50_000, flush=True)\n"
        "except OSError:\n discard_standard_output()\n sys.exit(2)"
    )
    monkeypatch.setattr(PredictionRequest, "command", lambda *_: [sys.executable, "-c", program])
    prompts = [f"prompt {number}" for number in range(100)]
    asked = PredictionRequest(REPOSITORY, prompts, [], "CPU", 1, out, small_disk / "logs")
    with pytest.raises(UserError, match=r"No space left|no log in"):
        Predictor(asked, restarts=3).run()
    assert not out.exists() and len(list((small_disk / "logs").glob("start-*"))) == 1


def test_a_run_that_goes_on_writes_nothing_that_is_there_already(corpus: Path, tmp_path: Path, monkeypatch) -> None:
    """So a full disk does not keep it from starting; what is new and does not fit is one line."""
    from pangu.foundation.errors import UserError
    from pangu.training import run_directory
    from pangu.training.data import PackedData
    from pangu.training.run import model_of

    packed = tmp_path / "packed"
    shutil.copytree(corpus, packed)
    (packed / "tokenizer").mkdir()
    (packed / "tokenizer/vocab.model").write_bytes(b"pieces")
    run, data = tmp_path / "run", PackedData.load(packed)
    run.mkdir()
    config = configuration(corpus, run)
    run_directory.write_run_files(run, model_of(config, data), config, data)
    assert (run / "tokenizer/vocab.model").read_bytes() == b"pieces"

    def full(*_: object, **__: object) -> None:
        raise shutil.Error([("a", "b", "No space left on device")])

    monkeypatch.setattr(run_directory, "write_whole", full)
    monkeypatch.setattr(shutil, "copytree", full)
    run_directory.write_run_files(run, model_of(config, data), config, data)
    (packed / "tokenizer/vocab.model").write_bytes(b"others")
    with pytest.raises(UserError, match=r"tokenizer: cannot be written: .*No space left on device"):
        run_directory.write_run_files(run, model_of(config, data), config, data)
