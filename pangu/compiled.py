"""The numba decorator of the compiled kernels."""

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable) -> Any:
    """Compile on first use, to run without the interpreter lock; keep the machine code on disk.

    numba looks for a place beside the source and in the user's cache directory, and raises when neither can be written
    (a read-only installation, a user without a home): every process compiles then.
    """
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return numba.njit(nogil=True)(function)
