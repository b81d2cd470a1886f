"""Fit the figures that may be fitted (never links or network cards) to measured rows.

The file names the rows that it saw.

example:
  python -m parallel_strategy calibrate rows.csv --out calibration.json
  python -m parallel_strategy calibrate rows.csv --cluster my_cluster.yaml --share 0.2 --out calibration.json
"""

import argparse
from math import exp

NORMAL_90 = 1.2816  # 90 % quantile of the normal distribution: four of five values lie between it and its opposite


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("rows", nargs="+", help="CSV files of measured runs")
    parser.add_argument("--out", required=True, help="calibration file to write")
    parser.add_argument("--cluster", help="preset or file that every row is taken to have run on")
    parser.add_argument(
        "--share", type=float, default=1.0, help="use at most this share of each machine's rows, chosen by hash"
    )


def run(arguments: argparse.Namespace) -> int:
    from pangu.foundation.errors import UserError
    from parallel_strategy.calibrate.fit import calibrate
    from parallel_strategy.calibrate.measured_runs import read_all
    from parallel_strategy.calibrate.protocols import chosen

    if not 0 < arguments.share <= 1:
        raise UserError(f"--share {arguments.share}: must lie above 0 and be at most 1")
    rows = read_all(arguments.rows, arguments.cluster)
    if arguments.share < 1:
        seen = chosen(rows, arguments.share)
        rows = [row for row in rows if row.id in seen]
    result = calibrate(rows)
    if not result.groups:
        raise UserError(f"{', '.join(arguments.rows)}: no row with a measured time or memory that can be predicted")
    result.save(arguments.out)
    for group, fit in result.groups.items():
        print(f"{group}: {len(fit.rows)} rows, what remains {fit.spread:.1%}")
        for name, value in fit.multipliers.items():
            reach = exp(NORMAL_90 * fit.deviations[name])
            print(f"  {name:15s} x {value:.3f}  (4 of 5: {value / reach:.3f} to {value * reach:.3f})")
        for name, value in fit.memory.items():
            print(f"  {name:15s} = {value:g}")
    print(f"wrote {arguments.out}")
    return 0
