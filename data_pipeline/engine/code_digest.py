"""Digests of the code that decides a step's bytes: modules by what Python compiles of them, libraries by version."""

import functools
import importlib.abc
import importlib.metadata
import importlib.util
from collections.abc import Iterator
from types import CodeType
from typing import Any

from data_pipeline.engine.manifest import digest
from data_pipeline.engine.steps import Step

# the code that every step's bytes depend on
BASE_CODE = ("data_pipeline.record", "data_pipeline.engine.shard")


def code_digests(step: Step, settings: Any) -> dict[str, str]:
    """Return module or library -> digest of its code or its version, for everything that decides a step's bytes.

    Raises ModuleNotFoundError for a library that is not installed.
    """
    functions = [value for value in vars(step).values() if callable(value)]
    modules = dict.fromkeys([*BASE_CODE, *(function.__module__ for function in functions), *step.uses])
    digests = {module: module_digest(module) for module in modules}
    libraries = ("pyarrow", *step.libraries_with(settings))
    digests.update({library: importlib.metadata.version(library) for library in libraries})
    return digests


@functools.cache
def module_digest(module: str) -> str:
    """Return the digest of a module's compiled code, which Python keeps beside it. Comments, formatting and line
    numbers do not count.
    """
    specification = importlib.util.find_spec(module)
    if specification is None or not isinstance(specification.loader, importlib.abc.InspectLoader):
        raise ModuleNotFoundError(module)
    code = specification.loader.get_code(module)
    if code is None:
        raise ModuleNotFoundError(module)
    return digest(*_code_facts(code))


def _code_facts(code: CodeType) -> Iterator[str]:
    """Yield what a code object does, its functions and classes included."""
    yield code.co_code.hex()
    yield repr((code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, code.co_exceptiontable))
    yield repr((code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code_facts(constant)
        else:  # the order of a set differs from process to process
            yield repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant)
