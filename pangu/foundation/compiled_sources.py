"""Use kept machine code only while every source that it was made of is as it was.

numba compiles again when the file of the outermost function has changed. What that function calls, and the constants
that it takes from other files, are compiled into it and may be older. So the key of the kept code also holds a digest
of every file of the project that the function's file imports, directly or not.
"""

import functools
import hashlib
import re
from pathlib import Path
from typing import Any

PACKAGES = ("pangu", "parallel_strategy", "data_pipeline")
_IMPORT = re.compile(r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n]*)|import[ \t]+([\w.]+))", re.M)


def keep_while_unchanged(dispatcher: Any, function: Any) -> Any:
    """Return numba's dispatcher of a function, which looks at all its sources before it takes what is kept."""
    file = getattr(dispatcher._cache, "_cache_file", None)
    if file is not None:
        file._source_stamp = (file._source_stamp, digest_of(Path(function.__code__.co_filename)))
    return dispatcher


@functools.cache
def digest_of(file: Path) -> str:
    """Return a digest of a file and of all files of the project that it imports, directly or not."""
    digest = hashlib.sha256()
    for source in sources_of(file):
        digest.update(hashlib.sha256(source.read_bytes()).digest())
    return digest.hexdigest()


@functools.cache
def sources_of(file: Path) -> tuple[Path, ...]:
    """Return a file and all files of the project that it imports, directly or not, sorted."""
    found: set[Path] = set()
    open_files = [file]
    while open_files:
        one = open_files.pop()
        if one not in found and one.is_file():
            found.add(one)
            open_files += imported_files(one)
    return tuple(sorted(found))


@functools.cache
def imported_files(file: Path) -> tuple[Path, ...]:
    """Return the files of the project that a file names in its imports."""
    root = next((folder.parent for folder in file.parents if folder.name in PACKAGES), None)
    if root is None:
        return ()
    files = []
    for start, names, whole in _IMPORT.findall(file.read_text(encoding="utf-8")):
        module = start or whole
        if module.split(".")[0] in PACKAGES:
            inner = [f"{module}.{name}" for name in re.findall(r"\w+", names)]
            files += [path for name in (module, *inner) if (path := file_of(root, name))]
    return tuple(files)


def file_of(root: Path, module: str) -> Path | None:
    """Return the file of a module, None for what is no module."""
    place = root.joinpath(*module.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)
