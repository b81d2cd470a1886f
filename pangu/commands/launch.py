"""Train on several processes: checks what a run needs, starts it by MindSpore's msrun, and keeps it going.

    python -m pangu launch train.yaml --workers 2
    python -m pangu launch train.yaml --strategy strategy.yaml --dry-run
    python -m pangu launch train.yaml --strategy strategy.yaml --device Ascend --nodes 16 --node-rank 3 --master HOST

One process a device of the strategy, or --workers data-parallel ones. On several nodes the same command is given on
each with its --node-rank. The log of rank R is OUT/logs/start-NNN/worker_R.log (of node K of several, in
OUT/logs/node_K/start-NNN), and what the first rank says is shown. When a process dies, or none gives a sign of life for
--stall seconds, all are stopped and started again from the newest whole checkpoint; Ctrl-C saves one and ends.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path

from pangu.commands.train import FLAGS, check_own_run
from pangu.config import TrainConfig
from pangu.foundation.best_effort import print_translated
from pangu.foundation.command_line import DONE, MISTAKE
from pangu.foundation.errors import UserError
from pangu.foundation.field_arguments import add_flags, add_set, changes_of, words_of
from pangu.foundation.translation import translated


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="train.yaml (python -m pangu init writes one)")
    parser.add_argument("--strategy", help="strategy.yaml: how the run is laid over devices")
    parser.add_argument("--workers", type=int, help="processes, where there is no strategy: data parallelism")
    parser.add_argument("--nodes", type=int, default=1, help="computers that take part")
    parser.add_argument("--node-rank", type=int, default=0, help="the number of this one")
    parser.add_argument("--master", default="127.0.0.1", help="address of node 0")
    parser.add_argument("--port", type=int, help="a free port of node 0 (default: any on one node, 8118 on several)")
    parser.add_argument("--rank-table", help="HCCL rank table (parallel_strategy export writes one)")
    parser.add_argument("--logs", type=Path, help="directory of the logs (default: OUT/logs)")
    parser.add_argument("--restarts", type=int, default=3, help="failures in a row without a new checkpoint")
    parser.add_argument(
        "--stall",
        type=float,
        default=1800.0,
        metavar="SECONDS",
        help="without a sign of life before all are stopped and started again; 0: for ever (default 1800)",
    )
    add_flags(parser, TrainConfig, FLAGS)
    add_set(parser, "learning_rate.peak 3e-4")
    parser.add_argument("--start-anew", action="store_true", help="from step 0; what is in `out` is put aside")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check, and start nothing; exit code 2 where something is missing",
    )
    parser.add_argument("--json", action="store_true", help="the dry run as JSON")


def run(arguments: argparse.Namespace) -> int:
    from pangu.distributed.launch import MANY_NODES_PORT, Nodes, plan_launch
    from pangu.foundation.processes import free_port

    changes = changes_of(arguments, TrainConfig, FLAGS)
    config = TrainConfig.load(arguments.config, changes)
    check_own_run(Path(arguments.config), config, arguments.out)
    if (arguments.workers is not None and arguments.workers < 1) or arguments.nodes < 1:
        raise UserError("--workers and --nodes must be at least 1")
    if arguments.restarts < 0 or arguments.stall < 0:
        raise UserError("--restarts and --stall must be at least 0")
    program = ["-m", "pangu", "train", arguments.config, *words_of(changes)]
    if arguments.strategy:
        program += ["--strategy", arguments.strategy]
    port = arguments.port or (MANY_NODES_PORT if arguments.nodes > 1 else free_port())
    any_port = arguments.port is None and arguments.nodes == 1
    nodes = Nodes(arguments.nodes, arguments.node_rank, arguments.master, port, any_port)
    launch = plan_launch(
        config, program, arguments.strategy, arguments.workers, nodes, arguments.rank_table, arguments.logs
    )
    problems = [check for check in launch.checks if check.problem]
    command = launch.command(launch.logs / "start-NNN")
    if arguments.dry_run and arguments.json:
        checks = [{"what": check.what, "problem": check.problem} for check in launch.checks]
        print(json.dumps({"command": command, "environment": launch.environment, "checks": checks}, indent=1))
        return MISTAKE if problems else DONE
    stream = sys.stdout if arguments.dry_run else sys.stderr
    for check in launch.checks:
        print_translated(f"{'MISSING' if check.problem else 'ok':8}{translated(check.what)}", to=stream)
        if check.problem:
            print_translated(f"{'':8}{check.problem}", to=stream)
    if problems and not arguments.dry_run:
        raise UserError(f"{problems[0].what}: {problems[0].problem}")
    verb = "would start" if arguments.dry_run else "starts"
    print_translated(
        f"{verb} {launch.local_workers} of {launch.workers} processes, from rank {launch.first_rank}:", to=stream
    )
    print(f"  {shlex.join(command)}", file=stream)
    print_translated(f"logs: {launch.logs}/start-NNN/worker_R.log; run: {config.out}", to=stream, flush=True)
    if arguments.dry_run:
        return MISTAKE if problems else DONE
    from pangu.distributed.supervise import Supervisor

    if arguments.start_anew and arguments.node_rank == 0:
        # Here and not in the processes, which are started again when one dies.
        from pangu.training.run_directory import lock, put_aside

        with lock(Path(config.out)):
            put_aside(Path(config.out))

    return Supervisor(launch, Path(config.out), arguments.restarts, arguments.stall).run()
