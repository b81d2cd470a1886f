"""Paragraphs and stretches of text of an old corpus, for `against` of dedup_paragraph and dedup_substring.

Old texts are read only. What is kept of them are sorted numbers of 64 bits in files that workers map: the hashes of
paragraphs with the documents that have them, and the hashes of stretches."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.engine.manifest import Manifest
from data_pipeline.engine.relational import query
from data_pipeline.engine.shard import read_batches
from data_pipeline.engine.steps import Context
from data_pipeline.stages.dedup.old_corpus import released_batches, released_ids

_NUMBERS = pa.schema([("number", pa.int64())])
_COUNTED_SQL = "SELECT number, count(*) AS times FROM numbers GROUP BY number ORDER BY number"


class CountedNumbers:
    """Sorted distinct numbers (int64), and how often each was written."""

    def __init__(self, folder: Path):
        self.numbers, self.times = (_mapped(folder / name) for name in ("numbers.int64", "times.int64"))

    @staticmethod
    def of(paths: Iterable[Path]) -> "CountedNumbers | None":
        """Return what a step wrote; None where there is no old corpus."""
        folder = next((path.parent for path in paths if path.name == "numbers.int64"), None)
        return None if folder is None else CountedNumbers(folder)

    @staticmethod
    def write(context: Context, parts: Iterable[np.ndarray]) -> int:
        """Write the files, within the memory of the step; return how many distinct numbers there are."""
        context.scratch.mkdir(parents=True, exist_ok=True)
        table = context.scratch / "numbers.parquet"
        with pq.ParquetWriter(table, _NUMBERS, compression="zstd") as writer:
            for part in parts:
                writer.write_batch(pa.RecordBatch.from_arrays([pa.array(part)], schema=_NUMBERS))
        rows = query(
            _COUNTED_SQL,
            {"numbers": ([table], _NUMBERS)},
            context.memory_bytes,
            context.threads,
            context.scratch / "spill",
        )
        distinct = 0
        with (
            open(context.directory / "numbers.int64", "wb") as numbers,
            open(context.directory / "times.int64", "wb") as times,
        ):
            for batch in rows:
                numbers.write(batch.column("number").to_numpy().astype("<i8").tobytes())
                times.write(batch.column("times").to_numpy().astype("<i8").tobytes())
                distinct += batch.num_rows
        return distinct

    def count(self, wanted: np.ndarray) -> np.ndarray:
        """Return int64[wanted]: how often each number was written."""
        if not self.numbers.size:
            return np.zeros(wanted.size, np.int64)
        place = np.minimum(np.searchsorted(self.numbers, wanted), self.numbers.size - 1)
        return np.where(self.numbers[place] == wanted, self.times[place], 0)


def write_old_numbers(
    context: Context, batches: Iterable[pa.RecordBatch], numbers: Callable[[pa.RecordBatch], np.ndarray]
) -> tuple[int, int]:
    """Write the numbers that each batch of old documents has; return how many documents and distinct numbers there
    are.
    """
    documents = 0

    def parts() -> Iterator[np.ndarray]:
        nonlocal documents
        for batch in batches:
            documents += batch.num_rows
            yield numbers(batch)

    distinct = CountedNumbers.write(context, parts())
    return documents, distinct


def _mapped(path: Path) -> np.ndarray:
    """Return the numbers of a file; an empty file cannot be mapped."""
    return np.memmap(path, "<i8", "r") if path.stat().st_size else np.zeros(0, np.int64)


def times_in_old(old: CountedNumbers | None, wanted: np.ndarray) -> np.ndarray:
    """Return int64[wanted]: how often the old corpus has each number; zeros where there is no old corpus."""
    return np.zeros(wanted.size, np.int64) if old is None else old.count(wanted)


def batches_before(root: Path, kind: str) -> Iterator[pa.RecordBatch]:
    """Yield `doc_id` and `text` of the released documents, as they stood before the first stage of this kind.

    What that stage took out of the old corpus is what it should know again in the new one. The texts as they were
    released stand in where the run had no such stage, or its files are gone."""
    files = _files_before(root, kind)
    if not files:
        yield from released_batches(root)
        return
    released = pa.array(released_ids(root))
    for file in files:
        for batch in read_batches(file):
            rows = batch.select(["doc_id", "text"])
            yield rows.filter(pa.compute.is_in(rows.column("doc_id"), value_set=released))


def _files_before(root: Path, kind: str) -> list[Path]:
    manifest = Manifest(root, read_only=True)
    try:
        files: list[Path] = []
        for name, stage_kind in manifest.stages():
            if stage_kind == kind:
                return files if all(file.is_file() for file in files) else []
            for step in manifest.steps_of(name):
                outputs = [output for row in manifest.finished(step).values() for output in row.outputs]
                kept = [root / output.path for output in outputs if output.role == "kept"]
                files = kept or files
        return []
    finally:
        manifest.close()
