"""Dynamic symbols of a shared library: what it defines, what it wants from others (ELF-64, little endian)."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pangu.foundation.errors import UserError

SECTION = np.dtype(
    [
        *(("name", "<u4"), ("type", "<u4"), ("flags", "<u8"), ("address", "<u8"), ("offset", "<u8")),
        *(("size", "<u8"), ("link", "<u4"), ("info", "<u4"), ("align", "<u8"), ("entry", "<u8")),
    ]
)
SYMBOL = np.dtype(
    [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("value", "<u8"), ("size", "<u8")]
)
DYNAMIC_SYMBOLS = 11
WEAK = 2


@dataclass(frozen=True)
class Symbols:
    defined: set[str]
    wanted: set[str]  # undefined and not weak: a library that lacks one of these does not load


def read_symbols(library: Path) -> Symbols:
    """Return the names as they are linked (mangled). Raises UserError where the file is no such library."""
    content = np.memmap(library, np.uint8, "r")
    if bytes(content[:6]) != b"\x7fELF\x02\x01":
        raise UserError(f"{library}: is not a 64-bit ELF library")
    start = int(content[40:48].view("<u8")[0])
    count = int(content[60:62].view("<u2")[0])
    sections = content[start : start + count * SECTION.itemsize].view(SECTION)
    defined: set[str] = set()
    wanted: set[str] = set()
    for section in sections[sections["type"] == DYNAMIC_SYMBOLS]:
        names = sections[section["link"]]
        text = bytes(content[int(names["offset"]) : int(names["offset"] + names["size"])])
        symbols = content[int(section["offset"]) : int(section["offset"] + section["size"])].view(SYMBOL)
        here = symbols["section"] != 0
        defined |= _names(text, symbols["name"][here])
        wanted |= _names(text, symbols["name"][~here & (symbols["info"] >> 4 != WEAK)])
    return Symbols(defined, wanted)


def _names(text: bytes, offsets: np.ndarray) -> set[str]:
    return {text[offset : text.index(b"\0", offset)].decode() for offset in map(int, offsets) if text[offset]}


def words(library: Path, pattern: bytes) -> set[str]:
    """Return every whole zero-terminated string of the file that matches: names that it looks up while it runs."""
    content = library.read_bytes()
    return {found[1].decode() for found in re.finditer(rb"\0(" + pattern + rb")(?=\0)", content)}
