"""quality: how good each text is, by models: spam and quality classifiers, and the perplexity of a language model.

    - quality:
        spam: {positives: [books.jsonl.gz], negatives: [reviewed.jsonl]}
        quality: {positives: ["source:encyclopedia"], negatives: ["source:crawl"]}
        language_model: {texts: ["source:encyclopedia"]}

Each model is optional, and each is either a file (`{model: FILE}`, made by `quality train`) or trained here from
examples: files as the read stage knows them, runs, what `review` wrote, or `source:NAME`, the documents of a source at
this place of the recipe.

| model | source | what goes |
|---|---|---|
| `spam` | PanGu-α, section 3.1: negatives chosen by hand | `spam:P`: above `spam_maximum` |
| `quality` | GPT-3, appendix A: curated against crawled | `quality:P`: below `quality_minimum`, or by the draw |
| `language_model` | cc_net: a clean sample, percentiles | `perplexity:BUCKET VALUE`: the bucket is not kept |

GPT-3 keeps a document where a number drawn from Pareto's distribution (α = 9) is above 1 - P(good), so that some of
what looks bad stays. Here the draw is a hash of the seed and the `doc_id`: no engine, no number of workers changes it.

Steps: `models` (files, and models from files of examples), `trained` (models from sources), `measured` (a row for each
document), `cut_offs` (percentiles over all of them), `records`. Another threshold runs the last one or two only."""

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from pydantic import Field, model_validator

from data_pipeline import record
from data_pipeline.engine.run_files import checksum
from data_pipeline.engine.shard import read_batches
from data_pipeline.engine.steps import Context, Global, Map, StageSettings
from data_pipeline.quality.classifier import Classifier, ClassifierSettings
from data_pipeline.quality.classifier import train as train_classifier
from data_pipeline.quality.documents import Side, examples, read_documents, sample_texts
from data_pipeline.quality.ngram_model import LanguageModelSettings, NgramModel, cut_offs
from data_pipeline.quality.ngram_model import train as train_language_model
from pangu.foundation.errors import UserError

SIGNALS = ("spam_probability", "quality_probability", "perplexity", "perplexity_bucket")
MEASURED = pa.schema([("doc_id", pa.uint64()), *((name, pa.float64()) for name in SIGNALS[:3])])
BUCKETS = ("head", "middle", "tail")
# reason -> (signal, the setting that bounds it, which bound that is), for `tune`
THRESHOLDS = {
    "spam": ("spam_probability", "spam_maximum", "maximum"),
    "quality": ("quality_probability", "quality_minimum", "minimum"),
    "perplexity": ("perplexity", "perplexity_maximum", "maximum"),
}
OF_SOURCE = "source:"
_ROLES = ("spam", "quality", "language_model")


class ClassifierFrom(ClassifierSettings):
    """A file, or examples to train on and how."""

    model: str | None = Field(default=None, description="a file that `quality train` made")
    positives: tuple[str, ...] = Field(default=(), description="good texts: files, runs or source:NAME")
    negatives: tuple[str, ...] = Field(default=(), description="bad ones")
    most_examples: int = Field(default=100_000, description="of each side, drawn by a hash of the text", ge=1)

    @model_validator(mode="after")
    def _file_or_examples(self) -> "ClassifierFrom":
        given = (self.model is not None, bool(self.positives), bool(self.negatives))
        if given not in ((True, False, False), (False, True, True)):
            raise ValueError("give either `model`, or both `positives` and `negatives`")
        return self

    @property
    def places(self) -> tuple[str, ...]:
        """Return where the examples come from."""
        return (*self.positives, *self.negatives)


class LanguageModelFrom(LanguageModelSettings):
    """A file, or clean texts to train on and how."""

    model: str | None = Field(default=None, description="a file that `quality train --texts` made")
    texts: tuple[str, ...] = Field(default=(), description="clean texts: files, runs or source:NAME")
    most_examples: int = Field(default=100_000, description="documents, drawn by a hash of the text", ge=1)

    @model_validator(mode="after")
    def _file_or_texts(self) -> "LanguageModelFrom":
        if (self.model is None) != bool(self.texts):
            raise ValueError("give either `model` or `texts`")
        return self

    @property
    def places(self) -> tuple[str, ...]:
        """Return where the texts come from."""
        return self.texts


class Settings(StageSettings):
    """Which models there are, and what they drop."""

    spam: ClassifierFrom | None = Field(
        default=None, description="{model: FILE}, or {positives: [FILE, source:NAME], negatives: [FILE]}"
    )
    spam_maximum: float = Field(
        default=0.5, description="a document that is spam with a greater probability is dropped", ge=0, le=1
    )
    quality: ClassifierFrom | None = Field(
        default=None, description="{model: FILE}, or {positives: [source:books], negatives: [source:crawl]}"
    )
    quality_sampling: Literal["threshold", "pareto", "off"] = Field(
        default="threshold",
        description="threshold; pareto: GPT-3's draw, which keeps some of the bad; off: measure only",
    )
    quality_minimum: float = Field(default=0.5, description="for threshold (ChineseWebText: 0.5)", ge=0, le=1)
    pareto_alpha: float = Field(default=9, description="for pareto (GPT-3: 9); greater is stricter", gt=0)
    language_model: LanguageModelFrom | None = Field(
        default=None, description="{model: FILE}, or {texts: [source:encyclopedia]}"
    )
    perplexity_percentiles: tuple[float, float] = Field(
        default=(30, 60), description="where head ends and middle ends, per cent of the documents (cc_net)"
    )
    perplexity_buckets: tuple[Literal["head", "middle", "tail"], ...] = Field(
        default=("head", "middle"), description="those that stay", min_length=1
    )
    perplexity_maximum: float | None = Field(
        default=None, description="a document with more is dropped whatever its bucket; null: none", gt=1
    )
    seed: int | None = Field(default=None, description="of training and of Pareto's draw; null: the recipe's")

    @model_validator(mode="after")
    def _percentiles_in_order(self) -> "Settings":
        head, middle = self.perplexity_percentiles
        if not 0 < head < middle < 100:
            raise ValueError(f"perplexity_percentiles: [{head:g}, {middle:g}]: 0 < head < middle < 100 would be right")
        return self

    def completed(self, seed: int, source_names: Sequence[str], base: Path) -> "Settings":
        """Return the recipe's seed; files relative to the recipe; sources that there are."""
        updates: dict[str, Any] = {"seed": seed if self.seed is None else self.seed}
        if all(getattr(self, role) is None for role in _ROLES):
            raise UserError(f"quality: no model; give at least one of {', '.join(_ROLES)}")
        for role in _ROLES:
            chosen = getattr(self, role)
            if chosen is None:
                continue
            changes: dict[str, Any] = {}
            for name in ("model", "positives", "negatives", "texts"):
                value = getattr(chosen, name, None)
                where = f"quality.{role}.{name}"
                if isinstance(value, str):
                    changes[name] = _existing(value, base, where)
                elif value:
                    changes[name] = tuple(_place(place, source_names, base, where) for place in value)
            if isinstance(chosen, ClassifierFrom) and "seed" not in chosen.model_fields_set:
                changes["seed"] = updates["seed"]
            updates[role] = chosen.model_copy(update=changes)
        return self.model_copy(update=updates)


def _place(place: str, source_names: Sequence[str], base: Path, where: str) -> str:
    if not place.startswith(OF_SOURCE):
        return _existing(place, base, where)
    if place.removeprefix(OF_SOURCE) not in source_names:
        raise UserError(f"{where}: {place!r}: the recipe has no such source; its sources are {', '.join(source_names)}")
    return place


def _existing(place: str, base: Path, where: str) -> str:
    path = (base / Path(place).expanduser()).resolve()
    if not path.exists():
        raise UserError(f"{where}: {path}: no such file")
    return str(path)


def file_models(context: Context) -> dict[str, Any]:
    """Write ROLE.model for the models that need no documents of this run: files, and examples from files."""
    return _write_models(context, needs_documents=False)


def source_models(context: Context) -> dict[str, Any]:
    """Write ROLE.model for the models with examples from sources of this run."""
    return _write_models(context, needs_documents=True)


def _write_models(context: Context, needs_documents: bool) -> dict[str, Any]:
    counts: dict[str, Any] = {}
    for role in _ROLES:
        chosen = getattr(context.settings, role)
        if chosen is None or any(place.startswith(OF_SOURCE) for place in chosen.places) != needs_documents:
            continue
        try:
            model = _model(chosen, context)
        except UserError as error:
            raise UserError(f"quality.{role}: {error}") from error
        counts[role] = model.save(context.directory / f"{role}.model")
    return counts


def _model(chosen: ClassifierFrom | LanguageModelFrom, context: Context) -> Classifier | NgramModel:
    """Load or train."""
    if isinstance(chosen, LanguageModelFrom):
        if chosen.model is not None:
            return NgramModel.load(Path(chosen.model))
        fields = chosen.model_dump(include=set(LanguageModelSettings.model_fields))
        return train_language_model(
            _sample(chosen.texts, "positives", chosen, context), LanguageModelSettings(**fields)
        )
    if chosen.model is not None:
        return Classifier.load(Path(chosen.model))
    fields = chosen.model_dump(include=set(ClassifierSettings.model_fields))
    positives = _sample(chosen.positives, "positives", chosen, context)
    negatives = _sample(chosen.negatives, "negatives", chosen, context)
    return train_classifier(positives, negatives, ClassifierSettings(**fields))


def _sample(
    places: Sequence[str], side: Side, chosen: ClassifierFrom | LanguageModelFrom, context: Context
) -> list[str]:
    files = [place for place in places if not place.startswith(OF_SOURCE)]
    names = [place.removeprefix(OF_SOURCE) for place in places if place.startswith(OF_SOURCE)]

    def texts() -> Iterator[str]:
        yield from examples(read_documents(files), side)
        for shard in context.inputs["documents"] if names else ():
            for batch in read_batches(shard.path):
                wanted = batch.filter(pc.is_in(batch.column("source"), pa.array(names)))
                context.progress(wanted.num_rows, 0)
                yield from wanted.column("text").to_pylist()

    return sample_texts(texts(), chosen.most_examples, context.settings.seed or 0)


def files_identity(settings: Settings) -> str:
    """Return the digest of the models and examples: their content counts, not only their place."""
    parts = []
    for role in _ROLES:
        chosen = getattr(settings, role)
        places = () if chosen is None else (*((chosen.model,) if chosen.model else ()), *chosen.places)
        parts += [_content_of(Path(place)) for place in places if not place.startswith(OF_SOURCE)]
    return "|".join(parts)


def _content_of(path: Path) -> str:
    """Return the checksum of a file; of a folder its files with size and time of change, as the read stage knows
    them.
    """
    if path.is_file():
        return checksum(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return ",".join(f"{file}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in files)


def measure(
    batch: pa.RecordBatch, settings: Settings, models: Sequence[Path], trained: Sequence[Path]
) -> pa.RecordBatch:
    """Return a row of MEASURED for each document; null where there is no such model, or nothing to read."""
    files = {path.stem: path for path in (*models, *trained)}
    texts = batch.column("text")
    columns: list[pa.Array] = [batch.column("doc_id")]
    for role in _ROLES:
        if role not in files:
            columns.append(pa.nulls(batch.num_rows, pa.float64()))
            continue
        model = _loaded(files[role], files[role].stat().st_mtime_ns)
        if isinstance(model, NgramModel):
            columns.append(pa.array(model.perplexities(texts), from_pandas=True))
        else:
            good = model.probabilities(texts)
            columns.append(pa.array(1 - good if role == "spam" else good))
    return pa.RecordBatch.from_arrays(columns, schema=MEASURED)


@lru_cache(maxsize=3)
def _loaded(path: Path, modified: int) -> Classifier | NgramModel:
    return NgramModel.load(path) if path.stem == "language_model" else Classifier.load(path)


def find_cut_offs(context: Context) -> dict[str, Any]:
    """Return `cut_offs.json`: the perplexities where head and middle end."""
    values = (
        pc.fill_null(batch.column("perplexity"), float("nan")).to_numpy(zero_copy_only=False)
        for file in context.inputs["measured"]
        for batch in read_batches(file.path)
    )
    limits = cut_offs(values, context.settings.perplexity_percentiles)
    known = {name: limit if np.isfinite(limit) else None for name, limit in zip(BUCKETS, limits, strict=False)}
    (context.directory / "cut_offs.json").write_text(json.dumps(known))
    return {f"{name}_perplexity": limit for name, limit in known.items() if limit is not None}


def drop_by_quality(
    batch: pa.RecordBatch, settings: Settings, measured: pa.Table, limits: Sequence[Path]
) -> pa.RecordBatch:
    """Return the records with their signals; those that a model finds bad with the reason."""
    rows = measured.take(pc.index_in(batch.column("doc_id"), value_set=measured.column("doc_id")))
    spam, good, perplexity = (
        pc.fill_null(rows.column(name), float("nan")).combine_chunks().to_numpy(zero_copy_only=False)
        for name in SIGNALS[:3]
    )
    known = json.loads(limits[0].read_text())
    ends = [float("inf") if known[name] is None else known[name] for name in BUCKETS[:2]]
    bucket = np.where(np.isnan(perplexity), np.nan, np.searchsorted(ends, perplexity))
    reasons = drop_reasons(batch.column("doc_id"), spam, good, perplexity, bucket, settings)
    missing = pc.is_null(rows.column("doc_id")).to_numpy()
    for row in np.flatnonzero(missing).tolist():
        reasons[row] = "unmeasured:a model failed on it"
    values = (spam, good, perplexity, bucket)
    signals = {name: pa.array(column, from_pandas=True) for name, column in zip(SIGNALS, values, strict=True)}
    return record.replace(batch, columns={"drop_reason": pa.array(reasons, pa.string())}, signals=signals)


def drop_reasons(
    doc_ids: pa.Array,
    spam: np.ndarray,
    good: np.ndarray,
    perplexity: np.ndarray,
    bucket: np.ndarray,
    settings: Settings,
) -> list[str | None]:
    """Return the reason of each document, None where it stays. What was not measured (NaN) drops nothing, except that
    a text without perplexity, having no characters, lies in no bucket.
    """
    reasons: list[str | None] = [None] * len(doc_ids)

    def drop(rows: np.ndarray, reason: str, values: np.ndarray) -> None:
        for row in np.flatnonzero(rows).tolist():
            if reasons[row] is None:
                reasons[row] = f"{reason}{values[row]:.4g}"

    if settings.spam is not None:
        drop(spam > settings.spam_maximum, "spam:", spam)
    if settings.quality is not None and settings.quality_sampling != "off":
        if settings.quality_sampling == "pareto":
            draw = pareto_draws(np.asarray(doc_ids, np.uint64), settings.pareto_alpha, settings.seed or 0)
            drop(draw <= 1 - good, "quality:", good)
        else:
            drop(good < settings.quality_minimum, "quality:", good)
    if settings.language_model is not None:
        if settings.perplexity_maximum is not None:
            drop(perplexity > settings.perplexity_maximum, "perplexity:", perplexity)
        for number, name in enumerate(BUCKETS):
            if name not in settings.perplexity_buckets:
                drop(bucket == number, f"perplexity:{name} ", perplexity)
        drop(np.isnan(bucket), "perplexity:empty ", perplexity)
    return reasons


def pareto_draws(doc_ids: np.ndarray, alpha: float, seed: int) -> np.ndarray:
    """Return float64[rows]: a number of `numpy.random.pareto(alpha)`'s distribution for each document, always the same
    one.
    """
    hashes = [xxhash.xxh3_64_intdigest(number.to_bytes(8, "little"), seed) for number in doc_ids.tolist()]
    uniform = ((np.array(hashes, np.uint64) >> np.uint64(11)) + 0.5) / 2**53  # above 0 and below 1
    return uniform ** (-1 / alpha) - 1


_CODE = (
    "data_pipeline.quality.reading",
    "data_pipeline.quality.classifier",
    "data_pipeline.quality.curves",
    "data_pipeline.quality.ngram_model",
    "data_pipeline.quality.model_file",
    "data_pipeline.kernels.normal_form",
    "data_pipeline.kernels.minhash",
)
_TRAINING = (*_CODE, "data_pipeline.quality.documents")
STEPS = (
    Global(
        "models",
        needs=(),
        run=file_models,
        reads=(*_ROLES, "seed"),
        uses=_TRAINING,
        identity=files_identity,
        publish="quality",
    ),
    Global(
        "trained",
        run=source_models,
        reads=(*_ROLES, "seed"),
        uses=_TRAINING,
        identity=files_identity,
        publish="quality",
    ),
    Map("measured", needs=("documents", "models", "trained"), process=measure, table=MEASURED, reads=(), uses=_CODE),
    Global(
        "cut_offs",
        needs=("measured",),
        run=find_cut_offs,
        reads=("perplexity_percentiles",),
        uses=("data_pipeline.quality.ngram_model",),
    ),
    Map(
        "records",
        needs=("documents", "measured", "cut_offs"),
        process=drop_by_quality,
        signals=SIGNALS,
    ),
)
