"""label: scores of published fastText classifiers, without examples of one's own.

    - label:
        quality: [models/fineweb_edu_zh.bin, models/cci.bin]   # several: their maximum, or mean
        good_labels: [__label__1, hq]
        toxicity: [models/toxic.bin]
        domain: models/domain.bin

Nothing is dropped: scores are signals (`quality_score`, `toxicity_score`), each with its bucket from 0 to 19
(`quality_bucket`), as CCI 4 and Ultra-FineWeb have them, and the likeliest domain is a field `domain` of `meta`. The
stage behind decides by them: `filter` by a rule, or `tune` over the column."""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from data_pipeline import record
from data_pipeline.engine.run_files import checksum
from data_pipeline.engine.steps import Context, Global, Map, StageSettings
from pangu.foundation.errors import UserError

SIGNALS = ("quality_score", "quality_bucket", "toxicity_score", "toxicity_bucket", "domain_probability")
# names that published classifiers have for their good, and for their toxic side
GOOD_LABELS = ("__label__hq", "__label__1", "__label__good", "__label__positive", "__label__pos", "__label__high")
TOXIC_LABELS = ("__label__toxic", "__label__1", "__label__nsfw", "__label__bad")
PREFIX = "__label__"
MODEL_BYTES = 20_000


class Settings(StageSettings):
    """Which classifiers, which of their labels count, and how several are taken together."""

    quality: tuple[str, ...] = Field(default=(), description="fastText classifiers of quality, relative to the recipe")
    toxicity: tuple[str, ...] = Field(default=(), description="fastText classifiers of toxicity")
    domain: str | None = Field(
        default=None, description="a fastText classifier of domains; its likeliest label is kept"
    )
    good_labels: tuple[str, ...] = Field(
        default=GOOD_LABELS, description="labels whose probability is the quality; with or without __label__"
    )
    toxic_labels: tuple[str, ...] = Field(default=TOXIC_LABELS, description="labels whose probability is the toxicity")
    combine: Literal["maximum", "mean"] = Field(default="mean", description="of several classifiers: maximum or mean")
    buckets: int = Field(default=20, ge=2, le=1000, description="equal parts that scores from 0 to 1 are cut into")

    def completed(self, seed: int, source_names: Sequence[str], base: Path) -> "Settings":
        """Return these settings with the places of the models, of which there is one at least."""
        if not (self.quality or self.toxicity or self.domain):
            raise UserError("label: give `quality`, `toxicity` or `domain`: paths of fastText classifiers")
        places = {
            "quality": tuple(_place(path, base, "quality") for path in self.quality),
            "toxicity": tuple(_place(path, base, "toxicity") for path in self.toxicity),
            "domain": None if self.domain is None else _place(self.domain, base, "domain"),
        }
        return self.model_copy(update=places)


def _place(name: str, base: Path, setting: str) -> str:
    place = (base / Path(name).expanduser()).resolve()
    if not place.is_file():
        raise UserError(f"label.{setting}: {place}: no such file; a fastText model (.bin or .ftz) is right")
    return str(place)


def _models(settings: Settings) -> list[tuple[str, str]]:
    """Return (the name of its copy, the place) of every model."""
    several = [
        (f"{kind}-{n}", path) for kind in ("quality", "toxicity") for n, path in enumerate(getattr(settings, kind))
    ]
    return several + ([("domain-0", settings.domain)] if settings.domain is not None else [])


def models_identity(settings: Settings) -> str:
    """Return the content of the models."""
    return "".join(checksum(Path(path)) for _, path in _models(settings))


def copy_models(context: Context) -> dict[str, Any]:
    """Copy the models as they are now. A label that none of them has is said at once."""
    settings: Settings = context.settings
    for name, path in _models(settings):
        model = _load(Path(path), 0)
        wanted = settings.good_labels if name.startswith("quality") else settings.toxic_labels
        if not name.startswith("domain") and not _columns(model.labels, wanted):
            field = "good_labels" if name.startswith("quality") else "toxic_labels"
            raise UserError(f"label.{field}: {path} has none of them; its labels are {', '.join(model.labels[:12])}")
        (context.directory / f"{name}.model").write_bytes(Path(path).read_bytes())
    return {"models": len(_models(settings))}


def _columns(labels: Sequence[str], wanted: Sequence[str]) -> list[int]:
    plain = {label.removeprefix(PREFIX) for label in wanted}
    return [place for place, label in enumerate(labels) if label.removeprefix(PREFIX) in plain]


@lru_cache(maxsize=8)
def _load(path: Path, modified: int) -> Any:
    from data_pipeline.quality.fasttext_model import FastTextModel

    return FastTextModel.load(path)


def score(batch: pa.RecordBatch, settings: Settings, models: Sequence[Path]) -> pa.RecordBatch:
    """Return the documents with their scores, buckets and domain."""
    texts = batch.column("text")
    values = {name: np.full(batch.num_rows, np.nan) for name in SIGNALS}
    by_name = {path.stem: path for path in models}
    for kind, wanted in (("quality", settings.good_labels), ("toxicity", settings.toxic_labels)):
        scores = []
        for name in sorted(name for name in by_name if name.startswith(kind)):
            model = _load(by_name[name], by_name[name].stat().st_mtime_ns)
            labels = _columns(model.labels, wanted)
            found = model.probabilities(texts, MODEL_BYTES)[:, labels].sum(axis=1, dtype=np.float64)
            scores.append(np.minimum(found, 1))
        if scores:
            together = np.max(scores, axis=0) if settings.combine == "maximum" else np.mean(scores, axis=0)
            values[f"{kind}_score"] = together
            values[f"{kind}_bucket"] = np.minimum(np.floor(together * settings.buckets), settings.buckets - 1)
    columns: dict[str, pa.Array] = {}
    if "domain-0" in by_name:
        model = _load(by_name["domain-0"], by_name["domain-0"].stat().st_mtime_ns)
        probabilities = model.probabilities(texts, MODEL_BYTES)
        best = probabilities.argmax(axis=1)
        values["domain_probability"] = probabilities[np.arange(batch.num_rows), best].astype(np.float64)
        names = [model.labels[place].removeprefix(PREFIX) for place in best.tolist()]
        columns["meta"] = pa.array(
            [
                json.dumps({**json.loads(meta or "{}"), "domain": name}, ensure_ascii=False, sort_keys=True)
                for meta, name in zip(batch.column("meta").to_pylist(), names, strict=True)
            ],
            pa.string(),
        )
    signals = {name: pa.array(column, from_pandas=True) for name, column in values.items()}
    return record.replace(batch, columns=columns, signals=signals)


STEPS = (
    Global(
        "models",
        needs=(),
        run=copy_models,
        reads=("quality", "toxicity", "domain", "good_labels", "toxic_labels"),
        uses=("data_pipeline.quality.fasttext_model",),
        identity=models_identity,
    ),
    Map(
        "records",
        needs=("documents", "models"),
        process=score,
        signals=SIGNALS,
        reads=("good_labels", "toxic_labels", "combine", "buckets"),
        uses=("data_pipeline.quality.fasttext_model",),
    ),
)
