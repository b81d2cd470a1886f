"""Rules that take more than half of a source: said as soon as enough of the source has been seen, with the command that
shows what they took."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipeline.stages import load_stage

# so many documents of a source are enough to speak while it is being read, and so many when it is done
ENOUGH, ENOUGH_AT_END = 200, 20
SHARE = 0.5
# stages whose presets may be the wrong ones for a source
_WITH_PRESETS = ("clean", "filter")


class HeavyRules:
    """What the rules of one stage have dropped of each source so far."""

    def __init__(self, stage: str, kind: str, root: Path):
        self.stage, self.kind, self.root = stage, kind, root
        self.settings: dict[str, tuple[str, str, str]] = getattr(load_stage(kind), "THRESHOLDS", {})
        self.seen: Counter[str] = Counter()
        self.dropped: dict[str, Counter[str]] = {}
        self.said: set[tuple[str, str]] = set()

    def add(self, counts: Mapping[str, Any]) -> list[str]:
        """Count one finished task; return what is to be said of it."""
        sources: dict[str, Any] = counts.get("by_source", {})
        for source, own in sources.items():
            self.seen[source] += own["documents_in"]
            self.dropped.setdefault(source, Counter()).update(own["dropped"])
        return self._lines(ENOUGH, sources)

    def finish(self) -> list[str]:
        """Return what is to be said of small sources when the step is done."""
        return self._lines(ENOUGH_AT_END, self.seen)

    def _lines(self, enough: int, sources: Mapping[str, Any]) -> list[str]:
        lines = []
        for source in sources:
            for rule, count in self.dropped.get(source, Counter()).items():
                seen = self.seen[source]
                if seen >= enough and count > SHARE * seen and (source, rule) not in self.said:
                    self.said.add((source, rule))
                    lines.append(self._line(source, rule, count, seen))
        return lines

    def _line(self, source: str, rule: str, count: int, seen: int) -> str:
        setting = self.settings[rule][1] if rule in self.settings else None
        hint = f"; `{setting}` of {self.stage} decides it" if setting else ""
        hint += "; if it is good text, give the source another `preset`" if self.kind in _WITH_PRESETS else ""
        return (
            f"{self.stage}: the rule {rule} takes {count / seen:.0%} of source {source},"
            f" {count:,} of {seen:,} documents;"
            f" samples: python -m data_pipeline inspect {self.root} --stage {self.stage} --reason {rule}"
            f" --source {source}{hint}"
        )
