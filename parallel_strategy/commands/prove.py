"""Executes a strategy on virtual devices in this process and compares it with one device: loss, gradients, every
updated weight, and every collective with the emulator's list. The model is narrowed and shortened, the layout is not.

Exit code 0: equal; 1: not equal, or the program cannot be executed.

example:
  python -m parallel_strategy prove strategy.yaml
  python -m parallel_strategy prove strategy.yaml --dtype float32 --devices 16 --json
"""

import argparse
import json

from parallel_strategy.arguments import add_strategy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_strategy(parser)
    parser.add_argument(
        "--dtype", choices=("float64", "float32"), default="float64", help="of all numbers (default float64)"
    )
    parser.add_argument("--devices", type=int, default=64, help="data parallelism is lowered to fit; default 64")
    parser.add_argument("--steps", type=int, default=2, help="updates to run; default 2")
    parser.add_argument("--seed", type=int, default=1, help="of weights and tokens")
    parser.add_argument("--json", action="store_true", help="everything, for a machine")


def run(arguments: argparse.Namespace) -> int:
    from pangu.foundation.errors import UserError
    from parallel_strategy.loading import load_setup
    from parallel_strategy.spec.capability import check_executed
    from parallel_strategy.virtual.downsizing import reduced
    from parallel_strategy.virtual.proof import prove, traffic_by_level

    for name in ("devices", "steps"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name} {getattr(arguments, name)} must be at least 1")
    setup = load_setup(arguments.strategy, check_executed, changes=arguments.set)
    small = reduced(setup, arguments.devices)
    proof = prove(small.setup, arguments.dtype, arguments.steps, arguments.seed)
    levels = traffic_by_level(setup)
    if arguments.json:
        _print_json(small, proof, levels)
    else:
        _print_table(setup, small, proof, levels)
    return 0 if proof.equal else 1


def _print_json(small, proof, levels) -> None:
    from dataclasses import asdict

    data = {**asdict(proof), "equal": proof.equal, "largest": proof.largest, "reduced": list(small.changes)}
    data["mesh"] = small.setup.strategy.mesh.model_dump(mode="json")
    data["traffic"] = [asdict(level) for level in levels]
    print(json.dumps(data, indent=1))


def _print_table(setup, small, proof, levels) -> None:
    from rich.table import Table

    from pangu.foundation.terminal import TranslatingConsole
    from parallel_strategy.virtual.proof import TOLERANCE

    console = TranslatingConsole(highlight=False, soft_wrap=True)
    mesh, strategy = small.setup.strategy.mesh, small.setup.strategy
    sizes = " x ".join(f"{axis} {getattr(mesh, axis)}" for axis in ("pp", "dp", "cp", "tp") if getattr(mesh, axis) > 1)
    console.print(
        f"{setup.model.name}: {proof.devices} virtual devices ({sizes or 'one'}), {strategy.pipeline.schedule}, "
        f"optimizer sharding {strategy.zero.stage}, recompute {strategy.recompute.mode}"
    )
    console.print(f"reduced: {', '.join(small.changes) or 'nothing'}")
    table = Table("compared with one device", "largest difference", "allowed", "where")
    for name, difference in proof.differences.items():
        bound = TOLERANCE[proof.dtype]
        mark = "[green]" if difference.size <= bound else "[red]"
        table.add_row(name, f"{mark}{difference.size:.1e}", f"{bound:.0e}", difference.where)
    console.print(table)
    if proof.collectives:
        listed = "differ from the emulator's list" if proof.problem else "equal to the emulator's list"
        console.print(f"collectives: {proof.collectives} logged on all ranks, {listed}")
    if proof.problem:
        console.print(f"[red]{proof.problem}")
    table = Table("level", "collective", "over", "times", "GiB", title="traffic of the busiest rank at full size")
    for level in levels:
        table.add_row(level.level, level.op, ", ".join(level.axes), str(level.count), f"{level.gib:.3f}")
    if levels:
        console.print(table)
    verdict = "[green]equal" if proof.equal else "[red]NOT equal"
    console.print(f"{verdict}[/], {proof.dtype}, {proof.steps} steps, {proof.seconds:.1f} s")
