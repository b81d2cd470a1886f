"""Compile the training step of one rank under a strategy, and run nothing.

This is what `python -m parallel_strategy compile` starts, in the environment of MindSpore's dry-run (variables
MS_SIMULATION_LEVEL, RANK_ID, RANK_SIZE); where CANN is installed it may be started by hand.

example:
  python -m parallel_strategy compile strategy.yaml --rank 3
  MS_SIMULATION_LEVEL=0 RANK_ID=3 RANK_SIZE=8 python -m pangu compile strategy.yaml --out answer.json
"""

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pangu.tuning.tuning_settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("strategy", help="strategy.yaml; its model must be a PanGu-alpha")
    parser.add_argument("--out", required=True, help="JSON file for the layouts and the time")
    parser.add_argument(
        "--save-strategy", metavar="FILE", help="MindSpore's own parameter strategy file, for this rank"
    )
    parser.add_argument("--save-groups", metavar="FILE", help="MindSpore's own group file, for this rank")
    parser.add_argument("--save-operators", metavar="FILE", help="MindSpore's own operator strategy file (.json)")
    parser.add_argument("--load-strategy", metavar="FILE", help="take the splits from this parameter strategy file")
    parser.add_argument("--load-operators", metavar="FILE", help="take the splits from this operator strategy file")
    parser.add_argument("--method", metavar="NAME", help="a step of `finetune` with this method, in training's place")
    parser.add_argument("--lora-rank", type=int, default=8, metavar="R", help="of method lora (default 8)")
    parser.add_argument("--module", action="append", metavar="NAME", help="of method lora; repeatable")
    parser.add_argument("--bottleneck", type=int, default=64, metavar="M", help="of method adapter (default 64)")
    parser.add_argument("--save-skeleton", metavar="FILE", help="what MindSpore calls the operators, on 8 devices")


def tuning_settings(arguments: argparse.Namespace) -> "Settings | None":
    """Return how to fine-tune; None: training is compiled."""
    from pangu.tuning.tuning_settings import Settings

    if arguments.method is None:
        return None
    given: dict[str, Any] = {"modules": tuple(arguments.module)} if arguments.module else {}
    return Settings(method=arguments.method, rank=arguments.lora_rank, bottleneck=arguments.bottleneck, **given)


def run(arguments: argparse.Namespace) -> int:
    from pangu.distributed.compile_step import compile_step

    compile_step(
        arguments.strategy,
        arguments.out,
        arguments.save_strategy,
        arguments.save_groups,
        arguments.load_strategy,
        arguments.load_operators,
        arguments.save_operators,
        arguments.save_skeleton,
        tuning_settings(arguments),
    )
    return 0
