"""Functions that numba compiles when they are first called."""

from collections.abc import Callable
from functools import cached_property
from types import FunctionType
from typing import Any, ClassVar

from pangu.foundation.compiled_sources import keep_while_unchanged

# So many numbers a process works on in Python: importing numba and fetching machine code from its cache takes about as
# long. A process that encodes a prompt or two does without numba.
PATIENCE = 2000


class Compiled:
    """Decorates a function of arrays so that a call compiles it, and what it calls of the same kind, to run without the
    interpreter lock. The machine code is kept on disk. The first argument must be the array that is worked on.
    """

    _seen: ClassVar[int] = 0  # numbers that were worked on in Python

    def __init__(self, function: Callable) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    def __call__(self, *arguments: Any) -> Any:
        if Compiled._seen < PATIENCE:
            Compiled._seen += len(arguments[0])
            if Compiled._seen < PATIENCE:
                return self.interpreted(*arguments)
        return self._dispatcher(*arguments)

    @cached_property
    def interpreted(self) -> Callable:
        """Return the function, and what it calls, as Python, to the same result."""
        names = dict(self.function.__globals__)
        for name, value in names.items():
            if isinstance(value, Compiled):
                names[name] = FunctionType(value.function.__code__, names, name, value.function.__defaults__)
        return names[self.function.__name__]

    @cached_property
    def _dispatcher(self) -> Any:
        import numba

        try:
            return keep_while_unchanged(numba.njit(nogil=True, cache=True)(self.function), self.function)
        except RuntimeError:
            # numba can write neither beside the source nor in the user's cache directory: every process compiles
            return numba.njit(nogil=True)(self.function)

    @property
    def _numba_type_(self) -> Any:
        """Return what numba asks for where another compiled function calls this one."""
        import numba

        return numba.types.Dispatcher(self._dispatcher)
