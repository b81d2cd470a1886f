"""Show what another threshold would drop, from what was measured: nothing runs again.

python -m data_pipeline tune corpus short
python -m data_pipeline tune corpus han_share --threshold 0.5 -n 5
python -m data_pipeline tune corpus digit_share --maximum 0.3

RULE is a rule of the run (`stats` lists them), STAGE.RULE where two stages have it, or any signal with a bound.
"""

import argparse
import dataclasses
import difflib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipeline.engine.output_place import run_directory
from pangu.foundation.best_effort import print_translated

if TYPE_CHECKING:
    from data_pipeline.report.thresholds import Threshold

PREVIEW_CHARACTERS = 160
QUANTILES = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=run_directory, help="the output directory of a run")
    parser.add_argument("rule", metavar="RULE", help="a rule, or a signal")
    parser.add_argument("--threshold", type=float, help="the bound to try, for a rule that has one")
    parser.add_argument("--minimum", type=float, help="drop what lies below")
    parser.add_argument("--maximum", type=float, help="drop what lies above")
    parser.add_argument("-n", "--number", type=int, default=3, help="samples of each kind (3)")
    parser.add_argument("--json", action="store_true", help="print everything as JSON, mistakes too")


def run(arguments: argparse.Namespace) -> int:
    from data_pipeline.engine.browse import reading
    from pangu.foundation.errors import UserError

    for name in ("threshold", "minimum", "maximum"):
        value = getattr(arguments, name)
        if value is not None and value != value:
            raise UserError(f"--{name}: not a number")
    if arguments.number < 0:
        raise UserError(f"-n {arguments.number}: nearest: 0")
    with reading(arguments.out):
        current, proposed = chosen(arguments)
        found = compare(arguments.out, current, proposed, arguments.number)
    if arguments.json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        print_comparison(found, current, proposed)
    return 0


def chosen(arguments: argparse.Namespace) -> "tuple[Threshold | None, Threshold]":
    """Return (the rule as the run had it, or None for a bare signal; the rule that is tried)."""
    from data_pipeline.engine.browse import stages_of
    from data_pipeline.report.thresholds import Threshold, signal_names, thresholds_of
    from pangu.foundation.errors import UserError

    rules = thresholds_of(arguments.out)
    named = [rule for rule in rules if arguments.rule in (rule.rule, f"{rule.stage}.{rule.rule}")]
    if len(named) > 1:
        names = ", ".join(f"{rule.stage}.{rule.rule}" for rule in named)
        raise UserError(f"{arguments.rule}: {len(named)} stages have this rule; say which: {names}")
    if named:
        return named[0], _with_bounds(named[0], arguments)
    stages = [shards for shards in stages_of(arguments.out) if shards.kept or shards.dropped]
    for shards in stages:
        if arguments.rule in signal_names(shards):
            bare = Threshold(shards.stage, arguments.rule, arguments.rule, None, None)
            if arguments.minimum is None and arguments.maximum is None:
                raise UserError(f"{arguments.rule}: a signal, and no rule; give --minimum or --maximum")
            return None, _with_bounds(bare, arguments)
    known = [rule.rule for rule in rules] + (signal_names(stages[-1]) if stages else [])
    close = difflib.get_close_matches(arguments.rule, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(dict.fromkeys(known)) or 'none'}"
    raise UserError(f"{arguments.rule}: no rule and no signal of {arguments.out} is called this; {hint}")


def _with_bounds(rule: "Threshold", arguments: argparse.Namespace) -> "Threshold":
    from pangu.foundation.errors import UserError

    changes = {
        name: getattr(arguments, name) for name in ("minimum", "maximum") if getattr(arguments, name) is not None
    }
    if arguments.threshold is not None:
        sides = [name for name in ("minimum", "maximum") if getattr(rule, name) is not None]
        if len(sides) != 1 or changes:
            raise UserError(f"--threshold: {rule.rule} has not exactly one bound; give --minimum or --maximum")
        changes = {sides[0]: arguments.threshold}
    return dataclasses.replace(rule, **changes)


def compare(root: Path, current: "Threshold | None", proposed: "Threshold", samples: int) -> dict[str, Any]:
    """Return counts, a table of thresholds, and the documents for which the new bound changes something (nearest
    first)."""
    import numpy as np

    from data_pipeline.engine.browse import stages_of
    from data_pipeline.report.thresholds import fetch, read_signals
    from pangu.foundation.errors import UserError

    shards = next(shards for shards in stages_of(root) if shards.stage == proposed.stage)
    numbers, values, before, after, own = [], [], [], [], []
    for part in read_signals(shards, list(dict.fromkeys([proposed.signal, "characters"]))):
        if proposed.signal not in part.columns:
            continue
        value = part.columns[proposed.signal]
        characters = part.columns.get("characters", np.full(value.size, np.inf))
        numbers.append(part.doc_id)
        values.append(value)
        after.append(proposed.drops(value, characters))
        before.append(current.drops(value, characters) if current else np.zeros(value.size, bool))
        # dropped by this rule, kept (0), or dropped by another (2)
        name = current.rule if current else None
        own.append(
            np.array([0 if reason is None else 1 if reason.partition(":")[0] == name else 2 for reason in part.reasons])
        )
    if not numbers:
        raise UserError(f"{root}: stage {proposed.stage} has no records with the signal {proposed.signal}")
    number, value = np.concatenate(numbers), np.concatenate(values)
    was, is_now, state = np.concatenate(before), np.concatenate(after), np.concatenate(own)
    bound = proposed.minimum if proposed.minimum is not None else proposed.maximum
    assert bound is not None
    groups = {
        "newly_dropped": is_now & ~was & (state == 0),
        "comes_back": was & ~is_now & (state == 1),
        "dropped": is_now,
        "kept": ~is_now & (state == 0),
    }
    has_changed = bool(groups["newly_dropped"].any() or groups["comes_back"].any())
    shown = ("newly_dropped", "comes_back") if has_changed else ("dropped", "kept")
    picked = {name: _nearest(number, value, groups[name], bound, samples) for name in shown}
    records = fetch((*shards.kept, *shards.dropped), {n for some in picked.values() for n, _ in some})
    finite = value[~np.isnan(value)]
    side = "minimum" if proposed.minimum is not None else "maximum"
    grid = sorted({float(f"{q:.3g}") for q in np.quantile(finite, QUANTILES)} | {bound}) if finite.size else []
    return {
        "stage": proposed.stage,
        "rule": proposed.rule,
        "signal": proposed.signal,
        "documents": int(number.size),
        "unmeasured": int(np.isnan(value).sum()),
        "current": dataclasses.asdict(current) if current else None,
        "proposed": dataclasses.asdict(proposed),
        "breaks_now": int(was.sum()),
        "breaks_then": int(is_now.sum()),
        "newly_dropped": int(groups["newly_dropped"].sum()),
        "comes_back": int(groups["comes_back"].sum()),
        "dropped_by_other_rules_anyway": int((is_now & (state == 2)).sum()),
        "thresholds": [
            {side: at, "drops": int((finite < at).sum() if side == "minimum" else (finite > at).sum())} for at in grid
        ],
        "samples": {
            name: [
                {
                    "value": float(found),
                    "doc_id": one,
                    "id": records[one]["id"],
                    "source": records[one]["source"],
                    "drop_reason": records[one]["drop_reason"],
                    "text": records[one]["text"],
                }
                for one, found in some
            ]
            for name, some in picked.items()
        },
    }


def _nearest(number, value, group, bound: float, samples: int) -> list[tuple[int, float]]:
    """Return (doc_id, value) of the members of a group that lie nearest to the bound; equal ones by their numbers."""
    import numpy as np

    rows = np.flatnonzero(group)
    order = rows[np.lexsort((number[rows], np.abs(value[rows] - bound)))][:samples]
    return [(int(number[row]), float(value[row])) for row in order]


def print_comparison(found: dict[str, Any], current: "Threshold | None", proposed: "Threshold") -> None:
    """Print the same for a person."""
    total = found["documents"]

    def share(count: int) -> str:
        return f"{count:>9,}  {100 * count / total:6.2f} %" if total else f"{count:>9,}"

    print_translated(
        f"{found['stage']}.{found['rule']}: drops {proposed.in_words()}; {total:,} documents were measured"
    )
    if current is not None:
        print_translated(f"  now  {share(found['breaks_now'])}  {current.in_words()}")
    print_translated(f"  then {share(found['breaks_then'])}  {proposed.in_words()}")
    print_translated(
        f"  newly dropped {found['newly_dropped']:,}, coming back {found['comes_back']:,} (later rules may drop these)"
    )
    if found["dropped_by_other_rules_anyway"]:
        print_translated(
            f"  of those that break it, {found['dropped_by_other_rules_anyway']:,} go by other rules anyway"
        )
    side = "minimum" if proposed.minimum is not None else "maximum"
    print_translated(f"\n  {side:>10}  would drop")
    for row in found["thresholds"]:
        mark = " ←" if row[side] in (proposed.minimum, proposed.maximum) else ""
        print(f"  {row[side]:>10g}  {share(row['drops'])}{mark}")
    for name, some in found["samples"].items():
        if some:
            print_translated(f"\n  {name.replace('_', ' ')}, nearest to the bound:")
        for sample in some:
            text = " ".join(sample["text"].split())[:PREVIEW_CHARACTERS]
            reason = f", {sample['drop_reason']}" if sample["drop_reason"] else ""
            print_translated(
                f"  {sample['value']:>10.4g}  doc {sample['doc_id']}, {sample['source']} {sample['id'] or ''}{reason}"
            )
            print(f"              {text}")
