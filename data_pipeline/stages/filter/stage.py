"""filter: drop documents by rules over what is measured of their texts.

A preset names the rules and their thresholds (`stages/filter/presets/`, each with its source), and whether they look at
the text or at its prose; it is the recipe's or the source's `preset` where none is given here. The recipe changes
single ones, switches them off, or adds its own:

    - filter:
        preset: strict
        rules:
          short: {minimum: 100}
          bullets: off
          numbers: {signal: digit_share, maximum: 0.3}

Every signal of `kernels/text_signals.py` is measured once and kept as a column; another threshold looks at those
columns only. A document is dropped by the first rule that it breaks, as `RULE:SIGNAL VALUE`.

Before the rules come lists of addresses (`address:ENTRY`; stages/filter_addresses.py) and the language
(`language:LABEL P`; stages/filter_language.py), which is also written to the column `lang`; behind them sensitive words
(`sensitive:MODE VALUE`; kernels/keywords.py)."""

import difflib
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from data_pipeline import record
from data_pipeline.engine.run_files import checksum
from data_pipeline.engine.steps import Context, Global, Map, StageSettings
from data_pipeline.kernels import survey
from data_pipeline.kernels.text_signals import NAMES, text_signals
from data_pipeline.stages.clean.prose import prose
from data_pipeline.stages.filter.addresses import AddressLists, list_files
from data_pipeline.stages.filter.language import CHINESE_LABELS, MODEL_BYTES, script_language
from data_pipeline.stages.filter.rules import (
    SENSITIVE_SIGNALS,
    Preset,
    Rule,
    SensitiveRule,
    drop_reasons,
    load_preset,
)
from pangu.foundation.errors import UserError
from pangu.foundation.settings import Section

# the model's probability that a text is Chinese; null where the script decides
CHINESE_PROBABILITY = "chinese_probability"
SIGNALS = (*NAMES, *SENSITIVE_SIGNALS, CHINESE_PROBABILITY)
MEASURED = pa.schema([("doc_id", pa.uint64()), *((name, pa.float64()) for name in SIGNALS), ("language", pa.string())])


class RuleChange(Section):
    """What a recipe says about a rule: what is not given stays as the preset has it."""

    model_config = ConfigDict(populate_by_name=True)

    signal: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    at_least_characters: int = Field(default=0, ge=0, alias="from")
    below_characters: int | None = Field(default=None, ge=1, alias="below")
    enabled: bool = True


def _off(value: Any) -> Any:
    return {"enabled": False} if value is False else value


FilterPreset = Literal[
    "web",
    "technical",
    "poetry",
    "classical",
    "dialogue",
    "pangu-alpha",
    "chinesewebtext",
    "fineweb2-zh",
    "poetry-safe",
    "strict",
]


class SourceRules(Section):
    """The rules for the documents of one source."""

    preset: FilterPreset | None = "web"
    measured_on: Literal["text", "prose"] | None = None
    rules: dict[str, Annotated[RuleChange, BeforeValidator(_off)]] = Field(default={})

    def completed(self) -> "SourceRules":
        """Return every rule with all its bounds."""
        rules = {rule.name: RuleChange(**rule.model_dump(exclude={"name"})) for rule in chosen_rules(self)}
        return self.model_copy(
            update={"rules": rules, "measured_on": self.measured_on or chosen_preset(self).measured_on}
        )


class Settings(StageSettings):
    """Which rules apply, and the list of sensitive words."""

    preset: FilterPreset | None = Field(
        default="web",
        description="the recipe's, or one of web, technical, poetry, classical, dialogue, pangu-alpha, chinesewebtext,"
        " fineweb2-zh, poetry-safe, strict; null: only the rules given here",
    )
    measured_on: Literal["text", "prose"] | None = Field(
        default=None,
        description="what the rules look at: the text, or its prose without code, tables and addresses; null: preset",
    )
    of_source: dict[str, "SourceRules"] = Field(
        default={}, description="other rules for single sources, like {poems: {preset: poetry}}"
    )
    measured_of_source: dict[str, Literal["text", "prose"]] = Field(
        default={}, description="the same for single sources; filled in from of_source"
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

    blocked_addresses: tuple[str, ...] = Field(
        default=(), description="lists of domains, addresses and /expressions/; UT1 folders; relative to the recipe"
    )
    language_model: str | None = Field(
        default=None, description="fastText's lid.176.ftz or .bin, asked where the script is mixed; null: script alone"
    )
    language_minimum: float = Field(
        default=0.5, description="least probability of Chinese by that model (cc_net: 0.5)", ge=0, le=1
    )

    @model_validator(mode="after")
    def _rules_exist(self) -> "Settings":
        chosen_rules(self)
        for rules in self.of_source.values():
            chosen_rules(rules)
        return self

    def with_presets(self, preset: str | None, of_source: Mapping[str, str]) -> "Settings":
        """Return these settings with the presets of the recipe and of its sources, where none is given here."""
        if "preset" in self.model_fields_set:
            return self
        given = {name: getattr(self, name) for name in self.model_fields_set}
        sources = {name: SourceRules.model_validate({"preset": preset}) for name, preset in of_source.items()}
        return Settings(
            **{**given, **({} if preset is None else {"preset": preset}), "of_source": {**sources, **self.of_source}}
        )

    def completed(self, seed: int, source_names: Sequence[str], base: Path) -> "Settings":
        """Return every rule with all its bounds, so that a threshold counts wherever it stands; the list's place."""
        unknown = [name for name in self.of_source if name not in source_names]
        if unknown:
            raise UserError(f"filter.of_source: no source {unknown[0]!r}; there are {', '.join(source_names)}")
        rules = {rule.name: RuleChange(**rule.model_dump(exclude={"name"})) for rule in chosen_rules(self)}
        of_source = {name: own.completed() for name, own in self.of_source.items()}
        sensitive = chosen_preset(self).sensitive or SensitiveRule()
        words = _file(self.sensitive_words, base, "sensitive_words", "a UTF-8 list, a word a line, is right")
        model = _file(self.language_model, base, "language_model", "fastText's lid.176.ftz would be right")
        lists = [(base / Path(place).expanduser()).resolve() for place in self.blocked_addresses]
        for place in lists:
            list_files(place)
        return self.model_copy(
            update={
                "rules": rules,
                "measured_on": self.measured_on or chosen_preset(self).measured_on,
                "of_source": of_source,
                "measured_of_source": {name: own.measured_on or "text" for name, own in of_source.items()},
                "sensitive_words": words,
                "language_model": model,
                "blocked_addresses": tuple(map(str, lists)),
                "sensitive_mode": self.sensitive_mode or sensitive.mode,
                "sensitive_maximum": sensitive.maximum if self.sensitive_maximum is None else self.sensitive_maximum,
            }
        )


def _file(name: str | None, base: Path, setting: str, right: str) -> str | None:
    """Return the place of a file that a setting names."""
    if name is None:
        return None
    place = (base / Path(name).expanduser()).resolve()
    if not place.is_file():
        raise UserError(f"filter.{setting}: {place}: no such file; {right}")
    return str(place)


def chosen_preset(settings: Settings | SourceRules) -> Preset:
    """Return the preset's content; null has no rules."""
    return Preset(rules=()) if settings.preset is None else load_preset(settings.preset)


def chosen_rules(settings: Settings | SourceRules) -> tuple[Rule, ...]:
    """Return the preset's rules with the recipe's changes, then the recipe's own. ValueError where a rule is not
    whole.
    """
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
    """Return the list of sensitive words as it is now, if there is one."""
    from data_pipeline.kernels.keywords import Keywords

    source = context.settings.sensitive_words
    if source is not None:
        Keywords.load(Path(source))  # a list that cannot be read is said at once
        (context.directory / "words.txt").write_bytes(Path(source).read_bytes())
    return {}


def words_identity(settings: Settings) -> str:
    """Return the digest of the list: its content counts, not only its place."""
    return "" if settings.sensitive_words is None else checksum(Path(settings.sensitive_words))


def copy_language_model(context: Context) -> dict[str, Any]:
    """Return the language model as it is now, if there is one."""
    from data_pipeline.quality.fasttext_model import FastTextModel

    source = context.settings.language_model
    if source is None:
        return {}
    if not set(FastTextModel.load(Path(source)).labels) & set(CHINESE_LABELS):
        raise UserError(f"filter.language_model: {source}: none of its labels is {', '.join(CHINESE_LABELS)}")
    (context.directory / "language.model").write_bytes(Path(source).read_bytes())
    return {}


def language_model_identity(settings: Settings) -> str:
    """Return the content of the model."""
    return "" if settings.language_model is None else checksum(Path(settings.language_model))


def copy_addresses(context: Context) -> dict[str, Any]:
    """Return the lists of addresses as they are now, if there are any."""
    paths = [Path(place) for place in context.settings.blocked_addresses]
    if not paths:
        return {}
    lists = AddressLists.read(paths)
    lists.save(context.directory)
    return {"addresses": lists.hashes.size, "expressions": len(lists.expressions)}


def addresses_identity(settings: Settings) -> str:
    """Return the content of the lists."""
    return "".join(checksum(file) for place in settings.blocked_addresses for file in list_files(Path(place)))


def measure(batch: pa.RecordBatch, settings: Settings, words: Sequence[Path], models: Sequence[Path]) -> pa.RecordBatch:
    """Return a row of MEASURED for each document. `words` holds the list, `models` the language model, or nothing."""
    texts = batch.column("text")
    signals = _signals(texts, batch.column("source"), settings)
    counts = np.full((batch.num_rows, 2), np.nan)
    for path in words:
        counts = _keywords(path, path.stat().st_mtime_ns).counts(texts)
    columns = [batch.column("doc_id"), *(pa.array(signals[name]) for name in NAMES)]
    columns += [pa.array(np.ascontiguousarray(column), from_pandas=True) for column in counts.T]
    language, is_sure = script_language(signals)
    chinese = np.full(batch.num_rows, np.nan)
    for path in models:
        asked = np.flatnonzero(~is_sure)
        label, chinese[asked] = _ask(path, texts.take(pa.array(asked)))
        language[asked] = label
    columns += [pa.array(chinese, from_pandas=True), pa.array(language, pa.string())]
    return pa.RecordBatch.from_arrays(columns, schema=MEASURED)


# A list entry that says something: its mark ends it, as a full stop would. One that is nothing but a link does not.
_LIST_ENTRY = re.compile(
    r"^[ \t]*(?:[-*+]|\d{1,3}[.)])[ \t]+(?!\[[^\]\n]*\]\([^)\n]*\)$)"
    r"[^\n]{14,}[^\s。！？…”；.!?\"'’」』|:：](?=[ \t]*$)",
    re.MULTILINE,
)
_ENTRY_MARKS = ("- ", "* ", "+ ", "1. ", "1) ")
# names of programs: with dots, underscores, arguments or a value, or in camel case
_IDENTIFIER = re.compile(
    r"[A-Za-z_]\w*(?:[._]\w+)+(?:\([^()\n]{0,200}\))?|[A-Za-z_]\w*(?:\([^()\n]{0,200}\)|=[\w.'\"-]+)|\b[A-Za-z][a-z0-9]+[A-Z]\w*",
    re.ASCII,
)
_LITTLE_HAN = 0.4
# signals whose rules apply `from` a length, and the prose that is long enough for them
_OF_LONGER_TEXTS = ("stop_word_kinds", "function_word_share", "short_term_share")
_LITTLE_PROSE = 300


def _signals(texts: pa.Array, sources: pa.Array, settings: Settings) -> dict[str, np.ndarray]:
    """Return the signals of each text or of its prose, as its source's settings say; the length is the text's own."""
    if settings.measured_on != "prose" and "prose" not in settings.measured_of_source.values():
        return text_signals(texts)
    shown = texts.to_pylist()
    changed = []
    for row, source in enumerate(sources.to_pylist()):
        if shown[row] and settings.measured_of_source.get(source, settings.measured_on) == "prose":
            text = shown[row]
            if any(mark in text for mark in _ENTRY_MARKS):
                text = _LIST_ENTRY.sub(r"\g<0>。", text)
            own = prose(text, with_tables=False).replace("．", "。")
            if own != shown[row]:
                shown[row] = own
                changed.append(row)
    if not changed:
        return text_signals(texts)
    signals = text_signals(pa.array(shown, texts.type))
    rows = np.array(changed)
    # little prose among much code says nothing by the words that it lacks
    little = rows[signals["characters"][rows] < _LITTLE_PROSE]
    signals["characters"][rows] = survey.measure(texts.take(pa.array(rows)))[0]
    for name in _OF_LONGER_TEXTS:
        signals[name][little] = np.nan
    _forgive_identifiers(signals, shown, rows[signals["han_share"][rows] < _LITTLE_HAN])
    return signals


def _forgive_identifiers(signals: dict[str, np.ndarray], texts: list[str], rows: np.ndarray) -> None:
    """Measure the share of Chinese again without names of programs, for texts that have little of it.

    `paddle.nn.Layer` and `max_length=8` are code, also where nothing marks them as such. English words are none."""
    if rows.size:
        parts = [_IDENTIFIER.sub("", texts[row]) for row in rows.tolist()]
        measured = text_signals(pa.array(parts, pa.large_string()))
        signals["han_share"][rows] = np.maximum(signals["han_share"][rows], measured["han_share"])


def _ask(path: Path, texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return (object[rows], the likeliest label; float64[rows], the probability of Chinese) by a language model."""
    from data_pipeline.quality.fasttext_model import loaded

    model = loaded(path, path.stat().st_mtime_ns)
    probabilities = model.probabilities(texts, MODEL_BYTES)
    chinese = [place for place, label in enumerate(model.labels) if label in CHINESE_LABELS]
    labels = np.array(model.labels, object)[probabilities.argmax(axis=1)]
    return labels, np.minimum(probabilities[:, chinese].sum(axis=1, dtype=np.float64), 1.0)


@lru_cache(maxsize=1)
def _keywords(path: Path, modified: int) -> Any:
    from data_pipeline.kernels.keywords import Keywords

    return Keywords.load(path)


def apply_rules(
    batch: pa.RecordBatch, settings: Settings, measured: pa.Table, addresses: Sequence[Path]
) -> pa.RecordBatch:
    """Return the records with their signals and language; those that break a rule with its name."""
    place = pc.index_in(batch.column("doc_id"), value_set=measured.column("doc_id"))
    rows = measured.take(place)
    columns = {name: rows.column(name).combine_chunks() for name in SIGNALS}
    signals = {name: column.to_numpy(zero_copy_only=False) for name, column in columns.items()}
    reasons = _broken_rules(settings, signals)
    if settings.of_source:
        sources = np.asarray(batch.column("source").to_pylist(), object)
        for name, own in settings.of_source.items():
            places = np.flatnonzero(sources == name).tolist()
            if places:
                found = _broken_rules(own, {signal: values[places] for signal, values in signals.items()})
                for place, reason in zip(places, found, strict=True):
                    reasons[place] = reason
    sensitive = SensitiveRule.model_validate({"mode": settings.sensitive_mode, "maximum": settings.sensitive_maximum})
    values = sensitive.values(signals)
    for row, value in enumerate(values.tolist()):
        if reasons[row] is None and value > sensitive.maximum:
            reasons[row] = f"sensitive:{sensitive.mode} {value:.4g}"
    languages = rows.column("language").to_pylist()
    for row in np.flatnonzero(signals[CHINESE_PROBABILITY] < settings.language_minimum).tolist():
        reasons[row] = f"language:{languages[row]} {signals[CHINESE_PROBABILITY][row]:.4g}"
    if addresses:
        for row, entry in enumerate(AddressLists.load(addresses).find(batch.column("url"))):
            reasons[row] = reasons[row] if entry is None else f"address:{entry}"
    for row in np.flatnonzero(np.isnan(signals["characters"])).tolist():
        reasons[row] = "unmeasured:measuring its signals failed"
    replaced = {"drop_reason": pa.array(reasons, pa.string()), "lang": rows.column("language").combine_chunks()}
    return record.replace(batch, columns=replaced, signals=columns)


def _broken_rules(settings: Settings | SourceRules, signals: dict[str, np.ndarray]) -> list[str | None]:
    """Return the first rule that each document breaks, with its signal and value."""
    rules = [Rule(name=name, **change.model_dump(exclude={"enabled"})) for name, change in settings.rules.items()]
    return _with_values(drop_reasons(signals, rules), rules, signals)


def _with_values(names: pa.Array, rules: Sequence[Rule], signals: dict[str, np.ndarray]) -> list[str | None]:
    """Return `RULE:SIGNAL VALUE` for each name of a rule; None stays."""
    signal_of = {rule.name: rule.signal for rule in rules}
    return [
        None if name is None else f"{name}:{signal_of[name]} {signals[signal_of[name]][row]:.4g}"
        for row, name in enumerate(names.to_pylist())
    ]


def load(settings: Settings) -> None:
    """Load the kernels and their tables."""
    texts = pa.array(["文字。"], pa.string())
    text_signals(texts)
    survey.measure(texts)


_CODE = ("data_pipeline.kernels.text_signals", "data_pipeline.kernels.normal_form", "data_pipeline.kernels.minhash")
STEPS = (
    Global("words", needs=(), run=copy_words, reads=(), identity=words_identity),
    Global(
        "language",
        needs=(),
        run=copy_language_model,
        reads=(),
        uses=("data_pipeline.quality.fasttext_model",),
        identity=language_model_identity,
    ),
    Global(
        "addresses",
        needs=(),
        run=copy_addresses,
        reads=(),
        uses=("data_pipeline.stages.filter.addresses",),
        identity=addresses_identity,
    ),
    Map(
        "measured",
        needs=("documents", "words", "language"),
        process=measure,
        prepare=load,
        table=MEASURED,
        reads=("measured_on", "measured_of_source"),
        uses=(
            *_CODE,
            "data_pipeline.stages.clean.prose",
            "data_pipeline.stages.clean.structure",
            "data_pipeline.kernels.survey",
            "data_pipeline.kernels.windows",
            "data_pipeline.kernels.keywords",
            "data_pipeline.stages.filter.language",
            "data_pipeline.quality.fasttext_model",
        ),
        libraries=("pyahocorasick",),
    ),
    Map(
        "records",
        needs=("documents", "measured", "addresses"),
        process=apply_rules,
        signals=SIGNALS,
        reads=("rules", "of_source", "sensitive_mode", "sensitive_maximum", "language_minimum"),
        uses=("data_pipeline.stages.filter.rules", "data_pipeline.stages.filter.addresses"),
    ),
)
