"""What `clean` and `filter` leave of good text, source by source: documents, fences of Python, tables, lines of code.

    python -m tests.benchmarks.kept                     # every source of ../shared with the preset that it asks for
    python -m tests.benchmarks.kept --preset web --documents 500

Each document passes the two stages as a run passes it. A fence of Python counts if the standard library parses it
before; it is kept if a fence of the same code parses after. A table's row of dashes counts as a line."""

import argparse
import ast
import gzip
import json
import re
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from data_pipeline import record
from data_pipeline.stages.clean import stage as clean
from data_pipeline.stages.filter import stage as filters

SHARED_CORPUS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "corpus"
# what each source is
PRESETS = {
    "oiwiki": "technical",
    "javaguide": "technical",
    "tidb_docs": "technical",
    "paddle_docs": "technical",
    "lctt_it_news": "technical",
    "law_md": "web",
    "medical_qa": "dialogue",
    "classical_modern": "classical",
    "poetry": "poetry",
}
_FENCE = re.compile(r"^([ \t]*)(`{3,})[ \t]*(\w*)[^\n`]*\n(.*?)^[ \t]*\2[ \t]*$", re.MULTILINE | re.DOTALL)
_SEPARATOR = re.compile(r"^[ \t]*\|?[ \t]*:?-{2,}:?[ \t]*(?:\|[ \t]*:?-{2,}:?[ \t]*)+\|?[ \t]*$", re.MULTILINE)
BATCH = 512


@dataclass
class Kept:
    """Counts before and after, of the documents that are kept; and what the others were dropped for."""

    documents: int = 0
    kept: int = 0
    fences: int = 0
    fences_kept: int = 0
    separators: int = 0
    separators_kept: int = 0
    code_lines: int = 0
    code_lines_kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


def texts_of(source: str, limit: int) -> list[str]:
    """Return the first texts of a source."""
    with gzip.open(SHARED_CORPUS / f"{source}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line, _ in zip(lines, range(limit), strict=False)]


def measure(texts: list[str], preset: str) -> Kept:
    """Pass texts through both stages with a preset, and count."""
    found = Kept()
    for begin in range(0, len(texts), BATCH):
        part = texts[begin : begin + BATCH]
        for before, after, reason in zip(part, *_through(part, preset), strict=True):
            found.documents += 1
            if reason is not None:
                found.dropped[record.reason_class(reason)] += 1
                continue
            found.kept += 1
            _count(found, before.replace("\r\n", "\n"), after)
    return found


def _through(texts: list[str], preset: str) -> tuple[list[str], list[str | None]]:
    """Return the texts after `clean`, and why either stage drops them."""
    schema = record.schema(["bytes"])
    rows = [
        dict.fromkeys(schema.names)
        | {"doc_id": number, "source": "s", "path": "p", "offset": 0, "text": text, "signals": {"bytes": 1.0}}
        for number, text in enumerate(texts)
    ]
    batch = clean.clean(pa.RecordBatch.from_pylist(rows, schema=schema), clean.Settings(preset=preset))  # type: ignore[arg-type]
    reasons = batch.column("drop_reason").to_pylist()
    settings = filters.Settings(preset=preset).completed(1, ["s"], Path())  # type: ignore[arg-type]
    measured = pa.Table.from_batches([filters.measure(batch, settings, [], [])])
    filtered = filters.apply_rules(batch, settings, measured, []).column("drop_reason").to_pylist()
    first = [reason if reason is not None else later for reason, later in zip(reasons, filtered, strict=True)]
    return batch.column("text").to_pylist(), first


def _count(found: Kept, before: str, after: str) -> None:
    fences, kept = Counter(parsing_fences(before)), Counter(parsing_fences(after))
    found.fences += fences.total()
    found.fences_kept += (fences & kept).total()
    found.separators += len(_SEPARATOR.findall(before))
    found.separators_kept += min(len(_SEPARATOR.findall(before)), len(_SEPARATOR.findall(after)))
    lines, left = Counter(code_lines(before)), Counter(code_lines(after))
    found.code_lines += lines.total()
    found.code_lines_kept += (lines & left).total()


def parsing_fences(text: str) -> Iterator[str]:
    """Yield the syntax tree of each fence of Python that parses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for match in _FENCE.finditer(text):
            if match[3].lower() in ("python", "py", "python3"):
                try:
                    yield ast.dump(ast.parse(textwrap.dedent(match[4])))
                except (SyntaxError, ValueError, RecursionError):
                    continue


def code_lines(text: str) -> Iterator[str]:
    """Yield the lines inside all fences, with their white space in front."""
    for match in _FENCE.finditer(text):
        yield from (line.rstrip() for line in match[4].split("\n") if line.strip())


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:6.2f} % of {whole:,}" if whole else ""


def main() -> None:
    """Print a line for each source."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=3000, help="of each source at most (3000)")
    parser.add_argument("--preset", help="one for all sources, not each its own")
    parser.add_argument("--sources", nargs="*", default=list(PRESETS))
    arguments = parser.parse_args()
    print(
        f"{'source':18}{'preset':12}{'documents':>20}{'Python fences':>20}{'table rows':>20}{'code lines':>22}  dropped"
    )
    for source in arguments.sources:
        preset = arguments.preset or PRESETS[source]
        found = measure(texts_of(source, arguments.documents), preset)
        print(
            f"{source:18}{preset:12}{_share(found.kept, found.documents):>20}"
            f"{_share(found.fences_kept, found.fences):>20}{_share(found.separators_kept, found.separators):>20}"
            f"{_share(found.code_lines_kept, found.code_lines):>22}  {dict(found.dropped.most_common(4))}",
            flush=True,
        )


if __name__ == "__main__":
    main()
