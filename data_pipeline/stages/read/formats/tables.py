"""Readers of tables of columns: Parquet, and Arrow's own files and streams (.arrow, .feather, .ipc)."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipeline.recipe import Fields, Source
from data_pipeline.stages.read.compressed_bytes import BLOCK
from data_pipeline.stages.read.record_fields import columns_of, document_columns
from data_pipeline.stages.read.record_formats import (
    EXCERPT_BYTES,
    Document,
    Limits,
    Reject,
    decode,
    doubled_field,
    from_mapping,
    plain,
    quarantined,
)
from data_pipeline.stages.read.remote_files import open_input
from data_pipeline.stages.read.source_files import FileRange

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS = 256
_DESCRIBED = 200


def read_parquet(
    part: FileRange, source: Source, limits: Limits, at: Callable[[int], bool]
) -> Iterator[Document | Reject]:
    """Yield a document for each row; the columns that are not named in the recipe go to `meta`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        place = part.path if isinstance(part.path, Path) else open_input(part.path)
        file = pq.ParquetFile(place)
        schema = file.schema_arrow
        text = document_columns(source.fields)
        if len(text) == 1 and schema.names.count(text[0]) == 1 and not pa.types.is_nested(schema.field(text[0]).type):
            # a text that many rows share is held once, however often a row group repeats it
            file = pq.ParquetFile(place, read_dictionary=[text[0]], buffer_size=BLOCK)
    except (FileNotFoundError, PermissionError):
        raise
    except (pa.ArrowException, OSError) as error:
        yield Reject(0, f"damaged_parquet:{_first_line(error)}")
        return

    def groups() -> Iterator[tuple[int, Iterator["pa.RecordBatch"]]]:
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            yield rows, file.iter_batches(batch_size=_ROWS, row_groups=[group], use_threads=False)

    yield from _read(schema, groups(), source.fields, limits, at, "damaged_parquet")


def read_arrow(
    part: FileRange, source: Source, limits: Limits, at: Callable[[int], bool]
) -> Iterator[Document | Reject]:
    """Yield a document for each row of an IPC file (Feather 2) or stream."""
    import pyarrow as pa

    try:
        opened = pa.PythonFile(open_input(part.path), mode="r") if not isinstance(part.path, Path) else None
        place = opened or pa.OSFile(str(part.path))
        is_file = place.read(6) == b"ARROW1"
        place.seek(0)
        reader = pa.ipc.open_file(place) if is_file else pa.ipc.open_stream(place)
    except (FileNotFoundError, PermissionError):
        raise
    except (pa.ArrowException, OSError) as error:
        yield Reject(0, f"damaged_arrow:{_first_line(error)}")
        return

    def groups() -> Iterator[tuple[int | None, Iterator["pa.RecordBatch"]]]:
        if is_file:
            for number in range(reader.num_record_batches):
                yield None, (reader.get_batch(number) for _ in range(1))
        else:
            yield None, iter(reader)

    yield from _read(reader.schema, groups(), source.fields, limits, at, "damaged_arrow")


def _read(
    schema: "pa.Schema",
    groups: Iterator[tuple[int | None, Iterator["pa.RecordBatch"]]],
    fields: Fields,
    limits: Limits,
    at: Callable[[int], bool],
    damage: str,
) -> Iterator[Document | Reject]:
    import pyarrow as pa

    names = schema.names
    missing = [name for name in document_columns(fields) if name not in names]
    if len(missing) == len(document_columns(fields)):
        yield Reject(0, f"no_text:no column {missing[0]!r} among {', '.join(names)[:_DESCRIBED]}")
        return
    row = 0
    for rows, batches in groups:
        end = None if rows is None else row + rows
        try:
            for batch in batches:
                for index in range(batch.num_rows):
                    yield _row(batch, index, row, fields, limits) if at(row) else quarantined(row, b"")
                    row += 1
        except (pa.ArrowException, OSError) as error:
            yield Reject(row, f"{damage}:{_first_line(error)}")
        row = row if end is None else end
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield doubled_field(name, row)
        row += 1


def _row(batch: "pa.RecordBatch", index: int, row: int, fields: Fields, limits: Limits) -> Document | Reject:
    value: dict[str, Any] = {}
    named = {*columns_of(fields.text), fields.id, fields.title, fields.url}
    name = ""
    try:
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if name not in value:
                value[name] = _python_value(column[index])
            if name in named and isinstance(value[name], bytes):  # older writers do not say that a column is text
                value[name] = decode(value[name])
        for name in document_columns(fields):
            text = value.get(name)
            if isinstance(text, str) and 4 * len(text) > limits.record_bytes < len(text.encode()):
                reason = f"record_too_long:more than {limits.record_bytes} bytes"
                return Reject(row, reason, plain(value.get(fields.id)), text[:EXCERPT_BYTES])
    except (ValueError, IndexError) as error:  # of UTF-8, or of a dictionary
        return Reject(row, f"bad_value:column {name!r}: {type(error).__name__}", plain(value.get(fields.id)))
    return from_mapping(value, fields, row)


def _python_value(scalar: Any) -> Any:
    """Return a value of Arrow as one of Python; a time that counts nanoseconds, however deep it lies, as a string."""
    import pyarrow as pa

    kind = scalar.type
    if not scalar.is_valid:
        return None
    if pa.types.is_temporal(kind) and getattr(kind, "unit", None) == "ns":
        return str(pa.array([scalar.value], pa.int64()).cast(kind).cast(pa.string())[0])
    if not _has_nanoseconds(kind):
        return scalar.as_py()
    if pa.types.is_struct(kind):
        return {field.name: _python_value(scalar[place]) for place, field in enumerate(kind)}
    if pa.types.is_dictionary(kind):
        return _python_value(scalar.value)
    if pa.types.is_map(kind):
        entries = scalar.values
        return [[_python_value(entry[0]), _python_value(entry[1])] for entry in entries]
    return [_python_value(element) for element in scalar.values]


def _has_nanoseconds(kind: Any) -> bool:
    """Return whether times of nanoseconds lie somewhere inside a type."""
    import pyarrow as pa

    if pa.types.is_temporal(kind):
        return getattr(kind, "unit", None) == "ns"
    if pa.types.is_dictionary(kind):
        return _has_nanoseconds(kind.value_type)
    if not pa.types.is_nested(kind):
        return False
    return any(_has_nanoseconds(kind.field(place).type) for place in range(kind.num_fields))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:_DESCRIBED]
