"""Fit the figures that may be fitted (never links or network cards) to measured rows; or a cluster file to profiles.

Rows are runs with their step time; the calibration file names those that it saw. --template writes a table to fill in,
docs/measured_runs.md says what its columns mean. --profile reads a folder of profiles, Ascend's tables and PyTorch's
traces, and writes the cluster file with what their kernels and collectives say; every change is a line.

example:
  python -m parallel_strategy calibrate --template rows.csv
  python -m parallel_strategy calibrate rows.csv --out calibration.json
  python -m parallel_strategy calibrate --profile PROF_DIR --cluster atlas-800t-a2-910b1 --out our_cluster.yaml
  python -m parallel_strategy calibrate rows.csv --cluster my_cluster.yaml --share 0.2 --out calibration.json
"""

import argparse
from math import exp, expm1

from pangu.foundation.best_effort import print_translated

NORMAL_90 = 1.2816  # 90 % quantile of the normal distribution: four of five values lie between it and its opposite


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("rows", nargs="*", help="CSV files of measured runs")
    parser.add_argument("--out", help="calibration file to write; with --profile a cluster file")
    parser.add_argument("--cluster", help="preset or file that every row, or the profile, is taken to have run on")
    parser.add_argument("--profile", metavar="DIR", help="a folder of profiles, or one file, in place of rows")
    parser.add_argument("--template", metavar="FILE", help="only write a table of two rows to fill in")
    parser.add_argument(
        "--share", type=float, default=1.0, help="use at most this share of each machine's rows, chosen by hash"
    )


def run(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from pangu.foundation.atomic_file import check_not_read
    from pangu.foundation.errors import UserError
    from parallel_strategy.calibrate.fit import calibrate
    from parallel_strategy.calibrate.measured_runs import read_all
    from parallel_strategy.calibrate.protocols import chosen
    from parallel_strategy.calibrate.residual import distance_deviation

    if arguments.template is not None:
        return write_template(arguments.template)
    if arguments.out is None or bool(arguments.rows) == (arguments.profile is not None):
        raise UserError("calibrate: give --out, and either CSV files or --profile DIR; --template FILE writes a table")
    if arguments.profile is not None:
        return _from_profiles(arguments)
    if not 0 < arguments.share <= 1:
        raise UserError(f"--share {arguments.share}: must lie above 0 and be at most 1")
    check_not_read(Path(arguments.out), *arguments.rows)
    rows = read_all(arguments.rows, arguments.cluster)
    if arguments.share < 1:
        seen = chosen(rows, arguments.share)
        rows = [row for row in rows if row.id in seen]
    result = calibrate(rows)
    if not result.groups:
        raise UserError(f"{', '.join(arguments.rows)}: no row with a measured time or memory that can be predicted")
    result.save(arguments.out)
    for group, fit in result.groups.items():
        near = expm1(fit.reach * float(distance_deviation(1.0, (fit.shares[0], fit.shares[1]))))
        print_translated(f"{group}: {len(fit.rows)} rows; of runs like them four of five lie within {near:.1%}")
        for name, value in fit.multipliers.items():
            reach = exp(NORMAL_90 * fit.deviations[name])
            print_translated(f"  {name:15s} x {value:.3f}  (4 of 5: {value / reach:.3f} to {value * reach:.3f})")
        for name, value in fit.memory.items():
            print(f"  {name:15s} = {value:g}")
    print_translated(f"wrote {arguments.out}")
    return 0


def write_template(target: str) -> int:
    """Write a table to fill in. Raises UserError where there is a file already."""
    from pathlib import Path

    from pangu.foundation.errors import UserError
    from parallel_strategy.calibrate.columns import template
    from parallel_strategy.report.output import write_whole

    if Path(target).exists():
        raise UserError(f"{target}: exists; give another name")
    write_whole(Path(target), template())
    print_translated(f"wrote {target}; docs/measured_runs.md says what the columns mean")
    return 0


def _from_profiles(arguments: argparse.Namespace) -> int:
    """Write a cluster file with the figures that profiles say."""
    from pathlib import Path

    import yaml

    from pangu.foundation.errors import UserError
    from parallel_strategy.calibrate.measured_runs import cluster_at
    from parallel_strategy.profiles.profile_figures import fit_cluster
    from parallel_strategy.profiles.profile_folder import read_profiles
    from parallel_strategy.report.output import write_whole

    if arguments.cluster is None or not arguments.out.endswith((".yaml", ".yml")):
        raise UserError("--profile: give --cluster, whose figures stay where nothing was seen, and --out FILE.yaml")
    base = cluster_at(arguments.cluster)
    seen = read_profiles(Path(arguments.profile))
    fitted = fit_cluster(seen, base, arguments.profile)
    head = [f"# {base.name} with figures of profiles in {arguments.profile}. What was seen, and how far it reaches:"]
    head += [f"# {' '.join(line.split())}" for line in (*seen.notes, *fitted.lines)]
    document = yaml.safe_dump(fitted.cluster.model_dump(mode="json", exclude_none=True), sort_keys=False, width=110)
    write_whole(Path(arguments.out), "\n".join(head) + "\n" + document)
    print("\n".join([*seen.notes, *fitted.lines, f"wrote {arguments.out}"]))
    return 0
