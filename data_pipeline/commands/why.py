"""Trace one document through every stage: what each did to it, where it was dropped or where it was packed.

python -m data_pipeline why corpus 13170976369294250196
python -m data_pipeline why corpus law-000016
"""

import argparse
import difflib
import itertools
import json

from data_pipeline.engine.output_place import run_directory
from pangu.foundation.best_effort import print_translated

CHANGED_LINES = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=run_directory, help="the output directory of a run")
    parser.add_argument("document", metavar="DOC_ID", help="its doc_id, or the id that it came with")
    parser.add_argument("--json", action="store_true", help="print everything as JSON, mistakes too")


def run(arguments: argparse.Namespace) -> int:
    from data_pipeline.engine.browse import reading, samples_of, trace

    with reading(arguments.out):
        sightings = trace(arguments.out, arguments.document)
        numbers = list(dict.fromkeys(sighting.record["doc_id"] for sighting in sightings))
        packed_in = {number: samples_of(arguments.out, number) for number in numbers}
    for number in numbers:
        own = [sighting for sighting in sightings if sighting.record["doc_id"] == number]
        places = packed_in[number]
        if arguments.json:
            stages = [{"stage": one.stage, "kept": one.is_kept, **one.record} for one in own]
            packed = [dict(zip(("file", "sample", "offset", "length"), place, strict=True)) for place in places]
            print(json.dumps({"doc_id": number, "stages": stages, "packed": packed}, ensure_ascii=False))
            continue
        first = own[0].record
        print_translated(f"doc {number}, id {first['id']}: {first['source']}, {first['path']} at {first['offset']}")
        text: str | None = None
        known: set[str] = set()
        for sighting in own:
            row = sighting.record
            outcome = "kept" if sighting.is_kept else f"dropped, {row['drop_reason']}"
            signals = {
                name: value for name, value in (row["signals"] or {}).items() if name not in known and value is not None
            }
            known.update(signals)
            measured = "".join(f", {name} {value:g}" for name, value in signals.items())
            print_translated(f"{sighting.stage}: {outcome}{measured}")
            _print_changes(text, row["text"] or "")
            text = row["text"] or ""
        for name, sample, offset, length in places:
            print_translated(f"packed: {name}, sample {sample}, ids {offset}–{offset + length - 1}")
    return 0


def _print_changes(before: str | None, after: str) -> None:
    """Print the lines that a stage changed, as a unified diff without its head."""
    if before is None or before == after:
        return
    changes = difflib.unified_diff(before.split("\n"), after.split("\n"), n=0, lineterm="")
    lines = [line for line in changes if not line.startswith(("---", "+++", "@@"))]
    for line in itertools.islice(lines, CHANGED_LINES):
        print(f"  {line[:160]}")
    if len(lines) > CHANGED_LINES:
        print_translated(f"  … {len(lines) - CHANGED_LINES} more changed lines")
