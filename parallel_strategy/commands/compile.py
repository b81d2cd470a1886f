"""Compile one rank of a strategy with MindSpore's own parallel compiler, for Ascend, without an Ascend device.

Prints the layout of every parameter, what the compiler made communicate (operator, group, bytes, layer), messages
between stages, operators that are recomputed, and how long it took. --diff names every difference from the emulator's
program of the same strategy. --load reads one of the files that `export` writes for MindSpore back, in the place of our
splits: parameters/strategy_N.ckpt, operators/by_parameter_N.json or operator_strategy.json. The last is made from a
skeleton, the names that MindSpore gives to operators. --method compiles a step of `python -m pangu finetune`: the base
is frozen, and what the method adds is trained.

examples:
  python -m parallel_strategy compile strategy.yaml --rank 0
  python -m parallel_strategy compile strategy.yaml --rank 1027 --diff
  python -m parallel_strategy compile strategy.yaml --json > rank0.json
  python -m parallel_strategy compile strategy.yaml --method lora --lora-rank 8 --module all --diff
  python -m parallel_strategy compile strategy.yaml --skeleton skeleton.json
  python -m parallel_strategy export strategy.yaml --out exported --skeleton skeleton.json
  python -m parallel_strategy compile strategy.yaml --load exported/operator_strategy.json --diff
"""

import argparse
import json
from collections import Counter
from pathlib import Path

from pangu.foundation.best_effort import print_translated
from parallel_strategy.arguments import add_strategy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_strategy(parser)
    parser.add_argument("--rank", type=int, default=0, metavar="N", help="the rank to compile for (default 0)")
    parser.add_argument(
        "--diff", action="store_true", help="compare with the emulator's program (exit code 1: differs)"
    )
    parser.add_argument("--load", type=Path, metavar="FILE", help="take the splits from this file of MindSpore's")
    parser.add_argument(
        "--skeleton", type=Path, metavar="FILE", help="only write what MindSpore calls the operators, for `export`"
    )
    parser.add_argument(
        "--method", metavar="NAME", help="of a fine-tuning, in the place of training: full lora adapter bitfit"
    )
    parser.add_argument("--lora-rank", type=int, default=8, metavar="R", help="of LoRA's matrices (default 8)")
    parser.add_argument(
        "--module", action="append", metavar="NAME", help="beside which LoRA stands, as `finetune` names it; repeatable"
    )
    parser.add_argument("--bottleneck", type=int, default=64, metavar="M", help="width of method adapter (default 64)")
    parser.add_argument("--keep-graph", type=Path, metavar="FOLDER", help="keep the text of the compiled graph here")
    parser.add_argument("--json", action="store_true", help="print everything as JSON, mistakes too")


def run(arguments: argparse.Namespace) -> int:
    from pangu.foundation.progress import Progress
    from parallel_strategy.loading import load_setup
    from parallel_strategy.mindspore.dryrun.difference import (
        differences,
        emulated,
        fused_differences,
        of_mindspore,
    )
    from parallel_strategy.mindspore.dryrun.fine_tuning import asked_tuning
    from parallel_strategy.mindspore.dryrun.job import check_compilation, compile_rank, expected_seconds, write_skeleton
    from parallel_strategy.mindspore.limits import check_supported

    setup = load_setup(arguments.strategy, check_supported, changes=arguments.set)
    tuning = asked_tuning(arguments, setup)
    if arguments.skeleton is not None:
        count = write_skeleton(Path(arguments.strategy), setup, arguments.skeleton)
        print_translated(f"wrote {arguments.skeleton}: {count} operators")
        return 0
    check_compilation(setup, arguments.rank, arguments.load, arguments.keep_graph)
    expected = expected_seconds(setup, arguments.rank)
    with Progress("compile", expected, unit="s", status="about so long on a quiet core", announce=True) as progress:

        def tell(elapsed: float) -> None:
            late = elapsed > expected
            progress.update(
                elapsed,
                status="longer than expected: others use the machine, or the graph is large" if late else None,
                total=1.25 * elapsed if late else None,
            )

        compiled = compile_rank(
            Path(arguments.strategy),
            setup,
            arguments.rank,
            keep=arguments.keep_graph,
            load=arguments.load,
            flags=tuning.flags() if tuning else (),
            tell=tell,
        )
    found = []
    if arguments.diff:
        emulator = emulated(setup, arguments.rank, whole_batch=compiled.whole_batch, tuning=tuning)
        found = differences(emulator, of_mindspore(compiled.collectives))
        if tuning is None:
            found += fused_differences(setup, arguments.rank, compiled.collectives)
    if arguments.json:
        document = {
            "rank": compiled.rank,
            "seconds": compiled.seconds,
            "cpu_seconds": compiled.cpu_seconds,
            "process_seconds": compiled.process_seconds,
            "peak_memory_gib": compiled.peak_memory_gib,
            "parameters": {name: vars(layout) for name, layout in compiled.parameters.items()},
            "collectives": [collective.as_json() for collective in compiled.collectives],
            "recomputed": compiled.recomputed,
            "fusion_mb": compiled.fusion_mb,
        }
        if arguments.diff:
            document["differences"] = [vars(one) | {"kind": vars(one.kind)} for one in found]
        print(json.dumps(document))
    else:
        _print(compiled, setup.strategy.mesh.pp)
        if arguments.diff:
            print()
            print_translated(
                "\n".join(f"differs: {one}" for one in found) or "the emulator's program has the same collectives"
            )
    return 1 if found else 0


def _print(compiled, stages: int) -> None:
    from rich.table import Table

    from pangu.foundation.terminal import TranslatingConsole
    from parallel_strategy.mindspore.dryrun.difference import ranks_text
    from parallel_strategy.mindspore.fusion import of_mindspore
    from parallel_strategy.mindspore.pangu_network import BACKBONE

    console = TranslatingConsole()
    layouts = Table("parameter", "device matrix", "tensor map", "whole", "here", "optimizer", title="parameter layouts")
    for name, layout in compiled.parameters.items():
        if not name.startswith(("adam_m.", "adam_v.", "accu_grads.")):
            layouts.add_row(
                name.removeprefix(BACKBONE),
                *(" ".join(map(str, row)) for row in (layout.device_matrix, layout.tensor_map, layout.shape)),
                " ".join(map(str, layout.local_shape)),
                "split" if layout.optimizer_sharded else "",
            )
    console.print(layouts)
    table = Table("phase", "layer", "operator", "times", "bytes", "type", "of", "ranks", "fusion", title="collectives")
    totals: Counter[str] = Counter()
    for one in compiled.collectives:
        layer = "" if one.layer < 0 else str(one.layer)
        fusion = str(one.fusion) if one.fusion else ""
        row = (one.phase, layer, one.op, f"{one.times:,}", f"{one.bytes:,}", one.dtype, one.name)
        table.add_row(*row, ranks_text(one.group), fusion)
        totals[one.op] += one.times
    console.print(table)
    console.print("in a step: " + ", ".join(f"{times} {op}" for op, times in sorted(totals.items())))
    joined = of_mindspore(compiled.collectives)
    if joined:
        before = sum(one.members * count for one, count in joined.items())
        console.print(f"gradients' all-reduces: {before:,} in {sum(joined.values()):,} after fusion")
    if stages > 1:
        console.print(f"messages of this stage: {totals['send']} sends, {totals['receive']} receives")
    again = ", ".join(f"{times} {name}" for name, times in sorted(compiled.recomputed.items()))
    console.print(f"recomputed operators: {again or 'none'}")
    console.print(
        f"compiled in {compiled.seconds:.1f} s ({compiled.cpu_seconds:.1f} s of processor, "
        f"{compiled.process_seconds:.1f} s with its start), "
        f"{compiled.peak_memory_gib:.1f} GiB"
    )
