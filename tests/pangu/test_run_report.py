"""A run's page, the best checkpoint by its name, and what the model writes while it is trained."""

import json
import re
import shutil
from pathlib import Path

import pytest

from pangu.checkpoint.description import sealed, unsealed
from pangu.checkpoint.open import meant_checkpoint
from pangu.cli import main
from pangu.commands import report
from pangu.foundation.errors import UserError
from pangu.training.sample_texts import SAMPLES, SamplesWriter
from pangu.training.step_metrics import MetricsWriter


@pytest.fixture
def run(run_directory: Path, tmp_path: Path) -> Path:
    """A run with two checkpoints, the first of which is the better one, and hostile texts."""
    folder = tmp_path / "run <b>"
    shutil.copytree(run_directory, folder)
    first = folder / "checkpoints/step-00000003"
    for step, loss in ((3, 1.5), (6, 2.5)):
        directory = folder / f"checkpoints/step-{step:08d}"
        if directory != first:
            shutil.copytree(first, directory)
        fields = unsealed(directory / "state.json")
        fields["state"] |= {"step": step, "heldout_loss": loss, "tokens": 1000 * step}
        (directory / "state.json").write_bytes(sealed("state.json", fields))
    writer = MetricsWriter(folder, 0)
    for step in range(1, 7):
        norm = float("nan") if step == 2 else 0.5 * step
        writer.write(
            {"step": step, "loss": 4.0 - step / 3, "learning_rate": 1e-3, "global_norm": norm, "updated": True}
        )
    writer.write({"step": 3, "heldout_loss": 1.5})
    writer.write({"step": 6, "heldout_loss": 2.5})
    writer.close()
    (folder / SAMPLES).write_text(json.dumps({"step": 3, "prompt": "今天", "text": "<script>alert(1)</script>"}) + "\n")
    (folder / "train.yaml").write_text("steps: 6  # <i>\n")
    return folder


def test_the_page_stands_alone_and_says_what_there_is(run: Path, tmp_path: Path, capsys) -> None:
    assert main(["report", str(run), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page and "run &lt;b&gt;" in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    for said in (
        "2.5000; best 1.5000 at step 3",
        "step-00000006, step-00000003",
        "6,000; ",
        "FLOPs",
        "steps: 6  # &lt;i&gt;",
    ):
        assert said in page, said
    assert page.count("<svg") == 3 and "nan" not in page.lower().replace("nano", "")
    assert main(["report", str(run)]) == 0 and (run / "report.html").exists()
    assert main(["report", str(tmp_path)]) == 2
    assert "is no run" in capsys.readouterr().err


def test_a_run_that_has_just_begun_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    assert main(["report", str(tmp_path)]) == 0
    assert "nothing to draw yet" in (tmp_path / "report.html").read_text()


def test_best_is_a_name(run: Path, tmp_path: Path, capsys) -> None:
    assert meant_checkpoint(run / "best").name == "step-00000003"
    assert meant_checkpoint(run).name == "step-00000006"
    words = ["convert", str(run), "--to", "safetensors", "--json", "--out"]
    for more, name in (([], "step-00000006"), (["--best"], "step-00000003")):
        assert main([*words, str(tmp_path / f"{name}.safetensors"), *more]) == 0
        assert json.loads(capsys.readouterr().out)["input"].endswith(name)
    assert main(["generate", str(run), "--best", "--prompt", "今", "--max-new-tokens", "2", "--seed", "1"]) == 0
    for directory in (run / "checkpoints").iterdir():
        (directory / "state.json").write_text("{}")
    with pytest.raises(UserError, match="there is no best one"):
        meant_checkpoint(run / "best")


def test_samples_are_those_of_the_weights_and_forget_what_came_after(run: Path, monkeypatch, capsys) -> None:
    from pangu.training import sample_texts as module

    class Trainer:
        class config:
            sample_prompts = ("今天", "北京")
            sample_tokens = 5

        class state:
            step = 4

    monkeypatch.setattr(module, "continuations", lambda trainer, prompts, tokens: [f"{p}{tokens}" for p in prompts])
    writer = SamplesWriter(run, 3)
    writer.write(Trainer)  # type: ignore[arg-type]
    writer.close()
    rows = [json.loads(line) for line in (run / SAMPLES).read_text().splitlines()]
    assert [(row["step"], row["text"][:3]) for row in rows] == [(3, "<sc"), (4, "今天5"), (4, "北京5")]
    SamplesWriter(run, 3).close()
    assert len((run / SAMPLES).read_text().splitlines()) == 1

    def fail(*_: object) -> list[str]:
        raise RuntimeError("no room")

    monkeypatch.setattr(module, "continuations", fail)
    capsys.readouterr()
    writer = SamplesWriter(run, 3)
    writer.write(Trainer)  # type: ignore[arg-type]
    writer.write(Trainer)  # type: ignore[arg-type]
    assert capsys.readouterr().err == "warning: samples: no room; training goes on\n"


def test_what_a_run_writes_while_it_is_trained_changes_no_bit(run_directory: Path, tmp_path: Path) -> None:
    """By the real trainer, with a tokenizer that fits the network."""
    from pangu.tokenizer import Tokenizer
    from pangu.training.run import train
    from tests.pangu import packed_corpus
    from tests.pangu.small_run import configuration

    size = Tokenizer.load(run_directory / "tokenizer").vocab_size
    corpus = packed_corpus.write(tmp_path / "packed", vocab_size=size)
    shutil.copytree(run_directory / "tokenizer", corpus / "tokenizer")
    fields = {"steps": 4, "evaluate_every": 2, "checkpoint_every": 4, "fit_vocabulary": True}
    train(configuration(corpus, tmp_path / "plain", **fields))
    asked = {"sample_prompts": ["今天", "北京是"], "sample_tokens": 5}
    train(configuration(corpus, tmp_path / "told", **fields, **asked))
    for name in ("metrics.jsonl", "checkpoints/step-00000004/model.safetensors"):
        assert (tmp_path / "told" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    rows = [json.loads(line) for line in (tmp_path / "told" / SAMPLES).read_text().splitlines()]
    assert [(row["step"], row["prompt"]) for row in rows] == [(s, p) for s in (2, 4) for p in ("今天", "北京是")]


def test_figures_of_an_axis_have_room_and_their_digits() -> None:
    assert [report.number_of(value) for value in (4580.0, 0.0001, 5.49, 2e9)] == ["4,580", "0.0001", "5.49", "2e+09"]
    drawn = report.chart([("tokens/s", [(1, 1.0), (2, 4580.0)])])
    widest = max(len(text) for text in re.findall(r'text-anchor="end">([^<]*)<', drawn))
    assert widest * 7 < report.LEFT and drawn.startswith('<div class="scroll">')
