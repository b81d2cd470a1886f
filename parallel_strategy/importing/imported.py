"""What a file of another program says, as a model and a strategy of ours, with an account of every field of it.

A field is read, or not modelled (it changes the cost, and no field of ours says it), or without effect on time and
memory, or unknown. The account stands at the head of the model file that `init --from` writes.
"""

import contextlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pangu.foundation.errors import PlacedError
from pangu.foundation.settings import checked, nearest_name
from pangu.foundation.yaml_document import LARGEST, Location, YamlDocument, parse_document, shown
from parallel_strategy.spec.model import ModelSpec

MISSING: Any = object()
DTYPES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "float8": "fp8", "half": "fp16", "float": "fp32"}


@dataclass
class Imported:
    """kind: what the file is. strategy: fields of a strategy file, empty where it describes a model only."""

    kind: str
    model: ModelSpec
    strategy: dict[str, Any] = field(default_factory=dict)
    read: list[str] = field(default_factory=list)
    not_modelled: list[str] = field(default_factory=list)
    without_effect: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def account(self) -> list[str]:
        """Return a line for each kind of field, those that cost something one by one."""
        lines = [f"read: {', '.join(self.read)}"]
        lines += [f"not modelled: {one}" for one in self.not_modelled]
        if self.without_effect:
            lines.append(f"without effect on time and memory: {', '.join(self.without_effect)}")
        if self.unknown:
            lines.append(f"unknown, so not read: {', '.join(self.unknown)}")
        return lines + self.notes


class Fields:
    """The fields of a part of somebody else's file. Each is taken once; `rest` tells what nobody took."""

    def __init__(self, document: YamlDocument, location: Location = ()) -> None:
        self.document, self.location = document, location
        data = document.value(location) if not location or document.has(location) else {}
        if data is not None and not isinstance(data, Mapping):
            raise document.mistake(f"{shown(data)} is not a mapping of fields to values", location)
        self.data: Mapping[str, Any] = data or {}
        self.taken: dict[str, str] = {}  # theirs -> ours
        self.not_modelled: list[str] = []
        self.neutral: list[str] = []

    def mistake(self, name: str, what: str) -> PlacedError:
        """Return the error that points at a field."""
        return PlacedError(f"{self.document.place((*self.location, name))}: {what}")

    def take(self, kind: type, *names: str, default: Any = MISSING, ours: str = "", least: int = 0) -> Any:
        """Return the value of the first of these names that is given and not null. Raises PlacedError where two of them
        differ, where a whole number is below `least`, and where there is none and no default."""
        given = {name: self.data[name] for name in names if self.data.get(name) is not None}
        for name in names:
            if name in self.data:
                self.taken[name] = ours or names[0]
        if not given:
            if default is MISSING:
                near = nearest_name(names[0], [str(name) for name in self.data if name not in self.taken], 0.75)
                hint = near if "did you mean" in near else ""
                raise PlacedError(f"{self.document.place(self.location)}: field {names[0]!r} is missing{hint}")
            return default
        values = {name: self._checked(kind, name, value, least) for name, value in given.items()}
        first, *others = values
        for other in others:
            if values[other] != values[first]:
                raise self.mistake(
                    other, f"{shown(values[other])} contradicts {first} {shown(values[first])}; leave one of them"
                )
        return values[first]

    def _checked(self, kind: type, name: str, value: Any, least: int) -> Any:
        if kind is bool and isinstance(value, bool):
            return value
        if isinstance(value, float) and not math.isfinite(value):
            raise self.mistake(name, f"{value} is not a finite number")
        if kind is int and isinstance(value, float) and value == int(value):
            value = int(value)
        if kind is float and isinstance(value, str):  # YAML 1.1 reads 1e-5 as text
            with contextlib.suppress(ValueError):
                value = float(value)
        kinds: dict[type, Any] = {int: int, float: (int, float), str: str, bool: bool, list: list, dict: Mapping}
        if not isinstance(value, kinds[kind]) or (isinstance(value, bool) and kind is not bool):
            words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", list: "a list"}
            raise self.mistake(name, f"{shown(value)} is not {words.get(kind, 'a mapping')}")
        if kind is int and not least <= value <= 10**12:
            raise self.mistake(name, f"{shown(value)} is no size; it must lie between {least} and 10^12")
        if kind is float and not abs(value) <= LARGEST:
            raise self.mistake(name, f"{shown(value)} is larger than any size; nearest: {LARGEST}")
        return value

    def choose(self, name: str, legal: Mapping[str, Any], default: Any = MISSING) -> Any:
        """Return what a word stands for. Raises PlacedError for another word than the legal ones."""
        word = self.take(str, name, default=None if default is not MISSING else MISSING)
        if word is None:
            return default
        if word not in legal:
            raise self.mistake(name, f"{shown(word)} is none of {', '.join(legal)}")
        return legal[word]

    def leave(self, name: str, why: str) -> None:
        """Say of a field that is given that nothing of ours says it."""
        self.taken[name] = ""
        self.not_modelled.append(f"{self.named(name)} {shown(self.data.get(name))} ({why})")

    def ignore(self, names: Iterable[str]) -> None:
        """Take what has no effect on time and memory."""
        for name in names:
            if name in self.data and name not in self.taken:
                self.taken[name] = ""
                self.neutral.append(self.named(name))

    def named(self, name: str) -> str:
        return ".".join(str(step) for step in (*self.location, name))

    def read(self) -> list[str]:
        """Return the fields that were read."""
        return [self.named(name) for name, ours in self.taken.items() if ours]

    def rest(self) -> list[str]:
        """Return the fields that nobody took."""
        return [self.named(str(name)) for name in self.data if name not in self.taken]


def model_of(fields: dict[str, Any], places: Mapping[str, str], where: str) -> ModelSpec:
    """Return the model that these fields make. `places` names the field of the file that each came from."""
    document = YamlDocument(where, {name: value for name, value in fields.items() if value is not None})
    document.changes = {(name,): place for name, place in places.items()}
    model: ModelSpec = checked(ModelSpec, document)
    return model


def places_of(parts: Iterable[Fields]) -> dict[str, str]:
    """Return {our field: where the file says it}."""
    return {
        ours: part.document.place((*part.location, theirs))
        for part in parts
        for theirs, ours in reversed(part.taken.items())
        if ours
    }


def json_document(text: str, where: str) -> YamlDocument:
    """Return the fields of a JSON file, with their lines where YAML, of which JSON is nearly a part, can tell them."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            line = text.count("\n", 0, text.rfind(f'"{twice}"')) + 1
            raise PlacedError(f"{where}:{line}: field {twice!r}: is there twice; leave one of them")
        return dict(pairs)

    try:
        data = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise PlacedError(f"{where}:{error.lineno}: is not JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise PlacedError(f"{where}: is not JSON: {shown(str(error))}") from None
    if not isinstance(data, dict):
        raise PlacedError(f"{where}:1: must be a JSON object of fields and values")
    try:
        return YamlDocument(where, data, parse_document(text.replace("\t", "  "), where).node)
    except PlacedError:
        return YamlDocument(where, data)


def model_text(imported: Imported, source: Path) -> str:
    """Return the model file, with the account of the file it was made of."""
    head = [f"# From {source.name}, {imported.kind}."]
    for line in imported.account():
        head += _wrapped(line)
    fields = imported.model.model_dump(mode="json", exclude_none=True)
    defaults = ModelSpec.model_fields
    plain = {
        name: value
        for name, value in fields.items()
        if defaults[name].is_required() or value != defaults[name].default or name in ("name", "compute_dtype")
    }
    return "\n".join(head) + "\n" + yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def _wrapped(line: str, width: int = 110) -> list[str]:
    import textwrap

    plain = " ".join(line.split())
    return textwrap.wrap(plain, width, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False)
