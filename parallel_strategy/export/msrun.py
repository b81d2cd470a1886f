"""The command that starts a strategy's processes on one node, and the environment that they want."""

import shlex

from parallel_strategy.export.rank_table import devices_used
from parallel_strategy.spec.strategy import Setup

# What the processes of an Ascend job want, and why.
ASCEND_ENVIRONMENT = {
    "HCCL_CONNECT_TIMEOUT": ("3600", "seconds: ranks compile for different lengths of time before they first meet"),
    "HCCL_EXEC_TIMEOUT": ("3600", "seconds that a collective may wait for the slowest rank"),
    "GLOG_v": ("3", "errors only"),
}


def environment(setup: Setup) -> dict[str, tuple[str, str]]:
    """Return {variable: (value, what it is for)}."""
    if is_ascend(setup):
        return dict(ASCEND_ENVIRONMENT)
    a_server = str(devices_used(setup)[1])
    return {"GLOG_v": ASCEND_ENVIRONMENT["GLOG_v"], "PANGU_LOCAL_WORKERS": (a_server, "they share the cores out")}


def is_ascend(setup: Setup) -> bool:
    return "ascend" in setup.cluster.device.name.lower() or "910" in setup.cluster.device.name


def command(setup: Setup, rank_table: str | None) -> list[str]:
    """Return msrun's words, without the program; $MASTER, $PORT and $NODE_RANK stand for what differs by node, $HERE
    for the directory of the exported files."""
    servers, a_server = devices_used(setup)
    words = [
        "msrun",
        f"--worker_num={servers * a_server}",
        f"--local_worker_num={a_server}",
        "--master_addr=$MASTER",
        "--master_port=$PORT",
        "--log_dir=$LOGS",
        "--join=True",
        "--cluster_time_out=3600",
    ]
    if servers > 1:
        words.append("--node_rank=$NODE_RANK")
    if rank_table:
        words.append(f"--rank_table_file=$HERE/{rank_table}")
    return words


def script(setup: Setup, rank_table: str | None, strategy_file: str) -> str:
    """Return a shell script that starts this node's processes."""
    servers, a_server = devices_used(setup)
    lines = [
        "#!/usr/bin/env bash",
        f"# Starts {a_server} of {servers * a_server} processes, on each of {servers} node{'s' * (servers > 1)}:",
        "#   MASTER=ADDRESS_OF_NODE_0 NODE_RANK=0 bash msrun.sh train.yaml",
        "set -euo pipefail",
        "MASTER=${MASTER:-127.0.0.1} PORT=${PORT:-8118} NODE_RANK=${NODE_RANK:-0} LOGS=${LOGS:-logs}",
    ]
    if servers == 1:
        lines[-1] = "MASTER=${MASTER:-127.0.0.1} PORT=${PORT:-8118} LOGS=${LOGS:-logs}"
        lines[2] = "#   bash msrun.sh train.yaml"
    if rank_table:
        lines.append('HERE=$(cd "$(dirname "$0")" && pwd)')
    lines += [f"export {name}={value}  # {why}" for name, (value, why) in environment(setup).items()]
    words = [f'"{word}"' if "$" in word else word for word in command(setup, rank_table)]
    lines.append(
        "exec " + " \\\n  ".join([*words, f'python -m pangu train "$@" --strategy {shlex.quote(strategy_file)}'])
    )
    return "\n".join(lines) + "\n"
