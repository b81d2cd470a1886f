"""Which files a recipe's sources are, in which order, and how they are cut into items of work."""

import glob
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

import xxhash

from data_pipeline.engine.steps import Item
from data_pipeline.recipe import Source
from data_pipeline.stages.read.compressed_bytes import compression_of, is_wide
from data_pipeline.stages.read.formats.json_values import is_document
from data_pipeline.stages.read.remote_files import RemoteFile, is_url, list_remote, local_path, open_input
from pangu.foundation.errors import UserError

COMPRESSED_SUFFIXES = (".gz", ".zst", ".bz2", ".xz", ".lz4")
FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".txt": "txt",
    ".text": "txt",
    ".md": "txt",
    ".markdown": "txt",
    ".rst": "txt",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".shtml": "html",
    ".php": "html",
    ".asp": "html",
    ".aspx": "html",
    ".jsp": "html",
    ".mht": "mht",
    ".mhtml": "mht",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".csv": "csv",
    ".tsv": "csv",
    ".warc": "warc",
    ".wet": "warc",
    ".arc": "arc",
    ".wacz": "wacz",
    ".zip": "zip",
    ".tar": "tar",
    ".tgz": "tar",
    ".tbz2": "tar",
    ".txz": "tar",
    ".docx": "docx",
    ".epub": "epub",
    ".pdf": "pdf",
}
# a file without a suffix: its reader looks at what it begins with
BY_CONTENT = "content"
# a file whose suffix is none of these: a reject that says so
UNSUPPORTED = "unsupported"
# what is looked at to tell a file from another
HEAD_BYTES = 1 << 16
# how much larger than its file a compressed text is, about; for cutting work into even pieces
EXPANSION = 4


@dataclass(frozen=True)
class FileRange:
    """A file, or the lines of a plain file that begin at a byte in [start, end). `relative` is what records are named
    by.
    """

    path: Path | RemoteFile
    relative: str
    format: str
    start: int = 0
    end: int | None = None
    """None: to the end of the file."""
    size: int | None = None
    """Bytes of the file when the work was planned; None: of a member of an archive."""
    head: str = ""
    """Digest of its beginning at that time, if the file was cut: no piece of another file is read for one of it."""


@dataclass(frozen=True)
class ReadItem:
    """Files, or a piece of one, that a worker reads as one task."""

    source: Source
    ranges: tuple[FileRange, ...]


@dataclass(frozen=True)
class _Found:
    path: Path | RemoteFile
    relative: str
    format: str
    size: int
    modified: int | str


def read_items(
    sources: Sequence[Source], base: Path, item_bytes: int | None = None, shard_bytes: int | None = None
) -> list[Item]:
    """Return the work of the read stage, in the order of the sources and of the names of their files.

    Large plain files of lines are cut into ranges of `item_bytes`; small files are taken together up to that size. A
    file is known by its path, size and time of change, so nothing is read here. None: as large as suits the source.
    """
    items: list[Item] = []
    for source in sources:
        files = list(_find(source, base))
        piece = piece_bytes(sum(map(_weight, files)))
        items += _source_items(source, files, item_bytes or piece, shard_bytes or piece, len(items))
    return items


def check_apart(sources: Sequence[Source], base: Path, output: Path) -> None:
    """Raise UserError where an output directory lies in what a source reads: the next run would read what this one
    wrote."""
    root = Path(os.path.realpath(output))
    for source in sources:
        for pattern in source.paths:
            place = local_path(pattern) if is_url(pattern) else Path(os.path.expanduser(pattern))
            if place is None:
                continue
            place = place if place.is_absolute() else base / place
            fixed = place
            while glob.has_magic(str(fixed)):
                fixed = fixed.parent
            if not root.is_relative_to(os.path.realpath(fixed)):
                continue
            matched = [place] if fixed == place else map(Path, glob.iglob(str(place), recursive=True))
            for path in matched:
                real = Path(os.path.realpath(path))
                if real.is_relative_to(root) or (real.is_dir() and root.is_relative_to(real)):
                    where = f"source {source.name!r} ({pattern})"
                    raise UserError(f"{output}: lies in {where}, which would read it; give another output directory")


def piece_bytes(total: int) -> int:
    """Return how a source of `total` bytes is cut: a sixteenth of it, so that all workers have something to do, and a
    power of two, so that a source which grows a little keeps its pieces; 4 MiB to 64 MiB.
    """
    return min(max(1 << (max(1, total // 16).bit_length() - 1), 4 << 20), 64 << 20)


def _source_items(source: Source, files: Sequence[_Found], item_bytes: int, shard_bytes: int, first: int) -> list[Item]:
    """Return the items of one source; `first` is the number of the first of them."""
    items: list[Item] = []
    group: list[FileRange] = []
    facts: list[str] = []
    size = 0

    def close() -> None:
        nonlocal group, facts, size
        if group:
            identity = "\x1f".join([source.model_dump_json(exclude={"paths", "preset"}), str(shard_bytes), *facts])
            payload = ReadItem(source, tuple(group))
            kinds = Counter(file_kind(part) for part in group if part.start == 0)
            name = f"{first + len(items):05d}"
            items.append(Item(name, identity, payload, size, shard_bytes, files=dict(sorted(kinds.items()))))
        group, facts, size = [], [], 0

    for found in files:
        weight = _weight(found)
        if size and size + weight > item_bytes:
            close()
        ranges, head = _ranges(found, source, item_bytes)
        for start, end in ranges:
            group.append(FileRange(found.path, found.relative, found.format, start, end, found.size, head))
            facts.append(f"{found.relative}|{found.format}|{found.size}|{found.modified}|{start}|{end}")
            size += weight if end is None else end - start
            if size >= item_bytes:
                close()
    close()
    return items


def _weight(found: _Found) -> int:
    """Return bytes of text in a file, about."""
    return found.size * (EXPANSION if found.path.suffix in COMPRESSED_SUFFIXES else 1)


def _ranges(found: _Found, source: Source, item_bytes: int) -> tuple[list[tuple[int, int | None]], str]:
    """Return the pieces that a file is read in, and the digest of its beginning if there are several."""
    by_line = found.format == "jsonl" or (found.format == "txt" and source.split == "line")
    if not by_line or found.size <= item_bytes:
        return [(0, None)], ""
    try:
        with open_input(found.path) as file:
            head = file.read(HEAD_BYTES)[: found.size]
    except OSError:
        return [(0, None)], ""
    if compression_of(head) != "none" or is_wide(head) or (found.format == "jsonl" and is_document(head)):
        return [(0, None)], ""
    pieces = range(0, found.size, item_bytes)
    return [(start, min(start + item_bytes, found.size)) for start in pieces], head_digest(head)


def head_digest(head: bytes) -> str:
    """Return the digest of the beginning of a file."""
    return xxhash.xxh3_64_hexdigest(head)


def _find(source: Source, base: Path) -> Iterator[_Found]:
    """Yield the files of a source; each path of the recipe in its order, each file once."""
    seen: set[Path | RemoteFile] = set()
    count = 0
    others: Counter[str] = Counter()
    for number, pattern in enumerate(source.paths):
        prefix = f"{number}:" if number else ""
        if is_url(pattern) and local_path(pattern) is None:
            for found in _find_remote(pattern, prefix, source):
                if found.path not in seen:
                    seen.add(found.path)
                    count += found.format != UNSUPPORTED
                    yield found
            continue
        place = local_path(pattern) or Path(os.path.expanduser(pattern))
        place = place if place.is_absolute() else base / place
        for path, relative, explicit in _expand(place, source.name):
            real = Path(os.path.realpath(path))  # Path.resolve raises where links go in a circle
            if real in seen:
                continue
            seen.add(real)
            kind = _format(path, source, explicit)
            try:
                status = path.stat()
                size, modified = status.st_size, status.st_mtime_ns
            except OSError:
                size, modified = 0, 0
            count += kind != UNSUPPORTED
            others[path.suffix.lower()] += kind == UNSUPPORTED
            yield _Found(path, prefix + relative, kind, size, modified)
    if not count:
        present = ", ".join(f"{number} {suffix}" for suffix, number in others.most_common(5) if number)
        hint = f"; there are {present}, which `format` may read" if present else ""
        raise UserError(f"source {source.name!r}: no file to read in {', '.join(source.paths)}{hint}")


def _find_remote(url: str, prefix: str, source: Source) -> Iterator[_Found]:
    for listed in list_remote(url, source.name):
        kind = _format(listed.file, source, listed.is_named)
        yield _Found(listed.file, prefix + listed.relative, kind, listed.size, listed.stamp)


def _format(path: Path | RemoteFile, source: Source, explicit: bool) -> str:
    """Return the format to read a file in. A file that the recipe itself names has to have one."""
    kind = source.format if source.format != "auto" else format_of(path)
    if kind == UNSUPPORTED and isinstance(path, Path) and path.is_dir():
        return "txt"  # a folder that cannot be read
    if kind == UNSUPPORTED and explicit:
        legal = ", ".join(FORMATS)
        raise UserError(f"{path}: source {source.name!r}: unknown kind of file; set `format`, or use one of {legal}")
    return kind


def file_kind(part: FileRange) -> str:
    """Return what `plan`, `run` and `report` call a file: its format, or the suffix that nothing reads."""
    return part.format if part.format != UNSUPPORTED else f"{UNSUPPORTED} {PurePosixPath(part.relative).suffix.lower()}"


def count_kinds(sources: Sequence[Source], base: Path) -> dict[str, dict[str, int]]:
    """Return how many files of which kind each source has."""
    return {
        source.name: dict(
            Counter(file_kind(FileRange(found.path, found.relative, found.format)) for found in _find(source, base))
        )
        for source in sources
    }


def text_size(sources: Sequence[Source], base: Path, limit: int) -> tuple[int, bool]:
    """Return how many bytes of text the sources hold, about, and whether pages may be among them. No file is opened;
    above `limit` no more is looked at.
    """
    size, has_pages = 0, False
    for source in sources:
        for found in _find(source, base):
            is_plain = found.format in ("jsonl", "csv", "txt", "parquet", "arrow")
            has_pages |= source.fields.html is not None or not is_plain
            is_packed = found.format in ("parquet", "zip", "tar", "docx", "epub", "wacz")
            size += found.size * EXPANSION if is_packed else _weight(found)
            if size > limit:
                return size, has_pages
    return size, has_pages


def kinds_in_words(kinds: Mapping[str, int]) -> str:
    """Return `3 html, 1 txt; not read: 2 .bin`."""
    read = [f"{number:,} {kind}" for kind, number in sorted(kinds.items()) if not kind.startswith(UNSUPPORTED)]
    others = [
        f"{number:,} {kind.removeprefix(UNSUPPORTED).strip()}"
        for kind, number in sorted(kinds.items())
        if kind.startswith(UNSUPPORTED)
    ]
    return ", ".join(read) + (f"; not read: {', '.join(others)}" if others else "")


def _expand(place: Path, source_name: str) -> Iterator[tuple[Path, str, bool]]:
    """Yield (file, its name inside the source, whether it was named itself rather than found in a directory)."""
    if place.is_dir():
        for path in _walk(place):
            yield path, path.relative_to(place).as_posix(), False
    elif place.is_file():
        yield place, place.name, True
    elif place.exists():  # reading it might never end
        raise UserError(f"source {source_name!r}: {place}: a pipe or a device, not a file")
    elif glob.has_magic(str(place)):
        fixed = place
        while glob.has_magic(str(fixed)):
            fixed = fixed.parent
        for name in sorted(glob.iglob(str(place), recursive=True)):
            path = Path(name)
            if path.is_dir():
                for inner in _walk(path):
                    yield inner, inner.relative_to(fixed).as_posix(), False
            elif _is_file_or_lost(path):
                yield path, path.relative_to(fixed).as_posix(), False
    else:
        raise UserError(f"source {source_name!r}: {place}: no such file, directory or glob")


def _walk(directory: Path) -> Iterator[Path]:
    """Yield all files below a directory in the order of their names, hidden ones left out. A loop of links is walked
    once.

    A folder inside it that cannot be read comes out itself, as a file, and so gets into the rejects."""
    visited: set[tuple[int, int]] = set()

    def visit(folder: Path) -> Iterator[Path]:
        try:
            status = folder.stat()
            entries = sorted(folder.iterdir())
        except OSError as error:
            if folder == directory:
                raise UserError(f"{folder}: cannot be read: {error.strerror}") from error
            yield folder
            return
        if (status.st_dev, status.st_ino) in visited:
            return
        visited.add((status.st_dev, status.st_ino))
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from visit(entry)
            elif _is_file_or_lost(entry):
                yield entry

    return visit(directory)


def _is_file_or_lost(path: Path) -> bool:
    """Return whether something is a file, or a link to what is not there, which the reader will find unreadable; pipes
    and devices are neither.
    """
    return path.is_file() or not path.exists()


def format_of(path: PurePath | RemoteFile) -> str:
    """Return the format that a file's name says, a suffix of compression left aside; BY_CONTENT without a suffix."""
    name = PurePosixPath(str(path))
    if name.suffix.lower() in COMPRESSED_SUFFIXES:
        name = name.with_suffix("")
    suffix = name.suffix.lower()
    if suffix in FORMATS:
        return FORMATS[suffix]
    # "第1.2节" has no suffix, and neither has "part-00000"
    return UNSUPPORTED if suffix[1:].isascii() and suffix[1:].isalnum() and not suffix[1:].isdigit() else BY_CONTENT
