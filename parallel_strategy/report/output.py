"""Files of the planner: their folders are made where they are missing."""

from pathlib import Path

from pangu.foundation import atomic_file
from pangu.foundation.errors import WriteError


def write_whole(path: Path, content: str | bytes, is_synced: bool = True) -> None:
    """Write a file, whole or not at all, and the folder that it lies in. Raises WriteError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise WriteError(path, error) from None
    atomic_file.write_whole(path, content, is_synced)
