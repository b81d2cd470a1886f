"""Near-duplicate documents over the whole corpus: MinHash, locality-sensitive hashing, verified edges, representatives.

The method of Broder (1997) as used for web corpora (Lee et al. 2021; RefinedWeb; FineWeb), with what Chinese needs and
what those pipelines leave out:
* characters, not words: 5-grams of the normal form (kernels/normal_form.py);
* a pair that shares a band is a candidate only; it becomes an edge when the signatures agree, and near the threshold
  when the exact Jaccard similarity of the n-gram sets says so. Pages of one template share bands without being
  duplicates;
* a document is dropped in favour of a representative that it resembles itself, not of one at the far end of a chain;
* the representative is the best document of its cluster (quality, then length, then id), not the first one read.

Everything is a pure function of arrays ordered by document id, so the order of the files, the number of workers and the
engine have no say in the result. `deduplicate` does the whole in memory (about 0.7 KB a document beside the texts); the
stage (stages/near_duplicates.py) makes the same of tables, for any number of documents.
"""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import xxhash
from pydantic import Field, model_validator

from data_pipeline.engine.steps import StageSettings
from data_pipeline.kernels import minhash
from data_pipeline.kernels.components import components
from data_pipeline.kernels.normal_form import normal_form_table, normalise

# How far from the threshold an estimate is settled by the exact similarity: two standard deviations of the share of
# equal numbers among 120 when the true share is 0.6 (0.045 each).
BORDERLINE = 0.09
_BATCH_BYTES = 4 << 20


class FuzzySettings(StageSettings):
    """What counts as a near-duplicate. The signature has `bands` x `rows` numbers."""

    bands: int = Field(
        default=20, ge=1, le=255, description="bands of the signature; a pair is a candidate if one is equal"
    )
    rows: int = Field(default=6, ge=1, le=64, description="numbers in a band")
    gram: int = Field(default=5, ge=1, le=64, description="characters in an n-gram")
    similarity: float = Field(default=0.6, gt=0, le=1, description="least Jaccard similarity of two duplicates")
    length_ratio: float = Field(default=0.5, ge=0, le=1, description="least ratio of the lengths of two duplicates")
    representative_similarity: float = Field(
        default=0.5, ge=0, le=1, description="least estimated similarity of a dropped document and the one kept for it"
    )
    neighbours: int = Field(
        default=3, ge=1, le=32, description="documents next to it that a document of a large bucket is compared with"
    )
    fold_traditional: bool = Field(default=False, description="traditional and simplified characters count as equal")
    seed: int = Field(default=1, ge=0, lt=2**63, description="of the hashes; part of the result")

    @model_validator(mode="after")
    def _signature_size(self) -> "FuzzySettings":
        if self.bands * self.rows > 4096:
            raise ValueError(f"bands x rows = {self.bands * self.rows}; at most 4096 numbers make a signature")
        return self

    @property
    def size(self) -> int:
        """Return numbers in a signature."""
        return self.bands * self.rows


@dataclass(frozen=True)
class Sketch:
    """What the comparison needs of each document; row i is document i."""

    digest: np.ndarray  # "V16", xxh3-128 of the normal form in UTF-32
    length: np.ndarray  # int64, characters of the normal form
    signature: np.ndarray  # uint32[documents, size]


@dataclass(frozen=True)
class Edges:
    """Pairs of documents (rows, left < right) found to be duplicates."""

    left: np.ndarray  # int64
    right: np.ndarray  # int64
    similarity: np.ndarray  # float32: estimated, or exact where the estimate was borderline


@dataclass(frozen=True)
class Clusters:
    """The outcome for each document, by row of the input."""

    representative: np.ndarray  # int64: row of the document kept in its place; its own row if it is kept itself
    exact: np.ndarray  # bool: dropped, and equal to another one in normal form
    edges: Edges  # between documents that differ, as rows of the input

    @property
    def kept(self) -> np.ndarray:
        """Return bool: the documents that stay."""
        return self.representative == np.arange(self.representative.size)


def sketch(texts: pa.Array | pa.ChunkedArray, settings: FuzzySettings, threads: int = 1) -> Sketch:
    """Return digest, length and signature of each text. Map kernel: rows do not depend on each other."""
    batches = _batches(texts)
    table = normal_form_table(settings.fold_traditional)
    if threads > 1 and len(batches) > 1:
        with ThreadPoolExecutor(threads) as pool:
            parts = list(pool.map(lambda batch: _sketch_batch(batch, table, settings), batches))
    else:
        parts = [_sketch_batch(batch, table, settings) for batch in batches]
    if not parts:
        return Sketch(np.zeros(0, "V16"), np.zeros(0, np.int64), np.zeros((0, settings.size), np.uint32))
    return Sketch(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _batches(texts: pa.Array | pa.ChunkedArray) -> list[pa.Array]:
    """Return slices of about _BATCH_BYTES each, so that normal forms never need memory for the whole column."""
    chunks = texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]
    batches = []
    for chunk in chunks:
        rows = max(1, len(chunk) * _BATCH_BYTES // max(chunk.nbytes, 1))
        batches += [chunk[start : start + rows] for start in range(0, len(chunk), rows)]
    return batches


def _sketch_batch(
    texts: pa.Array, table: np.ndarray, settings: FuzzySettings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values, offsets = normalise(texts, table)
    signature = np.empty((len(texts), settings.size), np.uint32)
    minhash.signatures(values, offsets, settings.gram, settings.seed, signature)
    ends = offsets.tolist()
    digests = b"".join(xxhash.xxh3_128_digest(values[start:end].data) for start, end in itertools.pairwise(ends))
    return np.frombuffer(digests, "V16"), np.diff(offsets), signature


def quality_order(quality: np.ndarray | None, length: np.ndarray) -> np.ndarray:
    """Return int64[documents]: the rank of each document as a representative, 0 the best: quality, then length, then
    row.
    """
    best_first = np.lexsort((-length, -quality)) if quality is not None else np.argsort(-length, kind="stable")
    rank = np.empty(length.size, np.int64)
    rank[best_first] = np.arange(length.size)
    return rank


def exact_representatives(sketches: Sketch, rank: np.ndarray) -> np.ndarray:
    """Return int64[documents]: the best row among those with the same normal form. An empty document equals no
    other.
    """
    representative = np.arange(rank.size)
    words = sketches.digest.view(np.uint64).reshape(-1, 2)
    # A digest is one of 2^64 in its first half already: sorting by that finds the few rows worth comparing in full.
    order = np.argsort(words[:, 0], kind="stable")
    order = order[_shared(words[order, 0]) & (sketches.length[order] > 0)]
    order = order[np.lexsort((rank[order], words[order, 1], words[order, 0]))]
    if order.size:
        first = np.r_[True, (words[order][1:] != words[order][:-1]).any(axis=1)]
        representative[order] = order[first][np.cumsum(first) - 1]
    return representative


def band_rows(signature: np.ndarray, settings: FuzzySettings) -> np.ndarray:
    """Return uint64[documents, bands]: the bucket of each document in each band."""
    keys = np.empty((signature.shape[0], settings.bands), np.uint64)
    minhash.band_keys(signature, settings.rows, keys)
    return keys


def band_table(document: np.ndarray, signature: np.ndarray, settings: FuzzySettings) -> pa.Table:
    """Return `band_keys` as CANDIDATES_SQL reads it: one row a document and band. `document` is int64; keys are signed
    too.
    """
    keys = band_rows(signature, settings).view(np.int64)
    return pa.table(
        {
            "band": np.tile(np.arange(settings.bands, dtype=np.int16), document.size),
            "bucket": keys.ravel(),
            "next_bucket": np.roll(keys, -1, axis=1).ravel(),
            "document": np.repeat(document.astype(np.int64), settings.bands),
        }
    )


# In DuckDB and Spark alike. Reads sketches(document, digest, length, quality), gives the representative of each
# document that is equal to a better one; the same for each shard, where the table has a column `shard`.
_EXACT_SQL = """
SELECT {columns}, representative
FROM (
    SELECT {columns},
           first_value(document) OVER equal_texts AS representative
    FROM sketches
    WHERE length > 0
    WINDOW equal_texts AS (PARTITION BY digest ORDER BY quality DESC, length DESC, document)
) AS grouped
WHERE representative <> document
"""
EXACT_SQL = _EXACT_SQL.format(columns="document")
EXACT_BY_SHARD_SQL = _EXACT_SQL.format(columns="shard, document") + "ORDER BY shard, document"


def candidates_sql(neighbours: int) -> str:
    """Return SQL (DuckDB and Spark): band_keys(band, bucket, next_bucket, document) -> distinct pairs, left_doc <
    right_doc.

    A bucket of n documents would make n² / 2 pairs. In the order of their next bucket, in which similar documents lie
    side by side, each is compared with the first and with the `neighbours` before it: all pairs of buckets up to
    `neighbours` + 2 documents, and a number that grows linearly above.
    """
    lags = ", ".join(f"lag(document, {i}) OVER bucket_order AS before_{i}" for i in range(1, neighbours + 1))
    pairs = "".join(f"\n    UNION ALL SELECT document, before_{i} FROM ordered" for i in range(1, neighbours + 1))
    return f"""
WITH shared AS (
    SELECT band, bucket FROM band_keys GROUP BY band, bucket HAVING count(*) > 1
), ordered AS (
    SELECT document, first_value(document) OVER bucket_order AS centre, {lags}
    FROM band_keys JOIN shared USING (band, bucket)
    WINDOW bucket_order AS (PARTITION BY band, bucket ORDER BY next_bucket, document)
), pairs AS (
    SELECT document, centre AS other FROM ordered{pairs}
)
SELECT DISTINCT least(document, other) AS left_doc, greatest(document, other) AS right_doc
FROM pairs
WHERE other IS NOT NULL AND other <> document
"""


def candidate_pairs(keys: np.ndarray, neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs (left, right) of rows, sorted, that `candidates_sql` gives for `keys` (uint64[documents,
    bands]).
    """
    documents, bands = keys.shape
    found = [np.zeros(0, np.int64)]
    for band in range(bands):
        bucket = keys[:, band]
        order = np.argsort(bucket)
        order = order[_shared(bucket[order])]
        # The SQL orders signed numbers.
        following = keys[order, (band + 1) % bands].view(np.int64)
        order = order[np.lexsort((order, following, bucket[order]))]
        shared = bucket[order]
        first = np.flatnonzero(np.r_[True, shared[1:] != shared[:-1]][: order.size])
        sizes = np.diff(np.r_[first, order.size])
        found.append(_pair_codes(order, np.repeat(order[first], sizes), documents))
        for lag in range(1, neighbours + 1):
            same = np.flatnonzero(shared[lag:] == shared[:-lag])
            found.append(_pair_codes(order[same + lag], order[same], documents))
    codes = np.unique(np.concatenate(found))
    left, right = np.divmod(codes, max(documents, 1))
    proper = left != right
    return left[proper], right[proper]


def _pair_codes(one: np.ndarray, other: np.ndarray, documents: int) -> np.ndarray:
    """Return int64: each unordered pair as one number; 2^31 documents fit, and engines take over long before."""
    return np.minimum(one, other) * documents + np.maximum(one, other)


def _shared(ordered: np.ndarray) -> np.ndarray:
    """Return bool: which elements of a sorted array are equal to a neighbour."""
    equal = ordered[1:] == ordered[:-1]
    return np.r_[False, equal] | np.r_[equal, False] if ordered.size else np.zeros(0, bool)


def verify(
    sketches: Sketch,
    left: np.ndarray,
    right: np.ndarray,
    settings: FuzzySettings,
    texts_of: Callable[[np.ndarray], pa.Array | pa.ChunkedArray],
) -> Edges:
    """Return the candidate pairs (rows) that are duplicates. `texts_of(rows)` gives the texts needed for borderline
    pairs.
    """
    return settled_edges(likely_edges(sketches.length, sketches.signature, left, right, settings), settings, texts_of)


def likely_edges(
    length: np.ndarray, signature: np.ndarray, left: np.ndarray, right: np.ndarray, settings: FuzzySettings
) -> Edges:
    """Return the candidate pairs that may be duplicates by their lengths and signatures, with the estimated
    similarity.
    """
    shorter = np.minimum(length[left], length[right])
    longer = np.maximum(length[left], length[right])
    plausible = (shorter > 0) & (shorter >= settings.length_ratio * longer)
    left, right = left[plausible], right[plausible]
    equal = np.empty(left.size, np.uint16)
    minhash.agreements(signature, left, right, equal)
    similarity = (equal / np.float32(settings.size)).astype(np.float32)
    likely = similarity >= settings.similarity - BORDERLINE
    return Edges(left[likely], right[likely], similarity[likely])


def is_borderline(likely: Edges, settings: FuzzySettings) -> np.ndarray:
    """Return bool[edges]: which of `likely_edges` only the texts can settle."""
    return likely.similarity < settings.similarity + BORDERLINE


def settled_edges(
    likely: Edges, settings: FuzzySettings, texts_of: Callable[[np.ndarray], pa.Array | pa.ChunkedArray]
) -> Edges:
    """Return those of `likely_edges` that are duplicates; borderline ones get their exact similarity."""
    left, right, similarity = likely.left, likely.right, likely.similarity.copy()
    borderline = np.flatnonzero(is_borderline(likely, settings))
    similarity[borderline] = _exact_similarity(left[borderline], right[borderline], settings, texts_of)
    duplicate = similarity >= settings.similarity
    return Edges(left[duplicate], right[duplicate], similarity[duplicate])


def _exact_similarity(
    left: np.ndarray,
    right: np.ndarray,
    settings: FuzzySettings,
    texts_of: Callable[[np.ndarray], pa.Array | pa.ChunkedArray],
) -> np.ndarray:
    """Return float32[pairs]: Jaccard similarity of the n-gram sets."""
    rows, places = np.unique(np.r_[left, right], return_inverse=True)
    exact = np.empty(left.size, np.float32)
    if rows.size:
        values, offsets = normalise(texts_of(rows), normal_form_table(settings.fold_traditional))
        minhash.jaccard(values, offsets, places[: left.size], places[left.size :], settings.gram, exact)
    return exact


def choose_representatives(
    edges: Edges, rank: np.ndarray, signature: np.ndarray, representative_similarity: float
) -> np.ndarray:
    """Return int64[documents]: the row kept in place of each row.

    The best document of a connected component stands for those of its members that resemble it by at least
    `representative_similarity`; the edges between the others form components again, and so on. So a chain of documents
    each a little different from the last is cut where its ends have nothing in common any more.
    """
    representative = np.arange(rank.size)
    left, right = edges.left, edges.right
    while left.size:
        nodes, places = np.unique(np.r_[left, right], return_inverse=True)
        labels = components(nodes.size, places[: left.size], places[left.size :])
        order = np.lexsort((rank[nodes], labels))
        first = np.r_[True, labels[order][1:] != labels[order][:-1]]
        best = np.empty(nodes.size, np.int64)
        best[order] = nodes[order][first][np.cumsum(first) - 1]
        equal = np.empty(nodes.size, np.uint16)
        minhash.agreements(signature, nodes, best, equal)
        settled = equal >= representative_similarity * signature.shape[1]
        representative[nodes[settled]] = best[settled]
        open_edge = ~(settled[places[: left.size]] | settled[places[left.size :]])
        left, right = left[open_edge], right[open_edge]
    return representative


def cluster(
    sketches: Sketch,
    settings: FuzzySettings,
    texts_of: Callable[[np.ndarray], pa.Array | pa.ChunkedArray],
    quality: np.ndarray | None = None,
) -> Clusters:
    """Return exact groups, then near-duplicates among one document of each. Rows must be in the order of their ids."""
    rank = quality_order(quality, sketches.length)
    exact = exact_representatives(sketches, rank)
    distinct = np.flatnonzero((exact == np.arange(exact.size)) & (sketches.length > 0))
    left, right = candidate_pairs(band_rows(sketches.signature[distinct], settings), settings.neighbours)
    edges = verify(sketches, distinct[left], distinct[right], settings, texts_of)
    fuzzy = choose_representatives(edges, rank, sketches.signature, settings.representative_similarity)
    return Clusters(fuzzy[exact], exact != np.arange(exact.size), edges)


def deduplicate(
    texts: pa.Array | pa.ChunkedArray,
    ids: np.ndarray | pa.Array | pa.ChunkedArray,
    settings: FuzzySettings | None = None,
    quality: np.ndarray | None = None,
    threads: int = 1,
) -> Clusters:
    """Return the whole of it in memory. `ids` are unique and sortable; the result does not depend on the order of the
    rows.
    """
    settings = settings or FuzzySettings()
    ids = np.asarray(ids)
    order = np.argsort(ids, kind="stable")
    if (ids[order][1:] == ids[order][:-1]).any():
        raise ValueError("document ids occur twice; which document is kept would depend on the order of the rows")
    sketches = sketch(texts, settings, threads)
    ordered = Sketch(sketches.digest[order], sketches.length[order], sketches.signature[order])
    clusters = cluster(
        ordered, settings, lambda rows: texts.take(pa.array(order[rows])), None if quality is None else quality[order]
    )
    representative, exact = np.empty(order.size, np.int64), np.empty(order.size, bool)
    representative[order], exact[order] = order[clusters.representative], clusters.exact
    left, right = order[clusters.edges.left], order[clusters.edges.right]
    edges = Edges(np.minimum(left, right), np.maximum(left, right), clusters.edges.similarity)
    return Clusters(representative, exact, edges)
