"""The decorator that every numba kernel of this package wears.

A kernel runs as machine code, or, while there is none yet and the work is small, as the Python that it is written in,
to the same result: `first_use.py` decides that for the process, before the first call. numba is imported when a kernel
is first called as machine code."""

from collections.abc import Callable
from functools import cached_property
from types import FunctionType
from typing import Any

from data_pipeline.kernels import first_use


class Kernel:
    """A function of arrays that releases the interpreter lock while it runs as machine code."""

    def __init__(self, function: Callable) -> None:
        self.function = function
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__

    def __call__(self, *arguments: Any) -> Any:
        if first_use.is_plain():
            return self.interpreted(*arguments)
        return self.dispatcher(*arguments)

    @cached_property
    def interpreted(self) -> Callable:
        """Return the function as Python; so are the kernels that it calls."""
        return _as_python(self.function.__module__, self.function.__globals__)[self.function.__name__]

    @cached_property
    def dispatcher(self) -> Any:
        """Return numba's function, whose machine code is kept on disk where a folder for it can be written."""
        from numba import njit

        from data_pipeline.kernels.machine_code import MachineCode

        found = njit(nogil=True, error_model="numpy")(self.function)
        if hasattr(found, "_cache"):  # not where NUMBA_DISABLE_JIT is set
            found._cache = MachineCode(self.function)
        return found

    @property
    def _numba_type_(self) -> Any:
        """Return what numba asks for where another kernel calls this one."""
        from numba import types

        return types.Dispatcher(self.dispatcher)


_namespaces: dict[str, dict[str, Any]] = {}


def _as_python(module: str, names: dict[str, Any]) -> dict[str, Any]:
    """Return the names of a module, with every kernel among them as a Python function."""
    if module not in _namespaces:
        found = _namespaces[module] = dict(names)
        for name, value in names.items():
            if not isinstance(value, Kernel):
                continue
            function = value.function
            if function.__module__ == module:
                found[name] = FunctionType(function.__code__, found, function.__name__, function.__defaults__)
            else:
                found[name] = _as_python(function.__module__, function.__globals__)[function.__name__]
    return _namespaces[module]


def compiled(function: Callable) -> Any:
    """Make a kernel of a function."""
    return Kernel(function)
