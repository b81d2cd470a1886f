"""Exact repeats of `length` characters or more, anywhere in the corpus: all but the first occurrence are cut out.

What Lee et al. ("Deduplicating training data makes language models better", ACL 2022) do with a suffix array of the
whole corpus in memory. The same set of characters comes out of two group-bys over hashes, which spill and distribute:
winnowed fingerprints that occur twice say where repeats can be at all, and there every window of `length` characters is
compared.

A position is cut if it lies in a stretch of `length` characters that also begins at an earlier place: in a document
with a lower number, or further up in the same one. Text is compared as it is, without a normal form.

Map `fingerprint_rows`, GroupBy REPEATED_SQL, Map `window_rows`, GroupBy LATER_SQL, Map `cut`.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from data_pipeline.kernels import windows
from data_pipeline.kernels.normal_form import CodePoints, text_buffers


class SubstringSettings(BaseModel):
    """How long a repeat must be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    length: int = Field(default=50, ge=8, le=10_000, description="characters of the shortest repeat that is cut")

    @property
    def gram(self) -> int:
        """Characters under a fingerprint: half the length, so that few positions are selected and few collide."""
        return self.length // 2


# In DuckDB and Spark alike. Reads fingerprints(fingerprint).
REPEATED_SQL = "SELECT fingerprint FROM fingerprints GROUP BY fingerprint HAVING count(*) > 1"

# Reads windows(document, position, window_hash); gives the windows that begin a repeat of an earlier one.
LATER_SQL = """
SELECT document, position
FROM (
    SELECT document, position,
           row_number() OVER (PARTITION BY window_hash ORDER BY document, position) AS occurrence
    FROM windows
) AS numbered
WHERE occurrence > 1
"""


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


def fingerprint_rows(texts: pa.Array | pa.ChunkedArray, settings: SubstringSettings) -> pa.Table:
    """One row (fingerprint int64) for each selected position of each text."""
    values, offsets = _code_points(texts)
    rows, out = np.empty(values.size, np.int64), np.empty(values.size, np.uint64)
    count = windows.fingerprints(values, offsets, settings.length, settings.gram, rows, out)
    return pa.table({"fingerprint": out[:count].view(np.int64)})


def window_rows(
    texts: pa.Array | pa.ChunkedArray, document: np.ndarray, repeated: np.ndarray, settings: SubstringSettings
) -> pa.Table:
    """Rows (document, position, window_hash), int64, of the windows under the fingerprints `repeated` (int64)."""
    values, offsets = _code_points(texts)
    wanted = np.sort(np.asarray(repeated, np.int64).view(np.uint64))
    rows, positions = np.empty(values.size, np.int64), np.empty(values.size, np.int64)
    out = np.empty(values.size, np.uint64)
    count = windows.windows(values, offsets, settings.length, settings.gram, wanted, rows, positions, out)
    return pa.table(
        {
            "document": np.asarray(document, np.int64)[rows[:count]],
            "position": positions[:count],
            "window_hash": out[:count].view(np.int64),
        }
    )


def cut(texts: pa.Array | pa.ChunkedArray, document: np.ndarray, later: pa.Table, settings: SubstringSettings) -> Cut:
    """`texts` without the windows of `later` (document, position: what LATER_SQL gives, in any order)."""
    row_of = {number: row for row, number in enumerate(np.asarray(document).tolist())}
    starts: dict[int, list[int]] = {}
    for number, position in zip(later["document"].to_pylist(), later["position"].to_pylist(), strict=True):
        if number in row_of:
            starts.setdefault(row_of[number], []).append(position)
    kept = texts.to_pylist()
    characters = np.zeros(len(kept), np.int64)
    for row, positions in starts.items():
        text = kept[row]
        parts, end = [], 0
        for position in sorted(positions):
            if position > end:
                parts.append(text[end:position])
            end = max(end, position + settings.length)
        kept[row] = "".join([*parts, text[end:]])
        characters[row] = len(text) - len(kept[row])
    return Cut(pa.array(kept, pa.large_string()), characters)


def deduplicate_substrings(texts: pa.Array | pa.ChunkedArray, settings: SubstringSettings | None = None) -> Cut:
    """The whole of it in memory; the order of the rows says which occurrence is the first."""
    settings = settings or SubstringSettings()
    document = np.arange(len(texts))
    fingerprints, counts = np.unique(fingerprint_rows(texts, settings)["fingerprint"].to_numpy(), return_counts=True)
    found = window_rows(texts, document, fingerprints[counts > 1], settings)
    # Rows come in the order of document and position, and a stable sort keeps it within equal hashes.
    hashes = found["window_hash"].to_numpy()
    order = np.argsort(hashes, kind="stable")
    later = np.sort(order[1:][hashes[order][1:] == hashes[order][:-1]])
    return cut(texts, document, found.take(pa.array(later)), settings)


def deduplicate_substrings_reference(texts: list[str], length: int) -> list[str]:
    """The same, plainly: every window in order, and a set of those seen."""
    seen: set[str] = set()
    kept = []
    for text in texts:
        repeated = [False] * len(text)
        for position in range(len(text) - length + 1):
            window = text[position : position + length]
            if window in seen:
                repeated[position : position + length] = [True] * length
            seen.add(window)
        kept.append("".join(character for character, gone in zip(text, repeated, strict=True) if not gone))
    return kept
