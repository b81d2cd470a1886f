"""How accurate the emulator is on the development rows: `python -m tests.benchmarks.emulator_accuracy [folder]`.

Every protocol of `python -m parallel_strategy validate`, table by table, beside the rivals' published errors and the
goals.
"""

import sys
from pathlib import Path

from parallel_strategy.calibrate.measured_runs import MeasuredRow, read_rows
from parallel_strategy.calibrate.protocols import run_cv, run_p1, run_p2, run_p3
from parallel_strategy.calibrate.score import Score, score

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
}


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value * 100:.2f}"


def line(protocol: str, result: Score, goal: float | None, rival: str) -> str:
    regret = "-" if result.regret is None else f"{percent(result.regret[0])} / {percent(result.regret[1])}"
    reach = "-" if goal is None else f"<= {goal:g}"
    return (
        f"{result.table:26s} {protocol:4s} {result.rows:5d} {percent(result.mape):>7s} {reach:>8s} "
        f"{percent(result.median):>7s} "
        f"{percent(result.worst):>7s} {percent(result.bias):>7s} {regret:>15s}  {rival}"
    )


def main(folder: Path) -> None:
    print(
        f"{'table':26s} {'':4s} {'rows':>5s} {'MAPE':>7s} {'goal':>8s} {'median':>7s} {'worst':>7s} "
        f"{'bias':>7s} {'regret med/max':>15s}  rival"
    )
    for table, (rival, third, first, second) in TABLES.items():
        rows: list[MeasuredRow] = [row for row in read_rows(folder / f"{table}.csv")[0] if row.seconds]
        print(line("P3", score(table, run_p3(rows)), third, rival), flush=True)
        if len(rows) >= 5:
            print(line("P1", score(table, run_p1(rows)[0]), first, rival), flush=True)
        folds = run_p2(rows)
        print(line("P2", score(table, [one for _, members in folds for one in members]), second, rival), flush=True)
        print(line("CV", score(table, run_cv(rows)), first, rival), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data/validation"))
