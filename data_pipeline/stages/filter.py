"""filter: drop documents by rules over what is measured of their texts.

A preset names the rules and their thresholds (`stages/filter_presets/`, each with its source); the recipe changes
single ones, switches them off, or adds its own:

    - filter:
        preset: strict
        rules:
          short: {minimum: 100}
          bullets: off
          numbers: {signal: digit_share, maximum: 0.3}

Every signal of `kernels/text_signals.py` is measured once and kept as a column; another threshold looks at those
columns only. A document is dropped by the first rule that it breaks, as `RULE:SIGNAL VALUE`."""

import difflib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from data_pipeline import record
from data_pipeline.engine.steps import Context, Global, Map, StageSettings
from data_pipeline.engine.whole import checksum
from data_pipeline.errors import UserError
from data_pipeline.kernels.text_signals import NAMES, text_signals
from data_pipeline.stages.filter_rules import (
    SENSITIVE_SIGNALS,
    Preset,
    Rule,
    SensitiveRule,
    drop_reasons,
    load_preset,
)

SIGNALS = (*NAMES, *SENSITIVE_SIGNALS)
MEASURED = pa.schema([("doc_id", pa.uint64()), *((name, pa.float64()) for name in SIGNALS)])


class RuleChange(BaseModel):
    """What a recipe says about a rule: what is not given stays as the preset has it."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    signal: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    at_least_characters: int = Field(default=0, ge=0, alias="from")
    below_characters: int | None = Field(default=None, ge=1, alias="below")
    enabled: bool = True


def _off(value: Any) -> Any:
    return {"enabled": False} if value is False else value


class Settings(StageSettings):
    """Which rules apply, and the list of sensitive words."""

    preset: Literal["chinesewebtext", "fineweb2-zh", "pangu-alpha", "poetry-safe", "strict"] | None = Field(
        default="strict",
        description="chinesewebtext, fineweb2-zh, pangu-alpha, poetry-safe, strict; null: only the rules given here",
    )
    rules: dict[str, Annotated[RuleChange, BeforeValidator(_off)]] = Field(
        default={},
        description="{short: {minimum: 100}, bullets: off} changes the preset's,"
        " {numbers: {signal: digit_share, maximum: 0.3}} adds one",
    )
    sensitive_words: str | None = Field(
        default=None,
        description="a UTF-8 list, a word a line, relative to the recipe; null: none are looked for",
    )
    sensitive_mode: Literal["count", "distinct", "per_1000_characters", "distinct_per_line"] | None = Field(
        default=None,
        description="how they count: count, distinct, per_1000_characters, distinct_per_line; null: preset",
    )
    sensitive_maximum: float | None = Field(
        default=None, description="a document with more is dropped as `sensitive`; null: as the preset has it", ge=0
    )

    @model_validator(mode="after")
    def _rules_exist(self) -> "Settings":
        chosen_rules(self)
        return self

    def completed(self, seed: int, source_names: Sequence[str], base: Path) -> "Settings":
        """Every rule with all its bounds, so that a threshold counts wherever it stands; the list's place."""
        rules = {rule.name: RuleChange(**rule.model_dump(exclude={"name"})) for rule in chosen_rules(self)}
        sensitive = chosen_preset(self).sensitive or SensitiveRule()
        words = self.sensitive_words
        if words is not None:
            place = (base / Path(words).expanduser()).resolve()
            if not place.is_file():
                raise UserError(f"filter.sensitive_words: {place}: no such file; a UTF-8 list, a word a line, is right")
            words = str(place)
        return self.model_copy(
            update={
                "rules": rules,
                "sensitive_words": words,
                "sensitive_mode": self.sensitive_mode or sensitive.mode,
                "sensitive_maximum": sensitive.maximum if self.sensitive_maximum is None else self.sensitive_maximum,
            }
        )


def chosen_preset(settings: Settings) -> Preset:
    """The preset's content; null has no rules."""
    return Preset(rules=()) if settings.preset is None else load_preset(settings.preset)


def chosen_rules(settings: Settings) -> tuple[Rule, ...]:
    """The preset's rules with the recipe's changes, then the recipe's own. ValueError where a rule is not whole."""
    rules = {rule.name: rule for rule in chosen_preset(settings).rules}
    for name, change in settings.rules.items():
        if name not in rules and change.signal is None:
            close = difflib.get_close_matches(name, rules, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(rules) or 'none'}"
            raise ValueError(f"rules.{name}: the preset has no such rule, {hint} A rule of your own names its `signal`")
        given = {field: getattr(change, field) for field in change.model_fields_set - {"enabled"}}
        before = rules[name].model_dump() if name in rules else {"name": name}
        try:
            rules[name] = Rule(**{**before, **given})
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"rules.{name}: {first.get('ctx', {}).get('error') or first['msg']}") from error
    disabled = {name for name, change in settings.rules.items() if not change.enabled}
    return tuple(rule for name, rule in rules.items() if name not in disabled)


def copy_words(context: Context) -> dict[str, Any]:
    """The list of sensitive words as it is now, if there is one."""
    from data_pipeline.kernels.keywords import Keywords

    source = context.settings.sensitive_words
    if source is not None:
        Keywords.load(Path(source))  # a list that cannot be read is said at once
        (context.directory / "words.txt").write_bytes(Path(source).read_bytes())
    return {}


def words_identity(settings: Settings) -> str:
    """The content of the list counts, not only its place."""
    return "" if settings.sensitive_words is None else checksum(Path(settings.sensitive_words))


def measure(batch: pa.RecordBatch, settings: Settings, words: Sequence[Path]) -> pa.RecordBatch:
    """A row of MEASURED for each document. `words` holds the list, or nothing."""
    texts = batch.column("text")
    signals = text_signals(texts)
    counts = np.full((batch.num_rows, 2), np.nan)
    for path in words:
        counts = _keywords(path, path.stat().st_mtime_ns).counts(texts)
    columns = [batch.column("doc_id"), *(pa.array(signals[name]) for name in NAMES)]
    columns += [pa.array(np.ascontiguousarray(column), from_pandas=True) for column in counts.T]
    return pa.RecordBatch.from_arrays(columns, schema=MEASURED)


@lru_cache(maxsize=1)
def _keywords(path: Path, modified: int) -> Any:
    from data_pipeline.kernels.keywords import Keywords

    return Keywords.load(path)


def apply_rules(batch: pa.RecordBatch, settings: Settings, measured: pa.Table) -> pa.RecordBatch:
    """The records with their signals; those that break a rule with its name."""
    place = pc.index_in(batch.column("doc_id"), value_set=measured.column("doc_id"))
    rows = measured.take(place)
    columns = {name: rows.column(name).combine_chunks() for name in SIGNALS}
    signals = {name: column.to_numpy(zero_copy_only=False) for name, column in columns.items()}
    rules = [Rule(name=name, **change.model_dump(exclude={"enabled"})) for name, change in settings.rules.items()]
    reasons = _with_values(drop_reasons(signals, rules), rules, signals)
    sensitive = SensitiveRule.model_validate({"mode": settings.sensitive_mode, "maximum": settings.sensitive_maximum})
    values = sensitive.values(signals)
    for row, value in enumerate(values.tolist()):
        if reasons[row] is None and value > sensitive.maximum:
            reasons[row] = f"sensitive:{sensitive.mode} {value:.4g}"
    for row in np.flatnonzero(np.isnan(signals["characters"])).tolist():
        reasons[row] = "unmeasured:measuring its signals failed"
    return record.replace(batch, columns={"drop_reason": pa.array(reasons, pa.string())}, signals=columns)


def _with_values(names: pa.Array, rules: Sequence[Rule], signals: dict[str, np.ndarray]) -> list[str | None]:
    """`RULE:SIGNAL VALUE` for each name of a rule; None stays."""
    signal_of = {rule.name: rule.signal for rule in rules}
    return [
        None if name is None else f"{name}:{signal_of[name]} {signals[signal_of[name]][row]:.4g}"
        for row, name in enumerate(names.to_pylist())
    ]


_CODE = ("data_pipeline.kernels.text_signals", "data_pipeline.kernels.normal_form", "data_pipeline.kernels.minhash")
STEPS = (
    Global("words", needs=(), run=copy_words, reads=(), identity=words_identity),
    Map(
        "measured",
        needs=("documents", "words"),
        process=measure,
        table=MEASURED,
        reads=(),
        uses=(*_CODE, "data_pipeline.kernels.windows", "data_pipeline.kernels.keywords"),
        libraries=("pyahocorasick",),
    ),
    Map(
        "records",
        needs=("documents", "measured"),
        process=apply_rules,
        signals=SIGNALS,
        reads=("rules", "sensitive_mode", "sensitive_maximum"),
        uses=("data_pipeline.stages.filter_rules",),
    ),
)
