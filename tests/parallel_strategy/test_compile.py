"""MindSpore's own compiler agrees: layouts, collectives, and strategy files that it wrote and that it loads."""

import json
import os
import re
import sys
from pathlib import Path

import pytest

from pangu.foundation.errors import UserError
from parallel_strategy.cli import main
from parallel_strategy.export.group_files import group_file
from parallel_strategy.mindspore.dryrun import environment, job, stand_in
from parallel_strategy.mindspore.dryrun.difference import differences, emulated, of_mindspore
from parallel_strategy.mindspore.dryrun.job import CompiledRank, compile_rank, complaint
from parallel_strategy.mindspore.layouts import parameter_layouts
from parallel_strategy.mindspore.strategy_file import (
    operator_strategy_json,
    parameter_named_json,
    parameter_strategy_protobuf,
)
from parallel_strategy.spec.model import ModelSpec
from parallel_strategy.spec.strategy import Setup, StrategySpec
from tests.parallel_strategy.test_released_strategy import messages

REASON = stand_in.why_not()
needs_compiler = pytest.mark.skipif(REASON is not None, reason=REASON or "")

MODEL = "num_layers: 2\nhidden_size: 64\nnum_heads: 8\nffn_hidden_size: 256\nseq_length: 32\nvocab_size: 512\n"
MODEL += "query_layer: true\ndropout_rate: 0.0\n"
MESH = "batch: {global: 4, micro: 2}\nmesh: {dp: 2, tp: 4}\n"
SHARDED = MESH + "zero: {optimizer_shard: true, threshold_kb: 0}\n"
FUSED = MESH + "zero: {optimizer_shard: true, threshold_kb: 0, bucket_mb: 12.3}\n"
SEQUENCE = "batch: {global: 8, micro: 1}\nmesh: {pp: 2, dp: 2, tp: 2}\ntensor: {sequence_parallel: true}\n"
SEQUENCE += "zero: {optimizer_shard: true, level: 3, threshold_kb: 0}\nrecompute: {mode: full}\n"
EXPERTS = "batch: {global: 8, micro: 2}\nmesh: {dp: 4, ep: 2, tp: 2}\nzero: {optimizer_shard: true, threshold_kb: 0}\n"
STAGED_EXPERTS = "batch: {global: 8, micro: 2}\nmesh: {pp: 2, dp: 2, ep: 2, tp: 2}\nrecompute: {mode: full}\n"
STAGED = "batch: {global: 8, micro: 2}\nmesh: {pp: 2, dp: 2, tp: 2}\nrecompute: {mode: full}\n"


def strategy_file(folder: Path, text: str) -> Path:
    (folder / "model.yaml").write_text(MODEL)
    path = folder / "strategy.yaml"
    path.write_text("model: {file: model.yaml}\n" + text)
    return path


def assert_same_layouts(setup: Setup, compiled: CompiledRank, stage: int) -> None:
    expected = {name: layout for name, layout in parameter_layouts(setup).items() if stage in layout.stages}
    for name, layout in expected.items():
        found = compiled.parameters[name]
        assert (found.device_matrix, found.tensor_map) == (layout.device_matrix, layout.tensor_map), name
        assert (found.shape, found.optimizer_sharded) == (layout.shape, layout.optimizer_shard_size != 0), name


@needs_compiler
def test_hsdp_layouts_collectives_and_what_mindspore_saves(tmp_path: Path) -> None:
    from mindspore import restore_group_info_list

    path = strategy_file(tmp_path, FUSED)
    setup = Setup.load(path)
    saved, group = tmp_path / "saved.ckpt", tmp_path / "group.pb"
    flags = ("--save-strategy", str(saved), "--save-groups", str(group))
    compiled = compile_rank(path, setup, 5, flags=flags, keep=tmp_path)
    assert differences(emulated(setup, 5), of_mindspore(compiled.collectives)) == []
    assert_same_layouts(setup, compiled, 0)
    # the file that MindSpore writes is ours, entry by entry and bit by bit
    assert set(messages(saved.read_bytes())) == set(messages(parameter_strategy_protobuf(setup, 0)))
    # what it reads of our group file is what it reads of its own: who holds the same parameters
    (tmp_path / "ours.pb").write_bytes(group_file(setup, 5))
    assert restore_group_info_list(str(tmp_path / "ours.pb")) == restore_group_info_list(str(group)) == [5]
    # all 8 devices start backward at the loss, and their gradients are added up
    assert re.search(r"RealDiv\(%para\d+_args1, Tensor\(.*value=8\)\)", (tmp_path / "rank-5.ir").read_text())
    # zero.bucket_mb, in whole megabytes
    assert compiled.fusion_mb == {"allreduce": 12, "allgather": 12, "reducescatter": 12}


OVERRIDDEN = """batch: {global: 16, micro: 8}
mesh: {dp: 2, tp: 4}
zero: {optimizer_shard: true, threshold_kb: 0}
overrides:
  - {operator: attention.query, strategy: [[8, 1], [1, 1]]}
  - {operator: "*blocks*.attention.dense2.affine.matmul", strategy: [[2, 2], [2, 2]]}
  - {operator: "*query_layer.attention.dense2.affine.matmul", strategy: [[4, 1], [2, 1]]}
  - {operator: attention.value, strategy: [[1, 1], [1, 4]]}
  - {operator: "*.attention.dense3.affine.bias_add", strategy: [[1, 4], [4]]}
  - {operator: attention.output, strategy: [[2, 2], [2, 1]]}
  - {operator: "*.attention.projection.affine.bias_add", strategy: [[4, 2], [2]]}
  - {operator: "*layernorm1.normalisation.layer_norm", strategy: [[4, 1, 1], [1], [1]]}
  - {operator: feed_forward.norm, strategy: [[1, 1], [1], [1]]}
  - {operator: feed_forward.up, strategy: [[2, 2], [2, 1]]}
  - {operator: feed_forward.down, strategy: [[1, 4], [4, 2]]}
  - {operator: "*attention_add", strategy: [[8, 1, 1], [8, 1, 1]]}
  - {operator: "*attention.softmax", strategy: [[8, 1, 1, 1]]}
  - {operator: "*output.activation.kernel", strategy: [[8, 1, 1]]}
  - {operator: backbone.word_embedding.gather, strategy: [[8, 1], [1, 1]]}
  - {operator: head, strategy: [[1, 1], [8, 1]]}
  - {operator: backbone.position_embedding.gather, strategy: [[2, 1], [1, 1]]}
  - {operator: backbone.top_query_embedding.gather, strategy: [[1, 2], [1, 2]]}
"""


@needs_compiler
def test_weights_lie_as_the_overridden_operators_that_read_them(tmp_path: Path) -> None:
    path = strategy_file(tmp_path, OVERRIDDEN)
    setup, saved = Setup.load(path), tmp_path / "saved.ckpt"
    compiled = compile_rank(path, setup, 5, flags=("--save-strategy", str(saved)))
    assert_same_layouts(setup, compiled, 0)
    query = "backbone.blocks.0.attention.dense1.weight"
    assert compiled.parameters[query].local_shape == (64, 64) and compiled.parameters[query].device_matrix == (8,)
    assert set(messages(saved.read_bytes())) == set(messages(parameter_strategy_protobuf(setup, 0)))


@needs_compiler
@pytest.mark.parametrize("write", [parameter_strategy_protobuf, parameter_named_json], ids=["ckpt", "json"])
def test_what_we_write_is_loaded_in_the_place_of_our_splits(tmp_path: Path, write) -> None:
    path = strategy_file(tmp_path, SHARDED)
    setup = Setup.load(path)
    file = tmp_path / ("ours.json" if write is parameter_named_json else "ours.ckpt")
    file.write_bytes(write(setup, 0))
    compiled = compile_rank(path, setup, 0, load=file)
    assert_same_layouts(setup, compiled, 0)
    assert differences(emulated(setup, 0), of_mindspore(compiled.collectives)) == []


@needs_compiler
def test_operator_strategies_are_filled_in_and_loaded_into_the_serial_network(tmp_path: Path, capsys) -> None:
    path = strategy_file(tmp_path, SHARDED)
    setup, out = Setup.load(path), tmp_path / "out"
    skeleton, file = tmp_path / "names" / "skeleton.json", out / "operator_strategy.json"
    assert main(["compile", str(path), "--skeleton", str(skeleton)]) == 0
    assert main(["export", str(path), "--out", str(out), "--skeleton", str(skeleton)]) == 0
    operators = json.loads(file.read_bytes())["parallel_strategy_item"]
    projection = [name for name in operators if "0-Block/attention-Attention/projection-Linear/affine" in name]
    assert [operators[name]["parallel_strategy"] for name in sorted(projection)] == [[[2, 1], [1]], [[2, 4], [4, 1]]]
    assert main(["compile", str(path), "--load", str(file), "--diff"]) == 0
    # nothing but the file splits this network: with the strategy of another mesh in it, the layouts are that mesh's
    (tmp_path / "other").mkdir()
    other = Setup.load(strategy_file(tmp_path / "other", "batch: {global: 8, micro: 2}\nmesh: {dp: 4, tp: 2}\n"))
    file.write_bytes(operator_strategy_json(skeleton.read_bytes(), other))
    compiled = compile_rank(path, setup, 0, load=file)
    assert compiled.parameters["backbone.blocks.0.output.mapping.weight"].local_shape[1] == 256 // 2


@needs_compiler
def test_sequence_parallelism_and_sharded_weights(tmp_path: Path) -> None:
    path = strategy_file(tmp_path, SEQUENCE)
    setup = Setup.load(path)
    compiled = compile_rank(path, setup, 4)
    assert differences(emulated(setup, 4), of_mindspore(compiled.collectives)) == []
    kinds = {(one.op, one.phase) for one in compiled.collectives}
    assert {("reduce_scatter", "forward"), ("all_gather", "recompute"), ("all_gather", "step")} <= kinds


@needs_compiler
def test_experts_over_ranks_beside_tensor_parallelism_and_sharded_weights(tmp_path: Path) -> None:
    path = strategy_file(tmp_path, EXPERTS)
    (tmp_path / "model.yaml").write_text(MODEL + "experts: {count: 4, routing: switch}\n")
    setup = Setup.load(path)
    compiled = compile_rank(path, setup, 0)
    assert differences(emulated(setup, 0), of_mindspore(compiled.collectives)) == []
    assert_same_layouts(setup, compiled, 0)


@needs_compiler
def test_experts_on_a_pipeline_learn_from_their_penalties_by_the_right_share(tmp_path: Path) -> None:
    path = strategy_file(tmp_path, STAGED_EXPERTS)
    (tmp_path / "model.yaml").write_text(
        MODEL.replace("layers: 2", "layers: 4") + "experts: {count: 4, routing: switch}\n"
    )
    setup = Setup.load(path)
    compiled = compile_rank(path, setup, 4, keep=tmp_path)
    assert differences(emulated(setup, 4), of_mindspore(compiled.collectives)) == []
    assert compiled.parameters["backbone.blocks.2.output.experts.mapping.weight"].local_shape == (2, 64, 128)
    graph = (tmp_path / "rank-4.ir").read_text()
    # Backward sums over dp 2 begin at the loss, on each of the 4 devices of a stage; the penalties' behind them.
    assert re.search(r"value=0\.25\)\).*FLASH_LOSS_NODE", graph)
    assert re.search(r"value=0\.5\)\) \{instance name: share_rows", graph)
    assert "router-Router/Grad_Square" in graph  # of the z-loss


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
    assert complaint("noise\n", -9) == "the process was ended by signal 9, as it is where memory is short"


def test_where_it_cannot_run_the_command_says_so_in_one_line(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(stand_in.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(stand_in, "installed_cann", lambda: None)
    assert main(["compile", str(strategy_file(tmp_path, SHARDED))]) == 2
    error = capsys.readouterr().err
    assert (
        error.startswith("error: the compile check runs on Linux x86-64, not on linux aarch64")
        and len(error.splitlines()) == 1
    )


def test_an_installed_cann_is_used_as_it_is(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "lib64").mkdir()
    (tmp_path / "lib64" / "libascendcl.so").touch()
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path))
    monkeypatch.setenv("LD_LIBRARY_PATH", "/somewhere")
    monkeypatch.setattr(environment, "build", lambda: pytest.fail("built a stand-in"))
    variables = environment.environment(3, 8, tmp_path / "graphs")
    assert variables["LD_LIBRARY_PATH"] == "/somewhere"
    assert (variables["RANK_ID"], variables["RANK_SIZE"], variables["MS_SIMULATION_LEVEL"]) == ("3", "8", "0")


@pytest.mark.parametrize(
    ("content", "name", "complaint"),
    [
        (None, "none.json", "cannot be read"),
        ('{"operators": {}}', "skeleton.json", "is no strategy file of MindSpore's"),
        ("model: {}", "strategy.yaml.copy", "neither protobuf nor JSON"),
        ("\x08\x01", "strategy_1.ckpt", "is of pipeline stage 1, this rank is on stage 0"),
        ('{"current_stage": 3, "parallel_strategy_item": {}}', "s.json", "is of pipeline stage 3"),
        ('{"parallel_strategy_item": {"Default/x": {}}}', "strategy.txt", "under a name that ends in .json"),
    ],
)
def test_a_file_that_mindspore_does_not_load(tmp_path: Path, capsys, content, name: str, complaint: str) -> None:
    path = strategy_file(tmp_path, SHARDED)
    if content is not None:
        (tmp_path / name).write_text(content)
    assert main(["compile", str(path), "--load", str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert complaint in error and len(error.splitlines()) == 1


def test_what_an_operator_strategy_file_cannot_hold(tmp_path: Path, capsys) -> None:
    for text, words in ((STAGED, "compiles no pipeline"), (SEQUENCE.replace("pp: 2, ", ""), "what they give")):
        path = strategy_file(tmp_path, text)
        assert main(["compile", str(path), "--skeleton", str(tmp_path / "skeleton.json")]) == 2
        assert words in capsys.readouterr().err
    setup = Setup.load(strategy_file(tmp_path, SHARDED))
    with pytest.raises(UserError, match="is none that"):
        operator_strategy_json(b"[]", setup)
    with pytest.raises(UserError, match="has 0 blocks, the model 2 layers"):
        operator_strategy_json(b'{"version": 2, "operators": {}}', setup)


@needs_compiler
def test_a_step_that_does_not_compile_leaves_nothing_behind(tmp_path: Path, monkeypatch) -> None:
    path = strategy_file(tmp_path, MESH)
    here, scratch = tmp_path / "here", tmp_path / "scratch"
    here.mkdir()
    scratch.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"parallel_strategy_item": {"Default/_VirtualDataset-op0": {"parallel_strategy": []}}}')
    with pytest.raises(UserError, match="rank 0 does not compile: "):
        compile_rank(path, Setup.load(path), 0, load=wrong)
    assert list(here.iterdir()) == [] and list(scratch.iterdir()) == []


def test_a_build_that_was_killed_is_built_again(tmp_path: Path, monkeypatch) -> None:
    left = tmp_path / "parallel_strategy" / ".building-abc"
    left.mkdir(parents=True)
    os.utime(left, (1, 1))
    young = left.with_name(".building-def")
    young.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(stand_in, "why_not", lambda: None)
    monkeypatch.setattr(stand_in, "wanted_symbols", lambda mindspore: set())
    monkeypatch.setattr(stand_in, "_compile", lambda names, folder: (folder / "cann").mkdir())
    folder = stand_in.build()
    assert [path.name for path in folder.iterdir()] == ["cann"]
    # what nobody works on any more is gone, what another process builds is not
    assert not left.exists() and young.exists()


def test_a_compilation_tells_how_long_it_has_taken_and_about_how_long_it_will(tmp_path: Path) -> None:
    """Seen on quiet cores: 35 s for 64 layers of 1,024 on 16 stages with 32 micro-batches, 41 s at a width of 8,192."""
    told: list[float] = []
    slow = [sys.executable, "-c", "import time; time.sleep(1.2); print('done')"]
    assert job._run(slow, {}, tmp_path, told.append).stdout == "done\n"
    assert told and 1.0 <= told[0] < 60
    for width, seconds in ((1024, 35.0), (8192, 41.0)):
        sizes = {"hidden_size": width, "ffn_hidden_size": 4 * width, "num_heads": 16, "vocab_size": 1000}
        model = ModelSpec(num_layers=64, seq_length=1024, **sizes)
        strategy = StrategySpec.from_fields(
            {"batch": {"global": 512}, "mesh": {"pp": 16, "dp": 16, "tp": 8}}, "expected"
        )
        setup = Setup.model_construct(model=model, strategy=strategy)
        assert job.expected_seconds(setup, 0) == pytest.approx(seconds, rel=0.15)
