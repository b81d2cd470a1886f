"""Show records of a stage, kept or dropped, or of any record file.

python -m data_pipeline inspect corpus --stage clean --dropped --reason han_share -n 5
python -m data_pipeline inspect corpus/documents/00000-000.parquet
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

from data_pipeline.engine.output_place import run_directory
from pangu.foundation.best_effort import print_translated

PREVIEW_CHARACTERS = 400


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("place", type=run_directory, help="the output directory of a run, or a Parquet file of records")
    parser.add_argument("--stage", help="the stage to look at (the last one with records)")
    parser.add_argument("--dropped", action="store_true", help="what the stage dropped, not what it kept")
    parser.add_argument("--reason", help="only what was dropped for this")
    parser.add_argument("--source", help="only what is of this source")
    parser.add_argument("-n", "--number", type=int, default=3, help="records to show (3)")
    parser.add_argument("--skip", type=int, default=0, help="records to pass over first")
    parser.add_argument("--json", action="store_true", help="a JSON object a line, the whole text")


def run(arguments: argparse.Namespace) -> int:
    from data_pipeline.engine.browse import reading, reasons_of, records
    from pangu.foundation.errors import UserError
    from pangu.foundation.settings import nearest_name

    for name in ("number", "skip"):
        if getattr(arguments, name) < 0:
            raise UserError(f"--{name} {getattr(arguments, name)}: nearest: 0")
    with reading(arguments.place):
        files = _files(arguments)
        found = records(files, arguments.reason, arguments.source)
        rows = list(itertools.islice(found, arguments.skip, arguments.skip + arguments.number))
        for row in rows:
            if arguments.json:
                print(json.dumps(row, ensure_ascii=False))
            else:
                print_record(row)
        if arguments.reason and not (rows or arguments.skip) and arguments.number:
            hint = nearest_name(arguments.reason, reasons_of(files))
            raise UserError(f"--reason {arguments.reason}: nothing was dropped for it{hint}")
    return 0


def _files(arguments: argparse.Namespace) -> tuple[Path, ...]:
    import pyarrow.parquet as pq

    from data_pipeline.engine.browse import stages_of
    from pangu.foundation.errors import UserError

    if arguments.place.is_file():
        try:
            names = pq.read_schema(arguments.place).names
        except (OSError, ValueError) as error:
            raise UserError(f"{arguments.place}: not a Parquet file: {error}") from error
        if "doc_id" not in names or "drop_reason" not in names:
            raise UserError(f"{arguments.place}: holds no records (its columns are {', '.join(names)})")
        return (arguments.place,)
    stages = [shards for shards in stages_of(arguments.place) if shards.kept or shards.dropped]
    names = [shards.stage for shards in stages]
    wanted = arguments.stage or (names[-1] if names else None)
    if wanted not in names:
        raise UserError(
            f"{arguments.place}: stage {wanted!r} has no records; those with records are {', '.join(names)}"
        )
    shards = stages[names.index(wanted)]
    return shards.dropped if arguments.dropped or arguments.reason else shards.kept


def print_record(row: dict[str, Any]) -> None:
    """Print a record for a person: where it is from, what was measured, why it was dropped, how it begins."""
    own = f", id {row['id']}" if row["id"] is not None else ""
    print_translated(f"doc {row['doc_id']}{own}: {row['source']}, {row['path']} at {row['offset']}")
    if row["drop_reason"]:
        print_translated(f"  dropped: {row['drop_reason']}")
    signals = {name: value for name, value in (row["signals"] or {}).items() if value is not None}
    print("  " + ", ".join(f"{name} {value:g}" for name, value in signals.items()))
    if row["title"]:
        print_translated(f"  title: {row['title']}")
    text = row["text"] or ""
    more = f" … ({len(text):,} characters)" if len(text) > PREVIEW_CHARACTERS else ""
    print("  " + text[:PREVIEW_CHARACTERS].replace("\n", "\n  ") + more)
    print()
