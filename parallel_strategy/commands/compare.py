"""Strategies side by side: time, memory, and the parts of the step in which they differ.

example:
  python -m parallel_strategy compare before.yaml after.yaml
"""

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("strategies", nargs="+", metavar="strategy", help="two or more strategy.yaml")
    parser.add_argument("--calibration", help="a file that `calibrate` wrote")
    parser.add_argument("--json", action="store_true", help="print everything as JSON, mistakes too")


def run(arguments: argparse.Namespace) -> int:
    from parallel_strategy.loading import load_prediction
    from parallel_strategy.report.console import console as terminal
    from parallel_strategy.report.console import table
    from parallel_strategy.report.terminal_tables import summary
    from parallel_strategy.search.parts import parts_of

    predictions = [load_prediction(path, arguments.calibration) for path in arguments.strategies]
    rows = []
    for path, prediction in zip(arguments.strategies, predictions, strict=True):
        data = summary(prediction)
        keys = ("step_seconds", "tokens_per_second", "model_flops_utilisation", "bubble", "memory_gib", "out_of_memory")
        rows.append({"file": path, **{key: data[key] for key in keys}, "parts_seconds": parts_of(prediction)})
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return 0
    rows_shown = table("", *arguments.strategies)
    rows_shown.add_row("step s", *(f"{row['step_seconds']:.4g}" for row in rows))
    rows_shown.add_row("over the first", *(f"{row['step_seconds'] / rows[0]['step_seconds'] - 1:+.1%}" for row in rows))
    rows_shown.add_row("tokens/s", *(f"{row['tokens_per_second']:,.0f}" for row in rows))
    rows_shown.add_row("model FLOPs of peak", *(f"{row['model_flops_utilisation']:.1%}" for row in rows))
    rows_shown.add_row("pipeline idle", *(f"{row['bubble']:.1%}" for row in rows))
    rows_shown.add_row(
        "memory GiB",
        *(f"{row['memory_gib']:.1f}" + (" (does not fit)" if row["out_of_memory"] else "") for row in rows),
    )
    for name in rows[0]["parts_seconds"]:
        rows_shown.add_row(name + " s", *(f"{row['parts_seconds'][name]:.4g}" for row in rows))
    terminal().print(rows_shown)
    return 0
