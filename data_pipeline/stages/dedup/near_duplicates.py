"""dedup_fuzzy: of documents that are nearly the same, over all sources, keep the best one.

The method and its pure functions are in `stages/dedup_fuzzy.py`; here they run over tables, so that no step holds more
than what has to be compared:

1. `sketches` (Map): digest, length and signature of each document.
2. `exact` (GroupBy): documents equal in normal form, and the best of each group.
3. `band_keys` (Map), `candidates` (GroupBy): pairs of the others that share a band.
4. `clusters` (Global): pairs that are duplicates indeed, components, representatives. Signatures of documents with a
   candidate lie in a scratch file, as do the texts of borderline pairs; in memory are some 40 bytes a document with a
   candidate and 20 a likely pair.
5. `records` (Map): the others are dropped as `near_duplicate_of:<doc_id>`.

Documents are numbered by their `doc_id`, so the result depends neither on the shards nor on the order of the files.
Another `similarity` runs steps 4 and 5 only."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from data_pipeline import record
from data_pipeline.engine.shard import read_batches
from data_pipeline.engine.steps import Context, Global, GroupBy, InputFile, Map
from data_pipeline.stages.dedup.exact import drop_for_representative
from data_pipeline.stages.dedup.old_corpus import (
    AgainstSettings,
    OldSignatures,
    run_identity,
    write_signatures,
)
from data_pipeline.stages.dedup.signatures import (
    EXACT_BY_SHARD_SQL,
    Edges,
    FuzzySettings,
    Sketch,
    band_rows,
    band_table,
    candidates_sql,
    choose_representatives,
    is_borderline,
    likely_edges,
    quality_order,
    settled_edges,
    sketch,
)
from pangu.foundation.errors import UserError

SKETCHES = pa.schema(
    [
        ("doc_id", pa.uint64()),
        ("document", pa.int64()),
        ("digest", pa.binary()),
        ("length", pa.int64()),
        ("quality", pa.float64()),
        ("signature", pa.binary()),
        ("old", pa.uint64()),  # the document of the old corpus that it is like
    ]
)
EQUAL = pa.schema([("shard", pa.string()), ("document", pa.int64()), ("representative", pa.int64())])
BAND_KEYS = pa.schema(
    [("band", pa.int16()), ("bucket", pa.int64()), ("next_bucket", pa.int64()), ("document", pa.int64())]
)
PAIRS = pa.schema([("left_doc", pa.int64()), ("right_doc", pa.int64())])
VERDICTS = pa.schema([("doc_id", pa.uint64()), ("representative", pa.uint64())])
# text that is compared exactly at a time
_COMPARED_BYTES = 32 << 20


class Settings(FuzzySettings, AgainstSettings):
    """What counts as a near-duplicate, and which document of a cluster stays."""

    quality: str | None = Field(
        default=None, description="the signal of which the greatest stays; null, and where equal: the longest document"
    )
    against_similarity: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="least estimated similarity with a document of that run; null: as `similarity`",
    )

    def completed(self, seed: int, source_names: Sequence[str], base: Path) -> "Settings":
        """Return these settings with the place of the old run, and how like it a document may be."""
        completed = super().completed(seed, source_names, base)
        similarity = None if self.against is None else self.against_similarity or self.similarity
        return completed.model_copy(update={"against_similarity": similarity})


def write_old_signatures(context: Context) -> dict[str, Any]:
    """Write the signatures of the old corpus; nothing where there is none."""
    settings: Settings = context.settings
    if settings.against is None:
        return {}
    return write_signatures(context.directory, Path(settings.against), settings)


def sketch_rows(batch: pa.RecordBatch, settings: Settings, old: Sequence[Path]) -> pa.RecordBatch:
    """Return a row of SKETCHES for each document. One that is like a document of the old corpus is like nothing else:
    it has no length.
    """
    sketches = sketch(batch.column("text"), settings)
    is_old = np.zeros(batch.num_rows, bool)
    numbers = np.zeros(batch.num_rows, np.uint64)
    if old:
        is_old, numbers = OldSignatures(tuple(old), settings, settings.against_similarity or settings.similarity).find(
            sketches.length, sketches.signature
        )
    columns = [
        batch.column("doc_id"),
        pa.array(record.signed_numbers(batch.column("doc_id"))),
        pa.array(sketches.digest.tolist(), pa.binary()),
        pa.array(np.where(is_old, 0, sketches.length)),
        pa.array(_quality(batch, settings.quality)),
        pa.array([row.tobytes() for row in sketches.signature], pa.binary()),
        pa.array(numbers, mask=~is_old),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SKETCHES)


def _quality(batch: pa.RecordBatch, signal: str | None) -> np.ndarray:
    """Return float64[rows]: the signal; least of all where a document has none."""
    if signal is None:
        return np.zeros(batch.num_rows)
    struct = batch.column("signals")
    if struct.type.get_field_index(signal) < 0:
        legal = ", ".join(field.name for field in struct.type)
        raise UserError(f"dedup_fuzzy.quality: no stage before it gives a signal {signal!r}; there are {legal}")
    values = pc.fill_null(pc.struct_field(struct, signal), float("-inf")).to_numpy(zero_copy_only=False)
    return np.where(np.isnan(values), -np.inf, values)


def exact_sql(settings: Settings) -> str:
    """Return every document that is equal to a better one, with that one."""
    return EXACT_BY_SHARD_SQL


def band_key_rows(batch: pa.RecordBatch, settings: Settings, equal: pa.Table) -> pa.RecordBatch:
    """Return the bands of documents that are not empty and have not gone to an equal one."""
    gone = pc.is_in(batch.column("document"), value_set=equal.column("document"))
    batch = batch.filter(pc.and_(pc.invert(gone), pc.greater(batch.column("length"), 0)))
    signature = _signatures(batch, settings)
    table = band_table(batch.column("document").to_numpy(), signature, settings).cast(BAND_KEYS)
    return next(iter(table.combine_chunks().to_batches()), pa.RecordBatch.from_pylist([], BAND_KEYS))


def _signatures(batch: pa.RecordBatch, settings: FuzzySettings) -> np.ndarray:
    """Return uint32[rows, size] of a batch of SKETCHES."""
    data = b"".join(batch.column("signature").to_pylist())
    return np.frombuffer(data, np.uint32).reshape(-1, settings.size)


def pairs_sql(settings: Settings) -> str:
    """Return the pairs that share a band, ordered."""
    return candidates_sql(settings.neighbours) + "ORDER BY left_doc, right_doc"


def find_clusters(context: Context) -> dict[str, Any]:
    """Write SHARD.parquet with VERDICTS for each shard."""
    settings: Settings = context.settings
    context.scratch.mkdir(parents=True, exist_ok=True)
    compared = _Compared.load(context, settings)
    likely = _concatenated(
        likely_edges(compared.sketches.length, compared.sketches.signature, left, right, settings)
        for left, right in _pairs(context.inputs["candidates"], compared.documents)
    )
    borderline = is_borderline(likely, settings)
    wanted = np.unique(np.r_[likely.left[borderline], likely.right[borderline]])
    with _Texts(context, compared.documents, wanted) as texts:
        edges = _concatenated(
            settled_edges(part, settings, texts.take) for part in _portions(likely, borderline, texts.sizes)
        )
    rank = quality_order(compared.quality, compared.sketches.length)
    representative = choose_representatives(
        edges, rank, compared.sketches.signature, settings.representative_similarity
    )
    dropped = representative != np.arange(representative.size)
    documents = compared.documents
    count = _write_verdicts(context, documents[dropped], documents[representative[dropped]])
    return {"likely_pairs": likely.left.size, "edges": edges.left.size, "near_duplicates": count}


@dataclass(frozen=True)
class _Compared:
    """The documents that are in a candidate pair, ordered by number. Signatures lie in a scratch file."""

    documents: np.ndarray  # int64
    sketches: Sketch
    quality: np.ndarray  # float64

    @classmethod
    def load(cls, context: Context, settings: Settings) -> "_Compared":
        """Read the tables `candidates` and `sketches`."""
        documents = _numbers_in(context.inputs["candidates"])
        length, quality = np.zeros(documents.size, np.int64), np.zeros(documents.size)
        shape = (max(1, documents.size), settings.size)  # a file that is mapped must not be empty
        mapped = np.memmap(context.scratch / "signatures", np.uint32, "w+", shape=shape)
        signature = mapped.view(np.ndarray)[: documents.size]
        for file in context.inputs["sketches"]:
            for batch in read_batches(file.path):
                place, found = _places(documents, batch.column("document").to_numpy())
                batch = batch.filter(pa.array(found))
                length[place] = batch.column("length").to_numpy()
                quality[place] = batch.column("quality").to_numpy()
                signature[place] = _signatures(batch, settings)
        return cls(documents, Sketch(np.zeros(0, "V16"), length, signature), quality)


def _numbers_in(files: Sequence[InputFile]) -> np.ndarray:
    """Return int64: the distinct documents of PAIRS, ordered."""
    known = np.zeros(0, np.int64)
    pending: list[np.ndarray] = []
    for file in files:
        for batch in read_batches(file.path):
            pending += [np.unique(batch.column(name).to_numpy()) for name in PAIRS.names]
            if sum(part.size for part in pending) > max(1 << 20, known.size):
                known, pending = np.unique(np.concatenate([known, *pending])), []
    return np.unique(np.concatenate([known, *pending]))


def _pairs(files: Sequence[InputFile], documents: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the candidate pairs as rows of `documents`, a batch at a time."""
    for file in files:
        for batch in read_batches(file.path):
            left, right = (np.searchsorted(documents, batch.column(name).to_numpy()) for name in PAIRS.names)
            yield left, right


def _places(known: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (place in the sorted `known` of those numbers that are in it, bool[numbers]: which these are)."""
    place = np.searchsorted(known, numbers)
    found = np.zeros(numbers.size, bool)
    inside = place < known.size
    found[inside] = known[place[inside]] == numbers[inside]
    return place[found], found


def _concatenated(parts: Iterator[Edges]) -> Edges:
    kept = [Edges(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)), *parts]
    return Edges(*(np.concatenate([getattr(part, name) for part in kept]) for name in ("left", "right", "similarity")))


def _portions(likely: Edges, borderline: np.ndarray, sizes: np.ndarray) -> Iterator[Edges]:
    """Yield `likely` in portions whose borderline pairs have about _COMPARED_BYTES of text."""
    weight = np.where(borderline, sizes[likely.left] + sizes[likely.right], 0)
    portion = np.cumsum(weight) // _COMPARED_BYTES
    ends = np.r_[np.flatnonzero(portion[1:] != portion[:-1]) + 1, likely.left.size]
    start = 0
    for end in ends.tolist():
        yield Edges(likely.left[start:end], likely.right[start:end], likely.similarity[start:end])
        start = end


class _Texts:
    """The texts of some documents, in a scratch file that one pass over the shards fills."""

    def __init__(self, context: Context, documents: np.ndarray, wanted: np.ndarray):
        self.sizes = np.zeros(documents.size, np.int64)  # bytes of each row's text, 0 for those not wanted
        self._starts = np.zeros(documents.size, np.int64)
        self._file: BinaryIO = open(context.scratch / "texts", "w+b")  # noqa: SIM115 - closed on exit
        numbers = documents[wanted]
        for shard in context.inputs["documents"] if wanted.size else []:
            self._copy(shard.path, numbers, wanted)

    def __enter__(self) -> "_Texts":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _copy(self, shard: Path, numbers: np.ndarray, rows: np.ndarray) -> None:
        """Append the texts of the documents `numbers` (sorted; `rows` are theirs) that lie in a shard."""
        file = pq.ParquetFile(shard)
        for group in range(file.num_row_groups):
            doc_ids = file.read_row_group(group, ["doc_id"], use_threads=False).column(0)
            place, found = _places(numbers, record.signed_numbers(doc_ids))
            if not place.size:
                continue
            texts = file.read_row_group(group, ["text"], use_threads=False).column(0).filter(pa.array(found))
            for row, text in zip(rows[place].tolist(), texts, strict=True):
                data = (text.as_py() or "").encode()
                self._starts[row], self.sizes[row] = self._file.tell(), len(data)
                self._file.write(data)

    def take(self, rows: np.ndarray) -> pa.Array:
        """Return the texts of `rows`."""
        texts = []
        for row in rows.tolist():
            self._file.seek(int(self._starts[row]))
            texts.append(self._file.read(int(self.sizes[row])))
        return pa.array(texts, pa.large_binary()).cast(pa.large_string())


def _write_verdicts(context: Context, dropped: np.ndarray, representative: np.ndarray) -> int:
    """Return VERDICTS of each shard: documents `dropped` (sorted) for their representative, and those equal to another
    one for what stands for that one. Returns how many there are.
    """
    equal_files = {file.stem: file.path for file in context.inputs["exact"]}
    sketch_files = {file.stem: file.path for file in context.inputs["sketches"]}
    count = 0
    for shard in context.inputs["documents"]:
        equal = pq.read_table(equal_files[shard.stem])
        own = pq.read_table(sketch_files[shard.stem], columns=["document"]).column(0).to_numpy()
        best = equal.column("representative").to_numpy().copy()
        place, found = _places(dropped, best)
        best[found] = representative[place]
        place, found = _places(dropped, own)
        numbers = np.r_[equal.column("document").to_numpy(), own[found]]
        best = np.r_[best, representative[place]]
        order = np.argsort(numbers)
        columns = [pa.array(record.unsigned_numbers(values[order])) for values in (numbers, best)]
        old = pq.read_table(sketch_files[shard.stem], columns=["doc_id", "old"])
        old = old.filter(pc.is_valid(old.column("old"))).rename_columns(VERDICTS.names)
        count += old.num_rows
        pq.write_table(
            pa.concat_tables([pa.Table.from_arrays(columns, schema=VERDICTS), old.cast(VERDICTS)]).combine_chunks(),
            context.directory / f"{shard.stem}.parquet",
            compression="zstd",
        )
        count += numbers.size
    return count


def drop_near_duplicates(batch: pa.RecordBatch, settings: Settings, verdicts: pa.Table) -> pa.RecordBatch:
    """Give the documents in `verdicts` their reason."""
    return drop_for_representative(batch, verdicts, "near_duplicate_of")


def load(settings: Settings) -> None:
    """Load the kernels and their tables."""
    band_rows(sketch(pa.array(["文字。"], pa.string()), settings).signature, settings)


_CODE = (
    "data_pipeline.stages.dedup.signatures",
    "data_pipeline.kernels.minhash",
    "data_pipeline.kernels.normal_form",
    "data_pipeline.kernels.components",
)
STEPS = (
    Global(
        "old",
        needs=(),
        run=write_old_signatures,
        reads=("against", "bands", "rows", "gram", "fold_traditional", "seed"),
        identity=run_identity,
        uses=(*_CODE, "data_pipeline.stages.dedup.old_corpus"),
        libraries=("opencc",),
    ),
    Map(
        "sketches",
        needs=("documents", "old"),
        process=sketch_rows,
        prepare=load,
        table=SKETCHES,
        reads=(
            *("bands", "rows", "gram", "fold_traditional", "seed", "quality"),
            *("against", "against_similarity"),
        ),
        uses=(*_CODE, "data_pipeline.stages.dedup.old_corpus"),
        libraries=("opencc",),
    ),
    GroupBy("exact", needs=("sketches",), sql=exact_sql, table=EQUAL, reads=(), uses=_CODE[:1]),
    Map(
        "band_keys",
        needs=("sketches", "exact"),
        process=band_key_rows,
        table=BAND_KEYS,
        reads=("bands", "rows"),
        uses=_CODE[:2],
    ),
    GroupBy("candidates", needs=("band_keys",), sql=pairs_sql, table=PAIRS, reads=("neighbours",), uses=_CODE[:1]),
    Global(
        "clusters",
        needs=("documents", "sketches", "exact", "candidates"),
        run=find_clusters,
        reads=("similarity", "length_ratio", "representative_similarity", "gram", "fold_traditional"),
        uses=_CODE,
        libraries=("opencc",),
    ),
    Map(
        "records",
        needs=("documents", "clusters"),
        process=drop_near_duplicates,
        reads=(),
        uses=("data_pipeline.stages.dedup.exact",),
    ),
)
