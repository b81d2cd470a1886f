"""megatron: the documents as token ids in Megatron's indexed dataset, `megatron/{train,heldout}.{bin,idx}`.

`.bin` holds the ids of all documents, each with the end-of-document id behind it, in the order that `pack` has for the
same seed. `.idx` is the index of Megatron-LM (megatron/core/datasets/indexed_dataset.py): magic, version 1, the code of
the type, the number of sequences and of document ends, then lengths (int32), byte offsets (int64) and document ends
(int64). A document is one sequence."""

import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from pydantic import Field

from data_pipeline.engine.relational import connect, sql_string
from data_pipeline.engine.steps import Context, Files, Global, StageSettings
from data_pipeline.stages.pack.stage import SPLITS, TOKENIZER_CODE, heldout_limit, token_items, write_tokens
from pangu.foundation.errors import UserError

MAGIC = b"MMIDIDX\x00\x00"
# the codes of Megatron's types
TYPES = {np.dtype(np.uint16): 8, np.dtype(np.int32): 4}


class Settings(StageSettings):
    """How the documents are divided and ordered; as in `pack`."""

    heldout_fraction: float = Field(
        default=0.01, description="share of the documents kept away from training", ge=0, lt=1
    )
    end_of_document_id: int | None = Field(default=None, description="null: the tokenizer's", ge=0)
    pad_id: int | None = Field(default=None, description="null: the tokenizer's", ge=0)
    seed: int | None = Field(default=None, description="of the order of the documents; null: the recipe's")


def write_dataset(context: Context) -> dict[str, Any]:
    """Write both splits."""
    tables = [file.path for file in context.inputs["tokens"] if file.path.name == "tokens.parquet"]
    if not tables:
        raise UserError("megatron: no document is left; `python -m data_pipeline stats` shows where they went")
    connection = connect(context.memory_bytes, context.threads, context.scratch)
    shards = ", ".join(f"({index}, {sql_string(path)})" for index, path in enumerate(tables))
    names = ", ".join(map(sql_string, tables))
    connection.execute(f"CREATE TABLE shards AS SELECT * FROM (VALUES {shards}) AS named(shard, filename)")
    connection.execute(
        f"CREATE VIEW tokens AS SELECT * FROM read_parquet([{names}], filename = true) JOIN shards USING (filename)"
    )
    limit = heldout_limit(connection, context.settings.heldout_fraction)
    counts: dict[str, Any] = {}
    for split in SPLITS:
        condition = f"split < {limit}" if split == "heldout" else f"split >= {limit}"
        reader = connection.sql(
            f'SELECT shard::INTEGER AS shard, start, tokens FROM tokens WHERE {condition} ORDER BY "order", doc_id'
        ).to_arrow_reader(1 << 16)
        documents, tokens = _write_split(context.directory / split, reader, [path.parent for path in tables])
        counts |= {f"{split}_documents": documents, f"{split}_tokens": tokens}
    return counts


def _write_split(prefix: Path, reader: pa.RecordBatchReader, folders: list[Path]) -> tuple[int, int]:
    """Write one `.bin` and its `.idx`; return (documents, tokens)."""
    ids = [_mapped(folder) for folder in folders]
    kind = np.dtype(np.uint16) if all(part.dtype == np.uint16 for part in ids) else np.dtype(np.int32)
    lengths: list[np.ndarray] = []
    with prefix.with_suffix(".bin").open("wb") as out:
        for batch in reader:
            lengths.append(batch.column("tokens").to_numpy().astype(np.int32))
            columns = (batch.column(name).to_pylist() for name in ("shard", "start", "tokens"))
            for shard, start, count in zip(*columns, strict=True):
                ids[shard][start : start + count].astype(kind).tofile(out)
    sizes = np.concatenate([np.zeros(0, np.int32), *lengths])
    with prefix.with_suffix(".idx").open("wb") as out:
        write_index(out, sizes, kind)
    return int(sizes.size), int(sizes.sum(dtype=np.int64))


def _mapped(folder: Path) -> np.ndarray:
    """Return the ids of a shard. Their width says itself: the file is as long as the table's tokens times it."""
    import pyarrow.parquet as pq

    path = folder / "ids.bin"
    size = path.stat().st_size
    tokens = sum(pq.read_table(folder / "tokens.parquet", columns=["tokens"]).column(0).to_pylist())
    kind = np.uint16 if size == 2 * tokens else np.uint32
    return np.memmap(path, kind, "r") if size else np.zeros(0, np.uint16)


def write_index(out: BinaryIO, lengths: np.ndarray, kind: np.dtype) -> None:
    """Write the index of sequences of `lengths` ids (int32), each of them a document."""
    offsets = np.zeros(lengths.size, np.int64)
    np.cumsum(lengths[:-1], dtype=np.int64, out=offsets[1:]) if lengths.size else None
    out.write(MAGIC)
    out.write(struct.pack("<QBQQ", 1, TYPES[kind], lengths.size, lengths.size + 1))
    out.write(lengths.astype("<i4").tobytes())
    out.write((offsets * kind.itemsize).astype("<i8").tobytes())
    out.write(np.arange(lengths.size + 1, dtype="<i8").tobytes())


STEPS = (
    Files(
        "tokens",
        needs=("documents", "tokenizer"),
        items=token_items,
        write=write_tokens,
        uses=(*TOKENIZER_CODE, "data_pipeline.stages.pack.stage"),
        libraries=("sentencepiece",),
        reads=("end_of_document_id", "seed"),
    ),
    Global("dataset", needs=("tokens",), run=write_dataset, reads=("heldout_fraction",), publish="megatron"),
)
