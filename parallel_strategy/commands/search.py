"""Search the best strategy for a model on a cluster: the whole space, what fits, why not the neighbours of the winner.

The file names model, cluster, framework and global batch; its mesh, pipeline and the rest are what is searched: all
sizes and orders of the axes, micro-batches, two halves, schedules, chunks, recomputation, optimizer sharding, what lies
on the host. Gradient buckets, groups that share optimizer states, the vocabulary's split, what recomputation repeats
and schedules without a closed form are tried on the strategies that come out first. It keeps to what the file's
framework can execute; --beyond shows what another framework could win.

example:
  python -m parallel_strategy search strategy.yaml --out best.yaml
  python -m parallel_strategy search strategy.yaml --devices 16 --tp 4 8 --schedules 1f1b interleaved
"""

import argparse
import json

from pangu.foundation.best_effort import print_translated
from parallel_strategy.arguments import add_strategy, share, whole_number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_strategy(parser, has_calibration=True)
    parser.add_argument("--devices", type=whole_number, help="default: as many as the file's mesh has")
    parser.add_argument(
        "--tp",
        type=whole_number,
        nargs="+",
        default=[],
        metavar="N",
        help="tensor-parallel degrees to try (default: all)",
    )
    parser.add_argument(
        "--pp",
        type=whole_number,
        nargs="+",
        default=[],
        metavar="N",
        help="numbers of pipeline stages to try (default: all)",
    )
    parser.add_argument(
        "--cp", type=whole_number, nargs="+", help="default: 1; for sequences of 8,192 and more 1 2 4 8"
    )
    parser.add_argument(
        "--ep",
        type=whole_number,
        nargs="+",
        default=[],
        metavar="N",
        help="expert-parallel degrees to try (default: all)",
    )
    parser.add_argument("--micro", type=whole_number, nargs="+", default=[], help="sequences of a micro-batch")
    parser.add_argument("--schedules", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--zero", type=int, nargs="+", choices=(0, 1, 2, 3), help="default: all")
    parser.add_argument("--on-device", action="store_true", help="neither optimizer nor activations on the host")
    parser.add_argument(
        "--beyond", action="store_true", help="also what the framework cannot execute: priced only, and marked so"
    )
    parser.add_argument("--margin", type=share, default=0.0, help="share of usable memory to leave free")
    parser.add_argument("--keep", type=whole_number, default=10, help="how many strategies to show")
    parser.add_argument("--out", help="write the winner's strategy.yaml")
    parser.add_argument("--json", action="store_true", help="print everything as JSON, mistakes too")


def run(arguments: argparse.Namespace) -> int:
    import os
    import time
    from pathlib import Path

    # before numpy is imported: its matrices are small here, and threads would only spin
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    from pangu.foundation.errors import UserError
    from pangu.foundation.progress import Progress
    from parallel_strategy.loading import calibrated, load_setup
    from parallel_strategy.report.output import write_whole
    from parallel_strategy.report.search import found_data, one_line, print_found
    from parallel_strategy.search.bounds import space_of
    from parallel_strategy.search.find import search
    from parallel_strategy.spec.capability import outside

    setup = load_setup(arguments.strategy, devices=arguments.devices, changes=arguments.set)
    if arguments.calibration is not None:
        setup = calibrated(setup, arguments.calibration)
    space = space_of(
        setup,
        devices=arguments.devices,
        tp=arguments.tp,
        pp=arguments.pp,
        cp=arguments.cp,
        ep=arguments.ep,
        micro=arguments.micro,
        zero=arguments.zero,
        schedules=arguments.schedules,
        on_device=arguments.on_device,
        beyond=arguments.beyond,
    )
    devices = space.devices
    started = time.perf_counter()
    with Progress("search", unit="parts") as progress:
        found = search(
            setup,
            space,
            keep=arguments.keep,
            margin=arguments.margin,
            tell=lambda what: progress.advance(status=what),
        )
    elapsed = time.perf_counter() - started
    if not found.candidates:
        raise UserError(
            f"{arguments.strategy}: no legal strategy: global batch {space.batch} on {devices} devices within "
            f"the limits given"
        )
    if arguments.out and found.best:
        out = Path(arguments.out)
        best = found.best[0].setup.strategy.moved(Path(arguments.strategy).parent, out.parent)
        winner = found.best[0]
        title = (
            f"# Found by search: {winner.seconds:.4g} s a step and {winner.gib:.1f} of "
            f"{winner.usable_gib:g} GiB predicted, best of\n# {found.candidates:,} strategies on {devices} "
            f"devices of {setup.cluster.name}. `explain` says where the time goes.\n"
        )
        write_whole(out, title + best.dump())
    lacks = None
    if found.nearest is not None:
        usable, needs = found.nearest.usable_gib * (1.0 - arguments.margin), found.nearest.gib
        lacks = (
            f"{arguments.strategy}: none of {found.candidates:,} strategies fits; the nearest needs {needs:.2f} GiB, "
            f"{usable:.2f} usable: {needs - usable:.3g} too much ({one_line(found.nearest.setup.strategy)})"
        )
    priced_only = outside(found.best[0].setup) if found.best else []
    if arguments.json:
        data = found_data(found, elapsed) | {"priced_only": priced_only} | ({"error": lacks} if lacks else {})
        print(json.dumps(data, indent=1))
        return 2 if lacks else 0
    print_found(found, elapsed)
    for line in priced_only:
        print_translated(f"priced only: {line}")
    if lacks:
        raise UserError(lacks)
    return 0
