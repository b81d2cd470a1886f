"""Reading a YAML file into a pydantic model, with one clear line for whatever is wrong in it."""

import difflib
import math
import reprlib
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from pangu.foundation.errors import UserError

PRESETS = Path(__file__).parent / "presets"
LARGEST = 10**15  # of any number in a file: beyond it nothing is a size, a count or a rate
MOST_VALUES = 100_000  # in one file, repeated references counted each time
DEEPEST = 50
MOST_NAMES = 16  # in a message
SHORT = reprlib.Repr()  # values in messages, cut
SHORT.maxstring = SHORT.maxother = 60
SHORT.maxlist = 8


# the C loader reads the same YAML five times faster; it is missing where PyYAML was built without libyaml
class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML in which a key that stands twice is an error, not the second value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key.value!r} stands twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


class Section(BaseModel):
    """A part of a file: frozen, and an unknown field is an error that names the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class SpecFile(Section):
    """A whole file. `folder` is where the presets of this kind lie."""

    @classmethod
    def presets_directory(cls) -> Path:
        raise NotImplementedError

    @classmethod
    def preset_names(cls) -> list[str]:
        return sorted(path.stem for path in cls.presets_directory().glob("*.yaml"))

    @classmethod
    def preset(cls, name: str) -> Self:
        """A shipped preset. Raises UserError that names the nearest one."""
        known = cls.preset_names()
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {listed(known)}"
            raise UserError(f"preset {SHORT.repr(name)} of {cls.presets_directory().name} does not exist; {hint}")
        return cls.load(cls.presets_directory() / f"{name}.yaml")

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a file. Raises UserError that names the file, the field and what would be right."""
        return cls.parse(read_text(path), str(path))

    @classmethod
    def parse(cls, text: str, where: str) -> Self:
        """Read YAML text; `where` is named in errors."""
        try:
            fields = yaml.load(text, Loader)
        except yaml.YAMLError as error:
            said = " ".join(str(error).replace('in "<unicode string>", ', "at ").split())
            raise UserError(f"{where}: is not YAML: {said}") from None
        except (RecursionError, ValueError) as error:  # nested too deep; a date or a number that cannot be
            raise UserError(f"{where}: is not YAML: {SHORT.repr(str(error))}") from None
        if not isinstance(fields, dict):
            raise UserError(f"{where}: must be a YAML mapping of fields to values")
        check_size(fields, where)
        return cls.from_fields(fields, where)

    @classmethod
    def from_fields(cls, fields: dict, where: str) -> Self:
        """Check a mapping of fields; `where` is named in errors."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise UserError(f"{where}: {describe(error, cls)}") from None


def read_text(path: Path | str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{SHORT.repr(str(path))[1:-1]}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read: byte {error.start} is not UTF-8 text") from None
    except ValueError as error:
        raise UserError(f"{SHORT.repr(str(path))}: cannot be read: {error}") from None


def check_size(fields: dict, where: str) -> None:
    """Raises UserError for references that unfold without end, and for numbers beyond all sizes."""
    left, count = [(0, "", fields)], 0
    while left:
        depth, place, value = left.pop()
        count += 1
        if count > MOST_VALUES or depth > DEEPEST:
            raise UserError(f"{where}: holds more than {MOST_VALUES:,} values, or one that holds itself")
        inner: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        left += [(depth + 1, f"{place}.{key}" if place else str(key), each) for key, each in inner]
        if isinstance(value, int | float) and abs(value) > LARGEST and value != math.inf:
            raise UserError(f"{where}: field {place!r} is larger than any size; nearest: {LARGEST}")


def describe(error: ValidationError, schema: type[BaseModel]) -> str:
    """The first complaint of pydantic in one line: the field, its value, and the nearest legal one. A field that is
    unknown is named before one that is missing, which it may be meant for."""
    errors = error.errors()
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    place = [str(part) for part in first["loc"] if part != "[key]"]
    field = ".".join(place)
    if first["type"] in ("extra_forbidden", "invalid_key"):
        known = _fields_at(schema, place[:-1])
        nearest = difflib.get_close_matches(place[-1], known, n=1, cutoff=0.5)
        return f"field {SHORT.repr(field)} is unknown; " + (
            f"did you mean {nearest[0]!r}?" if nearest else f"known: {listed(known)}"
        )
    if first["type"] == "missing":
        return f"field {field!r} is missing"
    if first["type"] == "literal_error":
        expected = first["ctx"]["expected"]
        legal = [word.strip(" '") for word in expected.replace(" or ", ",").split(",")]
        nearest = difflib.get_close_matches(str(first["input"]), legal, n=1, cutoff=0.3)
        return (
            f"field {field!r} = {SHORT.repr(first['input'])} is not legal; "
            + (f"did you mean {nearest[0]!r}? " if nearest else "")
            + f"legal: {', '.join(legal)}"
        )
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    message = message[:1].lower() + message[1:]
    if first["type"] == "value_error":  # ours: it names the fields and their values itself
        return f"{field}: {message}" if field else message
    if first["type"] == "model_type":
        message = "must be a mapping of fields to values"
    return f"field {field!r} = {SHORT.repr(first['input'])}: {message}{_nearest(first)}"


def _nearest(error: Any) -> str:
    """The legal number next to one that is out of bounds."""
    bounds, value = error.get("ctx", {}), error["input"]
    legal: float | None = None
    if error["type"] == "int_from_float" and math.isfinite(value):
        legal = max(1, round(value))
    elif "ge" in bounds or "le" in bounds:
        legal = bounds.get("ge", bounds.get("le"))
    elif "gt" in bounds and isinstance(value, int):
        legal = bounds["gt"] + 1
    return "" if legal is None else f"; nearest: {legal:g}"


def listed(names: list[str]) -> str:
    """The first of them, for a message."""
    return ", ".join(names[:MOST_NAMES]) + (f" and {len(names) - MOST_NAMES} others" * (len(names) > MOST_NAMES))


def _fields_at(schema: type[BaseModel], place: list[str]) -> list[str]:
    """The names of the fields of the section that `place` leads to."""
    for name in place:
        field = schema.model_fields.get(name)
        if field is None:
            continue
        for candidate in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                schema = candidate
                break
    return list(schema.model_fields)
