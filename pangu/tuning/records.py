"""Read what a model is to learn: instructions, conversations, pairs, or plain texts; one shape for all of them.

A record is a list of turns. What is wrong with one is said with its line and its reason; the others are used.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pangu.foundation.errors import UserError
from pangu.foundation.json_text import check_value, loads
from pangu.foundation.plain_text import read_plain
from pangu.foundation.yaml_document import shown

MOST_CHARACTERS = 1_000_000  # of a record
Role = Literal["system", "user", "assistant"]
SHAREGPT_ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "bot": "assistant",
    "system": "system",
}


@dataclass(frozen=True)
class Turn:
    role: Role
    text: str


@dataclass(frozen=True)
class Record:
    """Turns that end with an answer; or a plain text, which has none."""

    turns: tuple[Turn, ...] = ()
    text: str = ""


@dataclass(frozen=True)
class Pair:
    """A question with an answer that is preferred to another one."""

    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Reject:
    """A record that cannot be used. place: FILE:LINE, or FILE: record N."""

    place: str
    reason: str


class RecordError(ValueError):
    """What is wrong with one record."""


def read_records(path: Path, parse: Callable[[Any], Record | Pair] | None = None) -> Iterator[Record | Pair | Reject]:
    """Yield the records of a JSON, JSONL or TXT file, gzipped or not. Raises UserError for a file that is none.

    parse: what makes a record of a JSON value; None: `record_of`.

    Forms: Alpaca {instruction, input, output}, ShareGPT {conversations: [{from, value}]}, OpenAI {messages: [{role,
    content}]}, {prompt, completion}, ModelScope {src_txt, tgt_txt}, {text}; a TXT file has a text a line.
    """
    content, name = read_plain(path), path.name.lower().removesuffix(".gz")
    is_text, parse = name.endswith(".txt"), parse or record_of
    rows = None if is_text else _listed(content, name.endswith(".json"), path)
    for number, row in enumerate(rows or [], 1):
        yield _record_or_reject(f"{path}: record {number}", row, parse)
    for number, line in enumerate(content.split(b"\n") if rows is None else [], 1):
        if line.strip():
            yield from _checked(f"{path}:{number}", line, None if is_text and parse is record_of else parse, is_text)


def _listed(content: bytes, is_json: bool, path: Path) -> list[Any] | None:
    """Return the values of a JSON list, or the one object of a `.json` file; None where there is an object a line."""
    is_list = content.lstrip()[:1] == b"["
    if not (is_list or is_json):
        return None
    try:
        value = loads(content.decode())
    except ValueError as error:
        if not is_list:
            return None
        raise UserError(f"{path}: is not JSON: {error}") from None
    return value if is_list else [value]


def _checked(
    place: str, line: bytes, parse: Callable[[Any], Record | Pair] | None, is_text: bool = False
) -> Iterator[Record | Pair | Reject]:
    try:
        text = line.decode("utf-8-sig").rstrip("\r")
    except UnicodeDecodeError as error:
        yield Reject(place, f"is not UTF-8: {error.reason}")
        return
    if parse is None:
        yield Record(text=text)
        return
    if is_text:
        yield Reject(place, "is a line of text; pairs are JSON objects")
        return
    try:
        row = loads(text)
    except ValueError as error:
        yield Reject(place, f"is not JSON: {error}")
        return
    yield _record_or_reject(place, row, parse)


def _record_or_reject(place: str, row: Any, parse: Callable[[Any], Record | Pair]) -> Record | Pair | Reject:
    try:
        check_value(row, place)
        return parse(row)
    except RecordError as error:
        return Reject(place, str(error))
    except UserError as error:
        return Reject(place, str(error).removeprefix(f"{place}: "))


def pair_of(row: Any) -> Pair:
    """Return the pair in a JSON object {prompt, chosen, rejected}. Raises RecordError."""
    if not isinstance(row, dict):
        raise RecordError("is no object")
    pair = Pair(*(_text(row, name) for name in Pair.__dataclass_fields__))
    if pair.chosen == pair.rejected:
        raise RecordError("'chosen' and 'rejected' are the same")
    if len(pair.prompt) + len(pair.chosen) + len(pair.rejected) > MOST_CHARACTERS:
        raise RecordError(f"has more than {MOST_CHARACTERS:,} characters")
    return pair


def record_of(row: Any) -> Record:
    """Return the record in a JSON object. Raises RecordError."""
    if not isinstance(row, dict):
        raise RecordError("is no object")
    forms = [name for name in ("conversations", "messages", "instruction", "prompt", "src_txt", "text") if name in row]
    if len(forms) != 1:
        known = "instruction/output, conversations, messages, prompt/completion, src_txt/tgt_txt or text"
        raise RecordError(f"has {' and '.join(forms)}: give one form" if forms else f"has none of {known}")
    form = forms[0]
    if form in ("conversations", "messages"):
        record = Record(_turns(row[form], form))
    elif form == "text":
        record = Record(text=_text(row, "text"))
    else:
        question, answer = {"instruction": "output", "prompt": "completion", "src_txt": "tgt_txt"}[form], None
        answer = _text(row, question)
        asked = _text(row, form)
        extra = _text(row, "input", is_needed=False) if form == "instruction" else ""
        record = Record((Turn("user", f"{asked}\n{extra}" if extra else asked), Turn("assistant", answer)))
    if sum(len(turn.text) for turn in record.turns) + len(record.text) > MOST_CHARACTERS:
        raise RecordError(f"has more than {MOST_CHARACTERS:,} characters")
    return record


def _text(row: dict[str, Any], name: str, is_needed: bool = True) -> str:
    value = row.get(name)
    if value is None and not is_needed:
        return ""
    if value is None:
        raise RecordError(f"field {name!r} is missing")
    if not isinstance(value, str):
        raise RecordError(f"field {name!r} must be text")
    if is_needed and not value.strip():
        raise RecordError(f"field {name!r} is empty")
    return value


def _turns(rows: Any, form: str) -> tuple[Turn, ...]:
    if not isinstance(rows, list) or not rows:
        raise RecordError(f"field {form!r} must be a list of turns")
    role_name, text_name = ("from", "value") if form == "conversations" else ("role", "content")
    turns = []
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise RecordError(f"{form}[{number}] must be an object")
        role = SHAREGPT_ROLES.get(str(row.get(role_name)))
        if role is None:
            raise RecordError(f"{form}[{number}]: {role_name} {shown(row.get(role_name))} is unknown")
        try:
            turns.append(Turn(role, _text(row, text_name)))
        except RecordError as error:
            raise RecordError(f"{form}[{number}]: {error}") from None
    first = int(turns[0].role == "system")
    for number, turn in enumerate(turns[first:], first):
        wanted = "assistant" if (number - first) % 2 else "user"
        if turn.role != wanted:
            raise RecordError(f"roles are out of order: {form}[{number}] is {turn.role}'s, {wanted}'s was expected")
    if turns[first:] == [] or turns[-1].role != "assistant":
        raise RecordError("the last turn must be the assistant's")
    return tuple(turns)
