"""Writes record batches as Parquet shards whose bytes depend on the rows alone, not on how they arrived in batches."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipeline.engine.run_files import Output, RunFile

ROW_GROUP_BYTES = 8 << 20
ROW_GROUP_ROWS = 1 << 16
COMPRESSION_LEVEL = 3


class ShardWriter:
    """Rows in, whole Parquet files out.

    `name` is the path without suffix, relative to `root`. With `shard_bytes` a new file is begun after about so many
    bytes of text (`name-000.parquet`, `name-001.parquet`, …); without, there is one file. No rows, no file, unless
    `keep_empty`."""

    def __init__(
        self,
        root: Path,
        name: str,
        schema: pa.Schema,
        role: str,
        shard_bytes: int | None = None,
        keep_empty: bool = False,
    ):
        self.root, self.name, self.schema, self.role = root, name, schema, role
        self.shard_bytes, self.keep_empty = shard_bytes, keep_empty
        self.pending: list[pa.RecordBatch] = []
        self.pending_rows = self.pending_bytes = 0
        self.file: RunFile | None = None
        self.writer: pq.ParquetWriter | None = None
        self.rows = self.bytes = 0
        self.outputs: list[Output] = []

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows; full row groups go to the file at once, so no more than one row group is held."""
        while batch.num_rows:
            sizes = self._cumulative_bytes(batch)
            by_bytes = int(np.searchsorted(sizes, ROW_GROUP_BYTES - self.pending_bytes)) + 1
            take = min(by_bytes, ROW_GROUP_ROWS - self.pending_rows, batch.num_rows)
            self.pending.append(batch.slice(0, take))
            self.pending_rows += take
            self.pending_bytes += int(sizes[take - 1])
            batch = batch.slice(take)
            if self.pending_rows >= ROW_GROUP_ROWS or self.pending_bytes >= ROW_GROUP_BYTES:
                self._write_row_group()

    def close(self) -> list[Output]:
        """Finish; the files appear now (earlier ones of a long input already have)."""
        if self.pending_rows:
            self._write_row_group()
        if self.writer is None and self.keep_empty and not self.outputs:
            self._open()
        if self.writer is not None:
            self._close_file()
        return self.outputs

    def abandon(self) -> None:
        if self.file is not None:
            self.file.abandon()

    @staticmethod
    def _cumulative_bytes(batch: pa.RecordBatch) -> np.ndarray:
        index = batch.schema.get_field_index("text")
        if index < 0:
            return np.zeros(batch.num_rows, np.int64)
        return np.cumsum(
            pc.fill_null(pc.binary_length(batch.column(index)), 0).to_numpy(zero_copy_only=False), dtype=np.int64
        )

    def _open(self) -> None:
        suffix = "" if self.shard_bytes is None else f"-{len(self.outputs):03d}"
        self.file = RunFile(self.root, f"{self.name}{suffix}.parquet")
        self.writer = pq.ParquetWriter(
            self.file, self.schema, compression="zstd", compression_level=COMPRESSION_LEVEL, store_schema=True
        )
        self.rows = self.bytes = 0

    def _write_row_group(self) -> None:
        if self.writer is None:
            self._open()
        assert self.writer is not None
        table = pa.Table.from_batches(self.pending, self.schema).combine_chunks()
        self.writer.write_table(table, row_group_size=max(1, table.num_rows))
        self.rows += self.pending_rows
        self.bytes += self.pending_bytes
        self.pending, self.pending_rows, self.pending_bytes = [], 0, 0
        if self.shard_bytes is not None and self.bytes >= self.shard_bytes:
            self._close_file()

    def _close_file(self) -> None:
        assert self.writer is not None and self.file is not None
        self.writer.close()
        self.outputs.append(self.file.finish(self.rows, self.role))
        self.writer = self.file = None


def read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a shard, one row group at a time (a row group is at most about 8 MiB of text, or one long
    document).
    """
    file = pq.ParquetFile(path)
    for group in range(file.num_row_groups):
        yield from file.read_row_group(group, use_threads=False).combine_chunks().to_batches()
