"""Paragraphs that many documents share: site headers and footers, licence texts, calls to follow an account.

cc_net (Wenzek et al. 2020) removes every paragraph that it has seen before, which makes holes in quotations and laws.
Here a paragraph goes only if more than `documents` documents have it (its document frequency) and it is long enough to
be no heading. Near-duplicate documents should be gone before, or each of their paragraphs looks like boilerplate.

Map `paragraph_rows`, GroupBy FREQUENT_SQL, Map `remove_paragraphs`. Only (hash, document) pairs travel, never text.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from data_pipeline.kernels.normal_form import normal_form, normal_form_table
from data_pipeline.kernels.paragraphs import (
    Paragraphs,
    find_paragraphs,
    paragraph_hash_reference,
    without_paragraphs,
)


class ParagraphSettings(BaseModel):
    """Which paragraphs are boilerplate."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    documents: int = Field(default=10, ge=1, description="a paragraph in more documents than this is boilerplate")
    minimum_characters: int = Field(
        default=30, ge=1, description="letters and digits a paragraph must have to be counted"
    )
    fold_traditional: bool = Field(default=False, description="traditional and simplified characters count as equal")


@dataclass(frozen=True)
class Removed:
    """A column of texts without its boilerplate."""

    texts: pa.Array  # large_string
    paragraphs: np.ndarray  # int64[rows]: how many were removed
    characters: np.ndarray  # int64[rows]: how many letters and digits these had


# In DuckDB and Spark alike. Reads paragraphs(paragraph, document), distinct rows; gives the boilerplate.
FREQUENT_SQL = """
SELECT paragraph, count(*) AS documents
FROM paragraphs
GROUP BY paragraph
HAVING count(*) > {documents}
"""


def frequent_sql(settings: ParagraphSettings) -> str:
    """FREQUENT_SQL with its threshold."""
    return FREQUENT_SQL.format(documents=settings.documents)


def paragraph_rows(texts: pa.Array | pa.ChunkedArray, document: np.ndarray, settings: ParagraphSettings) -> pa.Table:
    """Distinct rows (paragraph, document), both int64, of the paragraphs long enough; `document` numbers the rows."""
    found = find_paragraphs(texts, normal_form_table(settings.fold_traditional))
    long = found.length >= settings.minimum_characters
    row, hashes = found.row[long], found.hash[long].view(np.int64)
    order = np.lexsort((hashes, row))
    row, hashes = row[order], hashes[order]
    repeated = np.r_[False, (row[1:] == row[:-1]) & (hashes[1:] == hashes[:-1])][: row.size]
    return pa.table({"paragraph": hashes[~repeated], "document": np.asarray(document, np.int64)[row[~repeated]]})


def remove_paragraphs(
    texts: pa.Array | pa.ChunkedArray, boilerplate: np.ndarray, settings: ParagraphSettings
) -> Removed:
    """`texts` without the paragraphs whose hashes (int64) are in `boilerplate`."""
    found = find_paragraphs(texts, normal_form_table(settings.fold_traditional))
    drop = _members(found, boilerplate) & (found.length >= settings.minimum_characters)
    rows = len(texts)
    return Removed(
        without_paragraphs(texts, found, drop),
        np.bincount(found.row[drop], minlength=rows),
        np.bincount(found.row[drop], found.length[drop], minlength=rows).astype(np.int64),
    )


def _members(found: Paragraphs, boilerplate: np.ndarray) -> np.ndarray:
    """bool: which paragraphs are boilerplate, by binary search."""
    known = np.unique(np.asarray(boilerplate, np.int64))
    if not known.size:
        return np.zeros(found.hash.size, bool)
    hashes = found.hash.view(np.int64)
    return known[np.minimum(np.searchsorted(known, hashes), known.size - 1)] == hashes


def deduplicate_paragraphs(texts: pa.Array | pa.ChunkedArray, settings: ParagraphSettings | None = None) -> Removed:
    """The whole of it in memory."""
    settings = settings or ParagraphSettings()
    hashes = paragraph_rows(texts, np.arange(len(texts)), settings)["paragraph"].to_numpy()
    known, documents = np.unique(hashes, return_counts=True)
    return remove_paragraphs(texts, known[documents > settings.documents], settings)


def deduplicate_paragraphs_reference(texts: list[str], settings: ParagraphSettings) -> list[str]:
    """The same, plainly."""

    def key(paragraph: str) -> int | None:
        normal = normal_form(paragraph, settings.fold_traditional)
        return paragraph_hash_reference(normal) if len(normal) >= settings.minimum_characters else None

    frequency: dict[int, int] = {}
    for text in texts:
        for found in {key(paragraph) for paragraph in text.split("\n")} - {None}:
            assert found is not None
            frequency[found] = frequency.get(found, 0) + 1
    return [
        "\n".join(part for part in text.split("\n") if frequency.get(key(part) or -1, 0) <= settings.documents)
        for text in texts
    ]
