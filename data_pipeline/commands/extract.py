"""Extract the main text of web pages: no navigation, advertisements or copyright lines.

Pages are HTML files, folders of them (searched through), patterns in quotes, web archives (.warc, .warc.gz, .wet), or
`-`, one page from standard input. Files may be compressed (gzip, zstd, bzip2, xz, lz4).
One JSON object for a page: path, title, text, charset, confidence; and date, url, offset (in an archive) where they
are known; reason where there is no text. `confidence` says how sure the text is: articles are above 0.9, lists of links
below 0.5. The order is that of the arguments; in folders and patterns, of the names. What cannot be read is told line
by line and counted.

    python -m data_pipeline extract page.html saved-pages/ 'crawl/*.warc.gz' --out texts.jsonl

Exit code 0: every page was read; 1: some were not, the others are in the output; 2: nothing to read, or the output
cannot be written (then nothing is)."""

import argparse
import glob
import io
import json
import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from pangu.foundation.atomic_file import atomic_file
from pangu.foundation.best_effort import print_translated
from pangu.foundation.errors import UserError

if TYPE_CHECKING:
    from data_pipeline.extraction.extract import Extraction

PAGE_ENDINGS = (".html", ".htm", ".xhtml", ".shtml")
ARCHIVE_ENDINGS = (".warc", ".warc.gz", ".warc.zst", ".wet", ".wet.gz", ".warc.wet", ".warc.wet.gz", ".arc.wet")
ALONE_BYTES = 8 << 20  # less input than this is done before other processes have started
TASK_BYTES = 4 << 20  # what one task reads, about
TASK_FILES = 200
STANDARD_INPUT = "-"
NO_PAGES = ("content_type", "http_status", "empty")  # reasons of rejects that are no damage


@dataclass
class Outcome:
    """What a task made of its files: the lines for the output, and one message for each thing that could not be
    read."""

    lines: bytearray = field(default_factory=bytearray)
    pages: int = 0
    bytes: int = 0
    passed_over: int = 0  # records of archives that are no pages
    without_text: int = 0  # pages
    messages: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # on pages that were read, but not whole


Work = Callable[[list[str]], Outcome]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument(
        "pages",
        nargs="+",
        metavar="PAGE",
        help="a file, a folder, a pattern in quotes, a web archive; - is standard input",
    )
    parser.add_argument("--out", required=True, metavar="TEXT.jsonl", help="the output; - is standard output")
    parser.add_argument(
        "--workers", type=int, default=len(os.sched_getaffinity(0)), metavar="N", help="processes (all cores)"
    )
    parser.add_argument("--format", choices=("text", "markdown"), default="text", help="form of the text")
    parser.add_argument("--links", action="store_true", help="keep the addresses of links (markdown)")
    parser.add_argument("--images", action="store_true", help="keep pictures with their addresses (markdown)")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Extract, write, and say what was done."""
    began = time.monotonic()
    if arguments.workers < 1:
        raise UserError(f"--workers {arguments.workers}: must be 1 or more")
    if arguments.format == "text" and (arguments.links or arguments.images):
        raise UserError("--links and --images need --format markdown")
    files = list(_files(arguments.pages))
    given = {STANDARD_INPUT: _standard_input()} if files == [STANDARD_INPUT] else {}
    work = partial(extract_files, form=(arguments.format, arguments.links, arguments.images), given=given)
    total = Outcome()
    if arguments.out == "-":
        try:
            _write(files, work, arguments.workers, sys.stdout.buffer, total, given)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            # the reader has seen enough; nothing may be written when Python closes standard output
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE
    else:
        with atomic_file(Path(arguments.out)) as out:
            _write(files, work, arguments.workers, out, total, given)
    seconds = time.monotonic() - began
    if arguments.json:
        summary = {
            "pages": total.pages,
            "without_text": total.without_text,
            "unreadable": len(total.messages),
            "passed_over": total.passed_over,
            "bytes": total.bytes,
            "seconds": round(seconds, 3),
        }
        print(json.dumps(summary), file=sys.stderr if arguments.out == "-" else sys.stdout)
    else:
        rate = total.bytes / 1e6 / max(seconds, 1e-3)
        passed = f"{total.passed_over} records are no pages, " if total.passed_over else ""
        passed += f"{total.without_text} without text, " if total.without_text else ""
        print_translated(
            f"{total.pages} pages, {passed}{len(total.messages)} not readable, {seconds:.1f} s, {rate:.1f} MB/s",
            to=sys.stderr,
        )
    return 1 if total.messages else 0


def _files(arguments: list[str]) -> Iterator[str]:
    """Yield the files that the arguments name, in order. A named file that is not there is a mistake of the user's."""
    found_any = False
    if STANDARD_INPUT in arguments and len(arguments) > 1:
        raise UserError("-: standard input is one page; name it alone")
    for argument in arguments:
        if argument == STANDARD_INPUT:
            found = [argument]
        elif os.path.isdir(argument):
            found = list(_below(argument))
        elif os.path.lexists(argument):
            found = [argument]
        elif glob.has_magic(argument):
            matched = sorted(glob.glob(argument, recursive=True))
            found = [file for name in matched for file in (_below(name) if os.path.isdir(name) else [name])]
        else:
            raise UserError(f"{argument}: no such file, folder or pattern")
        found_any = found_any or bool(found)
        yield from found
    if not found_any:
        raise UserError(
            f"{', '.join(arguments)}: no pages there ({' '.join(PAGE_ENDINGS)} and web archives are looked for)"
        )


def _below(folder: str) -> Iterator[str]:
    """Yield pages, packed or not, and archives in a folder and below, by name; links to folders are not followed."""
    from data_pipeline.stages.read.source_files import COMPRESSED_SUFFIXES  # the help does without

    pages = tuple(page + packed for page in PAGE_ENDINGS for packed in ("", *COMPRESSED_SUFFIXES))
    for path, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if name.lower().endswith(pages + ARCHIVE_ENDINGS):
                yield os.path.join(path, name)


def _standard_input() -> bytes:
    """Return what stands in standard input, as far as a page is read; nothing where it is closed."""
    from data_pipeline.extraction.extract import MAX_PAGE_BYTES

    return sys.stdin.buffer.read(MAX_PAGE_BYTES + 1) if sys.stdin else b""


def _write(
    files: list[str], work: Work, workers: int, out: IO[bytes], total: Outcome, given: Mapping[str, bytes]
) -> None:
    for outcome in _outcomes(files, work, workers, given):
        out.write(outcome.lines)
        total.pages += outcome.pages
        total.bytes += outcome.bytes
        total.passed_over += outcome.passed_over
        total.without_text += outcome.without_text
        total.messages += outcome.messages
        for note in outcome.notes:
            print_translated(f"warning: {note}", to=sys.stderr)
        for message in outcome.messages:
            print_translated(f"not readable: {message}", to=sys.stderr)


def _outcomes(files: list[str], work: Work, workers: int, given: Mapping[str, bytes]) -> Iterator[Outcome]:
    """Yield the tasks' outcomes in the order of the files; `given` are the contents that are no files."""
    from data_pipeline.kernels import first_use

    tasks, size = _tasks(files, given)
    packed = sum(file.lower().endswith(ARCHIVE_ENDINGS) for file in files)
    told = first_use.prepare((), first_use.PLAIN_BYTES + 1 if packed else size, has_pages=True)
    if told:
        print(told, file=sys.stderr)
    if workers == 1 or len(tasks) == 1 or size < ALONE_BYTES:
        yield from map(work, tasks)
        return
    from data_pipeline.extraction.extract import extract

    extract(b"<p>")  # loads the kernels once; the processes inherit them
    done = 0
    while done < len(tasks):
        try:
            for outcome in _parallel(tasks[done:], work, workers):
                done += 1
                yield outcome
        except BrokenProcessPool:
            # a process was killed (out of memory, by hand): the task whose turn it was goes file by file, each on
            # its own
            for file in tasks[done]:
                try:
                    yield from _parallel([[file]], work, 1)
                except BrokenProcessPool:
                    yield Outcome(messages=[f"{file}: the process that read it was killed, twice"])
            done += 1


def _parallel(tasks: list[list[str]], work: Work, workers: int) -> Iterator[Outcome]:
    """Yield outcomes in order, with few tasks ahead of the one that is awaited, so that memory stays flat."""
    # to write to a process that was killed must raise here, not end the command
    before = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    waiting: list[Future[Outcome]] = []
    try:
        with ProcessPoolExecutor(min(workers, len(tasks))) as pool:
            try:
                for task in tasks:
                    waiting.append(pool.submit(work, task))
                    if len(waiting) > 3 * workers:
                        yield waiting.pop(0).result()
                while waiting:
                    yield waiting.pop(0).result()
            finally:
                for future in waiting:
                    future.cancel()
    finally:
        signal.signal(signal.SIGPIPE, before)


def _tasks(files: list[str], given: Mapping[str, bytes]) -> tuple[list[list[str]], int]:
    """Return neighbouring files together, about TASK_BYTES a task; and the bytes of all."""
    tasks: list[list[str]] = []
    size = total = 0
    for file in files:
        try:
            length = len(given[file]) if file in given else os.stat(file).st_size
        except OSError:
            length = 0
        if not tasks or size + length > TASK_BYTES or len(tasks[-1]) == TASK_FILES:
            tasks.append([])
            size = 0
        tasks[-1].append(file)
        size += length
        total += length
    return tasks, total


def extract_files(
    files: list[str], form: tuple[str, bool, bool] = ("text", False, False), given: Mapping[str, bytes] | None = None
) -> Outcome:
    """Return the pages of some files as JSON lines. `form` is the format, and whether links and pictures are kept;
    `given` are the contents that are no files.
    """
    outcome = Outcome()
    for file in files:
        try:
            if given and file in given:
                _extract_content(file, io.BytesIO(given[file]), outcome, form)
            elif not stat.S_ISREG(os.stat(file).st_mode):
                outcome.messages.append(f"{file}: not a regular file")
            elif file.lower().endswith(ARCHIVE_ENDINGS):
                _extract_archive(file, outcome, form)
            else:
                _extract_page(file, outcome, form)
        except OSError as error:
            outcome.messages.append(f"{file}: {error.strerror or error}")
    return outcome


def _extract_page(file: str, outcome: Outcome, form: tuple[str, bool, bool]) -> None:
    with open(file, "rb") as content:
        _extract_content(file, content, outcome, form)


def _extract_content(file: str, content: BinaryIO, outcome: Outcome, form: tuple[str, bool, bool]) -> None:
    from data_pipeline.extraction.extract import MAX_PAGE_BYTES, Form, extract
    from data_pipeline.stages.read.compressed_bytes import Damage, decompressed
    from data_pipeline.stages.read.warc import MAX_RATIO

    html = bytearray()
    for block in decompressed(content, MAX_RATIO):
        if isinstance(block, Damage):
            outcome.messages.append(f"{file}: {block.reason}")
            return
        html += block
        if len(html) > MAX_PAGE_BYTES:
            outcome.notes.append(f"{file}: only the first {MAX_PAGE_BYTES:,} bytes of the page are read")
            break
    if html.startswith(b"WARC/"):
        outcome.messages.append(f"{file}: a web archive; its name would have to end in {ARCHIVE_ENDINGS[0]}")
        return
    found = extract(bytes(html[: MAX_PAGE_BYTES + 1]), form=Form(*form))
    outcome.bytes += len(html)
    _add(outcome, _row(file, found), found.date)


def _extract_archive(file: str, outcome: Outcome, form: tuple[str, bool, bool]) -> None:
    from data_pipeline.extraction.extract import Form
    from data_pipeline.stages.read.warc import WarcReject, read_documents

    for document in read_documents(Path(file)):
        if isinstance(document, WarcReject) and document.reason.split(":")[0] in NO_PAGES:
            outcome.passed_over += 1
            continue
        if isinstance(document, WarcReject):
            outcome.messages.append(f"{file}: byte {document.offset}: {document.reason}")
            continue
        found = document.extract(Form(*form))
        outcome.bytes += len(document.content)
        _add(outcome, {**_row(file, found), "url": document.url, "offset": document.offset}, found.date)


def _row(file: str, found: "Extraction") -> dict[str, Any]:
    names = ("title", "text", "charset", "confidence")
    row = {"path": _shown(file), **{name: getattr(found, name) for name in names}}
    return row if found.text else {**row, "reason": found.reason}


def _add(outcome: Outcome, row: dict[str, Any], date: str | None) -> None:
    if date:
        row["date"] = date
    import orjson  # the help does without

    outcome.lines += orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
    outcome.pages += 1
    outcome.without_text += not row["text"]


def _shown(file: str) -> str:
    """Return a file name that may hold bytes outside UTF-8, as text."""
    return os.fsencode(file).decode("utf-8", "backslashreplace")
