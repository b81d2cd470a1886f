"""How long MindSpore's compiler takes for one rank: 64 layers on 2,048 devices (pp 16 x dp 16 x mp 8).

    python -m tests.benchmarks.compile_check [--hidden 1024] [--rank 0]
    python -m tests.benchmarks.compile_check --preset pangu-alpha-200b-paper --rank 1920

Goal: at most 60 s a rank. Prints wall time, processor time and memory of the compiler, and whether the emulator's
program has the same collectives. Wall time is of no use on a machine that does other work: processor time is.
"""

import argparse
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from parallel_strategy.mindspore.dryrun.difference import differences, emulated, of_mindspore
from parallel_strategy.mindspore.dryrun.job import compile_rank
from parallel_strategy.mindspore.dryrun.stand_in import why_not
from parallel_strategy.spec.strategy import Setup, StrategySpec
from tests.benchmarks.agreement import LAYOUTS, write

NAME = "200B: pp16 dp16 mp8, width 1024"


def strategy(arguments: argparse.Namespace, folder: Path) -> Path:
    """The strategy file that is compiled: a preset at its own size, or the 200B layout as wide as asked."""
    if arguments.preset:
        path = folder / "strategy.yaml"
        path.write_text(StrategySpec.preset(arguments.preset).dump())
        return path
    sizes = {"hidden_size": arguments.hidden, "ffn_hidden_size": 4 * arguments.hidden}
    return write(LAYOUTS[NAME] | {"model_fields": LAYOUTS[NAME]["model_fields"] | sizes}, folder)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=1024, help="hidden size; the feed-forward layer is four times it")
    parser.add_argument("--preset", help="a preset strategy at its own size instead")
    parser.add_argument("--rank", type=int, default=0)
    arguments = parser.parse_args(argv)
    if reason := why_not():
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as scratch:
        path = strategy(arguments, Path(scratch))
        setup = Setup.load(path)
        compiled = compile_rank(path, setup, arguments.rank)
    found = differences(emulated(setup, arguments.rank), of_mindspore(compiled.collectives))
    model, mesh = setup.model, setup.strategy.mesh
    print(
        f"mindspore {metadata.version('mindspore')}: {model.num_layers} layers of {model.hidden_size}, "
        f"{mesh.devices:,} devices, {setup.strategy.micro_batches} micro-batches"
    )
    print(f"rank {arguments.rank}: {compiled.seconds:.0f} s wall, {compiled.cpu_seconds:.0f} s of processor")
    print(f"with start and imports {compiled.process_seconds:.0f} s wall, {compiled.peak_memory_gib:.1f} GiB")
    print("collectives: " + ("; ".join(map(str, found)) or f"equal ({len(compiled.collectives)} nodes)"))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
