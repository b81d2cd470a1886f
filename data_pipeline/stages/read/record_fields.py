"""Where a record has what a recipe asks for: a field, a path into fields, or several of them joined.

| in the recipe | is |
|---|---|
| `content` | the field of this name, whatever its name is made of |
| `article.body` | a field of a field |
| `段落[].内容` | the field of each element of a list, joined by line ends |
| `[title, body]` | several of these, joined by line ends; those that a record lacks are passed over |
"""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data_pipeline.recipe import Fields

_STEP = re.compile(r"([^.\[\]]+)|\[(\d*)\]|\.")


def columns_of(field: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of the record's own fields that a field of the recipe lies in."""
    return tuple(_top(name) for name in ((field,) if isinstance(field, str) else field))


def document_columns(fields: Fields) -> tuple[str, ...]:
    """Return the columns that hold the document: a page, or its text."""
    return columns_of(fields.html) if fields.html else columns_of(fields.text)


def take_text(record: dict[str, Any], field: str | Sequence[str]) -> Any:
    """Take the text out of a record: a string where it has one, None where it has none, else what stands there."""
    if isinstance(field, str) and (field in record or _top(field) == field):
        return record.pop(field, None)
    found: list[Any] = []
    for name in (field,) if isinstance(field, str) else field:
        found += [record[name]] if name in record else list(_values(record, _steps(name)))
    for name in columns_of(field):
        record.pop(name, None)
    texts = [value for value in found if isinstance(value, str)]
    if not texts:
        return next((value for value in found if value is not None), None)
    return "\n".join(texts)


def take_value(record: dict[str, Any], field: str) -> Any:
    """Take a single value out of a record; a value inside a field is read and stays."""
    if field in record or _top(field) == field:
        return record.pop(field, None)
    return next(_values(record, _steps(field)), None)


@functools.lru_cache(maxsize=64)
def _steps(path: str) -> tuple[str | int | None, ...]:
    """Return the steps of a path: names, numbers of elements, None for every element."""
    steps: list[str | int | None] = []
    for match in _STEP.finditer(path):
        if match[1]:
            steps.append(match[1])
        elif match[2] is not None:
            steps.append(int(match[2]) if match[2] else None)
    return tuple(steps)


def _top(path: str) -> str:
    steps = _steps(path)
    return str(steps[0]) if len(steps) > 1 and isinstance(steps[0], str) else path


def _values(value: Any, steps: Sequence[str | int | None]) -> Iterator[Any]:
    if not steps:
        yield value
        return
    step, rest = steps[0], steps[1:]
    if isinstance(step, str):
        if isinstance(value, Mapping) and step in value:
            yield from _values(value[step], rest)
    elif isinstance(value, list):
        for element in value if step is None else value[step : step + 1]:
            yield from _values(element, rest)
