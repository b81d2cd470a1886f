"""dedup_exact: of documents that are the same but for spaces, letter case and full-width forms, keep one.

Key: xxh3-128 of the normalised text. Kept is the document of the earliest source (`prefer`), then the smallest
`doc_id`; the others are dropped as `duplicate_of:<doc_id>`."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from pydantic import Field

from data_pipeline import record
from data_pipeline.engine.relational import first_of_group
from data_pipeline.engine.steps import GroupBy, Map, StageSettings
from data_pipeline.stages.clean.characters import to_normal_form

KEYS = pa.schema([("doc_id", pa.uint64()), ("high", pa.int64()), ("low", pa.int64()), ("source_order", pa.int32())])
VERDICTS = pa.schema([("shard", pa.string()), ("doc_id", pa.uint64()), ("representative", pa.uint64())])


class Settings(StageSettings):
    """Which of two equal documents stays."""

    prefer: tuple[str, ...] | None = Field(
        default=None, description="sources in order of preference; null: the order of the recipe"
    )

    def completed(self, seed: int, source_names: Sequence[str], base: Path) -> "Settings":
        """`prefer`, then the other sources in the recipe's order."""
        return self.model_copy(update={"prefer": tuple(dict.fromkeys((*(self.prefer or ()), *source_names)))})


# the characters of ordinary Chinese texts that NFKC changes, and what it makes of them
_CHANGED = {character: unicodedata.normalize("NFKC", character) for character in "，：；！？（）…～％　"}


def normalised(text: str) -> str:
    """What two texts have in common when they count as the same: NFKC, lower case, no white space.

    NFKC replaces character by character before it composes, so replacing some of them first changes nothing; and a text
    that needs nothing else, as most do, is spared the slow rest of it.
    """
    for character, replacement in _CHANGED.items():
        text = text.replace(character, replacement)
    text = to_normal_form("NFKC", text)
    return "".join(text.casefold().split())


def keys(batch: pa.RecordBatch, settings: Settings) -> pa.RecordBatch:
    """A row of KEYS for each document."""
    digests = [xxhash.xxh3_128_digest(normalised(text).encode()) for text in batch.column("text").to_pylist()]
    halves = np.frombuffer(b"".join(digests), dtype=">i8").astype("<i8").reshape(-1, 2)
    order = {name: index for index, name in enumerate(settings.prefer or ())}
    return pa.RecordBatch.from_arrays(
        [
            batch.column("doc_id"),
            pa.array(halves[:, 0]),
            pa.array(halves[:, 1]),
            pa.array([order.get(name, len(order)) for name in batch.column("source").to_pylist()], pa.int32()),
        ],
        schema=KEYS,
    )


def verdict_sql(settings: Settings) -> str:
    """Every document that is not the first of its group."""
    return first_of_group("keys", key=("high", "low"), order=("source_order", "doc_id"))


def drop_duplicates(batch: pa.RecordBatch, settings: Settings, verdicts: pa.Table) -> pa.RecordBatch:
    """Give the documents in `verdicts` their reason."""
    return drop_for_representative(batch, verdicts, "duplicate_of")


def drop_for_representative(batch: pa.RecordBatch, verdicts: pa.Table, rule: str) -> pa.RecordBatch:
    """Drop the documents whose `doc_id` is in `verdicts` as `rule:REPRESENTATIVE`."""
    place = pc.index_in(batch.column("doc_id"), value_set=verdicts.column("doc_id"))
    representative = pc.take(verdicts.column("representative"), place).combine_chunks()
    reason = pc.binary_join_element_wise(rule, pc.cast(representative, pa.string()), ":")
    return record.replace(batch, columns={"drop_reason": reason})


STEPS = (
    Map("keys", process=keys, table=KEYS, uses=("data_pipeline.stages.clean.characters",)),
    GroupBy("verdicts", needs=("keys",), sql=verdict_sql, table=VERDICTS, uses=("data_pipeline.engine.relational",)),
    Map("records", needs=("documents", "verdicts"), process=drop_duplicates, reads=()),
)
