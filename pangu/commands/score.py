"""Log-likelihoods of texts under a model.

    python -m pangu score work/run texts.jsonl
    python -m pangu score work/run pairs.jsonl --out scores.jsonl

FILE has an object a line: {"context": .., "continuation": ..} for a continuation, or {"text": ..} for a whole text. The
output has an object for each, in order: the sum of log p in nats, the number of tokens, and for a continuation whether
each of its tokens was the most likely one. A result does not depend on the others.

--by-position 8 takes texts and prints, for each eighth of the context, how well its tokens are predicted: whether a
longer context helps.
"""

import argparse
import math
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from pangu.commands.model_arguments import add_scoring_arguments, load_model
from pangu.foundation.best_effort import reason_of
from pangu.foundation.errors import UserError
from pangu.foundation.json_text import check_value, loads
from pangu.foundation.plain_text import read_plain

BLOCK = 64  # lines that are asked together


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a run, a checkpoint, or weights of any form")
    parser.add_argument("file", help="JSON lines; - is standard input")
    parser.add_argument("--out", metavar="FILE", help="default: standard output")
    add_scoring_arguments(parser)
    parser.add_argument(
        "--by-position", type=int, metavar="PARTS", help="of texts: nats a token in parts of the context"
    )


def read_lines(path: str) -> list[dict[str, str]]:
    """Return the objects of a file, checked. Raises UserError that names the line and the field."""
    try:
        text = sys.stdin.read().removeprefix("\ufeff") if path == "-" else read_plain(Path(path)).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read as UTF-8: {reason_of(error)}") from None
    rows = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not rows:
        raise UserError(f'{path}: holds no line; write {{"context": .., "continuation": ..}} or {{"text": ..}}')
    return [read_line(line, f"{path}:{number}") for number, line in rows]


def read_line(line: str, place: str) -> dict[str, str]:
    """Return one object. Raises UserError."""
    try:
        row = loads(line)
    except ValueError as error:
        raise UserError(f"{place}: is not JSON: {error}") from None
    check_value(row, place)
    names = ("text",) if isinstance(row, dict) and "text" in row else ("context", "continuation")
    if isinstance(row, dict) and "text" in row and {"context", "continuation"} & row.keys():
        raise UserError(f"{place}: field 'text': stands beside context or continuation; give one or the other")
    for name in names:
        if not isinstance(row, dict) or not isinstance(row.get(name), str):
            raise UserError(f"{place}: field {name!r}: must be text; give context and continuation, or text")
    if not row[names[-1]]:
        raise UserError(f"{place}: field {names[-1]!r}: is empty; there is nothing to score")
    return {name: row[name] for name in names} | {"place": place}


def results(model: Any, rows: list[dict[str, str]]) -> Iterator[dict[str, Any]]:
    """Yield a result for each row."""
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        pairs = [request_of(model, row) for row in block if "text" not in row]
        texts = [row["text"] for row in block if "text" in row]
        scored, totals = iter(model.log_likelihood(pairs)), iter(model.rolling_log_likelihood(texts))
        for row in block:
            if "text" in row:
                yield {"log_likelihood": next(totals), "tokens": len(model.ids(row["text"]))}
            else:
                one = next(scored)
                tokens = len(one.log_probabilities)
                yield {"log_likelihood": one.total, "tokens": tokens, "is_greedy": one.is_greedy}


def request_of(model: Any, row: dict[str, str]) -> tuple[list[int], list[int]]:
    """Return the ids of a context and of what is scored. Raises UserError that names the line."""
    try:
        return model.request(row["context"], row["continuation"])
    except UserError as error:
        raise UserError(f"{row['place']}: {error}") from None


def by_position(model: Any, texts: list[str], parts: int) -> Iterator[dict[str, Any]]:
    """Yield a result for each part of the context that has tokens."""
    sums, counts = model.nats_by_position(texts)
    parts = min(parts, len(sums))
    bounds = [len(sums) * part // parts for part in range(parts + 1)]
    for first, end in pairwise(bounds):
        tokens, nats = int(counts[first:end].sum()), float(sums[first:end].sum())
        if tokens:
            mean = nats / tokens
            yield {
                "first": first, "last": end - 1, "tokens": tokens, "nats_per_token": mean, "perplexity": math.exp(mean),
            }  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    rows = read_lines(arguments.file)
    if arguments.by_position is not None and arguments.by_position < 1:
        raise UserError(f"--by-position {arguments.by_position}: must be at least 1 part")
    if arguments.by_position and any("text" not in row for row in rows):
        number = next(number for number, row in enumerate(rows, 1) if "text" not in row)
        raise UserError(f'{arguments.file}: object {number}: --by-position takes whole texts, {{"text": ..}}')
    from pangu.foundation.atomic_file import atomic_file, check_not_read
    from pangu.foundation.json_text import dumps

    if arguments.out is not None:
        check_not_read(Path(arguments.out), arguments.file)

    model = load_model(arguments)
    if arguments.by_position:
        found = by_position(model, [row["text"] for row in rows], arguments.by_position)
    else:
        found = results(model, rows)
    if arguments.out is None:
        for result in found:
            print(dumps(result), flush=True)
        return 0
    with atomic_file(Path(arguments.out)) as file:
        for result in found:
            file.write((dumps(result) + "\n").encode())
    return 0
