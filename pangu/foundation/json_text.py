"""JSON as RFC 8259 has it: a number that is not finite is null, which every reader takes.

What others wrote is read by `loads` and looked at by `check_value`, record by record.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pangu.foundation.errors import UserError

TOO_DEEP = "lists or objects stand in one another a hundred times and more"  # hundreds: where Python gives up


def finite(value: Any) -> Any:
    """Return the same lists and mappings with None for NaN and infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return value


def dumps(value: Any, **options: Any) -> str:
    """Return `json.dumps` of what is finite."""
    return json.dumps(finite(value), allow_nan=False, **options)


class RepeatedName(dict[str, Any]):
    """An object in whose text `name` stands more than once; the last value is kept."""

    name: str


def loads(text: str | bytes) -> Any:
    """Return a JSON value whose objects remember a name that they give twice. Raises ValueError."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    except ValueError as error:
        if "set_int_max_str_digits" in str(error):  # advice to programmers
            raise ValueError("a number has thousands of digits") from None
        raise


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    name = repeated_name(pairs)
    if name is None:
        return dict(pairs)
    repeated = RepeatedName(pairs)
    repeated.name = name
    return repeated


def repeated_name(pairs: Sequence[tuple[str, Any]]) -> str | None:
    """Return the first name that an object gives again."""
    seen = set()
    for name, _ in pairs:
        if name in seen:
            return name
        seen.add(name)
    return None


def check_value(value: Any, place: str) -> None:
    """Raise UserError that names the place and the field of what JSON can say and nothing here can mean.

    A text with half of a surrogate pair (`"\\ud800"`), which UTF-8, the tokenizer and every output cannot write, or a
    name that an object gives twice (`loads`).
    """
    try:
        found = _wrong_field(value)
    except RecursionError:
        raise UserError(f"{place}: {TOO_DEEP}") from None
    if found is None:
        return
    field, is_repeated = found
    if is_repeated:
        raise UserError(f"{place}: field {field!r}: is there more than once in one object; leave one")
    raise UserError(f"{place}: field {field!r}: holds half of a surrogate pair, which UTF-8 has no place for")


def _wrong_field(value: Any, field: str = "") -> tuple[str, bool] | None:
    """Return the first wrong field of a JSON value, e.g. `messages[0].content`, and whether its name is repeated."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return field, False
        return None
    inner: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        if isinstance(value, RepeatedName):
            return _inner_name(field, value.name), True
        inner = [(_inner_name(field, name), one) for name, one in value.items()]
    elif isinstance(value, Sequence):
        inner = [(f"{field}[{number}]", one) for number, one in enumerate(value)]
    return next((found for name, one in inner if (found := _wrong_field(one, name)) is not None), None)


def _inner_name(field: str, name: str) -> str:
    return f"{field}.{name}" if field else name
