"""pack: documents as samples of `seq_length + 1` token ids, in MindRecord files for training.

Every document is followed by the end-of-document id. The documents of a split, in an order that depends on the seed
and their `doc_id` alone, make one endless row of ids, which is cut into samples. By default the samples do not
overlap, as in the original: no id is written twice, none is lost, and the last sample is filled with the pad id. (So
the first id of a sample is input only, never a target. `overlap: 1` repeats one id: then every id but the first of
all is a target exactly once.)

Four steps. `tokens` encodes each shard of documents on its own (binary files of ids, sorted by the final order).
`layout` sorts the numbers of all documents, not their text, and says which document lies where. `samples` writes one
output file at a time from the pieces it needs. `index` describes the result. Memory depends on the size of a shard
and of an output file, not on the corpus; the bytes depend neither on the number of workers nor on how the corpus was
cut into shards.

MindRecord's writer is deterministic, but writes the file's name into the file: files are made under their final name,
in a folder that is moved into place."""

import functools
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from pydantic import Field

import pangu.foundation.errors
from data_pipeline.engine.relational import connect, sql_string
from data_pipeline.engine.shard import read_batches
from data_pipeline.engine.steps import Context, Files, Global, Item, StageSettings
from pangu.foundation.errors import UserError

CHECKSUMS = ".sha256.json"  # beside each file of samples; `pangu.training.data` reads it
FORMAT_VERSION = 1
SPLITS = ("train", "heldout")

TOKENS = pa.schema(
    [
        ("doc_id", pa.uint64()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("order", pa.uint64()),  # where it goes: a hash of seed and doc_id
        ("split", pa.uint64()),  # small values are held out: a hash of the text, so equal texts go to the same split
        ("start", pa.int64()),  # its first id in the file of ids
        ("tokens", pa.int64()),  # its ids, the end-of-document id among them
        ("bytes", pa.int64()),  # of its text in UTF-8
    ]
)
LAYOUT = pa.schema(
    [
        ("doc_id", pa.uint64()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("shard", pa.int32()),
        ("start", pa.int64()),
        ("tokens", pa.int64()),
        ("position", pa.int64()),  # of its first id in the row of ids of its split
    ]
)
DOCUMENTS = pa.schema(
    [
        ("sample", pa.int64()),  # number in the file
        ("offset", pa.int32()),  # where in the sample the piece begins
        ("length", pa.int32()),  # ids of the piece
        ("doc_id", pa.uint64()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("document_offset", pa.int64()),  # which id of the document the piece begins with
    ]
)


class Settings(StageSettings):
    """The shape of the samples, and how the documents are divided and ordered."""

    seq_length: int = Field(
        default=1024, description="the model's context; a sample holds one id more", ge=1, le=1 << 20
    )
    overlap: Literal[0, 1] = Field(
        default=0, description="ids that a sample shares with the next; 0 as in the original"
    )
    heldout_fraction: float = Field(
        default=0.01, description="share of the documents kept away from training", ge=0, lt=1
    )
    samples_per_file: int = Field(default=16384, description="samples in an output file", ge=1)
    outputs: tuple[Literal["mindrecord", "parquet"], ...] = Field(
        default=("mindrecord",), description="mindrecord, parquet or both", min_length=1
    )
    end_of_document_id: int | None = Field(default=None, description="null: the tokenizer's", ge=0)
    pad_id: int | None = Field(default=None, description="null: the tokenizer's", ge=0)
    seed: int | None = Field(default=None, description="of the order of the documents; null: the recipe's")

    @property
    def stride(self) -> int:
        """Return ids from the beginning of a sample to that of the next."""
        return self.seq_length + 1 - self.overlap


@functools.lru_cache(maxsize=1)
def _load_tokenizer(model: Path, checksum: str) -> Any:
    from pangu.tokenizer import Tokenizer

    try:
        return Tokenizer.load(model)
    except pangu.foundation.errors.UserError as error:
        raise UserError(f"pack: {error}") from error


def _tokenizer(context: Context) -> Any:
    model = next(file for file in context.inputs["tokenizer"] if file.path.name == "vocab.model")
    return _load_tokenizer(model.path, model.checksum)


def _special_ids(settings: Settings, tokenizer: Any) -> tuple[int, int]:
    """Return (end of document, pad)."""
    chosen = []
    for name, value, default in (
        ("end_of_document_id", settings.end_of_document_id, tokenizer.special.end_of_document),
        ("pad_id", settings.pad_id, tokenizer.special.pad),
    ):
        value = default if value is None else value
        if not 0 <= value < tokenizer.vocab_size:
            raise UserError(
                f"pack.{name}: {value} is outside the {tokenizer.vocab_size} ids of the tokenizer, which says {default}"
            )
        chosen.append(value)
    return chosen[0], chosen[1]


# tokens: one item for each shard of documents


def token_items(context: Context) -> list[Item]:
    """Return a shard of documents each."""
    tokenizer = "".join(file.checksum for file in context.inputs["tokenizer"])
    return [
        Item(shard.stem, f"{shard.checksum}|{tokenizer}", shard.path, shard.rows)
        for shard in context.inputs["documents"]
    ]


def write_tokens(shard: Path, context: Context) -> dict[str, Any]:
    """Return `ids.bin` (uint16 or uint32, as the vocabulary needs) and `tokens.parquet` (TOKENS) for one shard of
    documents.
    """
    settings: Settings = context.settings
    tokenizer = _tokenizer(context)
    end, _ = _special_ids(settings, tokenizer)
    kind = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
    seed = settings.seed or 0
    encoded: list[np.ndarray] = []
    numbers, orders, splits, sizes = [], [], [], []
    columns: dict[str, list[pa.Array]] = {"id": [], "source": []}
    for batch in _small_batches(shard):
        texts = batch.column("text").to_pylist()
        for ids in tokenizer.encode_batch(texts):
            encoded.append(np.append(ids, end).astype(kind))
        for name, arrays in columns.items():
            arrays.append(batch.column(name))
        for number, text in zip(batch.column("doc_id").to_pylist(), texts, strict=True):
            data = text.encode()
            numbers.append(number)
            orders.append(xxhash.xxh3_64_intdigest(number.to_bytes(8, "little"), seed))
            splits.append(xxhash.xxh3_64_intdigest(data))
            sizes.append(len(data))
        context.progress(len(texts), sum(sizes[-len(texts) :]))
    sequence = np.lexsort((np.array(numbers, np.uint64), np.array(orders, np.uint64)))
    lengths = np.array([len(ids) for ids in encoded], np.int64)[sequence]
    with open(context.directory / "ids.bin", "wb") as file:
        for index in sequence:
            encoded[index].tofile(file)
    table = pa.Table.from_arrays(
        [
            pa.array(np.array(numbers, np.uint64)[sequence]),
            pa.concat_arrays(columns["id"]).take(pa.array(sequence)),
            pa.concat_arrays(columns["source"]).take(pa.array(sequence)),
            pa.array(np.array(orders, np.uint64)[sequence]),
            pa.array(np.array(splits, np.uint64)[sequence]),
            pa.array(np.cumsum(lengths) - lengths),
            pa.array(lengths),
            pa.array(np.array(sizes, np.int64)[sequence]),
        ],
        schema=TOKENS,
    )
    pq.write_table(table, context.directory / "tokens.parquet", compression="zstd")
    return {"documents": len(numbers), "tokens": int(lengths.sum()), "bytes": sum(sizes)}


def _small_batches(shard: Path) -> Iterator[pa.RecordBatch]:
    """Yield rows with about a megabyte of text, so that progress is seen."""
    for group in read_batches(shard):
        rows = max(1, group.num_rows // (1 + (pc.sum(pc.binary_length(group.column("text"))).as_py() >> 20)))
        for start in range(0, group.num_rows, rows):
            yield group.slice(start, rows)


# layout: the order of all documents


def write_layout(context: Context) -> dict[str, Any]:
    """Return `train-00000.parquet`, … (LAYOUT): the documents of each output file; a document that crosses into the
    next file is in both. `splits.json`: the sums.
    """
    settings: Settings = context.settings
    tables = [file.path for file in context.inputs["tokens"] if file.path.name == "tokens.parquet"]
    connection = connect(context.memory_bytes, context.threads, context.scratch)
    if not tables:
        raise UserError("pack: no document is left to pack; `python -m data_pipeline stats` shows where they went")
    names = ", ".join(map(sql_string, tables))
    shards = ", ".join(f"({index}, {sql_string(path)})" for index, path in enumerate(tables))
    connection.execute(f"CREATE TABLE shards AS SELECT * FROM (VALUES {shards}) AS named(shard, filename)")
    connection.execute(
        f"CREATE VIEW tokens AS SELECT * FROM read_parquet([{names}], filename = true) JOIN shards USING (filename)"
    )
    limit = heldout_limit(connection, settings.heldout_fraction)
    sums: dict[str, Any] = {}
    for split in SPLITS:
        condition = f"split < {limit}" if split == "heldout" else f"split >= {limit}"
        reader = connection.sql(
            "SELECT doc_id, id, source, shard::INTEGER AS shard, start, tokens, bytes"
            f' FROM tokens WHERE {condition} ORDER BY "order", doc_id'
        ).to_arrow_reader(1 << 16)
        sums[split] = _write_split(split, reader, settings, context.directory)
    (context.directory / "splits.json").write_text(json.dumps(sums, indent=1))
    return {}


def heldout_limit(connection: Any, fraction: float) -> int:
    """Return the text hash below which documents are held out. With a fraction above 0, neither split is empty if
    there are two different texts.
    """
    limit = int(fraction * 2**64)
    if not limit:
        return 0
    smallest, largest = connection.sql("SELECT min(split), max(split) FROM tokens").fetchall()[0]
    return min(max(limit, smallest + 1), largest) if smallest != largest else 0


def _write_split(split: str, reader: pa.RecordBatchReader, settings: Settings, directory: Path) -> dict[str, Any]:
    """Cut the ordered documents of a split into the layouts of its files."""
    file_ids = settings.samples_per_file * settings.stride
    position = documents = text_bytes = 0
    pending: list[pa.Table] = []
    files: list[str] = []

    def close(rows: list[pa.Table]) -> None:
        name = f"{split}-{len(files):05d}"
        pq.write_table(pa.concat_tables(rows).combine_chunks(), directory / f"{name}.parquet", compression="zstd")
        files.append(name)

    for batch in reader:
        lengths = batch.column("tokens").to_numpy()
        ends = position + np.cumsum(lengths)
        documents += batch.num_rows
        text_bytes += pc.sum(batch.column("bytes")).as_py() or 0
        table = (
            pa.Table.from_batches([batch])
            .drop_columns("bytes")
            .append_column("position", pa.array(ends - lengths))
            .cast(LAYOUT)
        )
        first = 0
        # a sample that overlaps the next file by `overlap` ids needs them too
        while len(ends) and ends[-1] >= (boundary := (len(files) + 1) * file_ids + settings.overlap):
            last = int(np.searchsorted(ends, boundary))
            close([*pending, table.slice(first, last + 1 - first)])
            # the next file begins with the document that holds its first id
            start = len(files) * file_ids
            carried = pa.concat_tables([*pending, table.slice(first, last + 1 - first)])
            reaches = np.asarray(carried.column("position")) + np.asarray(carried.column("tokens")) > start
            pending = [carried.filter(pa.array(reaches))]
            first = last + 1
        pending.append(table.slice(first))
        position = int(ends[-1]) if len(ends) else position
    start = len(files) * file_ids
    if position > start + (settings.overlap if files else 0):
        close(pending)
    samples = -(-(position - settings.overlap) // settings.stride) if position > settings.overlap else min(position, 1)
    return {"tokens": position, "samples": samples, "documents": documents, "bytes_of_text": text_bytes, "files": files}


# samples: one item for each output file


def sample_items(context: Context) -> list[Item]:
    """Return an output file each. Its bytes depend on its layout and on the ids of every shard."""
    shards = [file for file in context.inputs["tokens"] if file.path.name == "ids.bin"]
    ids = xxhash.xxh3_128_hexdigest("".join(file.checksum for file in shards).encode())
    layouts = [file for file in context.inputs["layout"] if file.path.suffix == ".parquet"]
    tokenizer = "".join(file.checksum for file in context.inputs["tokenizer"])
    return [
        Item(file.stem, f"{file.checksum}|{ids}|{tokenizer}", (file.stem, file.path), file.rows) for file in layouts
    ]


def write_samples(payload: tuple[str, Path], context: Context) -> dict[str, Any]:
    """Return the samples of one file, and `NAME.documents.parquet`, which says what they are made of."""
    name, layout_path = payload
    settings: Settings = context.settings
    tokenizer = _tokenizer(context)
    _, pad = _special_ids(settings, tokenizer)
    shards = [file.path for file in context.inputs["tokens"] if file.path.name == "ids.bin"]
    layout = pq.read_table(layout_path)
    number = int(name.rpartition("-")[2])
    kind = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
    row, begin, size = gather(layout, shards, number, settings, pad, kind)
    samples = cut(row, settings)
    if "mindrecord" in settings.outputs:
        path = context.directory / f"{name}.mindrecord"
        write_mindrecord(path, samples)
        write_checksums([path, path.with_name(f"{path.name}.db")], context.directory / f"{name}{CHECKSUMS}")
    if "parquet" in settings.outputs:
        flat = pa.array(np.ascontiguousarray(samples).reshape(-1))
        column = pa.FixedSizeListArray.from_arrays(flat, settings.seq_length + 1)
        pq.write_table(
            pa.table({"input_ids": column}),
            context.directory / f"{name}.parquet",
            compression="zstd",
            row_group_size=1024,
        )
    pieces = provenance(layout, begin, size, settings.seq_length + 1, settings.stride)
    pq.write_table(pieces, context.directory / f"{name}.documents.parquet", compression="zstd", row_group_size=1 << 16)
    context.progress(layout.num_rows, 0)
    return {"samples": len(samples)}


def gather(
    layout: pa.Table,
    shards: Sequence[Path],
    number: int,
    settings: Settings,
    pad: int,
    kind: type[np.unsignedinteger],
) -> tuple[np.ndarray, int, int]:
    """Return (the ids of output file `number` as int32, padded to whole samples; their place in the row of ids of the
    split; how many they are without the padding).
    """
    file_ids = settings.samples_per_file * settings.stride
    begin = number * file_ids
    positions = layout.column("position").to_numpy()
    tokens = layout.column("tokens").to_numpy()
    starts = layout.column("start").to_numpy()
    places = layout.column("shard").to_numpy()
    end = min(begin + file_ids + settings.overlap, int(positions[-1] + tokens[-1]))
    row = np.full(sample_count(end - begin, settings) * settings.stride + settings.overlap, pad, np.int32)
    width = np.dtype(kind).itemsize
    # of each document the part [first, last) that belongs to this file
    first = np.maximum(begin - positions, 0)
    last = np.minimum(end - positions, tokens)
    descriptors: dict[int, int] = {}
    try:
        # shard by shard, so that few files are open and reads go forward
        for index in np.lexsort((starts, places)).tolist():
            place = int(places[index])
            if place not in descriptors:
                for descriptor in descriptors.values():
                    os.close(descriptor)
                descriptors = {place: os.open(shards[place], os.O_RDONLY)}
            count = int(last[index] - first[index])
            data = os.pread(descriptors[place], count * width, int(starts[index] + first[index]) * width)
            target = int(positions[index] + first[index]) - begin
            row[target : target + count] = np.frombuffer(data, kind)
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)
    return row, begin, end - begin


def sample_count(ids: int, settings: Settings) -> int:
    """Return samples that so many ids of one file (at least one) fill, the last one in part."""
    return max(1, -(-(ids - settings.overlap) // settings.stride))


def cut(row: np.ndarray, settings: Settings) -> np.ndarray:
    """Return int32[samples, seq_length + 1]: windows of `row` every `stride` ids, a view."""
    return np.lib.stride_tricks.sliding_window_view(row, settings.seq_length + 1)[:: settings.stride]


def provenance(layout: pa.Table, begin: int, size: int, length: int, stride: int) -> pa.Table:
    """Return DOCUMENTS: which pieces of which documents the samples of a file are made of, in order."""
    positions = layout.column("position").to_numpy() - begin
    tokens = layout.column("tokens").to_numpy()
    from_id = np.maximum(positions, 0)
    to_id = np.minimum(positions + tokens, size)
    overlap = length - stride
    count = max(1, -(-(size - overlap) // stride))
    # sample s holds the ids [s·stride, s·stride + length)
    first_sample = np.maximum((from_id - length) // stride + 1, 0)
    last_sample = np.minimum((to_id - 1) // stride, count - 1)
    repeats = last_sample - first_sample + 1
    index = np.repeat(np.arange(len(positions)), repeats)
    within = np.arange(len(index)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    sample = first_sample[index] + within
    begins = np.maximum(from_id[index], sample * stride)
    ends = np.minimum(to_id[index], sample * stride + length)
    order = np.lexsort((begins, sample))
    taken = layout.select(["doc_id", "id", "source"]).take(pa.array(index[order]))
    return pa.Table.from_arrays(
        [
            pa.array(sample[order], pa.int64()),
            pa.array((begins - sample * stride)[order], pa.int32()),
            pa.array((ends - begins)[order], pa.int32()),
            *(column.combine_chunks() for column in taken.columns),
            pa.array((begins - positions[index])[order], pa.int64()),
        ],
        schema=DOCUMENTS,
    )


def writers(settings: Settings) -> tuple[str, ...]:
    """Return the libraries that write the samples, besides pyarrow."""
    return ("mindspore",) if "mindrecord" in settings.outputs else ()


def write_mindrecord(path: Path, samples: np.ndarray) -> None:
    """Write a MindRecord file with the column `input_ids`, and its index `.db` beside it."""
    os.environ.setdefault("GLOG_v", "3")  # MindSpore's own log: errors only (this is a worker process)
    from mindspore.mindrecord import FileWriter

    writer = FileWriter(str(path), shard_num=1)
    # the defaults make the smallest file 48 MiB; a page must hold a sample several times over
    writer.set_header_size(1 << 20)
    writer.set_page_size(max(1 << 20, 1 << (samples.shape[1] * 16).bit_length()))
    writer.add_schema({"input_ids": {"type": "int32", "shape": [-1]}}, "token ids")
    for start in range(0, len(samples), 512):
        rows = np.ascontiguousarray(samples[start : start + 512])
        writer.write_raw_data([{"input_ids": row} for row in rows])
    writer.commit()
    for written in (path, path.with_name(path.name + ".db")):
        written.chmod(0o644)


def write_checksums(files: list[Path], out: Path) -> None:
    """Write {file: its SHA-256}, by which training knows a damaged file before it reads it."""
    digests = {}
    for path in files:
        with path.open("rb") as file:
            digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    out.write_text(json.dumps(digests, indent=1) + "\n")


# index: what lies where


def write_index(context: Context) -> dict[str, Any]:
    """Return `packed.json` and a copy of the tokenizer."""
    settings: Settings = context.settings
    tokenizer = _tokenizer(context)
    end, pad = _special_ids(settings, tokenizer)
    splits_path = next(file.path for file in context.inputs["layout"] if file.path.name == "splits.json")
    splits = json.loads(splits_path.read_text())
    for split in splits.values():
        split["files"] = [f"{name}.{kind}" for kind in settings.outputs[:1] for name in split["files"]]
    index = {
        "version": FORMAT_VERSION,
        "seq_length": settings.seq_length,
        "overlap": settings.overlap,
        "vocab_size": tokenizer.vocab_size,
        "end_of_document_id": end,
        "pad_id": pad,
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "tokenizer": "tokenizer",
        "seed": settings.seed,
        "splits": splits,
    }
    (context.directory / "packed.json").write_text(json.dumps(index, indent=2) + "\n")
    tokenizer.save(context.directory / "tokenizer")
    return {
        f"{name}_{what}": split[what] for name, split in splits.items() for what in ("documents", "samples", "tokens")
    }


TOKENIZER_CODE = ("pangu.tokenizer",)

STEPS = (
    Files(
        "tokens",
        needs=("documents", "tokenizer"),
        items=token_items,
        write=write_tokens,
        uses=TOKENIZER_CODE,
        libraries=("sentencepiece",),
        reads=("end_of_document_id", "seed"),
    ),
    Global(
        "layout",
        needs=("tokens",),
        run=write_layout,
        reads=("seq_length", "overlap", "heldout_fraction", "samples_per_file"),
    ),
    Files(
        "samples",
        needs=("tokens", "layout", "tokenizer"),
        items=sample_items,
        write=write_samples,
        libraries=writers,
        reads=("seq_length", "overlap", "samples_per_file", "outputs", "pad_id"),
        publish="packed",
    ),
    Global("index", needs=("layout", "tokenizer"), run=write_index, publish="packed"),
)
