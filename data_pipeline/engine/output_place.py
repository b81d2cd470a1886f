"""Where the output directory of a run is: a path, or a URL for which the run works in a directory of this machine."""

import hashlib
import os
from pathlib import Path

from data_pipeline.stages.read.remote_files import is_url, local_path


def as_url(out: str | Path) -> str | None:
    """Return the URL that an output directory is; None for a path of this machine, also as file://."""
    text = str(out)
    if isinstance(out, Path) or not is_url(text) or local_path(text) is not None:
        return None
    return text.rstrip("/")


def run_directory(out: str | Path) -> Path:
    """Return where on this machine a run works whose output directory is `out`, a path or a URL."""
    url = as_url(out)
    if url is None:
        return (local_path(str(out)) if isinstance(out, str) and is_url(out) else None) or Path(out)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = url.rpartition("/")[2] or "out"
    return cache / "pangu-alpha" / "runs" / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
