"""Training on several processes: what each computes and holds, what is looked at before a start, and how starts end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from pangu.cli import main
from pangu.config import TrainConfig, load_size
from pangu.distributed.launch import Launch, Nodes, plan_launch
from pangu.distributed.strategy import applied, load_strategy, rows_of_rank
from pangu.distributed.supervise import Supervisor
from pangu.formats.parameter_layout import ParameterLayout
from pangu.foundation.errors import UserError
from pangu.foundation.processes import free_port
from tests.conftest import REPOSITORY
from tests.pangu import distributed_run

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    return distributed_run.write(tmp_path_factory.mktemp("distributed"))


def test_every_row_is_computed_once_and_in_the_micro_batch_of_one_process() -> None:
    rows = np.arange(48 * 3, dtype=np.int32).reshape(48, 3)
    for accumulate, shares in ((1, 4), (3, 2), (2, 8), (4, 1)):
        parts = [rows_of_rank(rows, accumulate, shares, share) for share in range(shares)]
        for micro in range(accumulate):
            size = 48 // accumulate // shares
            together = np.concatenate([part[micro * size : (micro + 1) * size] for part in parts])
            np.testing.assert_array_equal(together, rows[micro * size * shares : (micro + 1) * size * shares])


def test_gradients_are_put_into_few_buffers() -> None:
    from pangu.distributed.execution.reduction import buckets

    assert buckets([3, 4, 20, 1, 1, 8], largest=9) == [(0, 2), (2, 3), (3, 5), (5, 6)]
    assert buckets([1] * 5, largest=100) == [(0, 5)]


def test_a_rank_holds_its_rows_of_what_is_split() -> None:
    from pangu.distributed.execution.sharded_optimizer import rows_of

    split = ParameterLayout((4,), ((), ()), 1, -1)
    assert [rows_of(split, rank, (8, 3)) for rank in range(4)] == [(0, 2), (2, 4), (4, 6), (6, 8)]
    pairs = replace(split, optimizer_shard_size=2)
    assert [rows_of(pairs, rank, (8, 3)) for rank in range(4)] == [(0, 4), (4, 8), (0, 4), (4, 8)]
    assert rows_of(ParameterLayout((4,), ((),)), 2, (8,)) is None


def test_a_strategy_decides_micro_batches_recomputation_and_layouts(files) -> None:
    train, strategy_file = files
    fields = yaml.safe_load(strategy_file.read_text())
    fields |= {"batch": {"global": 4, "micro": 1}, "recompute": {"mode": "full"}}
    other = strategy_file.with_name("other.yaml")
    other.write_text(yaml.safe_dump(fields))
    config = TrainConfig.load(train)
    strategy = load_strategy(other, load_size(config.model))
    config = applied(strategy, config)
    assert (config.accumulate, config.recompute) == (2, True)
    layouts = strategy.layouts
    assert layouts["backbone.word_embedding.embedding_table"].num_parts == 2
    assert len(layouts) == 16 * 2 + 5 and {layout.num_ranks for layout in layouts.values()} == {2}


def plan(train: Path, strategy: Path | None = None, nodes: Nodes | None = None, **changes: object) -> Launch:
    config = TrainConfig.load(train)
    config = TrainConfig.from_fields(
        config.model_dump() | {k: v for k, v in changes.items() if k in config.model_fields}, "test"
    )
    given = str(strategy) if strategy else None
    nodes = nodes or Nodes(port=free_port())
    return plan_launch(config, ["-m", "pangu"], given, changes.get("workers"), nodes, changes.get("rank_table"), None)


def problems(launch: Launch) -> str:
    return "; ".join(check.problem for check in launch.checks if check.problem)


def test_what_a_start_needs_is_looked_at_before(files, tmp_path: Path) -> None:
    train, strategy = files
    assert problems(plan(train, strategy)) == ""
    assert plan(train, strategy).command(Path("logs"))[1] == "--worker_num=2"
    assert "NPUs" not in problems(plan(train, strategy)) and "found" in problems(plan(train, strategy, device="Ascend"))
    assert "batch.global 4 is not the run's batch_size 8" in problems(plan(train, strategy, batch_size=8))
    assert "must be a multiple of accumulate 1 x 3" in problems(plan(train, workers=3))
    with pytest.raises(UserError, match="is for 2 devices, --workers says 3"):
        plan(train, strategy, workers=3)
    fields = yaml.safe_load(strategy.read_text())
    changed = strategy.with_name("tensor.yaml")
    changed.write_text(yaml.safe_dump(fields | {"mesh": {"dp": 1, "tp": 2}, "batch": {"global": 4}}))
    assert "need Ascend" in problems(plan(train, changed))
    model = strategy.with_name("larger.yaml")
    model.write_text(yaml.safe_dump(yaml.safe_load((strategy.parent / "model.yaml").read_text()) | {"hidden_size": 32}))
    changed.write_text(yaml.safe_dump(fields | {"model": {"file": "larger.yaml"}}))
    assert "is for a model with hidden_size 32, this one has 16" in problems(plan(train, changed))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert "give another --port" in problems(plan(train, strategy, Nodes(port=port)))
    table = tmp_path / "table.json"
    devices = [{"device_id": str(i), "device_ip": f"10.0.0.{i}", "rank_id": str(i)} for i in range(2)]
    server = {"server_id": "10.0.0.9", "device": devices, "host_nic_ip": "reserve"}
    table.write_text(json.dumps({"version": "1.0", "server_count": "1", "server_list": [server]}))
    assert problems(plan(train, strategy, rank_table=str(table))) == ""
    server["device"] = devices[:1]
    table.write_text(json.dumps({"version": "1.0", "server_count": "1", "server_list": [server]}))
    assert "must name the ranks 0 to 1" in problems(plan(train, strategy, rank_table=str(table)))


def test_many_nodes_share_the_ranks_out(files) -> None:
    train, _ = files
    launch = plan(train, None, Nodes(2, 1, "10.0.0.1", 9000), workers=4)
    command = launch.command(Path("logs"))
    assert {"--worker_num=4", "--local_worker_num=2", "--node_rank=1", "--master_addr=10.0.0.1"} <= set(command)
    assert launch.first_rank == 2 and launch.logs.parts[-2:] == ("logs", "node_1")
    with pytest.raises(UserError, match="evenly over 3 nodes"):
        plan(train, None, Nodes(3, 0), workers=4)


def test_a_process_that_is_not_launched_says_how(files, capsys) -> None:
    train, strategy = files
    assert main(["train", str(train), "--strategy", str(strategy)]) == 2
    assert "is for 2 devices, 1 started: bash run_scripts/run_distributed_train.sh" in capsys.readouterr().err


# What stands in for msrun: workers in sessions of their own, and a scheduler that never ends by itself.
FAKE_MSRUN = """
import os, subprocess, sys, time
logs, script = sys.argv[1], sys.argv[2]
def start(role, rank):
    environment = os.environ | {"MS_ROLE": role, "RANK_ID": str(rank)}
    log = open(f"{logs}/worker_{rank}.log" if role == "MS_WORKER" else f"{logs}/scheduler.log", "w")
    return subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=log, stderr=log,
                            start_new_session=role == "MS_WORKER")
workers = [start("MS_WORKER", rank) for rank in range(2)]
scheduler = start("MS_SCHED", 9)
while True:
    codes = [worker.poll() for worker in workers]
    failed = [code for code in codes if code]
    if failed:
        print(f"Worker process exit with exception. Error code: {failed[0]}.", flush=True)
        for worker in workers:
            worker.kill()
        scheduler.wait()
        sys.exit(1)
    if codes == [0, 0]:
        scheduler.kill()
        sys.exit(0)
    time.sleep(0.05)
"""


def supervised(tmp_path: Path, script: str, restarts: int = 2) -> Supervisor:
    """A supervisor whose two workers and scheduler run `script`."""

    class Faked(Launch):
        def command(self, logs: Path) -> list[str]:
            return [sys.executable, "-c", FAKE_MSRUN, str(logs), script]

    launch = Faked([], "CPU", 2, Nodes(), None, tmp_path / "logs")
    return Supervisor(launch, tmp_path / "run", restarts)


WAIT = "import os, sys, time\nrank = int(os.environ['RANK_ID'])\nif rank == 9: time.sleep(600)\n"


def leftovers(tmp_path: Path) -> str:
    return subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True).stdout


def test_one_that_dies_stops_all_and_all_start_again(tmp_path: Path, capsys) -> None:
    flag = tmp_path / "once"
    script = WAIT + (
        f"if not os.path.exists({str(flag)!r}):\n"
        f"    if rank: open({str(flag)!r}, 'w').close(); os.kill(os.getpid(), 9)\n"
        "    time.sleep(600)\n"
        "print('done')"
    )
    assert supervised(tmp_path, script).run() == 0
    told = capsys.readouterr()
    assert "a process ended with code -9" in told.err and "starting again from the beginning" in told.err
    assert told.out.endswith("done\n")
    assert leftovers(tmp_path) == ""


def test_a_mistake_is_told_once_and_failures_without_progress_end_it(tmp_path: Path) -> None:
    script = WAIT + "print('error: corpus: is no corpus', flush=True)\nsys.exit(2 if rank else time.sleep(600))"
    with pytest.raises(UserError, match="corpus: is no corpus"):
        supervised(tmp_path, script).run()
    assert len(list((tmp_path / "logs").iterdir())) == 1
    with pytest.raises(UserError, match="gave up after 3 failures without a new checkpoint"):
        supervised(tmp_path / "more", WAIT + "sys.exit(7)").run()
    assert leftovers(tmp_path) == ""


def test_one_that_hangs_is_stopped_and_started_again(tmp_path: Path, capsys) -> None:
    """Rank 1 stops for ever on the first start, and its neighbour waits for it; what is written meanwhile is life."""
    flag, metrics = tmp_path / "once", tmp_path / "run/metrics.jsonl"
    metrics.parent.mkdir()
    script = WAIT + (
        f"if not os.path.exists({str(flag)!r}):\n"
        f"    for step in range(8): time.sleep(0.2); open({str(metrics)!r}, 'a').write('{{}}')\n"
        f"    if rank: open({str(flag)!r}, 'w').close(); os.kill(os.getpid(), 19)\n"
        "    time.sleep(600)\n"
    )
    supervisor = supervised(tmp_path, script)
    supervisor.stall = 1.0
    assert supervisor.run() == 0
    told = capsys.readouterr().err
    assert "no sign of life for 1 seconds" in told and "starting again from the beginning" in told
    assert len(list((tmp_path / "logs").iterdir())) == 2 and leftovers(tmp_path) == ""


def test_every_start_of_one_node_has_a_port_that_is_free(files) -> None:
    train, strategy = files
    launch = plan(train, strategy, Nodes(port=free_port(), any_port=True))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", launch.nodes.port))
        assert launch.again().nodes.port != launch.nodes.port
    fixed = plan(train, strategy, Nodes(port=free_port()))
    assert fixed.again() == fixed


def test_an_interrupt_is_passed_on_and_waited_for(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    script = WAIT + (
        "import signal\n"
        f"def save(*_): time.sleep(0.5); open({str(saved)!r} + str(rank), 'w').close(); sys.exit(130)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        f"open({str(saved)!r} + '-ready' + str(rank), 'w').close()\n"
        "time.sleep(600)"
    )
    program = (
        "import sys; from pathlib import Path; from tests.pangu.test_distributed import supervised\n"
        "sys.exit(supervised(Path(sys.argv[1]), sys.argv[2]).run())"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path), script], cwd=REPOSITORY)
    while not all(Path(f"{saved}-ready{rank}").exists() for rank in range(2)):
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert all(Path(f"{saved}{rank}").exists() for rank in range(2))
    assert leftovers(tmp_path) == ""


def records(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_equal_one_and_kill_9_of_a_worker_costs_nothing(tmp_path: Path) -> None:
    """By the scripts that a person types: optimizer sharding, dropout, a worker killed, a restart, the same losses."""
    # One engine for both: the gradient of the keys' biases is rounding alone, which AdamW makes large.
    train, strategy = distributed_run.write(tmp_path, engine="mindspore")
    alone = ["bash", "run_scripts/run_standalone_train.sh", str(train), "--out", str(tmp_path / "alone")]
    subprocess.run(alone, cwd=REPOSITORY, check=True, capture_output=True)
    words = ["bash", "run_scripts/run_distributed_train.sh", str(train), "--strategy", str(strategy)]
    process = subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    run = tmp_path / "run"
    while process.poll() is None and not ((run / "metrics.jsonl").exists() and len(records(run)) > 4):
        time.sleep(0.02)
    os.kill(worker(str(run), rank=1), signal.SIGKILL)
    told, _ = process.communicate()
    assert process.returncode == 0, told
    assert "a process ended with code -9" in told and "starting again from" in told
    assert [record["step"] for record in records(run)] == [record["step"] for record in records(tmp_path / "alone")]
    for found, expected in zip(records(run), records(tmp_path / "alone"), strict=True):
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, rel=1e-5), (expected["step"], name)
    last = run / "checkpoints/step-00000009"
    assert {path.name for path in last.iterdir()} == {"rank_0", "rank_1", "state.json", "strategy.ckpt"}
    assert main(["reshard", str(last), "--from", str(strategy), "--out", str(tmp_path / "whole")]) == 0
    from safetensors.numpy import load_file

    for name in ("model", "optimizer"):
        found = load_file(tmp_path / f"whole/{name}.safetensors")
        expected = load_file(tmp_path / f"alone/checkpoints/step-00000009/{name}.safetensors")
        assert found.keys() == expected.keys()
        for key in expected:
            np.testing.assert_allclose(found[key], expected[key], rtol=1e-3, atol=2e-6, err_msg=key)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_with_every_expert_on_each_equal_one(tmp_path: Path) -> None:
    """Places are counted for each row, so the same tokens are dropped; the router's losses are sums over rows."""
    from safetensors.numpy import load_file

    from pangu.training.run import train as train_alone

    train, _ = distributed_run.write(tmp_path, steps=2, evaluate_every=4, checkpoint_every=2)
    model = tmp_path / "model.yaml"
    model.write_text(f"{model.read_text()}experts: {{count: 4, routing: switch, capacity_factor: 1.0}}\n")
    words = ["launch", str(train), "--workers", "2", "--out", str(tmp_path / "run")]
    subprocess.run([sys.executable, "-m", "pangu", *words], cwd=REPOSITORY, check=True, capture_output=True)
    train_alone(TrainConfig.load(train).model_copy(update={"out": str(tmp_path / "alone")}))
    assert records(tmp_path / "alone")[0]["dropped_share"] > 0
    for found, expected in zip(records(tmp_path / "run"), records(tmp_path / "alone"), strict=True):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=f"{expected['step']} {name}")
    weights = [load_file(tmp_path / run / "checkpoints/step-00000002/model.safetensors") for run in ("run", "alone")]
    for name, expected in weights[1].items():
        np.testing.assert_allclose(weights[0][name], expected, rtol=0, atol=1e-5, err_msg=name)


def worker(run: str, rank: int) -> int:
    """The process id of a worker of a run."""
    import psutil

    for process in psutil.process_iter(["cmdline", "environ"]):
        environment = process.info["environ"] or {}
        if environment.get("MS_ROLE") == "MS_WORKER" and environment.get("RANK_ID") == str(rank):
            words = process.info["cmdline"] or []
            files = [Path(process.cwd()) / word for word in words if word.endswith("train.yaml")]
            if "train" in words and any(run in file.read_text() for file in files if file.is_file()):
                return process.pid
    raise AssertionError(f"no worker {rank} of {run}")
