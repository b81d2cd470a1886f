"""Lists of addresses whose documents go: domains, hosts, paths, and regular words in an address.

A list is a UTF-8 file, an entry a line, `#` before a comment:

    example.com          the domain and everything below it (as in the `domains` files of the UT1 lists, Toulouse)
    =www.example.com     this host alone
    example.com/photos   addresses that begin so, also below the domain (as in UT1's `urls`)
    /casino|slot-?game/  addresses in which this regular expression is found, letter case aside

A folder stands for its files `domains`, `urls` and `expressions`, which is how UT1's categories are kept (a line of
`expressions` is a regular expression without slashes). RefinedWeb and FineWeb drop pages by such lists, too.

Entries are kept as sorted 64-bit hashes, 8 bytes each, so that the millions of a large category cost little memory.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import xxhash

from pangu.foundation.errors import UserError

_FOLDER_FILES = ("domains", "urls", "expressions")
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*:(?://)?", re.IGNORECASE)
# the parts of a path that can be the end of an entry
_MOST_PARTS = 16


def list_files(path: Path) -> list[Path]:
    """Return the files of a list: itself, or those of a UT1 category. UserError where there is none."""
    files = [path] if path.is_file() else [path / name for name in _FOLDER_FILES if (path / name).is_file()]
    if not files:
        raise UserError(f"{path}: no list of addresses; a file, or a folder with {' or '.join(_FOLDER_FILES)}")
    return files


class AddressLists:
    """Which addresses are listed."""

    def __init__(self, hashes: np.ndarray, expressions: Sequence[str]) -> None:
        self.hashes = hashes  # uint64, sorted
        self.expressions = [re.compile(expression, re.IGNORECASE) for expression in expressions]

    @classmethod
    def read(cls, paths: Sequence[Path]) -> "AddressLists":
        """Read lists as a person keeps them. UserError names the file and the line of a mistake."""
        hashes: list[int] = []
        expressions: list[str] = []
        for path in paths:
            for file in list_files(path):
                for entry in _entries(file):
                    if entry.startswith("/") and entry.endswith("/") and len(entry) > 2:
                        expressions.append(entry[1:-1])
                    else:
                        hashes.append(_entry_hash(entry))
        return cls(np.unique(np.array(hashes, np.uint64)), expressions)

    def save(self, directory: Path) -> None:
        """Save them as `load` reads them."""
        np.save(directory / "hashes.npy", self.hashes)
        text = "".join(f"{expression.pattern}\n" for expression in self.expressions)
        (directory / "expressions.txt").write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, files: Sequence[Path]) -> "AddressLists":
        """Read the files that `save` wrote; the hashes stay on the disk."""
        by_name = {path.name: path for path in files}
        expressions = by_name["expressions.txt"].read_text(encoding="utf-8").split("\n")[:-1]
        return cls(np.load(by_name["hashes.npy"], mmap_mode="r"), expressions)

    def find(self, addresses: pa.Array | pa.ChunkedArray) -> list[str | None]:
        """Find for each address the entry that lists it, None where none does."""
        candidates: list[tuple[int, str]] = []
        hashes: list[int] = []
        found: list[str | None] = [None] * len(addresses)
        for row, address in enumerate(addresses.to_pylist()):
            if address:
                for entry in candidate_entries(address):
                    candidates.append((row, entry))
                    hashes.append(_entry_hash(entry))
        if hashes and self.hashes.size:
            wanted = np.array(hashes, np.uint64)
            place = np.minimum(np.searchsorted(self.hashes, wanted), self.hashes.size - 1)
            for number in np.flatnonzero(self.hashes[place] == wanted).tolist():
                row, entry = candidates[number]
                found[row] = found[row] or entry
        for row, address in enumerate(addresses.to_pylist() if self.expressions else []):
            for expression in self.expressions if address and found[row] is None else ():
                if expression.search(unquote(address)):
                    found[row] = f"/{expression.pattern}/"
                    break
        return found


def _entries(file: Path) -> Iterator[str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 at byte {error.start}; save the list as UTF-8") from error
    for number, line in enumerate(lines, 1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        if file.name == "expressions":
            entry = f"/{entry}/"
        if entry.startswith("/") and entry.endswith("/") and len(entry) > 2:
            try:
                re.compile(entry[1:-1])
            except re.error as error:
                raise UserError(f"{file} line {number}: {entry}: no regular expression: {error}") from error
            yield entry
            continue
        exact = entry.startswith("=")
        host, path = _split(entry.removeprefix("="))
        if not host or (exact and path):
            raise UserError(f"{file} line {number}: {entry!r}: a domain, =host, domain/path or /expression/ is right")
        yield f"={host}" if exact else host + path


def _entry_hash(entry: str) -> int:
    return xxhash.xxh3_64_intdigest(entry.encode("utf-8", "surrogatepass"))


def _split(address: str) -> tuple[str, str]:
    """Return (host, path) of an address or an entry: lower-case host without user, port and last dot; the path begins
    with /, percent escapes resolved, nothing where it is the root; query and fragment belong to it.
    """
    rest = _SCHEME.sub("", address.strip(), count=1) if "://" in address[:16] else address.strip()
    match = re.match(r"[^/?#]*", rest)
    host = match.group() if match else ""
    path = unquote(rest[len(host) :])
    host = host.rpartition("@")[2].lower()
    if not host.startswith("["):
        host = host.partition(":")[0]
    return host.strip("."), path if path.startswith("/") and path != "/" else ""


def candidate_entries(address: str) -> Iterator[str]:
    """Yield every entry that would list the address, the shortest first."""
    host, path = _split(address)
    if not host:
        return
    labels = host.split(".")
    domains = [".".join(labels[place:]) for place in range(len(labels) - 1, -1, -1)]
    if all(label.isdecimal() for label in labels) or host.startswith("["):
        domains = [host]  # the numbers of an address are no domains
    yield from domains
    yield f"={host}"
    ends = [match.start() for match in re.finditer(r"[/?#]", path)][1:_MOST_PARTS]
    prefixes = dict.fromkeys(path[:end] for end in [*ends, *(end + 1 for end in ends), len(path)] if path)
    for prefix in prefixes:
        for domain in domains:
            yield domain + prefix
