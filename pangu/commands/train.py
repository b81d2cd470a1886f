"""Pretrain, resume, or continue from other weights.

    python -m pangu init train.yaml --data corpus/packed --out runs/first
    python -m pangu train train.yaml
    python -m pangu train train.yaml --steps 2000        # the same run, longer
    python -m pangu train train.yaml --set learning_rate.peak 3e-4
    python -m pangu train train.yaml --strategy s.yaml   # on the devices of a strategy; `pangu launch` starts them all

A run that was stopped, by Ctrl-C, kill -9 or a power cut, goes on with the same command and ends with the same bits.
"""

import argparse
import shlex
from dataclasses import asdict
from pathlib import Path

from pangu.config import TrainConfig
from pangu.foundation.best_effort import print_translated, warn
from pangu.foundation.errors import UserError
from pangu.foundation.field_arguments import add_flags, add_set, changes_of
from pangu.foundation.json_text import dumps
from pangu.foundation.yaml_document import shown

FLAGS = ("data", "out", "model", "steps", "start_from", "device")  # of train.yaml; `--set` reaches every field


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="train.yaml (python -m pangu init writes one)")
    add_flags(parser, TrainConfig, FLAGS)
    add_set(parser, "learning_rate.peak 3e-4")
    parser.add_argument("--start-anew", action="store_true", help="from step 0; what is in `out` is put aside")
    parser.add_argument("--strategy", help="strategy.yaml: how the run is laid over devices")
    parser.add_argument(
        "--profile",
        type=int,
        nargs="?",
        const=2,
        default=0,
        metavar="N",
        help="profile N updates (2)",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def check_own_run(file: Path, config: TrainConfig, out: str | None) -> None:
    """Raise UserError for the train.yaml of a run directory that was moved: its `out` is where the run once was."""
    folder = file.absolute().parent
    if out is None and (folder / "checkpoints").is_dir() and Path(config.out).resolve() != folder.resolve():
        raise UserError(
            f"{file}: field 'out' = {shown(config.out, 200)}: this file lies in a run directory that was moved or "
            f"copied: add --out {shlex.quote(str(file.parent))} to go on with it, or --out with another directory"
        )


def run(arguments: argparse.Namespace) -> int:
    if arguments.profile < 0:
        raise UserError(f"--profile {arguments.profile}: must be at least 0 updates")
    config = TrainConfig.load(arguments.config, changes_of(arguments, TrainConfig, FLAGS))
    check_own_run(Path(arguments.config), config, arguments.out)

    from pangu.training.run import train

    summary = train(config, arguments.strategy, arguments.start_anew, arguments.profile)
    if arguments.json:
        print(dumps(asdict(summary), indent=1))
        return 130 if summary.interrupted else 0
    if summary.interrupted:
        warn(f"interrupted after step {summary.step}; saved {summary.checkpoint}")
        warn("the same command goes on from there")
        return 130
    skipped = f"; {summary.skipped:,} of {summary.step:,} updates skipped" if summary.skipped else ""
    print_translated(f"trained {summary.step} steps, {summary.tokens:,} tokens: loss {summary.loss:.3f}{skipped}")
    print_translated(
        f"validation perplexity {summary.heldout_perplexity:,.1f} "
        f"({summary.heldout_bits_per_byte:.3f} bits a byte); unigram model {summary.unigram_perplexity:,.1f}"
    )
    if summary.tokens_per_second:
        print_translated(
            f"speed {summary.tokens_per_second:,.0f} tokens/s, MFU {summary.mfu:.1%} of the measured fp32 matmul peak"
        )
    print_translated(f"checkpoint {summary.checkpoint}")
    if summary.picture:
        print_translated(f"loss curve {summary.picture}")
    return 0
