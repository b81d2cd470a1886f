"""A folder of profiles: which file is of which kind, and one line for each that cannot be read."""

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from pangu.foundation.errors import UserError
from parallel_strategy.profiles.ascend_tables import read_kernels, read_steps
from parallel_strategy.profiles.communication_json import read_communication
from parallel_strategy.profiles.seen import Seen
from parallel_strategy.profiles.torch_trace import read_trace

ENDINGS = (".csv", ".json", ".json.gz")
LARGEST = 2 << 30  # bytes of one file, unpacked
MOST_FILES = 200


def read_profiles(folder: Path) -> Seen:
    """Return what the files of a folder, or one file, show. Raises UserError where nothing could be read."""
    files = [folder] if folder.is_file() else sorted(folder.rglob("*"))
    files = [path for path in files if path.is_file() and path.name.lower().endswith(ENDINGS)][:MOST_FILES]
    if not files:
        what = "is no folder or file" if not folder.exists() else f"has no profile: no file that ends in {ENDINGS}"
        raise UserError(f"{folder}: {what}")
    seen = Seen()
    for path in files:
        name = str(path.relative_to(folder)) if path != folder else path.name
        try:
            found = read_profile(path)
        except UserError as error:
            seen.notes.append(f"{name}: not read: {error}")
            continue
        seen.add(found)
        seen.notes.append("; ".join([f"{name}: {found.words()}", *found.notes]))
    if not len(seen):
        raise UserError(f"{folder}: no profile with a kernel, a collective or a step ({'; '.join(seen.notes[:3])})")
    return seen


def read_profile(path: Path) -> Seen:
    """Return what one file shows. Raises UserError, in words without the file's name."""
    text = _text(path)
    if not text.strip():
        raise UserError("is empty")
    if path.name.lower().endswith(".csv"):
        head = text[: text.find("\n")].lower()
        return read_steps(text) if "computing" in head and "free" in head else read_kernels(text)
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"is damaged: no JSON ({str(error)[:80]})") from None
    if isinstance(document, list) or (isinstance(document, dict) and "traceEvents" in document):
        return read_trace(document)
    return read_communication(document)


def _text(path: Path) -> str:
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > LARGEST:
        raise UserError(f"is larger than {LARGEST >> 30} GiB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"byte {error.start} is not UTF-8 text") from None
