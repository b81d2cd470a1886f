"""Tokens of a run: by source, as its packing counted them or as any tokenizer would; what was packed of them."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.engine.shard import read_batches
from pangu.foundation.errors import UserError

_BATCH_ROWS = 512


@dataclass
class SourceTokens:
    """What a source holds in the end."""

    source: str
    documents: int = 0
    bytes: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Packing:
    """What `pack` made of the tokens; `splits` has documents, samples and tokens of each split."""

    seq_length: int
    vocab_size: int
    fingerprint: str
    splits: dict[str, dict[str, Any]]


def packed_tokens(root: Path) -> list[SourceTokens]:
    """Return the tokens of each source as the last packing counted them, the end of each document among them."""
    manifest_files = sorted((root / "stages").glob("*/tokens/*/tokens.parquet"))
    by_stage: dict[Path, list[Path]] = {}
    for path in manifest_files:
        by_stage.setdefault(path.parents[2], []).append(path)
    for files in by_stage.values():
        rows: dict[str, SourceTokens] = {}
        for path in files:
            table = pq.read_table(path, columns=["source", "tokens", "bytes"])
            sums = table.group_by("source").aggregate([("tokens", "sum"), ("bytes", "sum"), ("tokens", "count")])
            for row in sums.to_pylist():
                own = rows.setdefault(row["source"], SourceTokens(row["source"]))
                own.documents += row["tokens_count"]
                own.tokens += row["tokens_sum"]
                own.bytes += row["bytes_sum"]
        return _sorted(rows)
    return []


def count_tokens(root: Path, tokenizer_path: Path) -> list[SourceTokens]:
    """Return the tokens of each source of a run's documents as a tokenizer counts them. Raises UserError."""
    folder = root / "documents"
    if not folder.is_dir():
        raise UserError(f"{root}: it has no documents/ yet; run the recipe to its end")
    encode = _encoder(tokenizer_path)
    rows: dict[str, SourceTokens] = {}
    for batch in _batches(folder):
        texts = [text or "" for text in batch.column("text").to_pylist()]
        sources = batch.column("source").to_pylist()
        for source, text, ids in zip(sources, texts, encode(texts), strict=True):
            own = rows.setdefault(source, SourceTokens(source))
            own.documents += 1
            own.bytes += len(text.encode())
            own.tokens += len(ids)
    return _sorted(rows)


def _encoder(path: Path) -> Callable[[list[str]], Sequence[Any]]:
    """Return what gives the ids of texts: of a SentencePiece model, or of Hugging Face's `tokenizer.json`."""
    file = path / "tokenizer.json" if path.is_dir() and not (path / "vocab.model").is_file() else path
    if file.name != "tokenizer.json" or not file.is_file():
        from pangu.tokenizer import Tokenizer

        return Tokenizer.load(path).encode_batch
    try:
        from tokenizers import Tokenizer as HuggingFaceTokenizer
    except ImportError:
        raise UserError(f"{file}: needs the package tokenizers; `pip install tokenizers`") from None
    try:
        tokenizer = HuggingFaceTokenizer.from_file(str(file))
    except Exception as error:  # the library has no class for it
        raise UserError(f"{file}: no tokenizer of Hugging Face: {' '.join(str(error).split())[:200]}") from error
    return lambda texts: [found.ids for found in tokenizer.encode_batch(texts, add_special_tokens=False)]


def packing(root: Path) -> Packing | None:
    """Return what was packed; None where nothing was."""
    path = root / "packed" / "packed.json"
    if not path.is_file():
        return None
    index = json.loads(path.read_text(encoding="utf-8"))
    names = ("documents", "samples", "tokens")
    splits = {split: {name: own.get(name, 0) for name in names} for split, own in index["splits"].items()}
    return Packing(index["seq_length"], index["vocab_size"], index["tokenizer_fingerprint"], splits)


def _batches(folder: Path) -> Iterator[pa.RecordBatch]:
    for file in sorted(folder.glob("*.parquet")):
        for batch in read_batches(file):
            for start in range(0, batch.num_rows, _BATCH_ROWS):
                yield batch.select(["source", "text"]).slice(start, _BATCH_ROWS)


def _sorted(rows: dict[str, SourceTokens]) -> list[SourceTokens]:
    return sorted(rows.values(), key=lambda row: (-row.tokens, row.source))
