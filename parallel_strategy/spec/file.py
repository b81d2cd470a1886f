"""Reading a YAML file into a pydantic model, with one clear line for whatever is wrong in it."""

import difflib
from pathlib import Path
from typing import Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from parallel_strategy.errors import UserError

PRESETS = Path(__file__).parent / "presets"
# the C loader reads the same YAML five times faster; it is missing where PyYAML was built without libyaml
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Section(BaseModel):
    """A part of a file: frozen, and an unknown field is an error that names the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


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
        path = cls.presets_directory() / f"{name}.yaml"
        if not path.is_file():
            known = cls.preset_names()
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(known)}"
            raise UserError(f"preset {name!r} of {cls.presets_directory().name} does not exist; {hint}")
        return cls.load(path)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a file. Raises UserError that names the file, the field and what would be right."""
        return cls.parse(read_text(path), str(path))

    @classmethod
    def parse(cls, text: str, where: str) -> Self:
        """Read YAML text; `where` is named in errors."""
        try:
            fields = yaml.load(text, LOADER)
        except yaml.YAMLError as error:
            raise UserError(f"{where}: is not YAML: {' '.join(str(error).split())}") from None
        if not isinstance(fields, dict):
            raise UserError(f"{where}: must be a YAML mapping of fields to values")
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
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def describe(error: ValidationError, schema: type[BaseModel]) -> str:
    """The first complaint of pydantic in one line: the field, its value, and the nearest legal one."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    field = ".".join(place)
    if first["type"] == "extra_forbidden":
        known = _fields_at(schema, place[:-1])
        nearest = difflib.get_close_matches(place[-1], known, n=1, cutoff=0.5)
        return f"field {field!r} is unknown; " + (
            f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(known)}"
        )
    if first["type"] == "missing":
        return f"field {field!r} is missing"
    if first["type"] == "literal_error":
        expected = first["ctx"]["expected"]
        legal = [word.strip(" '") for word in expected.replace(" or ", ",").split(",")]
        nearest = difflib.get_close_matches(str(first["input"]), legal, n=1, cutoff=0.3)
        return (
            f"field {field!r} = {first['input']!r} is not legal; "
            + (f"did you mean {nearest[0]!r}? " if nearest else "")
            + f"legal: {', '.join(legal)}"
        )
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return f"field {field!r} = {first['input']!r}: {message}" if field else message


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
