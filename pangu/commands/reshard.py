"""Change the layout of a checkpoint: from the shards of one strategy to those of another, or into one piece.

    python -m pangu reshard runs/big/checkpoints/step-00000100 --to eight-devices.yaml --out step-100-on-8
    python -m pangu reshard runs/big/checkpoints/step-00000100 --out whole
    python -m pangu reshard shards/ --from a.yaml --to b.yaml --out resharded --format ckpt
    python -m pangu reshard shards/ --from strategy_0.ckpt strategy_1.ckpt --out weights.safetensors --weights-only

CHECKPOINT is a step-* directory of a run, a directory of shards (rank_N/*.ckpt or *.safetensors, filerted_N.ckpt), or
one file. A layout is a strategy.yaml, or the strategy files that MindSpore writes; without --from it is the strategy
file that lies beside the shards, and without --to the result is whole. A step-* directory stays one: training goes on
from it. Missing, damaged and foreign shards are named before anything is written.
"""

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--from", dest="source", type=Path, nargs="+", default=[], metavar="LAYOUT")
    parser.add_argument("--to", type=Path, nargs="+", default=[], metavar="LAYOUT")
    parser.add_argument("--out", type=Path, required=True, help="directory or file to make")
    parser.add_argument("--format", choices=["safetensors", "ckpt"], default="safetensors", help="of the rank files")
    parser.add_argument("--weights-only", action="store_true", help="leave out Adam's moments and the state")
    parser.add_argument("--dry-run", action="store_true", help="check everything, say what would be written, stop")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(arguments: argparse.Namespace) -> int:
    from pangu.checkpoint.reshard import (
        check_output,
        make_plan,
        model_of,
        open_source_of,
        write_plan,
    )
    from pangu.distributed.layout_files import check_shapes, stages_of
    from pangu.foundation.errors import UserError

    if not arguments.checkpoint.exists():
        raise UserError(f"{arguments.checkpoint}: no such file or directory")
    model = model_of(arguments.checkpoint)
    layouts = stages_of(arguments.source, model) if arguments.source else None
    to = stages_of(arguments.to, model) if arguments.to else None
    source = open_source_of(arguments.checkpoint, layouts)
    check_shapes(source, arguments.source, model)
    check_shapes(source, arguments.to, model)
    plan = make_plan(source, to, arguments.format, arguments.weights_only)
    if arguments.dry_run:
        check_output(plan, arguments.out)
    else:
        console = Console(stderr=True)
        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task("reshard", total=plan.nbytes)
            write_plan(plan, arguments.out, lambda count: bar.advance(task, count))
    summary = {
        "from": source.form,
        "parameters": len(plan.order),
        "files": len(plan.targets),
        "bytes": plan.nbytes,
        "left_out": plan.left_out,
        "out": str(arguments.out),
    }
    if arguments.json:
        print(json.dumps(summary))
        return 0
    verb = "would write" if arguments.dry_run else "wrote"
    print(
        f"{verb} {arguments.out}: {summary['parameters']} parameters of {source.form}, "
        f"{plan.nbytes / 1e9:.2f} GB in {len(plan.targets)} file{'s' * (len(plan.targets) != 1)}"
    )
    if plan.left_out:
        print(f"left out, of types that are no numbers: {', '.join(plan.left_out)}")
    return 0
