"""Text of files as people have them: a gzip file is unpacked, a mark is taken off, UTF-16 becomes UTF-8.

What a file is, its first bytes say and not its name. Compressed in any other way, or a table, it is named.
"""

import codecs
import gzip
import io
import zlib
from pathlib import Path

from pangu.foundation.best_effort import reason_of
from pangu.foundation.errors import UserError

GZIP = b"\x1f\x8b"
FREE_BYTES, MOST_RATIO = 64 << 20, 200  # after so many bytes out, more of them for a byte in are a bomb
OTHERS = {
    b"\x28\xb5\x2f\xfd": "compressed by zstd", b"\xfd7zXZ\x00": "compressed by xz", b"BZh": "compressed by bzip2",
    b"PK\x03\x04": "a zip archive", b"PAR1": "a Parquet table",
}  # fmt: skip
UTF_16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


def read_plain(path: Path) -> bytes:
    """Return the text of a file in UTF-8, as far as it is text. Raises UserError."""
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {reason_of(error)}") from None
    content = unpacked(content, str(path))
    for mark, name in UTF_16.items():
        if content.startswith(mark):
            content = content.removeprefix(mark).decode(name, errors="replace").encode()
    return content.removeprefix(codecs.BOM_UTF8)


def unpacked(content: bytes, where: str) -> bytes:
    """Return what a gzip file holds, and other text as it is. Raises UserError for what is no text."""
    kind = next((kind for beginning, kind in OTHERS.items() if content.startswith(beginning)), None)
    if kind:
        raise UserError(f"{where}: is {kind}: give JSON lines or text, as they are or compressed by gzip")
    if not content.startswith(GZIP):
        return content
    most = max(FREE_BYTES, MOST_RATIO * len(content))
    try:
        with gzip.open(io.BytesIO(content)) as file:
            text = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{where}: cannot be read: {reason_of(error)}") from None
    if len(text) > most:
        raise UserError(f"{where}: more than {MOST_RATIO} bytes come out for a byte in; unpack it yourself")
    return text
