"""JSON as RFC 8259 has it: a number that is not finite is null, which every reader takes."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pangu.foundation.errors import UserError


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


def check_surrogates(value: Any, place: str) -> None:
    """Raise UserError that names the place and the field of a text with half of a surrogate pair.

    JSON can write one (`"\\ud800"`), and UTF-8, the tokenizer and every output cannot.
    """
    field = lone_surrogate(value)
    if field is not None:
        raise UserError(f"{place}: field {field!r}: holds half of a surrogate pair, which UTF-8 has no place for")


def lone_surrogate(value: Any, field: str = "") -> str | None:
    """Return the field of the first such text in a JSON value, e.g. `messages[0].content`; None: there is none."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return field
        return None
    inner: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        inner = [(f"{field}.{name}" if field else str(name), one) for name, one in value.items()]
    elif isinstance(value, Sequence):
        inner = [(f"{field}[{number}]", one) for number, one in enumerate(value)]
    return next((found for name, one in inner if (found := lone_surrogate(one, name)) is not None), None)
