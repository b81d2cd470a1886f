"""Why a strategy takes as long as it does: parts of the step, operators with what bounds them, collectives by level.

--profile reads a folder of profiles, Ascend's tables or PyTorch's traces, and puts predicted and measured time of each
kernel side by side.

example:
  python -m parallel_strategy explain strategy.yaml
  python -m parallel_strategy explain strategy.yaml --profile PROF_DIR
"""

import argparse
import json
from typing import TYPE_CHECKING

from parallel_strategy.arguments import add_strategy, whole_number

if TYPE_CHECKING:
    from parallel_strategy.predict import Prediction


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_strategy(parser, has_calibration=True)
    parser.add_argument("--operators", type=whole_number, default=15, help="how many to show")
    parser.add_argument("--profile", metavar="DIR", help="a folder of profiles, or one file, to compare with")
    parser.add_argument("--json", action="store_true", help="print everything as JSON, mistakes too")


def run(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from parallel_strategy.loading import load_prediction
    from parallel_strategy.report.console import console as terminal
    from parallel_strategy.report.console import table
    from parallel_strategy.report.details import operators, traffic
    from parallel_strategy.search.parts import parts_of

    prediction = load_prediction(arguments.strategy, arguments.calibration, arguments.set)
    if arguments.profile is not None:
        return _beside_profiles(prediction, arguments)
    parts, found, links = parts_of(prediction), operators(prediction), traffic(prediction)
    if arguments.json:
        data = {
            "step_seconds": prediction.seconds,
            "parts_seconds": parts,
            "operators": [asdict(o) for o in found],
            "collectives": [asdict(t) for t in links],
        }
        print(json.dumps(data, indent=1))
        return 0
    console = terminal()
    console.print(f"step [bold]{prediction.seconds:.4g} s[/]; on the busiest stage:")
    for name, seconds in parts.items():
        console.print(
            f"  {name:28s} {seconds:9.4f} s  {seconds / prediction.closed_form_seconds:6.1%}", highlight=False
        )
    rows = table("operator", "ms", "s a step", "TFLOP/s", "GB/s", "bound by", left=("bound by",))
    for o in found[: arguments.operators]:
        rows.add_row(
            f"{o.block}: {o.name}",
            f"{o.milliseconds:.3f}",
            f"{o.step_seconds:.4f}",
            f"{o.tflops:.1f}",
            f"{o.gbps:.0f}",
            o.bound,
        )
    console.print(rows)
    rows = table(
        "collective", "over", "ranks", "times", "GiB", "seconds", "algorithm",
        left=("over", "algorithm"), title="of the busiest rank, over a step",
    )  # fmt: skip
    for t in links:
        rows.add_row(
            f"{t.axis}: {t.op}", t.level, str(t.group), str(t.count), f"{t.gib:.3f}", f"{t.seconds:.4f}", t.algorithm
        )
    console.print(rows)
    return 0


def _beside_profiles(prediction: "Prediction", arguments: argparse.Namespace) -> int:
    """Print or dump measured kernels beside what is predicted for them."""
    from dataclasses import asdict
    from pathlib import Path

    from parallel_strategy.profiles.compare import compare_kernels
    from parallel_strategy.profiles.profile_folder import read_profiles
    from parallel_strategy.report.profile_table import print_pairs

    seen = read_profiles(Path(arguments.profile))
    pairs = compare_kernels(seen, prediction)
    if arguments.json:
        kernels = [asdict(pair) | {"difference": pair.difference} for pair in pairs]
        steps = [asdict(step) for step in seen.steps]
        print(json.dumps({"kernels": kernels, "steps": steps, "notes": seen.notes}, indent=1))
    else:
        print_pairs(pairs, seen, arguments.operators)
    return 0
