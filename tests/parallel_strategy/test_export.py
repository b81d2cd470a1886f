"""What a strategy is exported to: formats as MindSpore, HCCL, MindFormers and Megatron have them, read back."""

import json
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from pangu.foundation.errors import UserError
from parallel_strategy.cli import main
from parallel_strategy.export import group_files, megatron, mindformers
from parallel_strategy.export.files import export
from parallel_strategy.placement import group_ranks
from tests.conftest import REPOSITORY
from tests.pangu.convert_files import node_strategy_pb2
from tests.parallel_strategy.exported import SMALL, setup_of


def write(folder: Path, **changes: object) -> Path:
    path = folder / "strategy.yaml"
    path.write_text(yaml.safe_dump(SMALL | changes))
    return path


def test_everything_is_written_and_named(tmp_path: Path, capsys) -> None:
    assert main(["export", str(write(tmp_path)), "--out", str(tmp_path / "out"), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == set(listed["files"])
    expected = {"msrun.sh", "rank_table.json", "mindformers.yaml", "megatron.txt", "groups/rank_7.pb"}
    expected |= {f"{kind}_{s}.{e}" for s in (0, 1) for kind, e in (("parameters/strategy", "ckpt"),)}
    assert expected <= found
    assert any("--skeleton" in note for note in listed["notes"])


def test_rank_table_has_the_mesh_order_and_the_given_addresses(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts.txt"
    lines = [f"10.0.{s}.1 " + " ".join(f"10.1.{s}.{d}" for d in range(8)) for s in range(2)]
    hosts.write_text("# address, then its devices\n" + "\n".join(lines) + "\n")
    asked = setup_of(
        cluster={"preset": "cloudbrain2-2048"}, mesh={"pp": 2, "dp": 2, "tp": 4}, batch={"global": 16, "micro": 1}
    )
    exported = export(asked, "s.yaml", hosts, None)
    table = json.loads(exported.files["rank_table.json"])
    assert table["version"] == "1.0" and table["server_count"] == "2" and table["status"] == "completed"
    devices = [device for server in table["server_list"] for device in server["device"]]
    assert [device["rank_id"] for device in devices] == [str(rank) for rank in range(16)]
    assert devices[9]["device_ip"] == "10.1.1.1" and devices[9]["device_id"] == "1"
    # The tensor-parallel group of every rank lies in one server.
    server = {int(d["rank_id"]): s["server_id"] for s in table["server_list"] for d in s["device"]}
    for rank in range(16):
        assert len({server[other] for other in group_ranks(asked.strategy.mesh, "tp", rank)}) == 1
    assert b'"--rank_table_file=$HERE/rank_table.json"' in exported.files["msrun.sh"]
    for text, complaint in (
        ("10.0.0.1 10.1.0.1\n", "line 1: has 1 device addresses"),
        ("name " + "10.1.0.1 " * 8, "'name' is not an IP address"),
        (lines[0] + "\n" + lines[0], "line 2: 10.0.0.1 is there twice"),
        (lines[0], "--hosts names 1 servers, the strategy needs 2"),
    ):
        hosts.write_text(text)
        with pytest.raises(UserError, match=complaint):
            export(asked, "s.yaml", hosts, None)


def test_msrun_takes_the_command_and_the_shell_the_script(tmp_path: Path) -> None:
    script = tmp_path / "msrun.sh"
    script.write_bytes(export(setup_of(), "strategy.yaml", None, None).files["msrun.sh"])
    subprocess.run(["bash", "-n", str(script)], check=True)
    recorder = tmp_path / "bin/msrun"
    recorder.parent.mkdir()
    recorder.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\necho "timeout=$HCCL_CONNECT_TIMEOUT"\n')
    recorder.chmod(0o755)
    environment = {"PATH": f"{recorder.parent}:/usr/bin:/bin", "MASTER": "10.0.0.1"}
    told = subprocess.run(
        ["bash", str(script), "train.yaml"], env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert told[:3] == ["--worker_num=8", "--local_worker_num=8", "--master_addr=10.0.0.1"]
    assert told[-7:] == ["-m", "pangu", "train", "train.yaml", "--strategy", "strategy.yaml", "timeout=3600"]


def test_group_files_are_mindspores(tmp_path: Path) -> None:
    from mindspore import restore_group_info_list

    asked = setup_of(mesh={"pp": 2, "dp": 4, "tp": 1}, zero={"optimizer_shard": True, "weight_shard_size": 2})
    for rank in range(8):
        message = node_strategy_pb2.ParallelGroupMap()
        message.ParseFromString(group_files.group_file(asked, rank))
        found = {item.group_name: list(item.parallel_group_ranks.dim) for item in message.parallel_group_item}
        assert {name.split("-")[0] for name in found} == {"pp", "dp"}
        assert all(rank in ranks for ranks in found.values())
        first = rank % 2 + rank // 4 * 4
        assert list(message.ckpt_restore_rank_list.dim) == [first, first + 2]
        (tmp_path / "group.pb").write_bytes(group_files.group_file(asked, rank))
        assert restore_group_info_list(str(tmp_path / "group.pb")) == [first, first + 2]
    assert group_files.same_checkpoint(setup_of(), 3) == [3]
    assert group_files.same_checkpoint(setup_of(zero={"optimizer_shard": False}), 3) == [1, 3]


def test_parameter_strategies_are_read_back_by_mindspores_protobuf(tmp_path: Path) -> None:
    exported = export(setup_of(), "s.yaml", None, None)
    names = []
    for stage in (0, 1):
        message = node_strategy_pb2.ParallelStrategyMap()
        message.ParseFromString(exported.files[f"parameters/strategy_{stage}.ckpt"])
        layouts = {item.param_name: item.parallel_layouts for item in message.parallel_layout_item}
        assert all(list(layout.dev_matrix[0].dim) == [2, 2] for layout in layouts.values())
        names += [name for name in layouts if not name.startswith("adam_")]
        operators = json.loads(exported.files[f"operators/by_parameter_{stage}.json"])["parallel_strategy_item"]
        assert operators and all(item["stage"] == stage for item in operators.values())
    assert len(set(names)) == 16 * 32 + 5
    # The word table is also the output matrix: both ends of the pipeline hold it.
    assert names.count("backbone.word_embedding.embedding_table") == 2


def test_mindformers_yaml_says_what_the_strategy_says() -> None:
    asked = setup_of(
        pipeline={"schedule": "1f1b", "stages": [15, 17]},
        recompute={"mode": "full", "per_stage": [3, 9]},
        tensor={"vocab": "whole"},
    )
    said = yaml.safe_load(mindformers.text(asked))
    assert (
        said["parallel_config"] | {"data_parallel": 2, "model_parallel": 2, "pipeline_stage": 2}
        == said["parallel_config"]
    )
    assert said["parallel_config"]["micro_batch_num"] == 8 and said["parallel_config"]["vocab_emb_dp"] is True
    assert said["model"]["model_config"]["offset"] == [-1, 1]
    assert said["recompute_config"]["recompute"] == [3, 9] and said["recompute_config"]["select_recompute"] is False
    assert said["parallel"]["enable_parallel_optimizer"] is True
    accumulating = setup_of(mesh={"pp": 1, "dp": 4, "tp": 2}, batch={"global": 16, "micro": 2})
    runner = yaml.safe_load(mindformers.text(accumulating))["runner_config"]
    assert runner == {"batch_size": 2, "gradient_accumulation_steps": 2}


def test_megatron_line_says_what_the_strategy_says() -> None:
    words = megatron.arguments(setup_of(tensor={"sequence_parallel": True}))
    values = dict(pairwise(words))
    assert values["--tensor-model-parallel-size"] == "2" and values["--pipeline-model-parallel-size"] == "2"
    assert values["--global-batch-size"] == "16" and values["--num-layers"] == "32"
    assert {"--sequence-parallel", "--use-distributed-optimizer", "--fp16"} <= set(words)
    uneven = setup_of(mesh={"pp": 4, "dp": 1, "tp": 2}, pipeline={"stages": [7, 9, 9, 7]})
    words = megatron.arguments(uneven)
    assert words[words.index("--decoder-first-pipeline-num-layers") + 1] == "7"
    assert any("query layer" in line for line in megatron.text(uneven).splitlines() if line.startswith("#"))
    sharded = megatron.arguments(setup_of(zero={"optimizer_shard": True, "level": 3}))
    assert sharded[sharded.index("--data-parallel-sharding-strategy") + 1] == "optim_grads_params"


def test_starts_without_mindspore_in_a_second(tmp_path: Path) -> None:
    program = (
        "import sys; from parallel_strategy.cli import main\n"
        "code = main(['export', *sys.argv[1:]])\n"
        "assert not {'mindspore', 'scipy', 'plotly'} & set(sys.modules), 'heavy'\n"
        "sys.exit(code)"
    )
    words = [sys.executable, "-c", program, str(write(tmp_path)), "--show", "megatron.txt"]
    start = time.perf_counter()
    subprocess.run(words, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    assert time.perf_counter() - start < 10  # a second on a quiet machine


def test_what_is_wrong_is_one_line(tmp_path: Path, capsys) -> None:
    assert main(["export", str(write(tmp_path)), "--show", "nothing"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    wrong = write(tmp_path, mesh={"pp": 3, "dp": 1, "tp": 3}, batch={"global": 16})
    assert main(["export", str(wrong), "--out", str(tmp_path / "out")]) == 2
    assert "field 'mesh.tp': 3 must divide" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_network_that_is_no_pangu_alpha_has_no_files_of_pangu_alpha_s_parameters() -> None:
    exported = export(setup_of(model={"preset": "llama2-7b", "dtype": "fp16"}), "s.yaml", None, None)
    assert not [name for name in exported.files if name.startswith(("parameters/", "operators/"))]
    assert any("no files for MindSpore" in note and "position 'rotary'" in note for note in exported.notes)
