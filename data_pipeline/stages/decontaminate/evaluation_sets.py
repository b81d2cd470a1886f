"""Readers of evaluation sets: files of any of their usual forms to the texts that a corpus must not hold.

| form | what a text is |
|---|---|
| JSON (arrays, objects, SQuAD's nesting) | every string; a list of strings is one text (turns of a talk, words) |
| JSON lines | the same, line by line |
| cloze (`1 ||| 词 词 XXXXX`, CMRC2017, CFT) | a numbered passage with its question; spaces between words go |
| CSV, TSV | a cell |
| TXT and anything else that is text | a paragraph |
| zip, gz | the files inside |

The form is found by looking at the content, not at the name. Gaps that a cloze test leaves in a text (`[BLANK1]`,
`#idiom#`, `XXXXX`, `[MASK]`) divide it. Numbers, addresses and labels fall away by themselves: what is shorter than an
n-gram cannot be found in a corpus anyway."""

import csv
import gzip
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.stages.read import charset
from pangu.foundation.errors import UserError

MAXIMUM_FILE_BYTES = 1 << 30
# what a compressed file may grow to: evaluation sets are text, which is packed 3:1 to 10:1
MAXIMUM_RATIO = 100
MAXIMUM_MEMBERS = 10_000

_GAPS = re.compile(r"\[BLANK\d*\]|#idiom\d*#|\[MASK\]|\[UNK\]|<mask>|X{4,}|_{3,}|＿{2,}")
_CLOZE = re.compile(r"^\s*(\d+|<qid_\d+>)\s*\|\|\|\s?(.*)$")
_ADDRESS = re.compile(r"\s*(?:https?|ftp)://\S+\s*")
# a list of this many strings of so few characters on average is a text cut into words, without anything between them
_SEGMENTED_ITEMS, _SEGMENTED_MEAN = 4, 4.0


@dataclass(frozen=True)
class EvaluationFile:
    """A file of an evaluation set."""

    path: Path
    set_name: str
    is_named: bool
    """Whether the recipe names it itself, so that it must be readable."""


@dataclass(frozen=True)
class EvaluationText:
    """A piece of an evaluation set, and where it stands: `place` is a path inside the file, like `data[3].context`."""

    set_name: str
    file: str
    place: str
    text: str


def evaluation_files(paths: Sequence[str]) -> list[EvaluationFile]:
    """Return the files under absolute paths, directories or globs, in order. A set is called like the folder under the
    directory that was given, or else like its file.
    """
    found: dict[Path, EvaluationFile] = {}
    for given in paths:
        root = Path(given)
        if root.is_file():
            files, is_named = [root], True
        elif root.is_dir():
            files, is_named = sorted(path for path in root.rglob("*") if path.is_file()), False
        else:
            anchor = Path(root.anchor)
            files = sorted(path for path in anchor.glob(str(root.relative_to(anchor))) if path.is_file())
            is_named = True
        if not files:
            raise UserError(f"decontaminate.evaluation: {given}: no file there; files, directories or globs are right")
        for path in files:
            parts = path.relative_to(root).parts if root.is_dir() else (path.name,)
            name = parts[0] if len(parts) > 1 else path.name.split(".")[0] or path.name
            found.setdefault(path, EvaluationFile(path, name, is_named))
    return list(found.values())


def read_evaluation_file(file: EvaluationFile, fields: tuple[str, ...] | None) -> Iterator[EvaluationText]:
    """Yield the texts of a file. `fields` names the keys under which texts stand; None takes every string."""
    for name, data in _members(file.path):
        label = file.path.name if name is None else f"{file.path.name}/{name}"
        for place, text in texts_of(data, fields):
            for part in _GAPS.split(text):
                if part.strip():
                    yield EvaluationText(file.set_name, label, place, part)


def texts_of(data: bytes, fields: tuple[str, ...] | None = None) -> Iterator[tuple[str, str]]:
    """Yield (place, text) of the content of a file, whichever form it has. ValueError where it is no text."""
    if b"\0" in data[:4096] and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("not a text")
    decoded = charset.decode(data, markup=False)
    if decoded.doubtful:
        raise ValueError("no encoding makes sense of it")
    text = decoded.text
    begin = text.lstrip()[:1]
    if begin in ("{", "["):
        values = _json_values(text)
        if values is not None:
            for place, value in values:
                yield from _strings(value, place, fields)
            return
    lines = text.splitlines()
    if _share(lines, _CLOZE.match) > 0.5:
        yield from _cloze(lines)
    elif (separator := _separator(lines)) is not None:
        yield from _cells(text, separator, fields)
    else:
        yield from _paragraphs(lines)


def _members(path: Path) -> Iterator[tuple[str | None, bytes]]:
    """Yield the file itself, or the files inside a zip. Nothing is unpacked to the disk; sizes are bounded."""
    try:
        if path.stat().st_size > MAXIMUM_FILE_BYTES:
            raise UserError(f"{path}: larger than 1 GiB; an evaluation set is cut into files")
        data = path.read_bytes()
        if data.startswith(b"PK\3\4"):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                for member in archive.infolist()[:MAXIMUM_MEMBERS]:
                    if not member.is_dir():
                        with archive.open(member) as stream:
                            yield member.filename, _bounded(stream, len(data), path)
        elif data.startswith(b"\x1f\x8b"):
            with gzip.open(io.BytesIO(data)) as stream:
                yield None, _bounded(stream, len(data), path)
        else:
            yield None, data
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (zipfile.BadZipFile, EOFError, zlib.error, RuntimeError, NotImplementedError) as error:
        raise UserError(f"{path}: damaged: {error}") from error


def _bounded(stream: Any, packed: int, path: Path) -> bytes:
    limit = min(MAXIMUM_FILE_BYTES, max(1 << 20, MAXIMUM_RATIO * packed))
    data = stream.read(limit + 1)
    if len(data) > limit:
        raise UserError(f"{path}: grows more than {MAXIMUM_RATIO} times when unpacked; it is no evaluation set")
    return data


def _json_values(text: str) -> list[tuple[str, Any]] | None:
    """Return (place, value) of a JSON file, or of each line of JSON lines; None if it is neither."""
    try:
        return [("", json.loads(text))]
    except (ValueError, RecursionError):
        pass
    values = []
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.strip():
            try:
                values.append((f"line {number + 1}", json.loads(line)))
            except (ValueError, RecursionError):
                continue
    filled = sum(bool(line.strip()) for line in lines)
    # a damaged line or two do not make it another form
    return values if values and len(values) * 2 > filled else None


def _strings(value: Any, place: str, fields: tuple[str, ...] | None) -> Iterator[tuple[str, str]]:
    """Yield (place, text) of every string at any depth, or of those under one of `fields`. No recursion: depth is
    theirs.
    """
    stack: list[tuple[str, Any, bool]] = [(place, value, fields is None)]
    while stack:
        where, current, is_wanted = stack.pop()
        if isinstance(current, str):
            if is_wanted and not _ADDRESS.fullmatch(current):
                yield where, current
        elif isinstance(current, list):
            if current and all(isinstance(item, str) for item in current):
                if is_wanted:
                    yield where, _joined(current)
            else:
                stack += [(f"{where}[{index}]", item, is_wanted) for index, item in reversed(list(enumerate(current)))]
        elif isinstance(current, dict):
            entries = [
                (f"{where}.{key}".lstrip("."), item, is_wanted or (fields is not None and key in fields))
                for key, item in current.items()
            ]
            stack += reversed(entries)


def _joined(items: list[str]) -> str:
    mean = sum(map(len, items)) / len(items)
    return ("" if len(items) >= _SEGMENTED_ITEMS and mean <= _SEGMENTED_MEAN else "\n").join(items)


def _share(lines: Sequence[str], matches: Any) -> float:
    filled = [line for line in lines[:200] if line.strip()]
    return sum(bool(matches(line)) for line in filled) / len(filled) if filled else 0.0


def _cloze(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield numbered lines; a passage ends where the numbers begin anew. What stands behind a further ||| is the
    answer."""
    passage: list[str] = []
    start = 1
    before = 0
    for number, line in enumerate(lines, 1):
        match = _CLOZE.match(line)
        if match is None:
            continue
        count = int(match[1]) if match[1].isdecimal() else 0
        if count <= before and passage:
            yield f"line {start}", "".join(passage)
            passage, start = [], number
        before = count
        passage.append("".join(match[2].partition("|||")[0].split(" ")))
    if passage:
        yield f"line {start}", "".join(passage)


def _separator(lines: Sequence[str]) -> str | None:
    """Return tab or comma, where every line has the same number of them, and one at least."""
    filled = [line for line in lines[:200] if line.strip()]
    for mark in ("\t", ","):
        counts = {line.count(mark) for line in filled}
        if len(filled) > 1 and len(counts) == 1 and counts != {0}:
            return mark
    return None


def _cells(text: str, separator: str, fields: tuple[str, ...] | None) -> Iterator[tuple[str, str]]:
    rows = csv.reader(io.StringIO(text), delimiter=separator)
    names: list[str] = []
    try:
        for number, row in enumerate(rows):
            if number == 0:
                names = row
                if fields is not None:
                    continue
            for column, cell in enumerate(row):
                name = names[column] if column < len(names) else str(column)
                if fields is None or name in fields:
                    yield f"line {number + 1}, column {column + 1}", cell
    except csv.Error as error:
        raise ValueError(f"no table: {error}") from error


def _paragraphs(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield f"line {number}", line
