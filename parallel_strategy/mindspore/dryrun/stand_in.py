"""Builds a stand-in for CANN, so that MindSpore's dry-run compiles for Ascend where no CANN is installed.

The CPU wheel of MindSpore carries the Ascend plugin; only CANN's libraries are missing. One small library takes their
place: it defines every symbol that the plugin wants and nothing else provides, as a function that answers 0. Those
whose answer is used are written out in `answers.cc`. The symbols are read from the wheel, so the library belongs to
that wheel, and is kept in the user's cache under its version and the digest of what it was built from.
"""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import metadata, util
from pathlib import Path

from pangu.foundation.best_effort import reason_of
from pangu.foundation.errors import UserError
from parallel_strategy.mindspore.dryrun.elf import read_symbols, words

MINDSPORE = "2.10.0"
ANSWERS = Path(__file__).with_name("answers.cc")
# What the plugin opens, under the names that it opens them by; `driver` is a folder of its own.
LIBRARIES = (
    *("libge_runner", "libgraph", "libascendcl", "libmsprofiler", "libhccl", "libruntime", "libplatform", "libc_sec"),
    *("libnnopbase", "libascend_hal", "libmf_smem", "libmf_hybm_core", "libacl_op_compiler", "libacl_tdt_queue"),
    *("libacl_tdt_channel", "driver/libascend_hal"),
)
PLUGINS = (
    *("lib/plugin/libmindspore_ascend.so.2", "lib/plugin/libmindspore_ops_ascend.so"),
    *("lib/plugin/ascend/libmindspore_ascend_res_manager.so", "lib/plugin/ascend/libd_collective.so"),
    "lib/plugin/ascend/ms_kernels_symmetric_memory/shmem/shmem/lib/libshmem.so",
)
# Libraries that look functions up by name while they run, and what those names begin with. An operator's own entry
# (aclnn...) is only looked up by kernels, which a dry-run does not have.
LOOKS_UP = (*PLUGINS[:3], "lib/plugin/ascend/libhccl_plugin.so")
LOOKED_UP = rb"(?:acl(?!nn)|Hccl|hccl|rt(?=[A-Z])|hal|Msprof|aml)[A-Za-z0-9]+"
SYSTEM = ("libstdc++.so.6", "libc.so.6", "libm.so.6", "libgcc_s.so.1", "libgomp.so.1", "libpthread.so.0")
SYSTEM_LATE = ("libdl.so.2", "librt.so.1", "ld-linux-x86-64.so.2")
# Tables of virtual functions and type information are data, not functions.
DATA = ("_ZTV", "_ZTI", "_ZTS", "_ZTT")
DATA_SIZE = 512
ABSENT = "MindSpore is not installed; `pip install 'pangu-alpha[pangu]'` adds it"
BUILDING, ABANDONED_SECONDS = ".building-", 3600


def mindspore_folder() -> Path:
    """Return where MindSpore is installed, found without importing it. Raises UserError."""
    found = util.find_spec("mindspore")
    if found is None or not found.submodule_search_locations:
        raise UserError(ABSENT)
    return Path(found.submodule_search_locations[0])


def installed_cann() -> Path | None:
    """Return the CANN toolkit of this machine, which makes the stand-in needless."""
    for place in (os.environ.get("ASCEND_HOME_PATH"), "/usr/local/Ascend/ascend-toolkit/latest"):
        if place and (Path(place) / "lib64" / "libascendcl.so").exists():
            return Path(place)
    return None


def why_not() -> str | None:
    """Return why a dry-run cannot be had on this machine, in one line; None: it can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return (
            f"the compile check runs on Linux x86-64, not on {sys.platform} {platform.machine()}: "
            "MindSpore's wheel has its Ascend compiler for that only"
        )
    try:
        version = metadata.version("mindspore")
    except metadata.PackageNotFoundError:
        return ABSENT
    if installed_cann() is not None:
        return None
    if version != MINDSPORE:
        return f"the compile check knows mindspore=={MINDSPORE}, here is {version}: pip install mindspore=={MINDSPORE}"
    if shutil.which("g++") is None:
        return "the compile check builds a small library once and needs g++ for it (Debian, Ubuntu: apt install g++)"
    return None


def wanted_symbols(mindspore: Path) -> set[str]:
    """Return what the Ascend plugin wants and neither MindSpore nor the system has."""
    plugins = [mindspore / name for name in PLUGINS]
    wanted: set[str] = set()
    present: set[str] = set()
    for library in plugins:
        symbols = read_symbols(library)
        wanted |= symbols.wanted
        present |= symbols.defined
    for library in [*mindspore.glob("lib/*.so*"), *mindspore.glob("*.so"), *system_libraries()]:
        present |= read_symbols(library).defined
    wanted = {name for name in wanted - present if not name.startswith(("Py", "_Py"))}
    for name in LOOKS_UP:
        wanted |= words(mindspore / name, LOOKED_UP)
    return wanted


def system_libraries() -> list[Path]:
    found = []
    for name in (*SYSTEM, *SYSTEM_LATE):
        answer = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
        if os.path.isabs(answer):
            found.append(Path(answer).resolve())
    return found


def assembly(names: set[str]) -> str:
    """Make each name a function that returns 0 in both result registers, or as zeroed data."""
    functions = sorted(name for name in names if not name.startswith(DATA))
    data = sorted(name for name in names if name.startswith(DATA))
    lines = [".text"]
    lines += [f'.globl "{name}"\n.type "{name}", @function\n"{name}":' for name in functions]
    # One body serves all functions; a library has at least one.
    lines += ["xorl %eax, %eax", "xorl %edx, %edx", "ret", ".data", ".balign 16"]
    lines += [f'.globl "{name}"\n.type "{name}", @object\n"{name}": .zero {DATA_SIZE}' for name in data]
    return "\n".join([*lines, '.section .note.GNU-stack, "", @progbits', ""])


def cache_folder() -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "parallel_strategy"


def build() -> Path:
    """Return the folder of the stand-in, built where it is not there yet: `cann/lib64` and `python`. Raises
    UserError."""
    reason = why_not()
    if reason:
        raise UserError(reason)
    mindspore = mindspore_folder()
    record = metadata.distribution("mindspore").read_text("RECORD") or ""
    digest = hashlib.sha256(
        b"".join(part.encode() for part in (record, Path(__file__).read_text(), ANSWERS.read_text()))
    )
    folder = cache_folder() / f"cann-stand-in-{MINDSPORE}-{digest.hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder.parent)
        temporary = Path(tempfile.mkdtemp(prefix=BUILDING, dir=folder.parent))
    except OSError as error:
        raise UserError(f"{folder.parent}: the stand-in for CANN cannot be kept here: {reason_of(error)}") from None
    try:
        _compile(wanted_symbols(mindspore), temporary)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first, with the same contents
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _remove_abandoned(cache: Path) -> None:
    """Remove what builds left that were killed. A build takes seconds."""
    for left in cache.glob(f"{BUILDING}*"):
        if time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
            shutil.rmtree(left, ignore_errors=True)


def _compile(names: set[str], folder: Path) -> None:
    answered = set(re.findall(r"\b(\w+)\(", ANSWERS.read_text())) | set(
        re.findall(r"_A_HANDLE\((\w+)", ANSWERS.read_text())
    )
    (folder / "stand_in.s").write_text(assembly(names - answered))
    libraries = folder / "cann" / "lib64"  # the plugin looks for "cann" in the path of what it has loaded
    (libraries / "driver").mkdir(parents=True)
    whole = libraries / "libascendcl.so"
    # The plugin was built with the old ABI of std::string.
    command = ["g++", "-O1", "-D_GLIBCXX_USE_CXX11_ABI=0", "-fPIC", "-shared", "-o", str(whole)]
    result = subprocess.run([*command, str(folder / "stand_in.s"), str(ANSWERS)], capture_output=True, text=True)
    if result.returncode:
        raise UserError(f"g++ cannot build the stand-in for CANN: {' '.join(result.stderr.split())[:300]}")
    for name in LIBRARIES:
        place = libraries / f"{name}.so"
        if place != whole:
            shutil.copy(whole, place)
    package = folder / "python" / "hccl"  # which MindSpore imports to learn CANN's version
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "sys_version.py").write_text('__sys_version__ = "8.0.0"\n')
