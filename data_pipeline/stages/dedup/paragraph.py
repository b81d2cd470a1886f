"""Paragraphs that many documents share: site headers and footers, licence texts, calls to follow an account.

cc_net (Wenzek et al. 2020) removes every paragraph that it has seen before, which makes holes in quotations and laws.
Here a paragraph goes only if more than `documents` documents have it (its document frequency) and it is long enough to
be no heading. Near-duplicate documents should be gone before, or each of their paragraphs looks like boilerplate.

Map `paragraph_rows`, GroupBy FREQUENT_SQL, Map `remove_paragraphs`. Only (hash, document) pairs travel, never text.
With `against` the documents of an old corpus count too; they are read only.
A document of which nothing is left is dropped as `only_boilerplate`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import Field

from data_pipeline import record
from data_pipeline.engine.steps import Context, Global, GroupBy, Map
from data_pipeline.kernels.normal_form import normal_form_table
from data_pipeline.kernels.paragraphs import (
    Paragraphs,
    find_paragraphs,
    without_paragraphs,
)
from data_pipeline.stages.dedup.old_corpus import AgainstSettings, run_identity
from data_pipeline.stages.dedup.old_parts import (
    CountedNumbers,
    batches_before,
    times_in_old,
    write_old_numbers,
)

PARAGRAPHS = pa.schema([("paragraph", pa.int64()), ("document", pa.int64()), ("old_documents", pa.int64())])
FREQUENT = pa.schema([("shard", pa.string()), ("paragraph", pa.int64()), ("documents", pa.int64())])
SIGNALS = ("boilerplate_paragraphs", "boilerplate_characters")
_BLANK_LINES = re.compile(r"\n{3,}")


class ParagraphSettings(AgainstSettings):
    """Which paragraphs are boilerplate."""

    documents: int = Field(default=10, ge=1, description="a paragraph in more documents than this is boilerplate")
    minimum_characters: int = Field(
        default=30, ge=1, description="letters and digits a paragraph must have to be counted"
    )
    fold_traditional: bool = Field(default=False, description="traditional and simplified characters count as equal")


@dataclass(frozen=True)
class Removed:
    """A column of texts without its boilerplate."""

    texts: pa.Array  # large_string
    paragraphs: np.ndarray  # int64[rows]: how many were removed
    characters: np.ndarray  # int64[rows]: how many letters and digits these had


# In DuckDB and Spark alike. Reads paragraphs(paragraph, document, old_documents), distinct rows; gives the boilerplate.
FREQUENT_SQL = """
SELECT paragraph, count(*) + max(old_documents) AS documents
FROM paragraphs
GROUP BY paragraph
HAVING count(*) + max(old_documents) > {documents}
"""


def frequent_sql(settings: ParagraphSettings) -> str:
    """Return FREQUENT_SQL with its threshold."""
    return FREQUENT_SQL.format(documents=settings.documents)


def frequent_by_shard_sql(settings: ParagraphSettings) -> str:
    """Return the boilerplate that occurs in each shard."""
    return (
        f"SELECT DISTINCT shard, paragraph, documents FROM paragraphs JOIN ({frequent_sql(settings)}) AS frequent"
        " USING (paragraph) ORDER BY shard, paragraph"
    )


def paragraph_rows(
    texts: pa.Array | pa.ChunkedArray,
    document: np.ndarray,
    settings: ParagraphSettings,
    old: CountedNumbers | None = None,
) -> pa.Table:
    """Return distinct rows (paragraph, document, old_documents), all int64, of the paragraphs long enough.

    `document` numbers the rows; `old_documents` is how many documents of the old corpus have the paragraph."""
    found = find_paragraphs(texts, normal_form_table(settings.fold_traditional))
    long = found.length >= settings.minimum_characters
    row, hashes = found.row[long], found.hash[long].view(np.int64)
    order = np.lexsort((hashes, row))
    row, hashes = row[order], hashes[order]
    repeated = np.r_[False, (row[1:] == row[:-1]) & (hashes[1:] == hashes[:-1])][: row.size]
    hashes, row = hashes[~repeated], row[~repeated]
    columns = (hashes, np.asarray(document, np.int64)[row], times_in_old(old, hashes))
    return pa.table(dict(zip(PARAGRAPHS.names, columns, strict=True)))


def remove_paragraphs(
    texts: pa.Array | pa.ChunkedArray, boilerplate: np.ndarray, settings: ParagraphSettings
) -> Removed:
    """Return `texts` without the paragraphs whose hashes (int64) are in `boilerplate`."""
    found = find_paragraphs(texts, normal_form_table(settings.fold_traditional))
    drop = _members(found, boilerplate) & (found.length >= settings.minimum_characters)
    rows = len(texts)
    return Removed(
        without_paragraphs(texts, found, drop),
        np.bincount(found.row[drop], minlength=rows),
        np.bincount(found.row[drop], found.length[drop], minlength=rows).astype(np.int64),
    )


def _members(found: Paragraphs, boilerplate: np.ndarray) -> np.ndarray:
    """Return bool: which paragraphs are boilerplate, by binary search."""
    known = np.unique(np.asarray(boilerplate, np.int64))
    if not known.size:
        return np.zeros(found.hash.size, bool)
    hashes = found.hash.view(np.int64)
    return known[np.minimum(np.searchsorted(known, hashes), known.size - 1)] == hashes


def deduplicate_paragraphs(texts: pa.Array | pa.ChunkedArray, settings: ParagraphSettings | None = None) -> Removed:
    """Return the whole of it in memory."""
    settings = settings or ParagraphSettings()
    hashes = paragraph_rows(texts, np.arange(len(texts)), settings)["paragraph"].to_numpy()
    known, documents = np.unique(hashes, return_counts=True)
    return remove_paragraphs(texts, known[documents > settings.documents], settings)


Settings = ParagraphSettings


def write_old_paragraphs(context: Context) -> dict[str, int]:
    """Write the paragraphs of the old corpus with the number of documents that have them; nothing where there is
    none.
    """
    settings: ParagraphSettings = context.settings
    if settings.against is None:
        return {}
    documents, paragraphs = write_old_numbers(
        context,
        batches_before(Path(settings.against), "dedup_paragraph"),
        lambda batch: paragraph_rows(batch["text"], np.arange(batch.num_rows), settings)["paragraph"].to_numpy(),
    )
    return {"old_documents": documents, "old_paragraphs": paragraphs}


def paragraph_batch(batch: pa.RecordBatch, settings: ParagraphSettings, old: Sequence[Path]) -> pa.RecordBatch:
    """Return `paragraph_rows` of a batch of records."""
    document = record.signed_numbers(batch.column("doc_id"))
    rows = paragraph_rows(batch.column("text"), document, settings, CountedNumbers.of(old))
    return pa.RecordBatch.from_arrays(
        [rows.column(name).combine_chunks() for name in PARAGRAPHS.names], schema=PARAGRAPHS
    )


def remove_boilerplate(batch: pa.RecordBatch, settings: ParagraphSettings, frequent: pa.Table) -> pa.RecordBatch:
    """Return the records without the paragraphs in `frequent`; no more than one blank line stays where one was cut
    out.
    """
    removed = remove_paragraphs(batch.column("text"), frequent.column("paragraph").to_numpy(), settings)
    texts = batch.column("text").to_pylist()
    reasons: list[str | None] = [None] * len(texts)
    for row in np.flatnonzero(removed.paragraphs).tolist():
        left = _BLANK_LINES.sub("\n\n", removed.texts[row].as_py()).strip("\n")
        if left.strip():
            texts[row] = left
        else:  # the reject shows what was there
            reasons[row] = f"only_boilerplate:{removed.paragraphs[row]} paragraphs"
    return record.replace(
        batch,
        columns={"text": pa.array(texts, pa.string()), "drop_reason": pa.array(reasons, pa.string())},
        signals={
            name: pa.array(values)
            for name, values in zip(SIGNALS, (removed.paragraphs, removed.characters), strict=True)
        },
    )


_CODE = ("data_pipeline.kernels.paragraphs", "data_pipeline.kernels.normal_form", "data_pipeline.kernels.minhash")
_OLD = ("data_pipeline.stages.dedup.old_corpus", "data_pipeline.stages.dedup.old_parts")
STEPS = (
    Global(
        "old",
        needs=(),
        run=write_old_paragraphs,
        reads=("against", "minimum_characters", "fold_traditional"),
        identity=run_identity,
        uses=(*_CODE, *_OLD),
        libraries=("opencc",),
    ),
    Map(
        "paragraphs",
        needs=("documents", "old"),
        process=paragraph_batch,
        table=PARAGRAPHS,
        reads=("minimum_characters", "fold_traditional"),
        uses=(*_CODE, *_OLD),
        libraries=("opencc",),
    ),
    GroupBy("frequent", needs=("paragraphs",), sql=frequent_by_shard_sql, table=FREQUENT, reads=("documents",)),
    Map(
        "records",
        needs=("documents", "frequent"),
        process=remove_boilerplate,
        signals=SIGNALS,
        reads=("minimum_characters", "fold_traditional"),
        uses=_CODE,
        libraries=("opencc",),
    ),
)
