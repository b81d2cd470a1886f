"""Files appear whole or not at all."""

import os
import tempfile
from pathlib import Path

from pangu.foundation.errors import UserError


def write_whole(path: Path, content: str | bytes) -> None:
    """Write to a temporary name beside `path`, flush to disk, rename. Raises UserError where that is not possible."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: cannot be written: it is no plain file")
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else None
        raise UserError(f"{path}: cannot be written: {why or error}") from None
