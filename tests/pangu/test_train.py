"""Training: interrupted at any moment it ends with the same bits; what is damaged or does not fit is named."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pangu.checkpoint import save
from pangu.checkpoint.open import OPTIMIZER, WEIGHTS, newest_checkpoint, step_directories
from pangu.cli import main
from pangu.config import TrainConfig
from pangu.foundation.errors import UserError
from pangu.foundation.interrupts import Interrupts
from pangu.training.data import PackedData, epoch_order, training_batches
from pangu.training.run import train
from pangu.training.step_metrics import read_metrics
from tests.conftest import REPOSITORY
from tests.pangu import packed_corpus
from tests.pangu.small_run import LONG, STEPS, assert_same_end, configuration, long_configuration


def test_a_run_learns_and_leaves_everything(uninterrupted: Path) -> None:
    losses = [record["loss"] for record in read_metrics(uninterrupted) if "loss" in record]
    assert len(losses) == STEPS
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.3
    assert (uninterrupted / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert list((uninterrupted / "tensorboard").iterdir())
    kept = [path.name for path in step_directories(uninterrupted)]
    assert kept[:2] == ["step-00000024", "step-00000018"] and len(kept) <= 3


def test_stop_and_go_on_ends_with_the_same_bits(corpus: Path, uninterrupted: Path, tmp_path: Path) -> None:
    """A profile changes no bit either, and leaves its summary alone."""
    out = tmp_path / "run"
    train(configuration(corpus, out, steps=10), profile=2)
    profile = json.loads((out / "profile.json").read_text())
    assert profile["updates"] == 2 and {"attention", "optimizer", "loss"} <= profile["by_part"].keys()
    assert profile["in_kernels"] > 0 and not (out / "profile").exists()
    (out / "metrics.jsonl").open("a").write('{"step":11,"lo')  # what a crash may leave
    train(configuration(corpus, out))
    # The shorter run was also evaluated at its end; everything else is the same.
    extra = [line for line in (out / "metrics.jsonl").read_text().splitlines() if '"step":10,"heldout' not in line]
    assert extra == (uninterrupted / "metrics.jsonl").read_text().splitlines()
    last = f"checkpoints/step-{STEPS:08d}"
    for name in (WEIGHTS, OPTIMIZER):
        assert (out / last / name).read_bytes() == (uninterrupted / last / name).read_bytes()


def command(config: TrainConfig, file: Path) -> list[str]:
    file.write_text(config.dump(), encoding="utf-8")
    return [sys.executable, "-m", "pangu", "train", str(file)]


def wait_for_step(run: Path, step: int, process: subprocess.Popen) -> None:
    while process.poll() is None and not any(record["step"] >= step for record in read_metrics(run)):
        time.sleep(0.02)


def test_kill_9_in_a_loop_ends_with_the_same_bits(corpus: Path, long_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = command(long_configuration(corpus, out), tmp_path / "train.yaml")
    for step in (5, 250, 251):  # before the first checkpoint, and while one is being written
        process = subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for_step(out, step, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    finished = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert_same_end(out, long_run)
    assert not list((out / "checkpoints").glob(".*"))


def test_an_interrupt_saves_and_the_run_goes_on(corpus: Path, long_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = long_configuration(corpus, out)
    process = subprocess.Popen(
        command(config, tmp_path / "train.yaml"), cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
    )
    wait_for_step(out, 3, process)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate()
    assert process.returncode == 130, message
    saved = newest_checkpoint(out)
    assert saved is not None and 3 <= saved.state.step < LONG
    train(config)
    assert_same_end(out, long_run)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_interrupt_is_a_request_and_the_second_is_as_usual(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interrupts() as interrupts:
        os.kill(os.getpid(), number)
        assert interrupts.asked
        assert signal.getsignal(number) == before


def test_a_damaged_checkpoint_is_named_and_skipped(corpus: Path, uninterrupted: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    train(configuration(corpus, out, steps=12))
    capsys.readouterr()
    newest = step_directories(out)[0]
    data = bytearray((newest / WEIGHTS).read_bytes())
    data[-5] ^= 1
    (newest / WEIGHTS).write_bytes(bytes(data))
    train(configuration(corpus, out))
    assert "step-00000012/model.safetensors: is damaged" in capsys.readouterr().err
    assert_same_end(out, uninterrupted)


def test_a_full_disk_is_one_line_and_earlier_checkpoints_stay(
    corpus: Path, uninterrupted: Path, tmp_path: Path, monkeypatch
) -> None:
    out = tmp_path / "run"
    real = save.save_file

    def full(tensors: dict, path: Path, metadata: dict) -> None:
        if "step-00000012" in str(path):
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(tensors, path, metadata)

    with monkeypatch.context() as patch:
        patch.setattr(save, "save_file", full)
        with pytest.raises(UserError, match="No space left on device"):
            train(configuration(corpus, out))
    assert [path.name for path in step_directories(out)] == ["step-00000006"]
    assert not list((out / "checkpoints").glob(".*"))
    train(configuration(corpus, out))
    assert_same_end(out, uninterrupted)


def test_accumulation_and_recompute_change_no_number_beyond_rounding(corpus: Path, tmp_path: Path) -> None:
    model = corpus.parent / "plain.yaml"
    model.write_text(packed_corpus.MODEL.replace("dropout_rate: 0.1", "dropout_rate: 0.0"))
    losses = {}
    for name, changes in {"whole": {}, "parts": {"accumulate": 2}, "recompute": {"recompute": True}}.items():
        config = configuration(corpus, tmp_path / name, steps=6, **changes)
        train(config.model_copy(update={"model": str(model)}))
        losses[name] = [record["loss"] for record in read_metrics(tmp_path / name) if "loss" in record]
    np.testing.assert_allclose(losses["parts"], losses["whole"], rtol=2e-5)
    np.testing.assert_allclose(losses["recompute"], losses["whole"], rtol=2e-5)


def test_fp16_skips_overflows_and_lowers_the_loss_scale(corpus: Path, tmp_path: Path) -> None:
    train(configuration(corpus, tmp_path / "run", precision="fp16", steps=20, loss_scale={"initial": 2.0**32}))
    records = [record for record in read_metrics(tmp_path / "run") if "loss" in record]
    skipped = [record for record in records if not record["updated"]]
    assert skipped and skipped == records[: len(skipped)]
    assert records[-1]["loss_scale"] == 2.0 ** (32 - len(skipped))
    assert records[-1]["loss"] < records[0]["loss"]
    # The warm-up of three steps counts updates that were made.
    assert [record["learning_rate"] for record in records[: len(skipped) + 2]] == [0.0] * (len(skipped) + 1) + [
        pytest.approx(1e-2 / 3)
    ]


def test_a_bad_step_is_skipped_where_that_is_asked_for_and_its_samples_are_named(
    corpus: Path, tmp_path: Path, capsys
) -> None:
    """The limit lies below the gradients of some steps; what is skipped changes no weight and no rate."""
    run = tmp_path / "run"
    summary = train(configuration(corpus, run, steps=8))
    norms = sorted(record["global_norm"] for record in read_metrics(run) if "loss" in record)
    limit = (norms[-1] + norms[-2]) / 2
    capsys.readouterr()
    summary = train(configuration(corpus, tmp_path / "other", steps=8, skip_above_norm=limit))
    lines = [line for line in capsys.readouterr().err.splitlines() if "skipped" in line]
    assert summary.skipped == len(lines) >= 1
    named = re.fullmatch(r"step (\d+): skipped: .* samples of the training split: ([\d, ]+)", lines[0])
    assert named
    step, samples = int(named[1]), [int(number) for number in named[2].split(", ")]
    order = np.concatenate([epoch_order(40, 1, epoch) for epoch in range(2)])
    assert samples == order[(step - 1) * 4 : step * 4].tolist()
    skipped = [record["updated"] for record in read_metrics(tmp_path / "other") if "loss" in record]
    assert skipped.count(False) == len(lines) and not skipped[step - 1]


def test_overflows_without_end_are_an_error(corpus: Path, tmp_path: Path) -> None:
    rules = {"initial": 2.0**60, "growth_steps": 5, "give_up_after": 3}
    with pytest.raises(UserError, match="3 overflows in a row"):
        train(configuration(corpus, tmp_path / "run", precision="fp16", loss_scale=rules))


def test_incremental_training_starts_from_the_weights_of_another_run(
    corpus: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    other = packed_corpus.write(tmp_path / "other" / "packed", samples=24)
    config = configuration(other, tmp_path / "run", steps=2, start_from=str(uninterrupted))
    train(config)
    first = next(record["loss"] for record in read_metrics(tmp_path / "run") if "loss" in record)
    last = [record["loss"] for record in read_metrics(uninterrupted) if "loss" in record][-1]
    assert abs(first - last) < 0.5
    # Rate 0 in the first step: only the second one moves the weights.
    assert newest_checkpoint(tmp_path / "run").state.step == 2


def test_more_steps_alone_make_a_run_longer(corpus: Path, tmp_path: Path) -> None:
    """Its cosine stays as it was, though train.yaml does not say how long that is."""
    rate = {"peak": 1e-2, "end": 1e-3, "warmup_steps": 0}
    for steps in (2, 4):
        train(configuration(corpus, tmp_path / "run", steps=steps, checkpoint_every=2, learning_rate=rate))
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    rates = {row["step"]: row["learning_rate"] for row in rows if "learning_rate" in row}
    assert rates == {1: pytest.approx(1e-2), 2: pytest.approx(5.5e-3), 3: pytest.approx(1e-3), 4: pytest.approx(1e-3)}


def test_another_configuration_in_the_same_directory_is_refused(corpus: Path, uninterrupted: Path) -> None:
    config = configuration(corpus, uninterrupted)
    with pytest.raises(UserError, match="began with batch_size = 4, now it is 8"):
        train(config.model_copy(update={"batch_size": 8}))


def test_what_does_not_fit_is_one_line(corpus: Path, tmp_path: Path, capsys) -> None:
    model = tmp_path / "model.yaml"
    file = tmp_path / "train.yaml"

    def complaint(**changes: object) -> str:
        file.write_text(configuration(corpus, tmp_path / "run").model_copy(update=changes).dump())
        assert main(["train", str(file)]) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1 and message.startswith("error: ")
        return message

    model.write_text(packed_corpus.MODEL.replace("vocab_size: 64", "vocab_size: 50"))
    assert "tokenizer has 64 ids, the model" in complaint(model=str(model))
    model.write_text(packed_corpus.MODEL.replace("seq_length: 16", "seq_length: 8"))
    assert "samples have 16 tokens" in complaint(model=str(model))
    model.write_text(packed_corpus.MODEL.replace("num_heads: 2", "num_heads: 5"))
    assert "must be a multiple of num_heads" in complaint(model=str(model))
    model.write_text(packed_corpus.MODEL.replace("num_heads", "num_head"))
    assert "did you mean 'num_heads'" in complaint(model=str(model))
    assert "no bf16 kernels for a CPU" in complaint(precision="bf16")
    assert "has no packed.json" in complaint(data=str(tmp_path))
    empty = tmp_path / "empty"
    empty.mkdir()
    description = json.loads((corpus / "packed.json").read_text())
    description["splits"]["train"] = description["splits"]["train"] | {"samples": 0, "files": []}
    description["splits"]["heldout"]["files"] = []
    (empty / "packed.json").write_text(json.dumps(description))
    assert "split 'train' holds no samples" in complaint(data=str(empty))
    description["splits"]["train"]["files"] = ["gone.mindrecord"]
    (empty / "packed.json").write_text(json.dumps(description))
    assert "names" in complaint(data=str(empty)) and not (tmp_path / "run/checkpoints").exists()


def test_not_a_number_stops_the_run(corpus: Path, tmp_path: Path) -> None:
    rate = {"peak": 1e30, "end": 1.0, "warmup_steps": 0}
    with pytest.raises(UserError, match=r"step \d+: the gradients are infinite or NaN"):
        train(configuration(corpus, tmp_path / "run", learning_rate=rate))


def test_batches_follow_each_other_through_epochs(corpus: Path) -> None:
    split = PackedData.load(corpus).split("train")
    rows = np.concatenate(list(split.read(np.arange(split.samples), 7)))
    order = np.concatenate([epoch_order(split.samples, 3, epoch) for epoch in range(3)])
    stream = training_batches(split, 12, 3, 0)
    for index in range(9):
        np.testing.assert_array_equal(next(stream), rows[order[index * 12 : index * 12 + 12]])
    np.testing.assert_array_equal(next(training_batches(split, 12, 3, 5)), rows[order[60:72]])
