"""Search the best strategy for a model on a cluster: the whole space, what fits, why not the neighbours of the winner.

The file names model, cluster, framework and global batch; its mesh, pipeline and the rest are what is searched.

example:
  python -m parallel_strategy search strategy.yaml --out best.yaml
  python -m parallel_strategy search strategy.yaml --devices 1024 --tp 4 8 --schedules 1f1b interleaved
"""

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("strategy")
    parser.add_argument("--devices", type=int, help="default: as many as the file's mesh has")
    parser.add_argument("--tp", type=int, nargs="+", default=[])
    parser.add_argument("--pp", type=int, nargs="+", default=[])
    parser.add_argument("--cp", type=int, nargs="+", default=[1])
    parser.add_argument("--micro", type=int, nargs="+", default=[])
    parser.add_argument("--schedules", nargs="+", help="default: all that have a closed form")
    parser.add_argument("--margin", type=float, default=0.0, help="share of usable memory to leave free")
    parser.add_argument("--keep", type=int, default=10)
    parser.add_argument("--out", help="write the winner's strategy.yaml")
    parser.add_argument("--json", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    import time
    from pathlib import Path

    from parallel_strategy.errors import UserError
    from parallel_strategy.report.output import write_whole
    from parallel_strategy.report.search import found_data, print_found
    from parallel_strategy.search.find import search
    from parallel_strategy.search.shapes import Space
    from parallel_strategy.spec.strategy import Question

    question = Question.load(arguments.strategy)
    devices = arguments.devices or question.strategy.mesh.devices
    if devices > question.cluster.device_count:
        raise UserError(
            f"--devices {devices}: the cluster {question.cluster.name!r} has {question.cluster.device_count}"
        )
    space = Space(
        devices,
        question.strategy.batch.global_,
        tp=arguments.tp,
        pp=arguments.pp,
        cp=arguments.cp,
        micro=arguments.micro,
    )
    if arguments.schedules:
        unknown = [name for name in arguments.schedules if name not in space.schedules]
        if unknown:
            raise UserError(f"--schedules {unknown[0]}: is not one of {', '.join(space.schedules)}")
        space.schedules = list(arguments.schedules)
    started = time.perf_counter()
    found = search(question, space, keep=arguments.keep, margin=arguments.margin)
    elapsed = time.perf_counter() - started
    if not found.candidates:
        raise UserError(
            f"{arguments.strategy}: no legal strategy: global batch {space.batch} on {devices} devices within "
            f"the limits given"
        )
    if arguments.out and found.best:
        write_whole(Path(arguments.out), found.best[0].question.strategy.dump())
    if arguments.json:
        print(json.dumps(found_data(found, elapsed), indent=1))
    else:
        print_found(found, elapsed)
    return 0 if found.best else 1
