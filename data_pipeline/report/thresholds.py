"""The thresholds of a run, and the signals that they are held against."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.engine.browse import Shards
from data_pipeline.engine.run_recipe import open_manifest
from data_pipeline.stages import load_stage


@dataclass(frozen=True)
class Threshold:
    """A rule that drops what lies outside its bounds, for documents of a certain length."""

    stage: str
    rule: str
    signal: str
    minimum: float | None
    maximum: float | None
    at_least_characters: float = 0
    below_characters: float | None = None

    def drops(self, value: np.ndarray, characters: np.ndarray) -> np.ndarray:
        """Return bool[rows]: which documents the rule drops; NaN is never dropped."""
        bad = np.zeros(value.size, bool)
        if self.minimum is not None:
            bad |= value < self.minimum
        if self.maximum is not None:
            bad |= value > self.maximum
        applies = ~(characters < self.at_least_characters)
        if self.below_characters is not None:
            applies &= ~(characters >= self.below_characters)
        return bad & applies

    def in_words(self) -> str:
        """Return `characters < 150`."""
        parts = [f"{self.signal} < {self.minimum:g}"] if self.minimum is not None else []
        parts += [f"{self.signal} > {self.maximum:g}"] if self.maximum is not None else []
        text = " or ".join(parts)
        if self.at_least_characters:
            text += f", from {self.at_least_characters:g} characters on"
        if self.below_characters is not None:
            text += f", below {self.below_characters:g} characters"
        return text


class Signals(NamedTuple):
    """The signals of some documents of a stage."""

    doc_id: np.ndarray  # uint64
    is_kept: bool
    columns: dict[str, np.ndarray]  # float64, NaN where there is none
    reasons: list[str | None]
    path: Path


def thresholds_of(root: Path) -> list[Threshold]:
    """Return all thresholds of the last run in a directory, in the order of its stages and rules."""
    manifest = open_manifest(root)
    found = []
    for name, kind in manifest.stages():
        recorded = manifest.step_settings(f"{name}/records")
        if recorded is not None:
            found += _of_stage(name, kind, recorded[0])
    manifest.close()
    return found


def _of_stage(name: str, kind: str, settings: dict[str, Any]) -> list[Threshold]:
    if kind == "filter":
        return [
            Threshold(
                name, rule, bound["signal"], bound["minimum"], bound["maximum"],
                bound["at_least_characters"], bound["below_characters"],
            )
            for rule, bound in settings["rules"].items()
            if bound.get("enabled", True)
        ]  # fmt: skip
    declared = getattr(load_stage(kind), "THRESHOLDS", {})
    found = []
    for rule, (signal, setting, side) in declared.items():
        value = settings.get(setting)
        if value is not None:
            bounds = (value, None) if side == "minimum" else (None, value)
            found.append(Threshold(name, rule, signal, *bounds))
    return found


def signal_names(shards: Shards) -> list[str]:
    """Return the signals that the records of a stage have."""
    for path in (*shards.kept, *shards.dropped):
        field = pq.read_schema(path).field("signals")
        return [child.name for child in field.type]
    return []


def read_signals(shards: Shards, names: Sequence[str]) -> Iterator[Signals]:
    """Yield the signals of every document that a stage kept or dropped, file by file; nothing else is read."""
    for is_kept, files in ((True, shards.kept), (False, shards.dropped)):
        for path in files:
            present = [name for name in names if name in signal_names(Shards("", "", (path,), ()))]
            columns = ["doc_id", "drop_reason", *(f"signals.{name}" for name in present)]
            for batch in pq.ParquetFile(path).iter_batches(batch_size=1 << 16, columns=columns):
                struct = batch.column("signals") if present else None
                values = {
                    name: struct.field(index).to_numpy(zero_copy_only=False).astype(np.float64)
                    for index, name in enumerate(child.name for child in struct.type)
                } if struct is not None else {}  # fmt: skip
                reasons = batch.column("drop_reason").to_pylist()
                yield Signals(np.asarray(batch.column("doc_id")), is_kept, values, reasons, path)


def fetch(files: Sequence[Path], wanted: set[int]) -> dict[int, dict[str, Any]]:
    """Return the records with these numbers. Only the row groups that hold one are read."""
    found: dict[int, dict[str, Any]] = {}
    numbers = pa.array(sorted(wanted), pa.uint64())
    for path in files:
        if len(found) == len(wanted):
            break
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            keys = np.asarray(file.read_row_group(group, columns=["doc_id"], use_threads=False).column("doc_id"))
            rows = np.flatnonzero(np.isin(keys, np.asarray(numbers)))
            if rows.size:
                table = file.read_row_group(group, use_threads=False).take(pa.array(rows))
                found.update({row["doc_id"]: row for row in table.to_pylist()})
    return found
