"""Where machine code of kernels is kept: by the content of their sources, beside them for every user, or in the cache
of one.

numba asks for the folder of the source and its time. Then another user, another copy of the same version, and a
read-only installation compile everything again. Here a folder is named after the sources; `data-pipeline warm` fills
the one beside the sources, a run that has to compile the one of its user."""

from functools import cache
from pathlib import Path
from typing import Any

from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile, UserWideCacheLocator

from data_pipeline.kernels import first_use


def _leave_blas_for_later() -> None:
    """Let numba import SciPy's BLAS when a kernel asks for it, and not with itself: none here does, and it is a tenth
    of a second of each process."""
    import numba.np.linalg as linalg

    found = linalg.ensure_blas
    linalg.ensure_blas = lambda: None
    try:
        import numba.np.arraymath  # noqa: F401 (asks whether there is a BLAS, and imports it to know)
    finally:
        linalg.ensure_blas = found


_leave_blas_for_later()


class _Locator(UserWideCacheLocator):
    """Says nothing of a folder: `MachineCode` knows several."""

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> "_Locator":
        return cls(py_func, py_file)

    def get_cache_path(self) -> str:
        return str(first_use.user_folder(Path(self._py_file)))

    def ensure_cache_path(self) -> None:
        pass


class _Form(CompileResultCacheImpl):
    _locator_classes = [_Locator]  # noqa: RUF012 as numba declares it


class MachineCode(FunctionCache):
    """The machine code of one kernel."""

    _impl_class = _Form

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        source = Path(function.__code__.co_filename)
        stamp = first_use.sources_digest(source.parent)
        self._files = [
            IndexDataCacheFile(str(folder), self._impl.filename_base, stamp)
            for folder in first_use.folders_to_read(source)
        ]
        self._to_write = [
            IndexDataCacheFile(str(folder), self._impl.filename_base, stamp)
            for folder in first_use.folders_to_write(source)
        ]

    def _load_overload(self, sig: Any, target_context: Any) -> Any:
        key = self._index_key(sig, target_context.codegen())
        for file in self._files:
            try:
                data = file.load(key)
            except Exception:  # what another process has cut short, or a folder that may not be read
                continue
            if data is not None:
                return self._impl.rebuild(target_context, data)
        return None

    def _save_overload(self, sig: Any, data: Any) -> None:
        if not self._impl.check_cachable(data):
            return
        key, reduced = self._index_key(sig, data.codegen), self._impl.reduce(data)
        for file in self._to_write:
            try:
                _make(file._cache_path)
                file.save(key, reduced)
                return
            except OSError:  # the next folder; where none can be written, each process compiles anew
                continue


@cache
def _make(path: str) -> None:
    """Make a folder for this version; of those of other versions beside it, the least used ones go."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    first_use.remove_old(folder)
