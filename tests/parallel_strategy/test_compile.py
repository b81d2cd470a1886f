"""MindSpore's own compiler agrees: layouts, collectives, and strategy files that it wrote and that it loads."""

import json
from pathlib import Path

import pytest

from parallel_strategy.cli import main
from parallel_strategy.errors import UserError
from parallel_strategy.mindspore.dryrun import stand_in
from parallel_strategy.mindspore.dryrun.difference import differences, emulated, of_mindspore
from parallel_strategy.mindspore.dryrun.job import Compiled, compile_rank, complaint
from parallel_strategy.mindspore.layouts import parameter_layouts
from parallel_strategy.mindspore.strategy_file import parameter_named_json, parameter_strategy_protobuf
from parallel_strategy.spec.strategy import Question
from tests.parallel_strategy.test_released_strategy import messages

REASON = stand_in.why_not()
needs_compiler = pytest.mark.skipif(REASON is not None, reason=REASON or "")

MODEL = "num_layers: 2\nhidden_size: 64\nnum_heads: 8\nffn_hidden_size: 256\nseq_length: 32\nvocab_size: 512\n"
MODEL += "query_layer: true\ndropout_rate: 0.0\n"
SHARDED = "batch: {global: 4, micro: 2}\nmesh: {dp: 2, tp: 4}\nzero: {optimizer_shard: true, threshold_kb: 0}\n"
STAGED = "batch: {global: 8, micro: 2}\nmesh: {pp: 2, dp: 2, tp: 2}\nrecompute: {mode: full}\n"


def strategy_file(folder: Path, text: str) -> Path:
    (folder / "model.yaml").write_text(MODEL)
    path = folder / "strategy.yaml"
    path.write_text("model: {file: model.yaml}\n" + text)
    return path


def assert_same_layouts(question: Question, compiled: Compiled, stage: int) -> None:
    expected = {name: layout for name, layout in parameter_layouts(question).items() if stage in layout.stages}
    for name, layout in expected.items():
        found = compiled.parameters[name]
        assert (found.device_matrix, found.tensor_map) == (layout.device_matrix, layout.tensor_map), name
        assert (found.shape, found.optimizer_sharded) == (layout.shape, layout.optimizer_shard_size != 0), name


@needs_compiler
def test_hsdp_layouts_collectives_and_what_mindspore_saves(tmp_path: Path) -> None:
    path = strategy_file(tmp_path, SHARDED)
    question = Question.load(path)
    saved = tmp_path / "saved.ckpt"
    compiled = compile_rank(path, question, 5, flags=("--save-strategy", str(saved)))
    assert differences(emulated(question, 5), of_mindspore(compiled.collectives)) == []
    assert_same_layouts(question, compiled, 0)
    # the file that MindSpore writes is ours, entry by entry and bit by bit
    assert set(messages(saved.read_bytes())) == set(messages(parameter_strategy_protobuf(question, 0)))


@needs_compiler
@pytest.mark.parametrize("write", [parameter_strategy_protobuf, parameter_named_json], ids=["ckpt", "json"])
def test_what_we_write_is_loaded_in_the_place_of_our_splits(tmp_path: Path, write) -> None:
    path = strategy_file(tmp_path, SHARDED)
    question = Question.load(path)
    file = tmp_path / ("ours.json" if write is parameter_named_json else "ours.ckpt")
    file.write_bytes(write(question, 0))
    compiled = compile_rank(path, question, 0, flags=("--load-strategy", str(file)))
    assert_same_layouts(question, compiled, 0)
    assert differences(emulated(question, 0), of_mindspore(compiled.collectives)) == []


@needs_compiler
def test_a_pipeline_with_recomputation_through_the_command(tmp_path: Path, capsys) -> None:
    path = strategy_file(tmp_path, STAGED)
    assert main(["compile", str(path), "--rank", "7", "--diff", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["differences"] == [] and found["rank"] == 7
    assert found["recomputed"]["MatMul"] > 0
    operators = [one["op"] for one in found["collectives"]]
    assert operators.count("receive") == operators.count("send") == 2
    (tied,) = [one for one in found["collectives"] if one["name"] == "gradients.tied"]
    assert tied["group"] == [3, 7]


@needs_compiler
def test_the_build_is_kept(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = stand_in.build()
    monkeypatch.setattr(stand_in, "wanted_symbols", lambda mindspore: pytest.fail("built again"))
    assert stand_in.build() == folder and (folder / "cann/lib64/libascendcl.so").is_file()


@pytest.mark.parametrize(
    ("place", "replacement", "words"),
    [
        ("sys.platform", "darwin", "runs on Linux x86-64, not on darwin"),
        ("platform.machine", lambda: "aarch64", "runs on Linux x86-64"),
        ("metadata.version", lambda name: "2.9.0", "knows mindspore==2.10.0, here is 2.9.0"),
        ("shutil.which", lambda name: None, "needs g"),
    ],
)
def test_where_it_cannot_run_it_says_why(monkeypatch, place: str, replacement, words: str) -> None:
    monkeypatch.setattr(stand_in.sys, "platform", "linux")
    monkeypatch.setattr(stand_in.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(stand_in.metadata, "version", lambda name: "2.10.0")
    monkeypatch.setattr(stand_in, "installed_cann", lambda: None)
    module, name = place.split(".")
    monkeypatch.setattr(getattr(stand_in, module), name, replacement)
    assert words in (stand_in.why_not() or "")
    with pytest.raises(UserError, match="compile check"):
        stand_in.build()


def test_a_rank_that_is_not_there_is_one_line(tmp_path: Path, capsys) -> None:
    path = strategy_file(tmp_path, SHARDED)
    assert main(["compile", str(path), "--rank", "8"]) == 2
    assert capsys.readouterr().err == "error: rank 8: the strategy has ranks 0 to 7\n"


def test_the_compiler_s_complaint_is_one_line() -> None:
    text = "[ERROR] PARALLEL(1,2,python):x [a.cc:1] Check] Strategy is wrong\nTraceback\nRuntimeError: Failure: init\n"
    assert complaint(text, 1) == "RuntimeError: Failure: init; Strategy is wrong"
    assert complaint("noise\nerror: mesh.cp must be 1\n", 2) == "mesh.cp must be 1"
    assert complaint("", 139) == "the process ended with code 139"
