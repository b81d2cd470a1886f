"""How accuracy is measured. P3: nothing of the tables is seen. P1: a fifth of a cluster's rows. P2: all but one model
size. CV: four fifths of a cluster's rows, five times.

No protocol scores a row that its calibration saw.
"""

import hashlib

from parallel_strategy.calibrate.fit import Calibration, calibrate
from parallel_strategy.calibrate.measured_runs import MeasuredRow
from parallel_strategy.calibrate.score import Outcome, outcome

SHARE = 0.20


def chosen(rows: list[MeasuredRow], share: float = SHARE) -> set[str]:
    """Return the rows of each group that P1 may see: those whose ids hash lowest, at most `share` of the group."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        if row.scored and row.seconds:
            groups.setdefault(row.group, []).append(row.id)
    picked: set[str] = set()
    for members in groups.values():
        members.sort(key=lambda identity: hashlib.sha256(identity.encode()).digest())
        picked.update(members[: int(len(members) * share)])
    return picked


def run_p3(rows: list[MeasuredRow]) -> list[Outcome]:
    return [outcome(row, None) for row in rows]


def run_p1(rows: list[MeasuredRow], share: float = SHARE) -> tuple[list[Outcome], Calibration]:
    seen = chosen(rows, share)
    calibration = calibrate([row for row in rows if row.id in seen])
    return [outcome(row, calibration) for row in rows if row.id not in seen], calibration


def run_cv(rows: list[MeasuredRow], parts: int = 5) -> list[Outcome]:
    """Return each fifth of each machine's rows, by hash of their ids, predicted by a calibration of the other four:
    what a calibration of all these rows does to rows of the same tables that nobody has seen."""
    order = sorted(rows, key=lambda row: hashlib.sha256(row.id.encode()).digest())
    groups: dict[str, list[MeasuredRow]] = {}
    for row in order:
        groups.setdefault(row.group, []).append(row)
    outcomes = []
    for members in groups.values():
        count = min(parts, len(members))
        for part in range(count):
            calibration = calibrate([row for index, row in enumerate(members) if index % count != part])
            outcomes += [outcome(row, calibration) for row in members[part::count]]
    return outcomes


def run_p2(rows: list[MeasuredRow]) -> list[tuple[str, list[Outcome]]]:
    """Return folds: (model size left out, its outcomes)."""
    folds = []
    for size in sorted({row.size for row in rows if row.scored and row.seconds}):
        rest = [row for row in rows if row.size != size]
        if not rest:
            continue
        calibration = calibrate(rest)
        folds.append((size, [outcome(row, calibration) for row in rows if row.size == size and row.scored]))
    return folds
