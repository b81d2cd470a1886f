"""The numba decorator of the compiled kernels."""

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable) -> Any:
    """Compile on first use, without the interpreter lock; keep the machine code on disk where a place for it can be found.

    numba looks for that place beside the source and in the user's cache directory, and raises when neither can be
    written (a read-only installation run by a user without a home).
    """
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return numba.njit(nogil=True)(function)
