"""Predict measured runs and score: errors, order, regret of the predicted best, out-of-memory calls.

P3 (the default) has seen no row. P1 calibrates on at most a fifth of each machine's rows and scores the others. P2
leaves one model size out at a time. CV calibrates on four fifths and scores the fifth, five times. With --calibration,
rows that the file saw are left out of the score. A table of dry-run peaks (`peak_mb_dryrun`) is scored for memory.

--template writes a table to fill in; docs/measured_runs.md says what its columns mean.

example:
  python -m parallel_strategy validate --template rows.csv
  python -m parallel_strategy validate rows.csv
  python -m parallel_strategy validate rows.csv --protocol P1 --out predictions.csv --scatter scatter.png
  python -m parallel_strategy validate rows.csv --calibration calibration.json
"""

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("rows", nargs="*", help="CSV files of measured runs")
    parser.add_argument("--template", metavar="FILE", help="only write a table of two rows to fill in")
    parser.add_argument(
        "--protocol",
        choices=("P1", "P2", "P3", "CV"),
        default="P3",
        help="what a fit may have seen of the rows that it is scored on (default P3)",
    )
    parser.add_argument("--calibration", help="a file that `calibrate` wrote, in place of a protocol")
    parser.add_argument("--include-seen", action="store_true", help="also score rows that the calibration saw")
    parser.add_argument("--cluster", help="preset or file that every row is taken to have run on")
    parser.add_argument("--out", help="CSV file of predictions: id, predicted_s, predicted_gib, oom")
    parser.add_argument("--scatter", help="PNG file: predicted over measured")
    parser.add_argument("--residuals", action="store_true", help="every row with its error")
    parser.add_argument("--json", action="store_true", help="print everything as JSON, mistakes too")


def run(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict
    from pathlib import Path

    from pangu.foundation.errors import UserError
    from parallel_strategy.calibrate.dryrun import is_dryrun_table, read_dryruns, run_dryruns, score_dryruns
    from parallel_strategy.calibrate.fit import Calibration
    from parallel_strategy.calibrate.measured_runs import read_all
    from parallel_strategy.calibrate.protocols import run_cv, run_p1, run_p2, run_p3
    from parallel_strategy.calibrate.score import outcome, score
    from parallel_strategy.cost.memory import GIB
    from parallel_strategy.report.validation import print_scores, write_predictions, write_scatter

    if arguments.template is not None:
        from parallel_strategy.commands.calibrate import write_template

        return write_template(arguments.template)
    if not arguments.rows:
        raise UserError("validate: give CSV files of measured runs; --template FILE writes a table to fill in")
    dryruns = {Path(path).stem: read_dryruns(path) for path in arguments.rows if is_dryrun_table(path)}
    rows = read_all([path for path in arguments.rows if Path(path).stem not in dryruns], arguments.cluster)
    folds: list[tuple[str, list]] = []
    if arguments.calibration:
        calibration = Calibration.load(arguments.calibration)
        seen = set() if arguments.include_seen else calibration.rows_seen()
        outcomes = [outcome(row, calibration) for row in rows if row.id not in seen]
        title = f"calibration {arguments.calibration}, which saw {len(calibration.rows_seen())} rows"
    elif arguments.protocol == "P1":
        outcomes, _ = run_p1(rows)
        title = "P1: a fifth of each machine's rows seen and not scored"
    elif arguments.protocol == "CV":
        outcomes = run_cv(rows)
        title = "CV: four fifths of each machine's rows seen, the fifth scored, five times"
    elif arguments.protocol == "P2":
        folds = run_p2(rows)
        outcomes = [one for _, members in folds for one in members]
        title = "P2: one model size left out at a time"
    else:
        outcomes = run_p3(rows)
        title = "P3: no row seen"
    tables: dict[str, list] = {}
    for one in outcomes:
        tables.setdefault(one.row.table, []).append(one)
    scores = [score(table, members) for table, members in tables.items()]
    peaks = []
    for table, members in dryruns.items():
        if arguments.calibration and not arguments.include_seen:
            members = [one for one in members if not one.development]
        if members:
            peaks += run_dryruns(members, "shipped" if arguments.calibration else arguments.protocol)
            scores.append(score_dryruns(table, peaks[-len(members) :]))
    if arguments.out:
        write_predictions(arguments.out, outcomes, {one.id: found / GIB for one, found in peaks})
    if arguments.scatter:
        write_scatter(arguments.scatter, outcomes, title)
    if arguments.json:
        print(json.dumps({"protocol": title, "tables": [asdict(s) for s in scores]}, indent=1))
    else:
        fold_scores = [(size, score(size, members)) for size, members in folds]
        print_scores(title, scores, fold_scores, outcomes if arguments.residuals else [])
    return 0
