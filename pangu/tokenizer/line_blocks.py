"""Files of lines, block by block."""

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from pangu.foundation.atomic_file import atomic_file
from pangu.foundation.errors import UserError
from pangu.foundation.progress import Progress

BLOCK_BYTES = 1 << 20


class LineBlock(NamedTuple):
    """Some lines of a file that follow one another."""

    source: str
    first_line: int  # the number of the first, from 1
    lines: list[bytes]  # without the newline


def line_blocks(source: str) -> Iterator[LineBlock]:
    """Yield the lines of a file, split at newlines alone, about a megabyte at a time; `-` is standard input.

    On a terminal a bar shows how far reading has come.
    """
    try:
        file = sys.stdin.buffer if source == "-" else open(source, "rb")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"{source}: {error.strerror}") from None
    with file, _progress(file) as progress:
        number = 1
        while lines := file.readlines(BLOCK_BYTES):
            yield LineBlock(source, number, [line.removesuffix(b"\n") for line in lines])
            number += len(lines)
            progress.advance(sum(map(len, lines)))


def _progress(file: IO[bytes]) -> Progress:
    status = os.fstat(file.fileno())
    return Progress("read", status.st_size if stat.S_ISREG(status.st_mode) else None, unit="bytes")


@contextmanager
def output(path: str) -> Iterator[IO[bytes]]:
    """Yield standard output for `-`, else a file that appears whole or not at all."""
    if path == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with atomic_file(Path(path)) as file:
        yield file
