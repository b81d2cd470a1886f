"""Say what fuzzy deduplication finds and what it takes wrongly, measured on planted duplicates.

Plants copies (exact, other typography, header and footer, cut, edited at several rates) and filled-in forms, which are
no duplicates, in a sample of your documents, or in generated Chinese text when no file is given; deduplicates; and
prints recall by kind and by exact Jaccard similarity, and the precision of what was dropped.

    python -m data_pipeline dedup-check
    python -m data_pipeline dedup-check corpus/*.jsonl.gz --documents 20000 --bands 14 --rows 8 --json
"""

import argparse
import bz2
import gzip
import json
import os
import sys
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pangu.foundation.best_effort import print_translated
from pangu.foundation.errors import UserError

if TYPE_CHECKING:
    from data_pipeline.dedup_check.planted_duplicates import Measured, Recall


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument(
        "files", nargs="*", type=Path, help="JSONL (plain, .gz, .bz2, .zst) or Parquet with your documents"
    )
    parser.add_argument("--text-field", default="text", metavar="NAME", help="the field that holds the document (text)")
    parser.add_argument("--documents", type=_positive, default=10_000, metavar="N", help="documents at most (10000)")
    parser.add_argument(
        "--planted", type=_positive, default=300, metavar="N", help="planted documents of each kind (300)"
    )
    parser.add_argument("--bands", type=int, metavar="N", help="bands of the signature (default of the stage)")
    parser.add_argument("--rows", type=int, metavar="N", help="numbers in a band (default of the stage)")
    parser.add_argument("--gram", type=int, metavar="N", help="characters in an n-gram (default of the stage)")
    parser.add_argument(
        "--similarity", type=float, metavar="J", help="least similarity of duplicates (default of the stage)"
    )
    parser.add_argument(
        "--seed", type=int, default=1, metavar="N", help="of the sample, the planting and the signatures (1)"
    )
    parser.add_argument(
        "--threads",
        type=_positive,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="threads (default: all cores)",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be 1 or more")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Measure and print. Returns 0."""
    from pydantic import ValidationError

    from data_pipeline.dedup_check import chinese_grammar
    from data_pipeline.dedup_check.planted_duplicates import measure
    from data_pipeline.stages.dedup.signatures import FuzzySettings

    given = {name: getattr(arguments, name) for name in ("bands", "rows", "gram", "similarity", "seed")}
    try:
        settings = FuzzySettings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise UserError(f"--bands, --rows: {first['ctx']['error']}") from error
        raise UserError(f"--{first['loc'][0]}: {first['msg']}, got {first['input']!r}") from error
    if arguments.files:
        texts = _sample(arguments.files, arguments.text_field, arguments.documents, arguments.seed)
    else:
        texts = list(chinese_grammar.documents(arguments.documents, arguments.seed))
    measured = measure(texts, arguments.planted, settings, arguments.seed, arguments.threads)
    if not measured.kinds:
        raise UserError(f"none of the {len(texts)} documents is long enough (60 characters) to plant a duplicate of")
    if arguments.json:
        print(json.dumps({"settings": settings.model_dump(), **_figures(measured)}, ensure_ascii=False))
    else:
        _print(measured, settings.bands, settings.rows, settings.similarity)
    return 0


def _figures(measured: "Measured") -> dict:
    figures = asdict(measured)
    for name, rows in (("kinds", measured.kinds), ("bins", measured.bins)):
        figures[name] = [{**asdict(row), "recall": row.recall} for row in rows]
    return figures


def _print(measured: "Measured", bands: int, rows: int, similarity: float) -> None:
    print_translated(
        f"{measured.documents} documents, {measured.megabytes:.1f} MB, {bands} bands x {rows} rows, "
        f"similarity {similarity}: {measured.seconds:.2f} s, {measured.megabytes / measured.seconds:.0f} MB/s"
    )
    _print_recalls("kind", measured.kinds)
    _print_recalls("exact similarity", measured.bins)
    print_translated(
        f"\ndropped {measured.dropped} ({measured.dropped_exact} exact): "
        f"{measured.dropped_precision:.2%} share half or more with the document kept\n"
        f"edges {measured.edges}: {measured.edge_precision:.2%} have a similarity of 0.5 or more\n"
        f"forms with different contents dropped: {measured.forms_dropped}"
    )


def _print_recalls(heading: str, recalls: "list[Recall]") -> None:
    print(f"\n{heading:18}{'planted':>9}{'similarity':>12}{'recall':>9}")
    for row in recalls:
        print(f"{row.name:18}{row.planted:9}{row.similarity:12.3f}{row.recall:9.3f}")


def _sample(paths: list[Path], field: str, documents: int, seed: int) -> list[str]:
    """Return at most `documents` texts, each with the same chance whatever file it is in (reservoir sampling)."""
    import random

    randomness = random.Random(seed)
    sample: list[str] = []
    for seen, text in enumerate(text for path in paths for text in _texts(path, field)):
        if seen < documents:
            sample.append(text)
        elif (place := randomness.randrange(seen + 1)) < documents:
            sample[place] = text
    if not sample:
        raise UserError(f"{paths[0]}: no document with a field {field!r}; name the right one with --text-field")
    return sample


def _texts(path: Path, field: str) -> Iterator[str]:
    """Yield the non-empty strings in `field`; lines without one are passed over and counted on standard error."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import zstandard

    try:
        if path.suffix == ".parquet":
            parquet = pq.ParquetFile(path)
            if field not in parquet.schema_arrow.names:
                raise UserError(f"{path}: no column {field!r}; there are {', '.join(parquet.schema_arrow.names)}")
            for batch in parquet.iter_batches(columns=[field]):
                yield from (text for text in batch.column(0).to_pylist() if isinstance(text, str) and text)
        else:
            yield from _json_texts(path, field)
    except (OSError, EOFError, zlib.error, zstandard.ZstdError, pa.ArrowException) as error:
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def _json_texts(path: Path, field: str) -> Iterator[str]:
    import orjson
    import zstandard

    bad = 0
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".zst": zstandard.open}
    with openers.get(path.suffix, open)(path, "rb") as lines:
        for line in lines:
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError:
                record = None
            text = record.get(field) if isinstance(record, dict) else None
            if isinstance(text, str) and text:
                yield text
            else:
                bad += 1
    if bad:
        print_translated(f"{path}: {bad} lines without a string in {field!r} passed over", to=sys.stderr)
