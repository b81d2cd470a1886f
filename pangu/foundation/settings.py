"""Typed settings: YAML files, and fields set on the command line, that pydantic checks.

Every mistake is one line, `FILE:LINE: field 'x.y': what is wrong; what would be right`.
"""

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from pangu.foundation.errors import PlacedError
from pangu.foundation.yaml_document import (
    Location,
    YamlDocument,
    dotted,
    parse_document,
    parse_value,
    read_document,
    shown,
)

MOST_NAMES = 16  # in a message

# What pydantic calls a wrong type -> what would be right.
_WANTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping of fields to values",
    "model_attributes_type": "a mapping of fields to values",
    "dataclass_type": "a mapping of fields to values",
    "none_required": "null",
}
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


class Section(BaseModel):
    """A part of a file: frozen, finite, and an unknown field is an error that names the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class SettingsFile(Section):
    """A whole file. `written_by` is the command that writes one, for messages."""

    written_by: ClassVar[str] = ""

    @classmethod
    def load(cls, path: Path | str, changes: Iterable[Sequence[str]] = ()) -> Self:
        """Read a file; `changes` are the (field, value) pairs of `--set`."""
        return checked(cls, changed(cls.read(path), changes))

    @classmethod
    def read(cls, path: Path | str) -> YamlDocument:
        """Return what the file says, with the lines, and unchecked."""
        return read_document(path, f"`{cls.written_by}` writes one" if cls.written_by else "")

    @classmethod
    def parse(cls, text: str, where: str) -> Self:
        """Read YAML text; `where` is named in errors."""
        return checked(cls, parse_document(text, where))

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any], where: str) -> Self:
        """Check a mapping of fields; `where` is named in errors."""
        return checked(cls, YamlDocument(where, fields))

    def dump(self) -> str:
        """Return YAML text that `parse` reads back to an equal object."""
        return yaml.safe_dump(self.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True)


def checked(schema: type[Any], document: YamlDocument, location: Location = (), data: Any = ...) -> Any:
    """Return the object that a part of a document describes. Raises UserError for the first mistake.

    schema: a model or a dataclass. `data` stands in for the part where it is not given in the form that it has.
    """
    given = document.data if data is ... else data
    try:
        result = schema.model_validate(given) if _is_model(schema) else TypeAdapter(schema).validate_python(given)
    except ValidationError as error:
        raise _explained(error, schema, document, location) from None
    for place, value, became in _coerced(given, result, ()):
        where = (*location, *place)
        written = _written(document, where, value)
        if not isinstance(value, bool):
            raise document.mistake(f"{written} is not a finite number", where)
        # A share of 1 may be written `true`, and always could.
        if isinstance(became, int) or (document.text(where) or "true").lower() not in ("true", "false"):
            raise document.mistake(f"{written} is not a number; nearest: {int(value)}", where)
    return result


def changed(document: YamlDocument, changes: Iterable[Sequence[str]], option: str = "--set") -> YamlDocument:
    """Set fields of a document as the command line says: (`learning_rate.peak`, `1e-4`).

    A third word is how the command line names the field in errors, where that is not `--set`.
    """
    for name, text, *words in changes:
        steps = tuple(int(step) if step.isdigit() else step for step in name.split("."))
        set_value(document, steps, text, words[0] if words else f"{option} {name}")
    return document


def set_value(document: YamlDocument, location: Location, text: str, where: str) -> None:
    """Set one field to a value that is given as YAML text; `where` names it in errors."""
    value, place = parse_value(text, where), document.data
    for depth, step in enumerate(location[:-1]):
        if isinstance(place, dict) and place.get(step) is None:
            place[step] = {}
        elif not _holds(place, step):
            raise PlacedError(f"{where}: {dotted(location[:depth]) or document.where} has no part {str(step)!r}")
        place = place[step]
    last = location[-1]
    if not isinstance(place, dict) and not _holds(place, last):
        raise PlacedError(f"{where}: {dotted(location[:-1]) or document.where} has no part {str(last)!r}")
    place[last] = value
    document.changes[location] = where
    document.texts[location] = re.split(r"(?:^|\s)#", text)[0].strip()


def nearest_name(given: str, known: Sequence[str], cutoff: float = 0.5) -> str:
    """Return `; did you mean 'x'?`, or what is known where nothing is near."""
    close = difflib.get_close_matches(given, known, n=1, cutoff=cutoff)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {listed(known)}" if known else ""


def listed(names: Sequence[str]) -> str:
    """Return the first of the names, for a message."""
    more = len(names) - MOST_NAMES
    return ", ".join(map(str, names[:MOST_NAMES])) + (f" and {more} others" if more > 0 else "")


def fields_at(schema: Any, location: Location) -> list[str]:
    """Return the names of the fields of the model that lies at `location` below `schema`."""
    names: list[str] = []
    for model in _models_at(schema, location):
        names += [field.alias or name for name, field in model.model_fields.items()]
    return names


def field_paths(schema: type[BaseModel], prefix: str = "") -> list[str]:
    """Return the dotted names of all fields, those of sections too: what `--set` takes."""
    paths = []
    for name, field in schema.model_fields.items():
        inner = [one for one in _alternatives(field.annotation) if _is_model(one)]
        own = f"{prefix}{field.alias or name}"
        paths += [own, *(path for model in inner for path in field_paths(model, f"{own}."))]
    return paths


def _explained(error: ValidationError, schema: type[Any], document: YamlDocument, location: Location) -> PlacedError:
    """Return the first complaint of pydantic in our form."""
    problems = error.errors()
    # An unknown name first: where it is a misspelling, a missing field is only its consequence.
    first = min(problems, key=lambda problem: problem["type"] not in ("extra_forbidden", "invalid_key"))
    where = _resolved(document, location, first)
    given, kind, context = first["input"], first["type"], first.get("ctx", {})
    if kind in ("extra_forbidden", "invalid_key"):
        known = fields_at(schema, where[len(location) : -1])
        what = f"is unknown{nearest_name(str(where[-1]), known)}"
        return PlacedError(f"{document.place(where)}: {what}")
    if kind == "missing":
        return document.mistake(f"is missing{_meaning(schema, where[len(location) :])}", where)
    if kind in ("value_error", "assertion_error"):  # ours: it says itself what would be right
        return document.mistake(str(context["error"]), where)
    shown_value = _written(document, where, given)
    if first["loc"][-1:] == ("[key]",):
        return document.mistake(f"{shown_value} is no name: {_lower(first['msg'])}", where)
    alternatives = [one for one in problems if _resolved(document, location, one) == where]
    legal = [name for one in alternatives if one["type"] == "literal_error" for name in _expected(one)]
    wanted = [_WANTED[one["type"]] for one in alternatives if one["type"] in _WANTED]
    if legal and not wanted:
        close = difflib.get_close_matches(str(given), legal, n=1, cutoff=0.3)
        hint = _quote(document, where) or (f"; did you mean {close[0]!r}?" if close else "")
        right = f"one of {', '.join(legal)}" if len(legal) > 1 else legal[0]
        return document.mistake(f"{shown_value} is not {right}{hint}", where)
    if wanted:
        right = " or ".join(dict.fromkeys([*legal, *wanted]))
        return document.mistake(f"{shown_value} is not {right}{_other_form(document, where, first, wanted)}", where)
    return document.mistake(f"{shown_value} {_bounds(kind, context, given) or _lower(first['msg'])}", where)


def _resolved(document: YamlDocument, location: Location, problem: Any) -> Location:
    """Return where a problem lies in the document: pydantic also names the alternatives of a type on the way."""
    where = location
    steps = [step for step in problem["loc"] if step != "[key]"]
    for index, step in enumerate(steps):
        is_name = index == len(steps) - 1 and problem["type"] in ("missing", "extra_forbidden")
        if is_name or document.has((*where, step)) or not document.has(where):
            where = (*where, step)
    return where


def _expected(problem: Any) -> list[str]:
    """Return the legal values of a literal."""
    return [word.strip(" '") for word in problem["ctx"]["expected"].replace(" or ", ",").split(",")]


def _meaning(schema: Any, location: Location) -> str:
    """Return what a missing field would say."""
    for model in _models_at(schema, location[:-1]):
        for name, field in model.model_fields.items():
            if location[-1] in (name, field.alias) and field.description:
                return (
                    f"; it is the {field.description}" if field.description[0].isupper() else f"; {field.description}"
                )
    return ""


def _written(document: YamlDocument, location: Location, value: Any) -> str:
    """Return a value as the file writes it, so that a reader finds it."""
    text = document.text(location) if not isinstance(value, str) else None
    return text if text and len(text) < 60 and not isinstance(value, dict | list) else shown(value)


def _quote(document: YamlDocument, location: Location) -> str:
    """Return advice for a word that YAML does not take as text."""
    text = document.text(location)
    value = document.value(location) if document.has(location) else None
    if not text or value is None or isinstance(value, str | dict | list):
        return ""
    kinds = {"int": "a number", "float": "a number", "date": "a date", "datetime": "a time"}
    read = str(value).lower() if isinstance(value, bool) else kinds.get(type(value).__name__, "something else")
    return f"; YAML reads {text} as {read}: quote it: {text!r}"


def _other_form(document: YamlDocument, location: Location, problem: Any, wanted: list[str]) -> str:
    """Return the nearest value of the type that is wanted."""
    given = problem["input"]
    if "a whole number" in wanted:
        number = given
        if isinstance(given, str) and _NUMBER.fullmatch(given.strip()):
            number = float(given)
        if isinstance(number, float) and math.isfinite(number) and abs(number) < 1e15:
            return f"; write {round(number)}" if number == round(number) else f"; nearest: {max(1, round(number))}"
    return _quote(document, location) if "text" in wanted else ""


def _bounds(kind: str, context: Mapping[str, Any], given: Any) -> str:
    """Return what is wrong with a number out of range, with the nearest legal one."""
    if kind in ("greater_than_equal", "less_than_equal"):
        return f"is out of range; nearest: {_plain(context.get('ge', context.get('le')))}"
    if kind in ("greater_than", "less_than"):
        bound, side = context.get("gt", context.get("lt")), "above" if "gt" in context else "below"
        if isinstance(given, int) and isinstance(bound, int):
            return f"is out of range; nearest: {int(bound) + (1 if side == 'above' else -1)}"
        return f"is out of range; it must be {side} {_plain(bound)}"
    return ""


def _plain(number: Any) -> str:
    return f"{number:g}" if isinstance(number, float) else str(number)


def _lower(message: str) -> str:
    """Return a message of pydantic as the end of our sentence."""
    message = message.removeprefix("Value error, ").removeprefix("Input ")
    return message[:1].lower() + message[1:]


def _coerced(given: Any, result: Any, place: Location) -> Iterable[tuple[Location, Any, Any]]:
    """Yield what pydantic let pass: true as a number, and text that became infinite."""
    if isinstance(result, BaseModel) and isinstance(given, Mapping):
        for name, field in type(result).model_fields.items():
            key = field.alias if field.alias is not None and field.alias in given else name
            if key in given:
                yield from _coerced(given[key], getattr(result, name), (*place, key))
    elif isinstance(result, Mapping) and isinstance(given, Mapping):
        for key, value in given.items():
            if key in result:
                yield from _coerced(value, result[key], (*place, key))
    elif isinstance(result, list | tuple) and isinstance(given, list | tuple) and len(result) == len(given):
        for index, value in enumerate(given):
            yield from _coerced(value, result[index], (*place, index))
    elif isinstance(given, bool) != isinstance(result, bool) and isinstance(result, int | float):
        yield from [(place, given, result)] * isinstance(given, bool)
    elif isinstance(result, float) and not math.isfinite(result):
        yield place, given, result


def _models_at(schema: Any, location: Location) -> list[type[BaseModel]]:
    """Return the models that may lie at `location`."""
    current = [schema]
    for step in location:
        inner: list[Any] = []
        for one in (each for kind in current for each in _alternatives(kind)):
            if _is_model(one):
                inner += [field.annotation for name, field in one.model_fields.items() if step in (name, field.alias)]
            elif get_origin(one) is dict:
                inner.append(get_args(one)[1])
            elif isinstance(step, int):
                inner += [each for each in get_args(one) if each is not Ellipsis]
        current = inner
    return [one for kind in current for one in _alternatives(kind) if _is_model(one)]


def _alternatives(kind: Any) -> list[Any]:
    """Return the members of a union, or the type itself."""
    origin = get_origin(kind)
    if origin is Union or type(kind).__name__ == "UnionType":
        return [one for each in get_args(kind) for one in _alternatives(each)]
    if hasattr(kind, "__metadata__"):
        return _alternatives(get_args(kind)[0])
    return [kind]


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _holds(value: Any, step: str | int) -> bool:
    if isinstance(value, Mapping):
        return step in value
    return isinstance(value, list) and isinstance(step, int) and step < len(value)
