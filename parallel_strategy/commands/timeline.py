"""The simulated step, to look at: a Chrome / Perfetto trace, and a self-contained report.html.

example:
  python -m parallel_strategy timeline strategy.yaml --html report.html --trace trace.json
  python -m parallel_strategy timeline strategy.yaml --html report.html --pareto     # with the searched space around it
"""

import argparse

from pangu.foundation.best_effort import print_translated
from parallel_strategy.arguments import add_strategy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_strategy(parser, has_calibration=True)
    parser.add_argument("--html", help="page to write")
    parser.add_argument("--trace", help="JSON file for chrome://tracing or ui.perfetto.dev")
    parser.add_argument("--pareto", action="store_true", help="also search, and draw the Pareto front into the page")


def run(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from pangu.foundation.errors import UserError
    from parallel_strategy.loading import load_prediction
    from parallel_strategy.report.output import write_whole

    if not arguments.html and not arguments.trace:
        raise UserError("timeline: nothing to write; give --html FILE, --trace FILE or both")
    prediction = load_prediction(arguments.strategy, arguments.calibration, arguments.set)
    if arguments.trace:
        from parallel_strategy.report.trace import chrome_trace

        write_whole(Path(arguments.trace), chrome_trace(prediction))
        print_translated(f"wrote {arguments.trace}")
    if arguments.html:
        from parallel_strategy.report.page import page

        front = None
        if arguments.pareto:
            from parallel_strategy.search.find import search
            from parallel_strategy.search.shapes import Space

            strategy = prediction.setup.strategy
            front = search(prediction.setup, Space(strategy.mesh.devices, strategy.batch.global_)).front
        write_whole(Path(arguments.html), page(prediction, front))
        print_translated(f"wrote {arguments.html}")
    return 0
