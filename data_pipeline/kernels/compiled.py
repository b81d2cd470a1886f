"""The decorator that every numba kernel of this package wears."""

from collections.abc import Callable
from typing import Any

from numba import njit

from pangu.foundation.compiled_sources import keep_while_unchanged


def compiled(function: Callable) -> Any:
    """Compile with numba, release the interpreter lock while running, and keep the machine code on disk.

    numba keeps it beside the source, or else in the user's cache folder. Where neither can be written (a read-only
    install with no home) it refuses to decorate at all; then the code is compiled anew in each process.
    """
    try:
        return keep_while_unchanged(njit(nogil=True, cache=True, error_model="numpy")(function), function)
    except RuntimeError:
        return njit(nogil=True, error_model="numpy")(function)
