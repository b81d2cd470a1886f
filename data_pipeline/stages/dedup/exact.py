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
from data_pipeline.engine.steps import Context, Global, GroupBy, Map
from data_pipeline.stages.clean.characters import to_normal_form
from data_pipeline.stages.dedup.old_corpus import AgainstSettings, OldKeys, released_batches, run_identity

KEYS = pa.schema(
    [
        ("doc_id", pa.uint64()),
        ("high", pa.int64()),
        ("low", pa.int64()),
        ("source_order", pa.int32()),
        ("old", pa.uint64()),  # the equal document of the old corpus
    ]
)
VERDICTS = pa.schema([("shard", pa.string()), ("doc_id", pa.uint64()), ("representative", pa.uint64())])


class Settings(AgainstSettings):
    """Which of two equal documents stays."""

    prefer: tuple[str, ...] | None = Field(
        default=None, description="sources in order of preference; null: the order of the recipe"
    )

    def completed(self, seed: int, source_names: Sequence[str], base: Path) -> "Settings":
        """Return `prefer`, then the other sources in the recipe's order; the place of the old run."""
        prefer = tuple(dict.fromkeys((*(self.prefer or ()), *source_names)))
        return super().completed(seed, source_names, base).model_copy(update={"prefer": prefer})


# the characters of ordinary Chinese texts that NFKC changes, and what it makes of them
_CHANGED = {character: unicodedata.normalize("NFKC", character) for character in "，：；！？（）…～％　"}


def normalised(text: str) -> str:
    """Return what two texts have in common when they count as the same: NFKC, lower case, no white space.

    NFKC replaces character by character before it composes, so replacing some of them first changes nothing; and a text
    that needs nothing else, as most do, is spared the slow rest of it.
    """
    for character, replacement in _CHANGED.items():
        text = text.replace(character, replacement)
    text = to_normal_form("NFKC", text)
    return "".join(text.casefold().split())


def write_old_keys(context: Context) -> dict[str, int]:
    """Write the keys of the old corpus, sorted; nothing where there is none."""
    if context.settings.against is None:
        return {}
    parts = [
        (_halves(batch.column("text")), batch.column("doc_id").to_numpy())
        for batch in released_batches(Path(context.settings.against))
    ]
    words = np.concatenate([np.zeros((0, 2), np.int64), *(part[0] for part in parts)])
    numbers = np.concatenate([np.zeros(0, np.uint64), *(part[1] for part in parts)])
    OldKeys.write(context.directory, words, numbers)
    return {"old_documents": numbers.size}


def _halves(texts: pa.Array) -> np.ndarray:
    """Return int64[rows, 2]: the key of each text."""
    digests = [xxhash.xxh3_128_digest(normalised(text or "").encode()) for text in texts.to_pylist()]
    return np.frombuffer(b"".join(digests), dtype=">i8").astype("<i8").reshape(-1, 2)


def keys(batch: pa.RecordBatch, settings: Settings, old: Sequence[Path]) -> pa.RecordBatch:
    """Return a row of KEYS for each document. One that the old corpus has is equal to nothing else."""
    halves = _halves(batch.column("text"))
    is_old = np.zeros(batch.num_rows, bool)
    numbers = np.zeros(batch.num_rows, np.uint64)
    if old:
        is_old, numbers = OldKeys(tuple(old)).find(halves)
        halves[is_old, 0], halves[is_old, 1] = record.signed_numbers(batch.column("doc_id"))[is_old], 0
    order = {name: index for index, name in enumerate(settings.prefer or ())}
    return pa.RecordBatch.from_arrays(
        [
            batch.column("doc_id"),
            pa.array(halves[:, 0]),
            pa.array(halves[:, 1]),
            pa.array([order.get(name, len(order)) for name in batch.column("source").to_pylist()], pa.int32()),
            pa.array(numbers, mask=~is_old),
        ],
        schema=KEYS,
    )


def verdict_sql(settings: Settings) -> str:
    """Return every document that is not the first of its group."""
    return first_of_group("keys", key=("high", "low"), order=("source_order", "doc_id"))


def drop_duplicates(
    batch: pa.RecordBatch, settings: Settings, verdicts: pa.Table, own_keys: pa.Table
) -> pa.RecordBatch:
    """Give the documents in `verdicts`, and those that the old corpus has, their reason."""
    old = own_keys.filter(pc.is_valid(own_keys.column("old"))).select(["doc_id", "old"])
    every = [verdicts.select(["doc_id", "representative"]), old.rename_columns(["doc_id", "representative"])]
    return drop_for_representative(batch, pa.concat_tables(every), "duplicate_of")


def drop_for_representative(batch: pa.RecordBatch, verdicts: pa.Table, rule: str) -> pa.RecordBatch:
    """Drop the documents whose `doc_id` is in `verdicts` as `rule:REPRESENTATIVE`."""
    place = pc.index_in(batch.column("doc_id"), value_set=verdicts.column("doc_id"))
    representative = pc.take(verdicts.column("representative"), place).combine_chunks()
    reason = pc.binary_join_element_wise(rule, pc.cast(representative, pa.string()), ":")
    return record.replace(batch, columns={"drop_reason": reason})


OLD, CHARACTERS = "data_pipeline.stages.dedup.old_corpus", "data_pipeline.stages.clean.characters"
STEPS = (
    Global("old", needs=(), run=write_old_keys, reads=("against",), identity=run_identity, uses=(OLD, CHARACTERS)),
    Map("keys", needs=("documents", "old"), process=keys, table=KEYS, uses=(CHARACTERS, OLD)),
    GroupBy("verdicts", needs=("keys",), sql=verdict_sql, table=VERDICTS, uses=("data_pipeline.engine.relational",)),
    Map("records", needs=("documents", "verdicts", "keys"), process=drop_duplicates, reads=()),
)
