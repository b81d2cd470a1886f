"""Looks into the output directory of a run: the shards of its stages, and one document on its way through them."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipeline.engine.run_recipe import open_manifest
from pangu.foundation.errors import UserError


@contextlib.contextmanager
def reading(root: Path) -> Iterator[None]:
    """Turn what a missing or damaged file of the run raises into one line."""
    try:
        yield
    except BrokenPipeError:  # whoever reads the output has gone
        raise
    except (pa.ArrowException, OSError, json.JSONDecodeError) as error:
        words = " ".join(str(error).split())[:200]
        raise UserError(
            f"{root}: a file of the run is missing or damaged ({words}); `run --verify` mends it"
        ) from error


@dataclass(frozen=True)
class Shards:
    """The record files that a stage left."""

    stage: str
    kind: str
    kept: tuple[Path, ...]
    dropped: tuple[Path, ...]


@dataclass(frozen=True)
class Sighting:
    """A document as one stage left it."""

    stage: str
    is_kept: bool
    record: dict[str, Any]


def stages_of(root: Path) -> list[Shards]:
    """Return the stages of the last run in their order, with the files of their records."""
    manifest = open_manifest(root)
    found = []
    for name, kind in manifest.stages():
        files: dict[str, list[Path]] = {"kept": [], "dropped": []}
        for step in manifest.steps_of(name):
            for row in manifest.finished(step).values():
                for output in row.outputs:
                    if output.role in files:
                        files[output.role].append(root / output.path)
        found.append(Shards(name, kind, tuple(files["kept"]), tuple(files["dropped"])))
    manifest.close()
    return found


def records(files: tuple[Path, ...], reason: str | None = None, source: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the records of shards; with `reason` only those dropped for it, with `source` only those of it."""
    for path in files:
        file = pq.ParquetFile(path)
        for batch in file.iter_batches(batch_size=64):
            for row in batch.to_pylist():
                is_wanted = reason is None or (row["drop_reason"] or "").partition(":")[0] == reason
                if is_wanted and source in (None, row["source"]):
                    yield row


def reasons_of(files: tuple[Path, ...]) -> list[str]:
    """Return the reasons for which records of these shards were dropped."""
    found: set[str] = set()
    for path in files:
        reasons = pq.read_table(path, columns=["drop_reason"]).column("drop_reason").unique().to_pylist()
        found |= {reason.partition(":")[0] for reason in reasons if reason}
    return sorted(found)


def trace(root: Path, key: str) -> list[Sighting]:
    """Return a document, by `doc_id` or by the user's own `id`, at every stage."""
    sightings: list[Sighting] = []
    for shards in stages_of(root):
        for is_kept, files in ((True, shards.kept), (False, shards.dropped)):
            sightings += [Sighting(shards.stage, is_kept, row) for row in _find(files, key)]
    if not sightings:
        raise UserError(f"{root}: no document has the doc_id or id {key!r}")
    return sightings


def samples_of(root: Path, doc_id: int) -> list[tuple[str, int, int, int]]:
    """Return where a document was packed: (file, sample, offset, ids), in its own order."""
    places = []
    for path in sorted((root / "packed").glob("*.documents.parquet")):
        is_wanted = pc.field("doc_id") == pa.scalar(doc_id, pa.uint64())
        table = pq.read_table(path, filters=is_wanted, columns=["sample", "offset", "length", "document_offset"])
        name = path.name.removesuffix(".documents.parquet")
        places += [
            (row["document_offset"], name, row["sample"], row["offset"], row["length"]) for row in table.to_pylist()
        ]
    return [place[1:] for place in sorted(places)]


def _find(files: tuple[Path, ...], key: str) -> Iterator[dict[str, Any]]:
    number = int(key) if key.isdecimal() and int(key) < 1 << 64 else None
    for path in files:
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            keys = file.read_row_group(group, columns=["doc_id", "id"], use_threads=False)
            found = pc.fill_null(pc.equal(keys.column("id"), key), False)
            if number is not None:
                found = pc.or_(found, pc.equal(keys.column("doc_id"), pa.scalar(number, pa.uint64())))
            if pc.any(found).as_py():
                yield from file.read_row_group(group, use_threads=False).filter(found).to_pylist()
