"""What must be there before several processes start, and the command that starts them.

`msrun`, which comes with MindSpore, starts one process a device and a scheduler by which they meet. A run on one node
needs nothing else; on several nodes the same command is given on each, with its number.
"""

import glob
import importlib.util
import json
import os
import shutil
import socket
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from pangu.config import TrainConfig
from pangu.distributed.process_group import LOCAL_WORKERS, World
from pangu.foundation.best_effort import reason_of
from pangu.foundation.errors import UserError
from pangu.foundation.processes import free_port
from pangu.foundation.small_file import read_small
from pangu.training.data import PackedData

# On several nodes all must know the port beforehand; it is MindSpore's own default.
MANY_NODES_PORT = 8118
# How long processes wait for one another at the start: those of one node, and of many.
MEET_SECONDS, MEET_SECONDS_MANY = 600, 3600
# For Ascend's collectives: ranks compile for different lengths of time before they first meet, and save checkpoints.
PATIENCE = {"HCCL_CONNECT_TIMEOUT": "3600", "HCCL_EXEC_TIMEOUT": "3600"}
# Bytes that a checkpoint takes for each parameter: the weight and two moments, fp32.
CHECKPOINT_BYTES = 12


@dataclass(frozen=True)
class Nodes:
    """Where the processes run. master, port: of node 0. any_port: whether each start may take another."""

    count: int = 1
    rank: int = 0
    master: str = "127.0.0.1"
    port: int = MANY_NODES_PORT
    any_port: bool = False


@dataclass(frozen=True)
class Check:
    """One thing that a run needs. problem: why it is not there; None where it is."""

    what: str
    problem: str | None = None


@dataclass(frozen=True)
class Launch:
    """One start of a training run. program: what each process runs, after `python`."""

    program: list[str]
    device: str
    workers: int
    nodes: Nodes
    rank_table: str | None
    logs: Path
    checks: list[Check] = field(default_factory=list)

    @property
    def local_workers(self) -> int:
        return self.workers // self.nodes.count

    @property
    def is_alone(self) -> bool:
        """Return whether one process is enough, which needs no msrun."""
        return self.workers == 1

    @property
    def first_rank(self) -> int:
        """Return the first of the ranks on this node."""
        return self.nodes.rank * self.local_workers

    def command(self, logs: Path) -> list[str]:
        """Return what is started on this node."""
        if self.is_alone:
            return [sys.executable, *self.program]
        options = {
            "worker_num": self.workers,
            "local_worker_num": self.local_workers,
            "master_addr": self.nodes.master,
            "master_port": self.nodes.port,
            "log_dir": logs,
            "join": True,
            "cluster_time_out": MEET_SECONDS if self.nodes.count == 1 else MEET_SECONDS_MANY,
        }
        if self.nodes.count > 1:
            options["node_rank"] = self.nodes.rank
        if self.rank_table:
            options["rank_table_file"] = self.rank_table
        words = [f"--{name}={value}" for name, value in options.items()]
        # msrun takes the word `python` for an interpreter, and any other for a script to run with it.
        return [*msrun(), *words, "python", *self.program]

    def again(self) -> "Launch":
        """Return the same for another start: on a port that nobody has taken meanwhile, where it may be any."""
        return replace(self, nodes=replace(self.nodes, port=free_port())) if self.nodes.any_port else self

    @property
    def environment(self) -> dict[str, str]:
        """Return what is added to the environment of the processes. `python` is this one."""
        added = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
        if self.workers > 1:
            added[LOCAL_WORKERS] = str(self.local_workers)
        if self.device == "Ascend":
            added |= {name: value for name, value in PATIENCE.items() if name not in os.environ}
        return added


def msrun() -> list[str]:
    beside = Path(sys.executable).with_name("msrun")
    return [str(beside) if beside.exists() else "msrun"]


def plan_launch(
    config: TrainConfig,
    program: list[str],
    strategy_file: str | None,
    workers: int | None,
    nodes: Nodes,
    rank_table: str | None,
    logs: Path | None,
) -> Launch:
    """Decide what to start, with everything that it needs looked at. Raises UserError for what contradicts itself."""
    from pangu.distributed.strategy import load_strategy

    data = PackedData.load(config.data)
    strategy = load_strategy(strategy_file) if strategy_file else None
    if strategy and workers not in (None, strategy.devices):
        raise UserError(f"{strategy_file}: is for {strategy.devices} devices, --workers says {workers}: leave one out")
    count = strategy.devices if strategy else workers or 1
    if count % nodes.count:
        raise UserError(f"{count} processes cannot be spread evenly over {nodes.count} nodes")
    if not 0 <= nodes.rank < nodes.count:
        raise UserError(f"--node-rank {nodes.rank}: nodes are 0 to {nodes.count - 1}")
    launch = Launch(
        program=program,
        device=config.device,
        workers=count,
        nodes=nodes,
        rank_table=rank_table,
        # Each node counts its own starts, also where all write to one file system.
        logs=(logs or Path(config.out) / "logs") / (f"node_{nodes.rank}" if nodes.count > 1 else ""),
    )
    launch.checks.extend(check_all(launch, config, data, strategy_file))
    return launch


def check_all(launch: Launch, config: TrainConfig, data: PackedData, strategy_file: str | None) -> list[Check]:
    """Return everything that can be looked at without starting anything."""
    checks = [
        Check(f"corpus {config.data}: {data.split('train').samples} samples of {data.seq_length} tokens"),
        check_run(config, data, launch.workers, strategy_file),
        check_modules(),
        check_device(launch.device, launch.local_workers),
        check_disk(config, data),
    ]
    if launch.workers > 1 and launch.nodes.rank == 0 and launch.nodes.count == 1:
        checks.append(check_port(launch.nodes))
    if launch.rank_table:
        checks.append(check_rank_table(Path(launch.rank_table), launch))
    return checks


def check_run(config: TrainConfig, data: PackedData, workers: int, strategy_file: str | None) -> Check:
    from pangu.distributed.strategy import applied, load_strategy
    from pangu.training.run import check_world, model_of

    what = f"model {config.model}, batch {config.batch_size} over {workers} processes"
    try:
        strategy = load_strategy(strategy_file, model_of(config, data)) if strategy_file else None
        applied_config = applied(strategy, config) if strategy else config
        check_world(World(0, workers), applied_config, strategy)
        if strategy:
            strategy.stage_layouts  # noqa: B018 - computed here so that what it refuses is seen before the start
            what += f", {strategy_file}"
    except UserError as error:
        return Check(what, str(error))
    return Check(what)


def check_modules() -> Check:
    what = "MindSpore and its msrun"
    if importlib.util.find_spec("mindspore") is None:
        return Check(what, "MindSpore is not installed; `pip install 'pangu-alpha[pangu]'` adds it")
    if shutil.which(msrun()[0]) is None:
        return Check(what, "msrun is not on the PATH: activate the environment that has MindSpore")
    return Check(what)


def check_device(device: str, wanted: int) -> Check:
    """Return whether this node has the devices of its processes."""
    if device == "CPU":
        cores = len(os.sched_getaffinity(0))
        shared = "" if cores >= wanted else ": they take turns, which is slow"
        return Check(f"{wanted} processes on {cores} cores{shared}")
    pattern, name = {"Ascend": ("/dev/davinci[0-9]*", "NPUs"), "GPU": ("/dev/nvidia[0-9]*", "GPUs")}[device]
    found = len(glob.glob(pattern))
    what = f"{wanted} {name} on this node"
    if found < wanted:
        return Check(what, f"{found} found ({pattern})")
    if device == "Ascend" and not any(os.environ.get(name) for name in ("ASCEND_HOME_PATH", "ASCEND_OPP_PATH")):
        return Check(what, "CANN's environment is not set: source /usr/local/Ascend/ascend-toolkit/set_env.sh")
    return Check(what)


def check_disk(config: TrainConfig, data: PackedData) -> Check:
    """Return whether the checkpoints that will be kept, and the one in hand, fit on the disk of the run directory."""
    from pangu.training.run import model_of

    folder = Path(config.out).absolute()
    while not folder.exists():
        folder = folder.parent
    needed = CHECKPOINT_BYTES * model_of(config, data).num_parameters * (config.keep_last + 2)
    free = shutil.disk_usage(folder).free
    what = f"disk at {config.out}: {needed / 1e9:.1f} GB for checkpoints, {free / 1e9:.0f} GB free"
    if not os.access(folder, os.W_OK):
        return Check(what, f"{folder} cannot be written")
    return Check(what, None if free > needed else "not enough: lower keep_last, or another `out`")


def check_port(nodes: Nodes) -> Check:
    what = f"port {nodes.port} on {nodes.master}"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((nodes.master, nodes.port))
        except OSError as error:
            return Check(what, f"{error.strerror}: give another --port")
    return Check(what)


def check_rank_table(path: Path, launch: Launch) -> Check:
    """Return whether an HCCL rank table (version 1.0) names every rank once."""
    what = f"rank table {path}"
    try:
        table = json.loads(read_small(path))
        ranks = sorted(int(device["rank_id"]) for server in table["server_list"] for device in server["device"])
        if table.get("version") != "1.0" or int(table["server_count"]) != len(table["server_list"]):
            return Check(what, "must be of version 1.0, with as many servers as server_count says")
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Check(what, f"cannot be read: {reason_of(error)}")
    if ranks != list(range(launch.workers)):
        return Check(what, f"must name the ranks 0 to {launch.workers - 1}, each once; has {len(ranks)}")
    return Check(what)
