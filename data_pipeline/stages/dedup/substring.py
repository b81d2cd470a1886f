"""Exact repeats of `length` characters or more, anywhere in the corpus: all but the first occurrence are cut out.

What Lee et al. ("Deduplicating training data makes language models better", ACL 2022) do with a suffix array of the
whole corpus in memory. The same set of characters comes out of two group-bys over hashes, which spill and distribute:
winnowed fingerprints that occur twice say where repeats can be at all, and there every window of `length` characters is
compared.

A position is cut if it lies in a stretch of `length` characters that also begins at an earlier place: in a document
with a lower number, or further up in the same one. Text is compared as it is, without a normal form.

Map `fingerprint_rows`, GroupBy REPEATED_SQL, Map `window_rows`, GroupBy LATER_SQL, Map `cut`. In the pipeline a
document's number is its `doc_id`; one of which nothing is left is dropped as `only_repeats`.

With `against` the documents of an old corpus come before all others; they are read only. Their fingerprints, and later
their windows under fingerprints that the new documents have too, lie sorted in files that workers map.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from data_pipeline import record
from data_pipeline.engine.steps import Context, Global, GroupBy, Map
from data_pipeline.kernels import windows
from data_pipeline.kernels.normal_form import CodePoints, text_buffers
from data_pipeline.stages.dedup.old_corpus import AgainstSettings, released_batches, run_identity
from data_pipeline.stages.dedup.old_parts import CountedNumbers, times_in_old, write_old_numbers

# `is_old`: 1 where the old corpus has it too
FINGERPRINTS = pa.schema([("fingerprint", pa.int64()), ("is_old", pa.int8())])
REPEATED = pa.schema([("shard", pa.string()), ("fingerprint", pa.int64()), ("is_old", pa.int8())])
WINDOWS = pa.schema(
    [("document", pa.int64()), ("position", pa.int64()), ("window_hash", pa.int64()), ("is_old", pa.int8())]
)
LATER = pa.schema([("shard", pa.string()), ("document", pa.int64()), ("position", pa.int64())])
SIGNALS = ("repeated_characters",)


class SubstringSettings(AgainstSettings):
    """How long a repeat must be."""

    length: int = Field(default=50, ge=8, le=10_000, description="characters of the shortest repeat that is cut")

    @property
    def gram(self) -> int:
        """Return characters under a fingerprint: half the length, so that few positions are selected and few
        collide."""
        return self.length // 2


# In DuckDB and Spark alike. Reads fingerprints(fingerprint, is_old).
REPEATED_SQL = (
    "SELECT fingerprint, max(is_old) AS in_old FROM fingerprints GROUP BY fingerprint"
    " HAVING count(*) > 1 OR max(is_old) = 1"
)

# The same for each shard, where the table has a column `shard`.
REPEATED_BY_SHARD_SQL = (
    "SELECT DISTINCT shard, fingerprint, in_old AS is_old FROM fingerprints"
    f" JOIN ({REPEATED_SQL}) AS repeated USING (fingerprint) ORDER BY shard, fingerprint"
)

# Reads windows(document, position, window_hash, is_old); gives the windows that begin a repeat of an earlier one.
_LATER_SQL = """
SELECT {columns}
FROM (
    SELECT {columns}, is_old,
           row_number() OVER (PARTITION BY window_hash ORDER BY document, position) AS occurrence
    FROM windows
) AS numbered
WHERE occurrence > 1 OR is_old = 1
"""
LATER_SQL = _LATER_SQL.format(columns="document, position")
LATER_BY_SHARD_SQL = _LATER_SQL.format(columns="shard, document, position") + "ORDER BY shard, document, position"


@dataclass(frozen=True)
class Cut:
    """A column of texts without its repeats."""

    texts: pa.Array  # large_string
    characters: np.ndarray  # int64[rows]: how many were cut


def _code_points(texts: pa.Array | pa.ChunkedArray) -> CodePoints:
    data, offsets = text_buffers(texts)
    values = np.empty(int(offsets[-1] - offsets[0]), np.uint32)
    ends = np.zeros(offsets.size, np.int64)
    return CodePoints(values[: windows.code_points(data, offsets, values, ends)], ends)


def fingerprint_rows(
    texts: pa.Array | pa.ChunkedArray, settings: SubstringSettings, old: CountedNumbers | None = None
) -> pa.Table:
    """Return one row of FINGERPRINTS for each selected position of each text."""
    values, offsets = _code_points(texts)
    rows, out = np.empty(values.size, np.int64), np.empty(values.size, np.uint64)
    count = windows.fingerprints(values, offsets, settings.length, settings.gram, rows, out)
    found = out[:count].view(np.int64)
    return pa.table([found, times_in_old(old, found) > 0], names=FINGERPRINTS.names).cast(FINGERPRINTS)


def window_rows(
    texts: pa.Array | pa.ChunkedArray,
    document: np.ndarray,
    repeated: np.ndarray,
    settings: SubstringSettings,
    old: CountedNumbers | None = None,
) -> pa.Table:
    """Return rows of WINDOWS: the windows under the fingerprints `repeated` (int64)."""
    values, offsets = _code_points(texts)
    wanted = np.sort(np.asarray(repeated, np.int64).view(np.uint64))
    rows, positions = np.empty(values.size, np.int64), np.empty(values.size, np.int64)
    out = np.empty(values.size, np.uint64)
    count = windows.windows(values, offsets, settings.length, settings.gram, wanted, rows, positions, out)
    hashes = out[:count].view(np.int64)
    columns = [np.asarray(document, np.int64)[rows[:count]], positions[:count], hashes, times_in_old(old, hashes) > 0]
    return pa.table(columns, names=WINDOWS.names).cast(WINDOWS)


def cut(texts: pa.Array | pa.ChunkedArray, document: np.ndarray, later: pa.Table, settings: SubstringSettings) -> Cut:
    """Return `texts` without the windows of `later` (document, position: what LATER_SQL gives, in any order).

    `document` numbers the rows; windows of other documents are passed over.
    """
    numbers = np.asarray(document, np.int64)
    order = np.argsort(numbers, kind="stable")
    found, position = later["document"].to_numpy(), later["position"].to_numpy()
    own = np.isin(found, numbers)
    row, position = order[np.searchsorted(numbers, found[own], sorter=order)], position[own]
    place = np.lexsort((position, row))
    row, position = row[place], position[place]
    # Windows that touch or overlap are one span.
    begins = np.r_[True, (row[1:] != row[:-1]) | (position[1:] > position[:-1] + settings.length)][: row.size]
    ends = np.r_[begins[1:], True][: row.size]
    spans = zip(row[begins].tolist(), position[begins].tolist(), position[ends].tolist(), strict=True)
    kept = texts.to_pylist()
    characters = np.zeros(len(kept), np.int64)
    for changed, row_spans in itertools.groupby(spans, key=lambda span: span[0]):
        parts, end = [], 0
        for _, first, last in row_spans:
            parts.append(kept[changed][end:first])
            end = last + settings.length
        text = "".join([*parts, kept[changed][end:]])
        characters[changed] = len(kept[changed]) - len(text)
        kept[changed] = text
    return Cut(pa.array(kept, pa.large_string()), characters)


def deduplicate_substrings(texts: pa.Array | pa.ChunkedArray, settings: SubstringSettings | None = None) -> Cut:
    """Return the whole of it in memory; the order of the rows says which occurrence is the first."""
    settings = settings or SubstringSettings()
    document = np.arange(len(texts))
    fingerprints, counts = np.unique(fingerprint_rows(texts, settings)["fingerprint"].to_numpy(), return_counts=True)
    found = window_rows(texts, document, fingerprints[counts > 1], settings)
    # Rows come in the order of document and position, and a stable sort keeps it within equal hashes.
    hashes = found["window_hash"].to_numpy()
    order = np.argsort(hashes, kind="stable")
    later = np.sort(order[1:][hashes[order][1:] == hashes[order][:-1]])
    return cut(texts, document, found.take(pa.array(later)), settings)


Settings = SubstringSettings


def write_old_fingerprints(context: Context) -> dict[str, int]:
    """Write the fingerprints of the old corpus; nothing where there is none."""
    settings: SubstringSettings = context.settings
    if settings.against is None:
        return {}
    documents, _ = write_old_numbers(
        context,
        released_batches(Path(settings.against)),
        lambda batch: fingerprint_rows(batch["text"], settings)["fingerprint"].to_numpy(),
    )
    return {"old_documents": documents}


def write_old_windows(context: Context) -> dict[str, int]:
    """Write the windows of the old corpus under fingerprints that the new documents have too."""
    settings: SubstringSettings = context.settings
    if settings.against is None:
        return {}
    shared = [np.zeros(0, np.int64)]
    for file in context.inputs["repeated"]:
        rows = pq.read_table(file.path, columns=["fingerprint", "is_old"])
        shared.append(rows.filter(pc.equal(rows.column("is_old"), 1)).column("fingerprint").to_numpy())
    wanted = np.unique(np.concatenate(shared))
    _, written = write_old_numbers(
        context,
        released_batches(Path(settings.against)),
        lambda batch: window_rows(batch["text"], np.arange(batch.num_rows), wanted, settings)["window_hash"].to_numpy(),
    )
    return {"old_windows": written}


def fingerprint_batch(batch: pa.RecordBatch, settings: SubstringSettings, old: Sequence[Path]) -> pa.RecordBatch:
    """Return `fingerprint_rows` of a batch of records."""
    return _one_batch(fingerprint_rows(batch.column("text"), settings, CountedNumbers.of(old)))


def repeated_sql(settings: SubstringSettings) -> str:
    """Return the fingerprints of each shard that occur twice in the corpus."""
    return REPEATED_BY_SHARD_SQL


def window_batch(
    batch: pa.RecordBatch, settings: SubstringSettings, repeated: pa.Table, old: Sequence[Path]
) -> pa.RecordBatch:
    """Return `window_rows` of a batch of records."""
    document = record.signed_numbers(batch.column("doc_id"))
    wanted = repeated.column("fingerprint").to_numpy()
    return _one_batch(window_rows(batch.column("text"), document, wanted, settings, CountedNumbers.of(old)))


def later_sql(settings: SubstringSettings) -> str:
    """Return the windows of each shard that repeat an earlier one of the corpus."""
    return LATER_BY_SHARD_SQL


def cut_repeats(batch: pa.RecordBatch, settings: SubstringSettings, later: pa.Table) -> pa.RecordBatch:
    """Return the records without the windows of `later`."""
    result = cut(batch.column("text"), record.signed_numbers(batch.column("doc_id")), later, settings)
    texts = batch.column("text").to_pylist()
    reasons: list[str | None] = [None] * len(texts)
    for row in np.flatnonzero(result.characters).tolist():
        left = result.texts[row].as_py()
        if left.strip():
            texts[row] = left
        else:  # the reject shows what was there
            reasons[row] = f"only_repeats:{result.characters[row]} characters"
    return record.replace(
        batch,
        columns={"text": pa.array(texts, pa.string()), "drop_reason": pa.array(reasons, pa.string())},
        signals={SIGNALS[0]: pa.array(result.characters)},
    )


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([column.combine_chunks() for column in table.columns], names=table.column_names)


_CODE = ("data_pipeline.kernels.windows", "data_pipeline.kernels.minhash", "data_pipeline.kernels.normal_form")
_OLD = ("data_pipeline.stages.dedup.old_corpus", "data_pipeline.stages.dedup.old_parts")
STEPS = (
    Global("old", needs=(), run=write_old_fingerprints, identity=run_identity, uses=(*_CODE, *_OLD)),
    Map(
        "fingerprints",
        needs=("documents", "old"),
        process=fingerprint_batch,
        table=FINGERPRINTS,
        reads=("length",),
        uses=(*_CODE, *_OLD),
    ),
    GroupBy("repeated", needs=("fingerprints",), sql=repeated_sql, table=REPEATED, reads=()),
    Global("old_windows", needs=("repeated",), run=write_old_windows, identity=run_identity, uses=(*_CODE, *_OLD)),
    Map(
        "windows",
        needs=("documents", "repeated", "old_windows"),
        process=window_batch,
        table=WINDOWS,
        reads=("length",),
        uses=(*_CODE, *_OLD),
    ),
    GroupBy("later", needs=("windows",), sql=later_sql, table=LATER, reads=()),
    Map("records", needs=("documents", "later"), process=cut_repeats, signals=SIGNALS, reads=("length",)),
)
