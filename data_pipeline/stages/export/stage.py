"""export: the documents as other tools read them, in the folder `export/` of the output directory.

| format | files | for |
|---|---|---|
| `jsonl`, `jsonl.gz`, `jsonl.zst` | `documents-00000.jsonl…` | anything |
| `datasets` | `data/train-00000-of-00004.parquet`, `README.md` (the card) | `datasets.load_dataset("OUT/export")` |

A file for each shard of documents, whatever the workers; the same documents give the same bytes."""

import gzip
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from data_pipeline.engine.shard import read_batches
from data_pipeline.engine.steps import Context, Files, Global, Item, StageSettings
from pangu.foundation.errors import UserError

Format = Literal["jsonl", "jsonl.gz", "jsonl.zst", "datasets"]
# what each column is in the form of `datasets`
COLUMNS = {
    "id": pa.string(),
    "text": pa.string(),
    "source": pa.string(),
    "url": pa.string(),
    "title": pa.string(),
    "lang": pa.string(),
    "meta": pa.string(),
    "doc_id": pa.uint64(),
}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


class Settings(StageSettings):
    """Which forms, and which columns."""

    formats: tuple[Format, ...] = Field(
        default=("jsonl.zst",), description="of jsonl, jsonl.gz, jsonl.zst, datasets", min_length=1
    )
    columns: tuple[Literal["id", "text", "source", "url", "title", "lang", "meta", "doc_id"], ...] = Field(
        default=("id", "text", "source", "url", "title", "meta"), description="what a document has there", min_length=1
    )
    title: str = Field(default="corpus", description="the title of the card", min_length=1)
    license: str | None = Field(default=None, description="of the card, as the Hub calls it, like cc-by-4.0")


def items(context: Context) -> list[Item]:
    """Return a shard of documents each, with its number and how many there are."""
    shards = context.inputs["documents"]
    if not shards:
        raise UserError("export: no document is left; `python -m data_pipeline stats` shows where they went")
    return [
        Item(shard.stem, f"{shard.checksum}|{number}|{len(shards)}", (number, len(shards), shard.path), shard.rows)
        for number, shard in enumerate(shards)
    ]


def write(payload: tuple[int, int, Path], context: Context) -> dict[str, Any]:
    """Write the files of one shard."""
    number, count, shard = payload
    settings: Settings = context.settings
    for form in settings.formats:
        if form == "datasets":
            folder = context.directory / "data"
            folder.mkdir()
            _write_parquet(folder / f"train-{number:05d}-of-{count:05d}.parquet", shard, settings)
        else:
            _write_lines(context.directory / f"documents-{number:05d}.{form}", shard, settings)
    rows = pq.read_metadata(shard).num_rows
    context.progress(rows, 0)
    return {"documents": rows}


def _write_parquet(path: Path, shard: Path, settings: Settings) -> None:
    schema = pa.schema([(name, COLUMNS[name]) for name in settings.columns])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in read_batches(shard):
            writer.write_batch(batch.select(list(settings.columns)).cast(schema))


def _write_lines(path: Path, shard: Path, settings: Settings) -> None:
    with path.open("wb") as file:
        if path.suffix == ".gz":
            # no name and no time in the header, so that the same lines are the same bytes
            with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
                packed.writelines(_lines(shard, settings))
        elif path.suffix == ".zst":
            import zstandard

            with zstandard.ZstdCompressor(level=3).stream_writer(file, closefd=False) as packed:
                for line in _lines(shard, settings):
                    packed.write(line)
        else:
            file.writelines(_lines(shard, settings))


def _lines(shard: Path, settings: Settings) -> Iterator[bytes]:
    """Yield a line for each document; `meta` is an object in it, what is null is left out."""
    for batch in read_batches(shard):
        for row in batch.select(list(settings.columns)).to_pylist():
            if row.get("meta") is not None:
                row["meta"] = json.loads(row["meta"])
            present = {name: value for name, value in row.items() if value is not None}
            try:
                yield orjson.dumps(present, option=orjson.OPT_APPEND_NEWLINE)
            except TypeError:  # a whole number with more digits than 64 bits hold
                yield json.dumps(present, ensure_ascii=False).encode() + b"\n"


def write_card(context: Context) -> dict[str, Any]:
    """Write the card of the form `datasets`: its YAML says where the data are, its text what they are."""
    settings: Settings = context.settings
    if "datasets" not in settings.formats:
        return {}
    documents, size = 0, 0
    sources: Counter[str] = Counter()
    for shard in context.inputs["documents"]:
        for batch in read_batches(shard.path):
            documents += batch.num_rows
            size += pc.sum(pc.binary_length(batch.column("text"))).as_py() or 0
            for pair in pc.value_counts(batch.column("source")).to_pylist():
                sources[pair["values"]] += pair["counts"]
    (context.directory / "README.md").write_text(card(settings, documents, size, sources), encoding="utf-8")
    return {"documents": documents}


def card(settings: Settings, documents: int, size: int, sources: Counter[str]) -> str:
    """Return the text of the card."""
    out = io.StringIO()
    category = next((name for limit, name in _SIZES if documents < limit), "n>1M")
    features = "".join(
        f"  - name: {name}\n    dtype: {'uint64' if name == 'doc_id' else 'string'}\n" for name in settings.columns
    )
    out.write("---\nlanguage:\n- zh\n")
    out.write(f"license: {settings.license}\n" if settings.license else "")
    out.write(f"pretty_name: {json.dumps(settings.title, ensure_ascii=False)}\ntask_categories:\n- text-generation\n")
    out.write(f"size_categories:\n- {category}\n")
    out.write("configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n")
    out.write(f"dataset_info:\n  features:\n{features}  splits:\n  - name: train\n    num_examples: {documents}\n")
    out.write(f"    num_bytes: {size}\n---\n\n# {settings.title}\n\n")
    out.write(f"{documents:,} documents, {size:,} bytes of text (UTF-8).\n\n| source | documents |\n|---|---|\n")
    for name, count in sorted(sources.items()):
        out.write(f"| {name} | {count:,} |\n")
    return out.getvalue()


STEPS = (
    Files("files", items=items, write=write, libraries=("orjson", "zstandard"), publish="export"),
    Global("card", run=write_card, publish="export"),
)
