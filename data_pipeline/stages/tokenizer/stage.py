"""tokenizer: train one on a sample of the documents, or take one that exists.

The training itself is `data_pipeline.stages.tokenizer.training_process.train_tokenizer`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
import xxhash
from pydantic import Field

import pangu.foundation.errors
from data_pipeline.engine.run_files import checksum
from data_pipeline.engine.shard import read_batches
from data_pipeline.engine.steps import ByteSize, Context, Global, InputFile, StageSettings
from pangu.foundation.errors import UserError


class Settings(StageSettings):
    """`use` takes an existing tokenizer; everything else is about training one."""

    use: str | None = Field(
        default=None,
        description="an existing tokenizer: a .model file or a directory with vocab.model; null trains one",
    )
    vocab_size: int = Field(default=40000, description="pieces; a small corpus gives fewer", ge=300, le=1 << 20)
    model_type: Literal["unigram", "bpe"] = Field(
        default="unigram", description="the released tokenizer is a unigram model"
    )
    style: Literal["lossless", "released"] = Field(
        default="lossless",
        description="lossless: every text comes back exactly; released: jieba and NFKC as in the released model",
    )
    sample_bytes: ByteSize = Field(
        default=256 << 20, description="about how much text the training sees, drawn evenly from all documents", ge=1
    )
    sample_lines: int = Field(
        default=300_000, description="lines (cut at 256 characters) the training keeps; memory grows with it", ge=100
    )
    threads: int = Field(
        default=2,
        description="part of the result, not of the machine: another number gives slightly other scores",
        ge=1,
        le=64,
    )
    seed: int | None = Field(default=None, description="null: the recipe's seed")

    def completed(self, seed: int, source_names: Sequence[str], base: Path) -> "Settings":
        """Return the recipe's seed, and `use` relative to the recipe."""
        updates: dict[str, Any] = {}
        if self.seed is None:
            updates["seed"] = seed
        if self.use is not None:
            updates["use"] = str((base / Path(self.use).expanduser()).resolve())
            model = Path(updates["use"])
            model = model / "vocab.model" if model.is_dir() else model
            if not model.is_file():
                raise UserError(
                    f"tokenizer.use: {model}: no such file; a .model file or a folder with vocab.model would be right"
                )
        return self.model_copy(update=updates)


def run(context: Context) -> dict[str, Any]:
    """Write `vocab.model` and `tokenizer.json`."""
    from pangu.tokenizer import Tokenizer

    settings: Settings = context.settings
    if settings.use is None and not any(shard.rows for shard in context.inputs["documents"]):
        raise UserError("tokenizer: no document is left to train one on; `stats` shows which stage dropped them")
    try:
        if settings.use is not None:
            tokenizer = Tokenizer.load(settings.use)
            tokenizer.save(context.directory)
        else:
            from data_pipeline.stages.tokenizer.training_process import train_tokenizer

            tokenizer = train_tokenizer(
                sample_texts(context, settings.sample_bytes, settings.seed or 0),
                context.directory,
                vocab_size=settings.vocab_size,
                model_type=settings.model_type,
                style=settings.style,
                seed=settings.seed or 0,
                sample_lines=settings.sample_lines,
                threads=settings.threads,
            )
    except pangu.foundation.errors.UserError as error:
        raise UserError(f"tokenizer: {error}") from error
    return {"vocab_size": tokenizer.vocab_size, "fingerprint": tokenizer.fingerprint}


def existing_model(settings: Settings) -> str:
    """Return the bytes of the model to use count, not only its place."""
    if settings.use is None:
        return ""
    path = Path(settings.use)
    return checksum(path / "vocab.model" if path.is_dir() else path)


def sample_texts(context: Context, sample_bytes: ByteSize, seed: int) -> Iterator[str]:
    """Yield documents that hold about `sample_bytes` of text together: those whose hash with `seed` is small, in their
    order.
    """
    documents = context.inputs["documents"]
    threshold = min(1.0, sample_bytes / max(1, _text_bytes(documents)))
    limit = int(threshold * 2**64)
    for shard in documents:
        for batch in read_batches(shard.path):
            chosen = [
                xxhash.xxh3_64_intdigest(number.to_bytes(8, "little"), seed) < limit
                for number in batch.column("doc_id").to_pylist()
            ]
            for text, is_chosen in zip(batch.column("text"), chosen, strict=True):
                if is_chosen:
                    yield text.as_py()


def _text_bytes(documents: list[InputFile]) -> int:
    """Return bytes of all texts before compression, by the footers of the shards."""
    total = 0
    for shard in documents:
        metadata = pq.read_metadata(shard.path)
        column = metadata.schema.names.index("text")
        for group in range(metadata.num_row_groups):
            total += metadata.row_group(group).column(column).total_uncompressed_size
    return total


STEPS = (
    Global(
        "train",
        run=run,
        uses=("data_pipeline.stages.tokenizer.training_process", "pangu.tokenizer"),
        libraries=("sentencepiece",),
        identity=existing_model,
        publish="tokenizer",
    ),
)
