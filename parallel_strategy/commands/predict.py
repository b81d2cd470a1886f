"""Time and memory of a strategy, per pipeline stage, with the margin to running out of memory.

example:
  python -m parallel_strategy predict strategy.yaml
  python -m parallel_strategy predict strategy.yaml --json

exit code: 0 it fits, 3 it does not, 2 a mistake in the files
"""

import argparse
import json

from pangu.foundation.command_line import DOES_NOT_FIT, DONE
from parallel_strategy.arguments import add_strategy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_strategy(parser, has_calibration=True)
    parser.add_argument("--json", action="store_true", help="everything, for a machine")


def run(arguments: argparse.Namespace) -> int:
    from parallel_strategy.loading import load_prediction
    from parallel_strategy.report.terminal_tables import print_prediction, summary
    from parallel_strategy.spec.capability import outside

    prediction = load_prediction(arguments.strategy, arguments.calibration, arguments.set)
    priced_only = outside(prediction.setup)
    if arguments.json:
        print(json.dumps({**summary(prediction), "priced_only": priced_only}, indent=1))
    else:
        print_prediction(prediction)
        for line in priced_only:
            print(f"priced only: {line}")
    return DOES_NOT_FIT if prediction.out_of_memory else DONE
