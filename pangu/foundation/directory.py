"""Directories that appear whole or not at all."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from pangu.foundation.atomic_file import hidden_name, sync_directory
from pangu.foundation.errors import UserError, WriteError
from pangu.foundation.lock import Lock


def commit_directory(temporary: Path, final: Path, is_synced: bool = True) -> None:
    """Let a finished directory take the place of `final`. Raises WriteError.

    What was there is moved aside first and removed last. is_synced: every file goes to the disk before.
    """
    old = temporary.with_name(f"{temporary.name}.old")
    try:
        if is_synced:
            sync_tree(temporary)
        final.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(old, ignore_errors=True)
        if os.path.lexists(final):
            os.rename(final, old)
        os.rename(temporary, final)
        sync_directory(final.parent)
    except OSError as error:
        raise WriteError(final, error) from None
    shutil.rmtree(old, ignore_errors=True)


def remove_directory(path: Path) -> None:
    """Remove a directory. It is renamed first, so that an interruption leaves no half of it under its name."""
    leftover = hidden_name(path, "tmp")
    shutil.rmtree(leftover, ignore_errors=True)
    os.rename(path, leftover)
    shutil.rmtree(leftover, ignore_errors=True)


@contextlib.contextmanager
def hidden_directory(final: Path) -> Iterator[Path]:
    """Make an empty directory beside `final`; at the end it is removed, unless it has got that name. One at a time.

    Raises WriteError where it, or a file in it, cannot be written.
    """
    hidden = hidden_name(final, "partial")
    try:
        hidden.mkdir(exist_ok=True)
    except (OSError, ValueError) as error:
        raise WriteError(final, error) from None
    with Lock(hidden, f"{final}: is being written by another process"):
        for left in hidden.iterdir():
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        try:
            yield hidden
        except OSError as error:
            if error.filename is not None:
                raise
            raise WriteError(final, error) from error  # of a file that was open: the system does not say which
        finally:
            shutil.rmtree(hidden, ignore_errors=True)


def sync_tree(directory: Path) -> None:
    """Make everything below a directory last through a loss of power."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() or (path.is_dir() and not path.is_symlink()):
            sync_directory(path)
    sync_directory(directory)


def make_directory(path: Path) -> None:
    """Make a directory and what lies above it. Raises UserError for a URL, and WriteError."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", str(path)):
        raise UserError(f"{path}: the output directory is a path, not a URL; mount it, or copy the result there")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise WriteError(path, error) from None
