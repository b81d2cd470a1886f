"""Arguments of the command line that are made from typed fields: flags for some, `--set FIELD VALUE` for every one."""

import argparse
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from pangu.foundation.translation import translated

if TYPE_CHECKING:
    from pydantic import BaseModel

# field, value as YAML, and how the command line names it in errors
Change = tuple[str, str, str]


def add_set(parser: argparse.ArgumentParser, example: str = "FIELD VALUE") -> None:
    """Add `--set FIELD VALUE`, which may be given many times."""
    parser.add_argument(
        "--set", nargs=2, action="append", default=[], metavar=("FIELD", "VALUE"),
        help=f"another value for a field of the file, such as `--set {example}`; may be repeated",
    )  # fmt: skip


def add_flags(parser: argparse.ArgumentParser, schema: "type[BaseModel]", names: Iterable[str]) -> None:
    """Add a flag for each of these fields, with its legal values and its description."""
    for name in names:
        field = schema.model_fields[name]
        kinds = [kind for kind in (get_args(field.annotation) or (field.annotation,)) if kind is not type(None)]
        literal = field.annotation if get_origin(field.annotation) is Literal else None
        choices = list(get_args(literal)) if literal else None
        metavar = None if choices else "N" if int in kinds else "X" if float in kinds else name.upper()
        described = f"{field.description}; in place of the file's `{name}`".removeprefix("None; ")
        parser.add_argument(flag_of(name), dest=name, choices=choices, metavar=metavar, help=described)


def changes_of(arguments: argparse.Namespace, schema: "type[BaseModel]", names: Iterable[str] = ()) -> list[Change]:
    """Return what the flags of these fields and `--set` change, in this order."""
    changes: list[Change] = []
    for name in names:
        value = getattr(arguments, name)
        if value is not None:
            is_text = str in (get_args(schema.model_fields[name].annotation) or (schema.model_fields[name].annotation,))
            changes.append((name, json.dumps(value) if is_text else str(value), flag_of(name)))
    return changes + [(name, value, f"--set {name}") for name, value in arguments.set]


def words_of(changes: Iterable[Change]) -> list[str]:
    """Return the changes as words for the command line of another process."""
    words: list[str] = []
    for name, value, option in changes:
        if option.startswith("--set "):
            words += ["--set", name, value]
        else:
            words += [option, json.loads(value) if value.startswith('"') else value]
    return words


def flag_of(name: str) -> str:
    """Return `--start-from` of `start_from`."""
    return f"--{name.replace('_', '-')}"


def commented(config: "BaseModel", indent: str = "", hides_null: bool = False) -> str:
    """Return YAML of settings, with the legal values and the description of each field as a comment.

    hides_null: fields that are null become comments.
    """
    import yaml
    from pydantic import BaseModel

    lines = []
    for name, field in type(config).model_fields.items():
        value, key = getattr(config, name), field.alias or name
        if isinstance(value, BaseModel):
            summary = (type(value).__doc__ or "").split("\n")[0].split(" (`")[0].rstrip(".")
            summary = translated(summary)
            lines += [f"{indent}{key}:{f'  # {summary}' if summary else ''}"]
            lines.append(commented(value, f"{indent}  ", hides_null).rstrip("\n"))
            continue
        plain = config.model_dump(mode="json", include={name})[name]
        dumped = yaml.safe_dump(plain, allow_unicode=True, default_flow_style=True, width=10**6)
        text = f"{key}: {dumped.removesuffix('...' + chr(10)).strip()}"
        described = translated(field.description or "")
        said = "; ".join(part for part in (_legal(field.annotation), described) if part)
        is_hidden = hides_null and plain is None
        lines.append(f"{indent}{'# ' if is_hidden else ''}{text}{f'  # {said}' if said else ''}")
    return "\n".join(lines) + "\n"


def _legal(kind: Any) -> str:
    """Return the values of a literal with more than one."""
    for one in (kind, *get_args(kind)):
        if get_origin(one) is Literal and len(get_args(one)) > 1:
            return ", ".join(str(value) for value in get_args(one))
    return ""
