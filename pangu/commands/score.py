"""Log-likelihoods of texts under a model.

    python -m pangu score work/run texts.jsonl
    python -m pangu score work/run pairs.jsonl --out scores.jsonl

FILE has an object a line: {"context": .., "continuation": ..} for a continuation, or {"text": ..} for a whole text. The
output has an object for each, in order: the sum of log p in nats, the number of tokens, and for a continuation whether
each of its tokens was the most likely one. A result does not depend on the others.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pangu.commands.model_arguments import add_scoring_arguments, load_model
from pangu.foundation.best_effort import reason_of
from pangu.foundation.errors import UserError

BLOCK = 64  # lines that are asked together


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a run, a checkpoint, or weights of any form")
    parser.add_argument("file", help="JSON lines; - is standard input")
    parser.add_argument("--out", metavar="FILE", help="default: standard output")
    add_scoring_arguments(parser)


def read_lines(path: str) -> list[dict[str, str]]:
    """Return the objects of a file, checked. Raises UserError that names the line and the field."""
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8: {reason_of(error)}") from None
    rows = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not rows:
        raise UserError(f'{path}: holds no line; write {{"context": .., "continuation": ..}} or {{"text": ..}}')
    return [read_line(line, f"{path}:{number}") for number, line in rows]


def read_line(line: str, place: str) -> dict[str, str]:
    """Return one object. Raises UserError."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{place}: is not JSON: {error}") from None
    names = ("text",) if isinstance(row, dict) and "text" in row else ("context", "continuation")
    for name in names:
        if not isinstance(row, dict) or not isinstance(row.get(name), str):
            raise UserError(f"{place}: field {name!r}: must be text; give context and continuation, or text")
    if not row[names[-1]]:
        raise UserError(f"{place}: field {names[-1]!r}: is empty; there is nothing to score")
    return {name: row[name] for name in names}


def results(model: Any, rows: list[dict[str, str]]) -> Iterator[dict[str, Any]]:
    """Yield a result for each row."""
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        pairs = [(row["context"], row["continuation"]) for row in block if "text" not in row]
        texts = [row["text"] for row in block if "text" in row]
        scored, totals = iter(model.log_likelihood(pairs)), iter(model.rolling_log_likelihood(texts))
        for row in block:
            if "text" in row:
                yield {"log_likelihood": next(totals), "tokens": len(model.ids(row["text"]))}
            else:
                one = next(scored)
                tokens = len(one.log_probabilities)
                yield {"log_likelihood": one.total, "tokens": tokens, "is_greedy": one.is_greedy}


def run(arguments: argparse.Namespace) -> int:
    rows = read_lines(arguments.file)
    from pangu.foundation.atomic_file import whole_file
    from pangu.foundation.json_text import dumps

    model = load_model(arguments)
    if arguments.out is None:
        for result in results(model, rows):
            print(dumps(result), flush=True)
        return 0
    with whole_file(Path(arguments.out)) as file:
        for result in results(model, rows):
            file.write((dumps(result) + "\n").encode())
    return 0
