"""What is asked for in one go: prompts from files of any common form, each with its own options where it has some.

A text file has a prompt a line; a line ends at a newline and at nothing else. A `.jsonl` file has an object a line, a
`.json` file a list of them:

    {"prompt": "one\nor more lines", "max_new_tokens": 20, "temperature": 0, "stop": ["。"], "id": 7}

Options are those of the command line, with underscores; `id` comes back with the answer.
"""

import codecs
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from pangu.foundation.best_effort import reason_of
from pangu.foundation.errors import UserError
from pangu.foundation.json_text import check_value, finite, loads
from pangu.foundation.plain_text import unpacked
from pangu.foundation.settings import nearest_name
from pangu.foundation.yaml_document import shown
from pangu.generation.options import GenerationOptions

MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
# In a JSON line -> the option; the rest is named alike.
RENAMED = {"stop": "stop_strings", "stop_id": "stop_ids"}
OPTION_NAMES = {field.name for field in fields(GenerationOptions)} - set(RENAMED.values()) | set(RENAMED)


@dataclass(frozen=True)
class Request:
    """One text to continue."""

    prompt: str
    options: GenerationOptions
    identity: Any = None  # what its line called it


def decode(content: bytes, charset: str | None, where: str) -> str:
    """Return the text of a file without its mark. charset: None is UTF-8, or what the mark says. Raises UserError."""
    marked = next(((mark, name) for mark, name in MARKS if content.startswith(mark)), None)
    if marked and charset is None:
        content, charset = content[len(marked[0]) :], marked[1]
    try:
        text = content.decode(charset or "utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        hint = "; give --charset, e.g. gb18030" if charset is None else ""
        raise UserError(
            f"{where}:{line}: byte 0x{content[error.start]:02x} is not {charset or 'UTF-8'}{hint}"
        ) from None
    except (LookupError, ValueError):
        raise UserError(f"--charset {charset}: is not known; utf-8, gb18030, big5 or utf-16 would be right") from None
    return text.removeprefix("\ufeff")


def read_rows(content: bytes, charset: str | None, where: str, is_jsonl: bool) -> list[dict[str, Any]]:
    """Return {"prompt": …, options …} of every line that is not blank. Raises UserError."""
    lines = [line.removesuffix("\r") for line in decode(content, charset, where).split("\n")]
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        rows.append(read_object(line, f"{where}:{number}") if is_jsonl else {"prompt": line})
    if not rows:
        raise UserError(f"{where}: holds no prompt: write one a line")
    return rows


def read_object(line: str, where: str) -> dict[str, Any]:
    """Return the object of a line of JSON. Raises UserError."""
    try:
        row = loads(line)
    except ValueError as error:
        raise UserError(f"{where}: is not JSON: {error}") from None
    return checked_row(row, where)


def checked_row(row: Any, where: str) -> dict[str, Any]:
    """Return a JSON value that asks for a text. Raises UserError."""
    check_value(row, where)
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
        raise UserError(f'{where}: must be an object with a text "prompt"')
    for name in row:
        if name not in ("prompt", "id") and name not in OPTION_NAMES:
            raise UserError(f"{where}: field {name!r} is unknown{nearest_name(name, sorted(OPTION_NAMES | {'id'}))}")
    if finite(row.get("id")) != row.get("id"):
        raise UserError(f"{where}: field 'id': is no number that JSON can say")
    return row


def read_file(path: str, charset: str | None, content: bytes | None = None) -> list[dict[str, Any]]:
    """Return the rows of a file. content: in its place, of standard input. Raises UserError."""
    if content is None:
        try:
            content = Path(path).read_bytes()
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read: {reason_of(error)}") from None
    name, content = path.lower(), unpacked(content, path)
    name = name.removesuffix(".gz")
    if name.endswith(".json"):
        return read_json(content, charset, path)
    return read_rows(content, charset, path, name.endswith((".jsonl", ".ndjson")))


def read_json(content: bytes, charset: str | None, where: str) -> list[dict[str, Any]]:
    """Return the rows of a JSON list of objects, of one object, or of an object a line. Raises UserError."""
    try:
        value = loads(decode(content, charset, where))
    except ValueError:
        return read_rows(content, charset, where, is_jsonl=True)
    rows = value if isinstance(value, list) else [value]
    if not rows:
        raise UserError(f"{where}: holds no prompt: write one a line")
    return [checked_row(row, f"{where}: record {number}") for number, row in enumerate(rows, 1)]


def requests_of(
    rows: Iterable[Mapping[str, Any]], usual: GenerationOptions, samples: int = 1, is_varied: bool = False
) -> list[Request]:
    """Return what the rows ask for, each `samples` times. Raises UserError for an option that means nothing.

    is_varied: whether a prompt that is there again gets another text.
    """
    requests, seen = [], dict[str, int]()
    for number, row in enumerate(rows, 1):
        changes = {RENAMED.get(name, name): value for name, value in row.items() if name not in ("prompt", "id")}
        for name, value in changes.items():
            if name.startswith("stop_"):
                more, kind = value if isinstance(value, list) else [value], str if name == "stop_strings" else int
                if any(type(one) is not kind for one in more):
                    raise UserError(f"prompt {number}: field {name!r} = {shown(value)}: is of the wrong type")
                changes[name] = (*getattr(usual, name), *more)
            elif not fits(value, getattr(usual, name)):
                raise UserError(f"prompt {number}: field {name!r} = {shown(value)}: is of the wrong type")
        before = seen.get(row["prompt"], 0) if is_varied else 0
        seen[row["prompt"]] = before + samples
        for sample in range(samples):
            options = replace(usual, **({"sample": before + sample} | changes))
            requests.append(Request(row["prompt"], options, row.get("id")))
    return requests


def fits(value: object, usual: object) -> bool:
    """Return whether a value of JSON is of an option's type."""
    if isinstance(usual, bool) or isinstance(value, bool):
        return isinstance(usual, bool) and isinstance(value, bool)
    return isinstance(value, (int, float) if isinstance(usual, float) else type(usual))
