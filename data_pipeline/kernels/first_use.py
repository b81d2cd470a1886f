"""Whether the kernels have been compiled for this installation: without the compiler, which takes long to import.

numba keeps machine code beside the source, or in the folder that NUMBA_CACHE_DIR or the user's cache names. The first
use of a version compiles it (20 to 30 s of processor time), in silence; here it can be asked beforehand."""

import os
from collections.abc import Iterable
from pathlib import Path

from pangu.foundation.compiled_sources import sources_of

# the kernels that stages call first; what is not here compiles in a second or two
STAGE_KERNELS = {
    "clean": ("survey",),
    "filter": ("text_signals",),
    "dedup_fuzzy": ("minhash", "normal_form"),
    "dedup_paragraph": ("paragraphs",),
    "decontaminate": ("contamination",),
}
MESSAGE = "first use of this version here: kernels are compiled and kept for later runs (20 to 30 s of processor time)"


def missing_kernels(stages: Iterable[str]) -> list[str]:
    """Return the kernels of some kinds of stages that have no machine code newer than their source."""
    wanted = dict.fromkeys(name for stage in stages for name in STAGE_KERNELS.get(stage, ()))
    return [name for name in wanted if not _is_compiled(name)]


def _is_compiled(name: str) -> bool:
    source = Path(__file__).with_name(f"{name}.py")
    changed = max(one.stat().st_mtime for one in sources_of(source))
    return any(
        index.stat().st_mtime >= changed
        for folder in _folders()
        if folder.is_dir()
        for index in folder.glob(f"{name}.*.nbi")
    )


def _folders() -> list[Path]:
    """Return where numba may keep machine code of this package."""
    own = Path(__file__).parent
    named = os.environ.get("NUMBA_CACHE_DIR")
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numba"
    roots = [Path(named)] if named else [user]
    folders = [own / "__pycache__"]
    for root in roots:
        folders += [root, *(path for path in root.glob("kernels_*") if path.is_dir())]
    return folders
