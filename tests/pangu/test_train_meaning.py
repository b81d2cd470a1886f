"""What a run goes on with, and begins with, is compared by contents and fingerprints, never by spelling."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pangu.checkpoint.open import WEIGHTS, newest_checkpoint, step_directories
from pangu.cli import main
from pangu.config import AttentionConfig, ModelConfig, TrainConfig
from pangu.foundation.errors import UserError
from pangu.training.data import PackedData
from pangu.training.run import check_start, load_model, train
from pangu.training.run_directory import check_same_run
from tests.pangu import packed_corpus
from tests.pangu.small_run import configuration


@pytest.fixture(scope="module")
def begun(corpus: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("begun") / "run"
    train(configuration(corpus, out, steps=2))
    return out


def goes_on(run: Path, config: TrainConfig, data: PackedData) -> None:
    """What `train` looks at before it goes on."""
    from pangu.training.run import model_of
    from pangu.training.run_directory import with_schedule_of

    saved = newest_checkpoint(run)
    assert saved is not None
    config = with_schedule_of(run, saved, config)
    check_same_run(run, saved, config, model_of(config, data), data)


@pytest.mark.parametrize("spelling", ["absolute", "relative", "link", "copy", "the run's own", "gone"])
def test_the_same_model_by_any_path_goes_on(
    corpus: Path, begun: Path, tmp_path: Path, monkeypatch, capsys, spelling: str
) -> None:
    model = corpus.parent / "model.yaml"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.yaml").symlink_to(model)
    (tmp_path / "copy.yaml").write_text("# a comment\n" + model.read_text())
    paths = {"absolute": model, "link": tmp_path / "link.yaml", "copy": tmp_path / "copy.yaml"}
    paths |= {"relative": Path("copy.yaml"), "the run's own": begun / "model.yaml", "gone": tmp_path / "gone.yaml"}
    config = configuration(corpus, begun).model_copy(update={"model": str(paths[spelling])})
    goes_on(begun, config, PackedData.load(corpus))
    assert ("going on with the run's own" in capsys.readouterr().err) == (spelling == "gone")


def test_the_name_of_a_size_is_its_contents(tmp_path: Path) -> None:
    config = TrainConfig(data="d", out=str(tmp_path), model="tiny")
    (tmp_path / "mine.yaml").write_text(load_model(config).dump())
    assert load_model(config.model_copy(update={"model": str(tmp_path / "mine.yaml")})) == load_model(config)


def test_what_means_something_else_is_refused_by_its_name(corpus: Path, begun: Path) -> None:
    data = PackedData.load(corpus)
    for changes, name in (
        ({"fit_vocabulary": True}, None),  # it is the same vocabulary
        ({"precision": "fp32"}, None),  # the model's own
        ({"loss_scale": {"initial": 4.0}}, None),  # of no matter without fp16
        ({"start_from": "/nowhere"}, None),  # of no matter once a checkpoint is there
        ({"precision": "fp16"}, "model.compute_dtype = 'fp32', now it is 'fp16'"),
        ({"seed": 5}, "seed = 1, now it is 5"),
    ):
        config = TrainConfig.from_fields(configuration(corpus, begun).model_dump() | changes, "test")
        if name is None:
            goes_on(begun, config, data)
        else:
            with pytest.raises(UserError, match=name):
                goes_on(begun, config, data)
    other = corpus.parent / "other.yaml"
    other.write_text(packed_corpus.MODEL.replace("num_heads: 2", "num_heads: 4"))
    with pytest.raises(UserError, match=r"model\.num_heads = 2, now it is 4"):
        goes_on(begun, configuration(corpus, begun).model_copy(update={"model": str(other)}), data)


def test_a_run_that_was_moved_does_not_begin_anew_where_it_once_was(
    corpus: Path, begun: Path, tmp_path: Path, capsys
) -> None:
    shutil.copytree(begun, tmp_path / "moved")
    assert main(["train", str(tmp_path / "moved/train.yaml")]) == 2
    assert f"add --out {tmp_path / 'moved'} to go on with it" in capsys.readouterr().err
    (tmp_path / "link").symlink_to(tmp_path / "moved")
    config = configuration(corpus, tmp_path / "link", steps=3)
    assert train(config).step == 3
    assert newest_checkpoint(tmp_path / "moved").state.step == 3


def of(path: Path) -> ModelConfig:
    return ModelConfig.load(path / "model.yaml")


def test_weights_of_another_tokenizer_are_refused(corpus: Path, begun: Path, tmp_path: Path, capsys) -> None:
    """Of the same size, with other ids: where the weights lie, and what form they have, changes nothing."""
    other = PackedData.load(packed_corpus.write(tmp_path / "packed", samples=12, tokenizer="1" * 64))
    assert main(["convert", str(begun), "--to", "mindspore", "--out", str(tmp_path / "w.ckpt")]) == 0
    assert main(["convert", str(tmp_path / "w.ckpt"), "--to", "pytorch", "--out", str(tmp_path / "p.safetensors")]) == 0
    shutil.copy(step_directories(begun)[0] / WEIGHTS, tmp_path / "w.safetensors")
    starts = [begun, *step_directories(begun)]
    starts += [tmp_path / "w.ckpt", tmp_path / "w.safetensors", tmp_path / "p.safetensors"]
    for start in starts:
        check_start(start, of(begun), PackedData.load(corpus))
        with pytest.raises(UserError, match=r"fingerprint 000000000000\).*pack it with `tokenizer: use:"):
            check_start(start, of(begun), other)
    capsys.readouterr()
    save_file(load_file(tmp_path / "w.safetensors"), tmp_path / "silent.safetensors")
    check_start(tmp_path / "silent.safetensors", of(begun), other)
    assert "silent.safetensors: does not say its tokenizer" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change", [{"final_norm": "after_query"}, {"activation": "fast_gelu"}, {"num_heads": 4}], ids=str
)
def test_weights_of_another_network_are_refused(corpus: Path, begun: Path, change: dict) -> None:
    (name,) = change
    with pytest.raises(UserError, match=f"its network has {name} "):
        check_start(begun, of(begun).model_copy(update=change), PackedData.load(corpus))


def test_objectives_that_no_row_has_are_of_no_matter(corpus: Path, begun: Path) -> None:
    data = PackedData.load(corpus)
    for objectives in ({"permuted": {"ramp_steps": 5}}, {"mask_id": 8}, {"prefix": {"infilling": 0.5}}):
        goes_on(begun, configuration(corpus, begun, steps=2, objectives=objectives), data)
    with pytest.raises(UserError, match="objectives"):
        goes_on(begun, configuration(corpus, begun, steps=2, objectives={"permuted": {"share": 0.1}}), data)


def test_a_schedule_that_begins_later_is_for_a_run_that_goes_on(corpus: Path, tmp_path: Path) -> None:
    rate = {"peak": 1e-3, "begin_step": 3}
    with pytest.raises(UserError, match=r"^field 'learning_rate.begin_step' = 3: .*begins with update 1: leave it out"):
        train(configuration(corpus, tmp_path / "run", steps=6, learning_rate=rate))


@pytest.mark.parametrize("name", ["adapter_config.json", "tuning.json"])
def test_an_adapter_is_no_start(corpus: Path, begun: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=r"is an adapter: `python -m pangu merge`"):
        check_start(tmp_path, of(begun), PackedData.load(corpus))


def test_another_pattern_of_attention_is_said(corpus: Path, begun: Path, capsys) -> None:
    other = of(begun).model_copy(update={"attention": AttentionConfig(pattern="sliding_window", span=4)})
    check_start(begun, other, PackedData.load(corpus))
    assert "was trained with attention.pattern full, this run's model has sliding_window" in capsys.readouterr().err


def test_weights_that_are_no_numbers_are_named(corpus: Path, begun: Path, tmp_path: Path) -> None:
    weights = load_file(step_directories(begun)[0] / WEIGHTS)
    name = "backbone.blocks.0.output.mapping.bias"
    weights[name][3], weights["backbone.layernorm.beta"][0] = np.nan, np.inf
    save_file(weights, tmp_path / "w.safetensors")
    config = configuration(corpus, tmp_path / "run", steps=2, start_from=str(tmp_path / "w.safetensors"))
    with pytest.raises(UserError, match=rf"w\.safetensors: {name} holds 1 numbers that are NaN.*and 1 more"):
        train(config)
