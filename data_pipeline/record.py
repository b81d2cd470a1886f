"""The record: one row of Parquet for each document, with the same columns from the reader to the packer.

| column | type | meaning |
|---|---|---|
| `doc_id` | uint64 | xxh3-64 of source, path and offset: the same document always has the same number |
| `id` | string | the user's own identifier, carried through to the output or to the rejects |
| `source` | string | the name of the source in the recipe |
| `path` | string | the file, relative to the source |
| `offset` | int64 | where the record begins in the (decompressed) file: a byte, or a row of Parquet |
| `url`, `title`, `text`, `lang` | string | the document |
| `meta` | string | the record's other fields, as JSON |
| `signals` | struct of float64 | what the stages measured, a column for each signal |
| `drop_reason` | string | null while the document is kept; `rule` or `rule:detail` once it is dropped |

The signals are the only part that grows: every stage declares the names that it adds, so the schema at any place of a
recipe is known before anything runs (both engines need that).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import xxhash

COLUMNS = (
    pa.field("doc_id", pa.uint64(), nullable=False),
    pa.field("id", pa.string()),
    pa.field("source", pa.string(), nullable=False),
    pa.field("path", pa.string(), nullable=False),
    pa.field("offset", pa.int64(), nullable=False),
    pa.field("url", pa.string()),
    pa.field("title", pa.string()),
    pa.field("text", pa.string()),
    pa.field("lang", pa.string()),
    pa.field("meta", pa.string()),
)
_SIGN = np.uint64(1 << 63)


def schema(signals: Sequence[str]) -> pa.Schema:
    """Return the record schema once stages that declare `signals` (at least one name) have run."""
    struct = pa.struct([pa.field(name, pa.float64()) for name in signals])
    return pa.schema([*COLUMNS, pa.field("signals", struct), pa.field("drop_reason", pa.string())])


def document_id(source: str, path: str, offset: int) -> int:
    """Return the document's number: xxh3-64 of where it came from (a unit separator keeps the parts apart)."""
    return xxhash.xxh3_64_intdigest(f"{source}\x1f{path}\x1f{offset}".encode("utf-8", "surrogateescape"))


def signed_numbers(doc_ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return int64[rows]: document numbers (uint64) as signed ones in the same order, for SQL, which knows no
    others.
    """
    return (np.asarray(doc_ids, np.uint64) ^ _SIGN).view(np.int64)


def unsigned_numbers(numbers: np.ndarray) -> np.ndarray:
    """Return uint64[rows]: the `doc_id` of what `signed_numbers` gave."""
    return np.asarray(numbers, np.int64).view(np.uint64) ^ _SIGN


def reason_class(reason: str) -> str:
    """Return the rule of a drop reason: `duplicate_of:123` belongs to `duplicate_of`."""
    return reason.partition(":")[0]


def replace(
    batch: pa.RecordBatch,
    *,
    columns: Mapping[str, pa.Array] | None = None,
    signals: Mapping[str, pa.Array] | None = None,
) -> pa.RecordBatch:
    """Return `batch` with whole columns replaced and signals added (or replaced, where the name is there already)."""
    for name, array in (columns or {}).items():
        index = batch.schema.get_field_index(name)
        batch = batch.set_column(index, batch.schema.field(index), array)
    if signals:
        index = batch.schema.get_field_index("signals")
        struct = batch.column(index)
        merged = dict(zip((field.name for field in struct.type), struct.flatten(), strict=True))
        merged.update({name: array.cast(pa.float64()) for name, array in signals.items()})
        array = pa.StructArray.from_arrays(list(merged.values()), names=list(merged))
        batch = batch.set_column(index, pa.field("signals", array.type), array)
    return batch


def clean_name(path: str) -> str:
    """Return a file name as UTF-8 can hold it: bytes of a name that are not UTF-8 are shown as backslash escapes."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
