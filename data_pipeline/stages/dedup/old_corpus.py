"""New data against an old corpus: what an earlier run released is never replaced, and what is like it does not come out
again.

`against: OLD_RUN` names the output directory of a run. Its released documents (`documents/`) are what counts. Their
signatures are read from the run's own stage where that had the same settings and code; else they are made of its
texts, as the keys of equal texts are. They lie sorted in files that workers map: they may be larger than memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from data_pipeline.engine.code_digest import module_digest
from data_pipeline.engine.manifest import Manifest, digest
from data_pipeline.engine.shard import read_batches
from data_pipeline.engine.steps import StageSettings
from pangu.foundation.errors import UserError

if TYPE_CHECKING:
    from data_pipeline.stages.dedup.signatures import FuzzySettings

SIGNATURE_SETTINGS = ("bands", "rows", "gram", "fold_traditional", "seed")
SIGNATURE_CODE = (
    "data_pipeline.stages.dedup.signatures",
    "data_pipeline.kernels.minhash",
    "data_pipeline.kernels.normal_form",
)
_READ_ROWS = 4096


class AgainstSettings(StageSettings):
    """Settings of a stage that may compare with what an earlier run released."""

    against: str | None = Field(
        default=None, description="an earlier run: what it released is never replaced, and does not come out again"
    )

    def completed(self, seed: int, source_names: Sequence[str], base: Path) -> Self:
        """Return these settings with the place of the old run."""
        against = checked_run(self.against, base)
        completed = super().completed(seed, source_names, base)
        return cast(Self, completed.model_copy(update={"against": against}))

    def check_output(self, stage: str, root: Path) -> None:
        """Refuse a run whose output directory is the old run's."""
        if self.against is not None and Path(self.against) == root.resolve():
            raise UserError(f"--out {root}: it is also {stage}.against; new data need an output directory of their own")


def checked_run(against: str | None, base: Path) -> str | None:
    """Return the place of the old run. ValueError where it is none, or has not come to its end."""
    if against is None:
        return None
    root = (base / Path(against).expanduser()).resolve()
    if not (root / "manifest.sqlite").is_file():
        raise ValueError(f"against: {root}: not the output directory of a finished run")
    manifest = Manifest(root, read_only=True)
    try:
        finished = manifest.finished_stages()
        left = [name for name, _ in manifest.stages() if name not in finished]
    finally:
        manifest.close()
    if left or not (root / "documents").is_dir():
        where = f"stage {left[0]} is not done" if left else "it has no documents/"
        raise ValueError(f"against: {root}: this run is not finished ({where}); run it to its end")
    return str(root)


def run_identity(settings: Any) -> str:
    """Return what changes when the documents of the old run do."""
    if settings.against is None:
        return ""
    files = sorted((Path(settings.against) / "documents").glob("*.parquet"))
    return digest(*(f"{file.name}|{file.stat().st_size}|{file.stat().st_mtime_ns}" for file in files))


def released_batches(root: Path) -> Iterator[pa.RecordBatch]:
    """Yield `doc_id` and `text` of the documents that the old run released."""
    for file in sorted((root / "documents").glob("*.parquet")):
        for batch in read_batches(file):
            for start in range(0, batch.num_rows, _READ_ROWS):
                yield batch.select(["doc_id", "text"]).slice(start, _READ_ROWS)


def stored_tables(
    root: Path, kind: str, step: str, wanted: dict[str, Any], code: Sequence[str]
) -> tuple[list[Path], str]:
    """Return the table files of a step of the old run, if it was made with these settings and this code.

    Else none, and why: words for one line, empty where the run had no such stage."""
    manifest = Manifest(root, read_only=True)
    why = ""
    try:
        for name, stage_kind in manifest.stages():
            recorded = manifest.step_settings(f"{name}/{step}") if stage_kind == kind else None
            if recorded is None:
                continue
            other = [key for key, value in wanted.items() if recorded[0].get(key) != value]
            rows = manifest.finished(f"{name}/{step}").values()
            files = [root / output.path for row in rows for output in row.outputs]
            if other:
                why = ", ".join(f"{key} {recorded[0].get(key)} there, {wanted[key]} here" for key in other)
            elif any(recorded[1].get(module) != module_digest(module) for module in code):
                why = "made by another version of the code"
            elif not files or not all(file.is_file() for file in files):
                why = "files are missing"
            else:
                return files, ""
    finally:
        manifest.close()
    return [], why


def released_ids(root: Path) -> np.ndarray:
    """Return uint64: the numbers of the released documents, sorted."""
    files = sorted((root / "documents").glob("*.parquet"))
    parts = [pq.read_table(file, columns=["doc_id"]).column(0).to_numpy() for file in files]
    return np.sort(np.concatenate([np.zeros(0, np.uint64), *parts]))


class OldKeys:
    """Two words of 64 bits for each old document, sorted, and its number."""

    def __init__(self, paths: tuple[Path, ...]):
        by_name = {path.name: path for path in paths}
        self.words = np.load(by_name["words.npy"], mmap_mode="r")
        self.doc_ids = np.load(by_name["doc_ids.npy"], mmap_mode="r")

    @staticmethod
    def write(folder: Path, words: np.ndarray, doc_ids: np.ndarray) -> None:
        """Write `words` (int64[documents, 2]) and numbers. Of equal documents the least number comes first."""
        order = np.lexsort((doc_ids, words[:, 1], words[:, 0]))
        np.save(folder / "words.npy", words[order])
        np.save(folder / "doc_ids.npy", doc_ids[order])

    def find(self, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (bool[rows], which have an equal old document; uint64[rows], its number)."""
        found = np.zeros(len(words), bool)
        numbers = np.zeros(len(words), np.uint64)
        first = self.words[:, 0]
        places = np.searchsorted(first, words[:, 0])
        for row, place in enumerate(places.tolist()):
            while place < first.size and first[place] == words[row, 0]:
                if self.words[place, 1] == words[row, 1]:
                    found[row], numbers[row] = True, self.doc_ids[place]
                    break
                place += 1
        return found, numbers


class OldSignatures:
    """Signatures and buckets of the old documents."""

    def __init__(self, paths: tuple[Path, ...], settings: "FuzzySettings", similarity: float):
        self.settings, self.similarity = settings, similarity
        by_name = {path.name: path for path in paths}
        self.doc_ids, self.signatures, self.buckets, self.rows = (
            np.load(by_name[f"{name}.npy"], mmap_mode="r") for name in ("doc_ids", "signatures", "buckets", "rows")
        )

    def find(self, length: np.ndarray, signature: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (bool[rows], which are near-duplicates of an old document; uint64[rows], the likest one's number).

        A pair that shares a band is one where the signatures agree in `similarity` of their numbers. Texts of which one
        is much longer than the other cannot agree so far."""
        from data_pipeline.stages.dedup.signatures import band_rows  # its kernels are slow to import

        found, numbers = np.zeros(length.size, bool), np.zeros(length.size, np.uint64)
        best = np.zeros(length.size)
        buckets = band_rows(signature, self.settings)
        for band in range(self.settings.bands):
            old = self.buckets[band]
            begins = np.searchsorted(old, buckets[:, band], "left")
            ends = np.searchsorted(old, buckets[:, band], "right")
            for row in np.flatnonzero((ends > begins) & (length > 0)).tolist():
                places = np.sort(self.rows[band, begins[row] : ends[row]])
                likeness = (np.asarray(self.signatures[places]) == signature[row]).mean(axis=1)
                place = int(likeness.argmax())
                if likeness[place] >= self.similarity and likeness[place] > best[row]:
                    found[row], best[row] = True, likeness[place]
                    numbers[row] = self.doc_ids[places[place]]
        return found, numbers


def write_signatures(folder: Path, root: Path, settings: "FuzzySettings") -> dict[str, Any]:
    """Write what OldSignatures reads, for the documents that a run released."""
    from data_pipeline.stages.dedup.signatures import band_rows

    wanted = {name: getattr(settings, name) for name in SIGNATURE_SETTINGS}
    stored, why = stored_tables(root, "dedup_fuzzy", "sketches", wanted, SIGNATURE_CODE)
    released = released_ids(root)
    doc_ids = np.zeros(released.size, np.uint64)
    shape = (released.size, settings.size)
    signatures = np.lib.format.open_memmap(folder / "signatures.npy", "w+", np.uint32, shape)
    row = 0
    for numbers, signature in _sketches(root, stored, settings):
        is_released = released[np.minimum(np.searchsorted(released, numbers), released.size - 1)] == numbers
        count = int(is_released.sum())
        doc_ids[row : row + count] = numbers[is_released]
        signatures[row : row + count] = signature[is_released]
        row += count
    shape = (settings.bands, released.size)
    buckets = np.lib.format.open_memmap(folder / "buckets.npy", "w+", np.uint64, shape)
    rows = np.lib.format.open_memmap(folder / "rows.npy", "w+", np.int64, shape)
    for start in range(0, row, 1 << 16):
        stop = min(row, start + (1 << 16))
        buckets[:, start:stop] = band_rows(np.asarray(signatures[start:stop]), settings).T
    # what was released and has no sketch (an empty text) shares no bucket with anything
    buckets[:, row:] = np.iinfo(np.uint64).max
    for band in range(settings.bands):
        order = np.argsort(buckets[band], kind="stable")
        buckets[band], rows[band] = buckets[band][order], order
    for array in (signatures, buckets, rows):
        array.flush()
    np.save(folder / "doc_ids.npy", doc_ids)
    counts: dict[str, Any] = {"old_documents": released.size, "old_signatures_read": row if stored else 0}
    if why:
        counts["announcement"] = [f"dedup_fuzzy: {root}: signatures are made again from its texts ({why})"]
    return counts


def _sketches(root: Path, stored: list[Path], settings: "FuzzySettings") -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (numbers, signatures) of old documents, from the run's tables or from its texts."""
    if not stored:
        from data_pipeline.stages.dedup.signatures import sketch

        for batch in released_batches(root):
            own = sketch(batch.column("text"), settings)
            yield batch.column("doc_id").to_numpy(), own.signature
        return
    for file in stored:
        for batch in read_batches(file):
            data = b"".join(batch.column("signature").to_pylist())
            signature = np.frombuffer(data, np.uint32).reshape(-1, settings.size)
            yield batch.column("doc_id").to_numpy(), signature
