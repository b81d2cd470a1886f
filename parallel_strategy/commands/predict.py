"""Time and memory of a strategy, per pipeline stage, with the margin to running out of memory.

example:
  python -m parallel_strategy predict strategy.yaml
  python -m parallel_strategy predict strategy.yaml --json
"""

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("strategy", help="strategy.yaml; `init` writes one")
    parser.add_argument("--calibration", help="a file that `calibrate` wrote")
    parser.add_argument("--json", action="store_true", help="everything, for a machine")


def run(arguments: argparse.Namespace) -> int:
    from parallel_strategy.report.tables import print_prediction, summary
    from parallel_strategy.session import load_prediction
    from parallel_strategy.spec.capability import outside

    prediction = load_prediction(arguments.strategy, arguments.calibration)
    priced_only = outside(prediction.question)
    if arguments.json:
        print(json.dumps({**summary(prediction), "priced_only": priced_only}, indent=1))
    else:
        print_prediction(prediction)
        for line in priced_only:
            print(f"priced only: {line}")
    return 0
