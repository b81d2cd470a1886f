"""How accurate the emulator is on the development rows: `python -m tests.benchmarks.emulator_accuracy [folder]`.

Every protocol of `python -m parallel_strategy validate`, table by table, beside the rivals' published errors and the
goals. With `--quick` P3 and CV only, without vTrain's single-node table; and the runs that papers published.
"""

import argparse
from pathlib import Path

import numpy as np

from parallel_strategy.calibrate.measured_runs import MeasuredRow, read_rows
from parallel_strategy.calibrate.protocols import run_cv, run_p1, run_p2, run_p3
from parallel_strategy.calibrate.score import Outcome, score
from parallel_strategy.predict import Prediction
from tests.parallel_strategy import published

# table -> (rival, its published error in percent; goals of P3, P1, P2 in percent)
TABLES = {
    "vtrain_multi_node_a100": ("vTrain 14.73", 12.0, 6.0, 10.0),
    "vtrain_single_node_a100": ("vTrain 8.37", None, 5.5, None),
    "korthikanti_table5": ("Calculon 3.65, worst 8.87", None, 3.0, 5.0),
    "megatron_sc21_table1": ("constant TFLOP/s 10-18", 8.0, 3.0, None),
    "bigscience_bloom_a100": ("least squares 5.8", None, 4.5, None),
    "simumax_b200": ("SimuMax 5.62", None, 5.0, None),
    "modellink_ascend910b": ("least squares 15", None, 12.0, None),
    "mindformers_ascend": ("-", None, None, None),
    "mosaic_mpt_fsdp": ("-", None, None, None),
    "megatron_core_h100": ("-", None, None, None),
    "zero_bubble_table4": ("-", None, None, None),
    "torchtitan_h100": ("-", 12.0, None, None),
    "megatron_bridge_moe": ("-", 12.0, None, None),
}


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value * 100:.2f}"


def covered(outcomes: list[Outcome]) -> float:
    """Return the share of measured times inside the interval that holds four of five."""
    timed = [one for one in outcomes if one.error is not None and one.row.scored and not one.row.impossible]
    inside = [1 / one.interval <= one.row.seconds / one.seconds <= one.interval for one in timed]
    return float(np.mean(inside)) if inside else float("nan")


def line(protocol: str, outcomes: list[Outcome], table: str, goal: float | None, rival: str) -> str:
    result = score(table, outcomes)
    regret = "-" if result.regret is None else f"{percent(result.regret[0])} / {percent(result.regret[1])}"
    reach = "-" if goal is None else f"<= {goal:g}"
    return (
        f"{result.table:26s} {protocol:4s} {result.rows:5d} {percent(result.mape):>7s} {reach:>8s} "
        f"{percent(result.median):>7s} "
        f"{percent(result.worst):>7s} {percent(result.bias):>7s} {regret:>15s} "
        f"{percent(result.memory_mape):>6s} {covered(outcomes) * 100:5.0f}  {rival}"
    )


def main(folder: Path, *, quick: bool) -> None:
    print(
        f"{'table':26s} {'':4s} {'rows':>5s} {'MAPE':>7s} {'goal':>8s} {'median':>7s} {'worst':>7s} "
        f"{'bias':>7s} {'regret med/max':>15s} {'GiB':>6s} {'in':>5s}  rival"
    )
    for table, (rival, third, first, second) in TABLES.items():
        rows: list[MeasuredRow] = [row for row in read_rows(folder / f"{table}.csv")[0] if row.seconds]
        print(line("P3", run_p3(rows), table, third, rival), flush=True)
        if quick and len(rows) > 100:
            continue
        if not quick:
            if len(rows) >= 5:
                print(line("P1", run_p1(rows)[0], table, first, rival), flush=True)
            folds = run_p2(rows)
            print(line("P2", [one for _, members in folds for one in members], table, second, rival), flush=True)
        print(line("CV", run_cv(rows), table, first, rival), flush=True)
    runs = {
        "ZeRO-3, 384 to 2,240": list(published.zero_3()),
        "InternEvo, all, 1,024": [published.internevo(tensor, -1, 1024) for tensor in (1, 2)],
        "InternEvo, 8 to 1,024": [
            published.internevo(*key, 8 << place) for key in published.INTERNEVO for place in range(8)
        ],
        "MT-NLG 530B": list(published.mt_nlg()),
    }
    for name, members in runs.items():
        errors = np.array([Prediction(setup).seconds / seconds - 1 for setup, seconds in members]) * 100
        print(f"{name:26s} {'':4s} {len(errors):5d} {np.abs(errors).mean():7.2f}  worst {np.abs(errors).max():.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default="../shared/data/validation")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    main(Path(arguments.folder), quick=arguments.quick)
