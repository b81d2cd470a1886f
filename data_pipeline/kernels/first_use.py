"""Which machine code there is, and what a process does while there is none: without importing the compiler.

The first use of a version compiles its kernels: 20 to 30 s of processor time for the stages of a recipe, as much for
web pages. A process that has little to do runs them as Python instead (`prepare`); any other says that it compiles."""

import hashlib
import os
import shutil
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

# the modules of kernels that each kind of stage calls
STAGE_KERNELS = {
    "read": (),
    "clean": ("survey",),
    "filter": ("text_signals", "survey"),
    "dedup_fuzzy": ("minhash", "normal_form", "components"),
    "dedup_paragraph": ("paragraphs", "minhash"),
    "dedup_substring": ("windows", "minhash"),
    "decontaminate": ("contamination",),
}
# seconds of Python for a megabyte of text, and of pages, which are a fifth text
PLAIN_SECONDS_A_MEGABYTE = {
    "clean": 10,
    "filter": 16,
    "dedup_fuzzy": 7,
    "dedup_paragraph": 9,
    "dedup_substring": 20,
    "decontaminate": 20,
}
PAGE_SECONDS_A_MEGABYTE, TEXT_OF_PAGES = 8, 0.2
# what takes no longer is done as Python: to compile takes 10 to 30 s, to load what is compiled half a second
PLAIN_SECONDS, LOADING_SECONDS = 5, 0.3
MESSAGE = (
    "first use of this version here: kernels are compiled and kept for later runs (20 to 30 s of processor time);"
    " `data-pipeline warm` does it beforehand"
)
PLAIN_MESSAGE = "kernels are not compiled yet, and this is small: done without; `data-pipeline warm` makes it faster"
# more than this is never small
PLAIN_BYTES = 1 << 20
KEPT_VERSIONS = 6
_PACKAGE = Path(__file__).parent.parent
_mode = {"plain": False, "beside": False}
_overflow: list[str] = []


def is_plain() -> bool:
    """Return whether kernels run as Python in this process."""
    return _mode["plain"]


def prepare(stages: Iterable[str], size: int, *, has_pages: bool = False, is_small_enough: bool = True) -> str | None:
    """Choose how kernels run in this process and those that it forks, and return what a user should be told.

    size: bytes of text or pages that will pass them. is_small_enough: False forbids Python."""
    stages = list(stages)
    missing = missing_kernels(stages, has_pages)
    rate = sum(PLAIN_SECONDS_A_MEGABYTE.get(stage, 0) for stage in stages)
    seconds = size / 1e6 * (PAGE_SECONDS_A_MEGABYTE + TEXT_OF_PAGES * rate if has_pages else rate)
    is_loaded = "numba" in sys.modules
    most = PLAIN_SECONDS if missing else 0.0 if is_loaded else LOADING_SECONDS
    use_python(bool(most) and is_small_enough and size <= PLAIN_BYTES and seconds <= most)
    if not missing:
        return None
    return PLAIN_MESSAGE if is_plain() else MESSAGE


def use_python(is_plain: bool) -> None:
    """Run kernels as Python from now on, or as machine code."""
    import numpy as np

    if is_plain and not _mode["plain"]:
        # hashes wrap around, in machine code too
        _overflow.append(np.seterr(over="ignore")["over"])
    elif _mode["plain"] and not is_plain:
        np.seterr(over=_overflow.pop())  # type: ignore[arg-type]
    _mode["plain"] = is_plain


def missing_kernels(stages: Iterable[str], has_pages: bool = False) -> list[str]:
    """Return the modules of kernels, of some kinds of stages and of web pages, that have no machine code."""
    names = {name for stage in stages for name in STAGE_KERNELS.get(stage, ())}
    wanted = [source for source in _sources(Path(__file__).parent) if source.stem in names]
    wanted += _sources(_PACKAGE / "extraction") if has_pages else []
    return [source.stem for source in wanted if not _is_compiled(source)]


def _is_compiled(source: Path) -> bool:
    return any(any(folder.glob(f"{source.stem}.*.nbi")) for folder in folders(source) if folder.is_dir())


def folders(source: Path) -> list[Path]:
    """Return where the machine code of a source may lie: beside it, in the user's cache."""
    return [_beside(source), user_folder(source)]


def folders_to_read(source: Path) -> list[Path]:
    """Return where a kernel looks for its machine code; `warm` wants it beside the source, whatever this user has."""
    return folders(source)[: 1 if _mode["beside"] else None]


def folders_to_write(source: Path) -> list[Path]:
    """Return where machine code goes, the best place first."""
    return folders(source) if _mode["beside"] else folders(source)[::-1]


def write_beside() -> None:
    """Keep machine code beside the sources from now on, where every user finds it, if that folder can be written."""
    _mode["beside"] = True


def user_folder(source: Path) -> Path:
    """Return the folder of this version in the user's cache, or in NUMBA_CACHE_DIR."""
    named = os.environ.get("NUMBA_CACHE_DIR")
    try:
        root = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # nobody's home
        root = Path(os.devnull)
    return root / "pangu-alpha" / "kernels" / _name(source)


def _beside(source: Path) -> Path:
    return source.parent / "__pycache__" / _name(source)


def _name(source: Path) -> str:
    return f"{source.parent.name}-{sources_digest(source.parent)}"


@cache
def sources_digest(folder: Path) -> str:
    """Return what changes when a kernel does: of the folder's own ones, and of those that every kernel may call."""
    digest = hashlib.sha256()
    for source in sorted({*_sources(folder, is_deep=False), *_sources(Path(__file__).parent)}):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@cache
def _sources(folder: Path, is_deep: bool = True) -> list[Path]:
    """Return the modules that define kernels."""
    found = folder.rglob("*.py") if is_deep else folder.glob("*.py")
    return [path for path in sorted(found) if b"\n@compiled\n" in path.read_bytes()]


def remove_old(folder: Path) -> None:
    """Remove machine code of versions that have not been used for longest, beside that of this one."""
    kind = folder.name.rpartition("-")[0]
    others = [path for path in folder.parent.glob(f"{kind}-*") if path != folder and len(path.name) == len(folder.name)]
    for path in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)[KEPT_VERSIONS:]:
        shutil.rmtree(path, ignore_errors=True)
