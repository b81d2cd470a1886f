"""Rules over signals: which documents a filter drops, and for which reason.

A rule is a signal and a bound. A preset is a YAML file of rules beside this module; every threshold in it names its
source. Signals are measured once and kept as columns, so that another threshold needs no second look at the text.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field, model_validator

from data_pipeline.kernels.text_signals import NAMES
from pangu.foundation.settings import Section, checked
from pangu.foundation.yaml_document import read_document

PRESETS = Path(__file__).with_name("presets")
# what is counted of sensitive words: all hits, overlapping ones too, and different words
SENSITIVE_SIGNALS = ("sensitive_hits", "sensitive_words")


class Rule(Section):
    """Drops a document whose signal lies below `minimum` or above `maximum`."""

    model_config = ConfigDict(populate_by_name=True)

    name: str = Field(pattern=r"^[a-z0-9_]+$", description="the reason that dropped documents carry")
    signal: str = Field(description="one of the names in kernels/text_signals.py")
    minimum: float | None = None
    maximum: float | None = None
    at_least_characters: int = Field(
        default=0, ge=0, alias="from", description="applies to documents this long or longer"
    )
    below_characters: int | None = Field(
        default=None, ge=1, alias="below", description="applies to shorter documents only"
    )

    @model_validator(mode="after")
    def _bounded(self) -> "Rule":
        if self.signal not in NAMES:
            raise ValueError(f"no signal {self.signal!r}; there are {', '.join(NAMES)}")
        if self.minimum is None and self.maximum is None:
            raise ValueError("a rule needs a minimum or a maximum")
        return self

    def drops(self, signals: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return bool[rows]: which documents this rule drops."""
        value, characters = signals[self.signal], signals["characters"]
        bad = np.zeros(value.size, bool)
        if self.minimum is not None:
            bad |= value < self.minimum
        if self.maximum is not None:
            bad |= value > self.maximum
        applies = characters >= self.at_least_characters
        if self.below_characters is not None:
            applies &= characters < self.below_characters
        return bad & applies


class SensitiveRule(Section):
    """Drops a document with more sensitive words than `maximum`, counted by `mode` (kernels/keywords.py)."""

    mode: Literal["count", "distinct", "per_1000_characters", "distinct_per_line"] = "count"
    maximum: float = Field(default=3, ge=0)

    def values(self, signals: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return float64[rows]: what is held against `maximum`; NaN where words were not counted."""
        hits, words = (signals[name] for name in SENSITIVE_SIGNALS)
        match self.mode:
            case "count":
                return hits
            case "distinct":
                return words
            case "per_1000_characters":
                return 1000 * hits / np.maximum(signals["characters"], 1)
            case "distinct_per_line":
                return words / np.maximum(signals["lines"], 1)


class Preset(Section):
    """The content of a preset file."""

    rules: tuple[Rule, ...]
    measured_on: Literal["text", "prose"] = "text"
    sensitive: SensitiveRule | None = None


def preset_names() -> list[str]:
    """Return the presets that there are."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


@lru_cache(maxsize=16)
def load_preset(name: str) -> Preset:
    """Return one of `preset_names()`."""
    if name not in preset_names():
        raise ValueError(f"no preset {name!r}; there are {', '.join(preset_names())}")
    return checked(Preset, read_document(PRESETS / f"{name}.yaml"))


def drop_reasons(signals: Mapping[str, np.ndarray], rules: Sequence[Rule]) -> pa.Array:
    """Return string[rows]: the name of the first rule that drops each document, null where none does."""
    first = np.full(signals["characters"].size, -1)
    for number, rule in enumerate(rules):
        first[(first < 0) & rule.drops(signals)] = number
    return pa.array([rule.name for rule in rules], pa.string()).take(pa.array(first, mask=first < 0))
