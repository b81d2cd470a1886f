"""Say how long a training takes that fails now and then: the best checkpoint interval, the share of useful time, and
what so many tokens cost in days, money and energy, for strategies side by side.

A checkpoint has weights, their fp32 copy and both moments, as the framework keeps them. Where nothing is given, a
device fails as often as one of Llama 3's did: 419 interruptions in 54 days on 16,384 (Grattafiori et al. 2024).

example:
  python -m parallel_strategy goodput strategy.yaml --tokens 300B
  python -m parallel_strategy goodput a.yaml b.yaml --tokens 1.4T --price 2.5 --watts 1000 --storage-gbps 400
"""

import argparse
from typing import Any

from parallel_strategy.arguments import positive, tokens

LLAMA_3_HOURS = 16_384 * 54 * 24 / 419  # of one device, between two interruptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("strategies", nargs="+", metavar="strategy", help="one or more strategy.yaml")
    parser.add_argument("--tokens", type=tokens, required=True, metavar="N", help="to train on, such as 3e11 or 300B")
    parser.add_argument(
        "--mtbf-hours",
        type=positive,
        default=round(LLAMA_3_HOURS),
        metavar="H",
        help=f"hours between failures of one device (default {round(LLAMA_3_HOURS):,}, Llama 3's)",
    )
    parser.add_argument(
        "--storage-gbps", type=positive, default=100.0, metavar="X", help="GB/s of all devices together (default 100)"
    )
    parser.add_argument(
        "--restart-seconds",
        type=positive,
        default=600.0,
        metavar="S",
        help="to see a failure, start again and load (default 600)",
    )
    parser.add_argument("--checkpoint-gb", type=positive, metavar="X", help="default: what the framework keeps")
    parser.add_argument(
        "--asynchronous", action="store_true", help="training waits for the copy to the host only, not for the storage"
    )
    parser.add_argument("--price", type=positive, metavar="X", help="money for a device and hour")
    parser.add_argument("--watts", type=positive, metavar="X", help="of a device with its share of server and cooling")
    parser.add_argument("--calibration", metavar="FILE", help="a file that `calibrate` wrote")
    parser.add_argument("--json", action="store_true", help="print everything as JSON, mistakes too")


def run(arguments: argparse.Namespace) -> int:
    from pangu.foundation.json_text import dumps
    from parallel_strategy.loading import load_prediction
    from parallel_strategy.report.goodput_table import print_goodput

    rows = [row_of(load_prediction(path, arguments.calibration), path, arguments) for path in arguments.strategies]
    if arguments.json:
        print(dumps(rows, indent=1))
    else:
        print_goodput(rows)
    return 0


def row_of(prediction: Any, path: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return everything about one strategy. Raises UserError for one that gets nowhere."""
    from pangu.foundation.errors import UserError
    from parallel_strategy.cost.goodput import SLOWEST, Reliability, goodput

    setup = prediction.setup
    framework, devices = setup.framework, setup.strategy.mesh.devices
    size = arguments.checkpoint_gb
    if size is None:
        kept = max(framework.weight_bytes, 0) + framework.master_bytes + framework.moment_bytes
        size = prediction.program.total_parameters * kept / 1e9
    copy = setup.cluster.host.h2d_gbps if arguments.asynchronous else None
    reliability = Reliability(arguments.mtbf_hours, arguments.storage_gbps, arguments.restart_seconds, copy)
    found = goodput(devices, prediction.seconds, size, reliability)
    if found.useful_share < SLOWEST:
        raise UserError(
            f"{path}: this job gets nowhere: a failure every {found.mtbf_seconds:.3g} s, a checkpoint takes "
            f"{found.stall_seconds:.3g} s and a restart {arguments.restart_seconds:.3g} s; nearest: more "
            "--storage-gbps or --mtbf-hours"
        )
    seconds = arguments.tokens / prediction.tokens_per_second
    hours = seconds / found.useful_share / 3600
    return {
        "file": path,
        "devices": devices,
        "fits": not prediction.out_of_memory,
        "step_seconds": prediction.seconds,
        "tokens_per_second": prediction.tokens_per_second,
        "job_mtbf_hours": found.mtbf_seconds / 3600,
        "failures": hours * 3600 / found.mtbf_seconds,
        "checkpoint_gb": found.checkpoint_gb,
        "checkpoint_stall_seconds": found.stall_seconds,
        "checkpoint_write_seconds": found.write_seconds,
        "young_seconds": found.young_seconds,
        "daly_seconds": found.daly_seconds,
        "interval_seconds": found.interval_seconds,
        "interval_steps": found.interval_steps,
        "useful_share": found.useful_share,
        "days_without_failures": seconds / 86_400,
        "days": hours / 24,
        "device_hours": hours * devices,
        "cost": hours * devices * arguments.price if arguments.price else None,
        "energy_mwh": hours * devices * arguments.watts / 1e6 if arguments.watts else None,
        "assumed": {
            "tokens": arguments.tokens,
            "mtbf_hours": arguments.mtbf_hours,
            "storage_gbps": arguments.storage_gbps,
            "restart_seconds": arguments.restart_seconds,
            "asynchronous": arguments.asynchronous,
        },
    }
