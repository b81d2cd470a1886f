"""Change the layout of a checkpoint: from the shards of one strategy to those of another, or into one piece.

    python -m pangu reshard runs/big/checkpoints/step-00000100 --to eight-devices.yaml --out step-100-on-8
    python -m pangu reshard runs/big/checkpoints/step-00000100 --out whole
    python -m pangu reshard shards/ --from a.yaml --to b.yaml --out resharded --format ckpt
    python -m pangu reshard shards/ --from strategy_0.ckpt strategy_1.ckpt --out weights.safetensors --weights-only

CHECKPOINT is a run (its newest whole checkpoint), a step-* directory, a directory of shards (rank_N/*.ckpt or
*.safetensors, filerted_N.ckpt), or one file. A layout is a strategy.yaml, or the strategy files that MindSpore writes;
without --from it is the strategy file that lies beside the shards, and without --to the result is whole. A step-*
directory stays one: training goes on from it. Missing, damaged and foreign shards are named before anything is written.
"""

import argparse
import json
from pathlib import Path

from pangu.foundation.best_effort import print_translated
from pangu.foundation.progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="a checkpoint that ranks wrote in parts, or one file of weights")
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        nargs="+",
        default=[],
        metavar="LAYOUT",
        help="how it is split: strategy.yaml, or one file of layouts a stage (default: as the checkpoint says)",
    )
    parser.add_argument(
        "--to",
        type=Path,
        nargs="+",
        default=[],
        metavar="LAYOUT",
        help="how to split the result (default: whole, in one file)",
    )
    parser.add_argument("--out", type=Path, required=True, help="directory or file to make")
    parser.add_argument("--format", choices=["safetensors", "ckpt"], default="safetensors", help="of the rank files")
    parser.add_argument("--weights-only", action="store_true", help="leave out Adam's moments and the state")
    parser.add_argument("--dry-run", action="store_true", help="check everything, say what would be written, stop")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(arguments: argparse.Namespace) -> int:
    from pangu.checkpoint.open import STATE, meant_checkpoint
    from pangu.checkpoint.reshard import (
        check_output,
        make_plan,
        open_source_of,
        write_plan,
    )
    from pangu.checkpoint.weights import model_of
    from pangu.distributed.layout_files import check_shapes, stages_of

    arguments.checkpoint = meant_checkpoint(arguments.checkpoint)
    model = model_of(arguments.checkpoint) if (arguments.checkpoint / STATE).is_file() else None
    layouts = stages_of(arguments.source, model) if arguments.source else None
    to = stages_of(arguments.to, model) if arguments.to else None
    source = open_source_of(arguments.checkpoint, layouts)
    check_shapes(source, arguments.source, model)
    check_shapes(source, arguments.to, model)
    model = model or model_of(arguments.checkpoint, source)
    plan = make_plan(source, to, arguments.format, arguments.weights_only, model)
    if arguments.dry_run:
        check_output(plan, arguments.out)
    else:
        with Progress("reshard", plan.nbytes, unit="bytes") as progress:
            write_plan(plan, arguments.out, progress.advance)
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
    print_translated(
        f"{verb} {arguments.out}: {summary['parameters']} parameters of {source.form}, "
        f"{plan.nbytes / 1e9:.2f} GB in {len(plan.targets)} file{'s' * (len(plan.targets) != 1)}"
    )
    if plan.left_out:
        print_translated(f"left out, of types that are no numbers: {', '.join(plan.left_out)}")
    return 0
