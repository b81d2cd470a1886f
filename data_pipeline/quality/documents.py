"""Documents out of whatever a person has at hand: files that the read stage knows, or the output of a run.

corpus/                the output directory of a run: its documents, or its rejects
books.jsonl.gz         JSONL, CSV, Parquet, HTML, WARC, WET; of a .txt file each line
reviewed.jsonl         what the verb `review` wrote: its `verdict` says which side an example is on
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
import xxhash

from data_pipeline import record
from data_pipeline.engine.shard import read_batches
from data_pipeline.recipe import Fields, Source
from pangu.foundation.errors import UserError

Side = Literal["positives", "negatives"]
# the verdicts of `review`, and the side of an example
VERDICT_SIDES: dict[str, Side | None] = {"keep": "positives", "junk": "negatives", "unsure": None}
# what every line of a review has, judged or not
_REVIEW_FIELDS = {"doc_id", "verdict", "kind"}


@dataclass(frozen=True)
class SourcedDocument:
    """A document and where it is from; `fields` are the record's other fields."""

    doc_id: int
    id: str | None
    source: str
    url: str | None
    title: str | None
    text: str
    drop_reason: str | None
    fields: dict[str, Any]


class _NoProgress:
    """The read stage reports to it; nobody looks."""

    def at(self, number: int) -> bool:
        return True

    def done(self, documents: int, size: int) -> None:
        pass


def read_documents(
    paths: Sequence[str | Path], text_field: str = "text", dropped: bool = False
) -> Iterator[SourcedDocument]:
    """Yield every document of files, directories, globs, or runs (with `dropped` their rejects); bad records are
    passed over.

    UserError where a path is not there or no file of it can be read."""
    for path in map(Path, paths):
        if (path / "manifest.sqlite").is_file():
            folder = path / ("rejects" if dropped else "documents")
            for file in sorted(folder.rglob("*.parquet")):
                yield from _shard_documents(file)
        elif path.suffix == ".parquet" and _is_record_shard(path):
            yield from _shard_documents(path)
        else:
            yield from _file_documents(path, text_field)


def _is_record_shard(path: Path) -> bool:
    try:
        return {"doc_id", "text", "drop_reason"} <= set(pq.read_schema(path).names)
    except (OSError, ValueError):
        return False


def _shard_documents(path: Path) -> Iterator[SourcedDocument]:
    try:
        for batch in read_batches(path):
            for row in batch.to_pylist():
                yield _document(row)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as Parquet: {' '.join(str(error).split())}") from error


def _file_documents(path: Path, text_field: str) -> Iterator[SourcedDocument]:
    from data_pipeline.stages.read import stage as read

    source = Source(name=path.name, paths=(str(path),), fields=Fields(text=text_field), split="line")
    reasons: set[str] = set()
    found = False
    settings = read.Settings()
    for item in read.items([source], settings, Path.cwd()):
        for batch in read.read(item.payload, settings, _NoProgress()):
            for row in batch.to_pylist():
                if row["drop_reason"] is None:
                    found = True
                    yield _document(row)
                else:
                    reasons.add(record.reason_class(row["drop_reason"]))
    if not found:
        why = f" ({', '.join(sorted(reasons))})" if reasons else ""
        raise UserError(f"{path}: no document in it{why}; records with a field {text_field!r} would be right")


def _document(row: dict[str, Any]) -> SourcedDocument:
    try:
        fields = json.loads(row["meta"] or "{}")
    except ValueError:
        fields = {}
    return SourcedDocument(
        row["doc_id"],
        row["id"],
        row["source"],
        row["url"],
        row["title"],
        row["text"] or "",
        row["drop_reason"],
        fields if isinstance(fields, dict) else {},
    )


def examples(documents: Iterable[SourcedDocument], side: Side) -> Iterator[str]:
    """Yield the texts for one side of a classifier: all, except that a document of a review goes to the side of its
    verdict, and to neither as long as it has none.
    """
    for document in documents:
        if not document.text:
            continue
        verdict = document.fields.get("verdict")
        is_unjudged = verdict is None and document.fields.keys() >= _REVIEW_FIELDS
        if not is_unjudged and (verdict not in VERDICT_SIDES or VERDICT_SIDES[verdict] == side):
            yield document.text


def sample_texts(texts: Iterable[str], most: int, seed: int) -> list[str]:
    """Return at most `most` different texts, those of smallest hash with `seed`: the same whatever the order, held in
    memory only up to twice as many. Ordered by that hash."""
    chosen: dict[int, str] = {}
    limit = 1 << 64
    for text in texts:
        number = xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"), seed)
        if number < limit:
            chosen[number] = text
            if len(chosen) > 2 * most:
                chosen = dict(sorted(chosen.items())[:most])
                limit = next(reversed(chosen)) + 1
    return [text for _, text in sorted(chosen.items())[:most]]
