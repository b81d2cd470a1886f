"""GroupBy steps on one machine: SQL over Parquet tables in DuckDB, within a memory limit, spilling to disk."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa


def first_of_group(table: str, key: Sequence[str], order: Sequence[str]) -> str:
    """Return SQL: every row of `table` that is not the first of its group, with the `doc_id` of the first as
    `representative`.

    `order` must end in something unique, so that the first is the same on every engine.
    """
    keys, ordering = ", ".join(key), ", ".join(order)
    return (
        f"SELECT shard, doc_id, representative FROM ("
        f"SELECT shard, doc_id, first_value(doc_id) OVER (PARTITION BY {keys} ORDER BY {ordering}) AS representative"
        f" FROM {table}) AS ranked WHERE doc_id <> representative ORDER BY shard, doc_id"
    )


def query(
    sql: str,
    tables: Mapping[str, tuple[Sequence[Path], pa.Schema]],
    memory_bytes: int,
    threads: int,
    spill: Path,
) -> pa.RecordBatchReader:
    """Run one SELECT over tables given as Parquet files (none: an empty table) and stream its result."""
    connection = connect(memory_bytes, threads, spill)
    for name, (files, schema) in tables.items():
        if files:
            names = ", ".join(map(sql_string, files))
            connection.execute(f'CREATE VIEW "{name}" AS SELECT * FROM read_parquet([{names}])')
        else:
            connection.register(name, schema.empty_table())
    return connection.sql(sql).to_arrow_reader(1 << 16)


def load_engine() -> None:
    """Import DuckDB, so that processes which are forked afterwards have it."""
    import duckdb  # noqa: F401


def sql_string(value: object) -> str:
    """Return a string literal of SQL."""
    return "'" + str(value).replace("'", "''") + "'"


def connect(memory_bytes: int, threads: int, spill: Path):
    """Open an in-memory DuckDB that keeps to `memory_bytes` and spills into the folder `spill`."""
    import duckdb

    spill.mkdir(parents=True, exist_ok=True)
    return duckdb.connect(
        config={
            "memory_limit": f"{memory_bytes // (1 << 20)}MiB",
            "threads": threads,
            "temp_directory": str(spill),
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
    )
