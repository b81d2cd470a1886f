"""Kept machine code is used only while all its sources are as they were."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pangu.foundation import compiled_sources
from pangu.foundation.compiled_sources import keep_while_unchanged, sources_of
from tests.conftest import REPOSITORY

CALLER = "from pangu.callee import (\n    inner,\n)\n\ndef outer(x):\n    return inner(x)\n"
CALLEE = "import numba\nfrom pangu import constant\nSTEP = constant.STEP\n\n"
CALLEE += "@numba.njit\ndef inner(x):\n    return x + STEP\n"


def loaded(folder: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"pangu.{name}", folder / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    if name == "constant":
        sys.modules["pangu"].constant = module  # type: ignore[attr-defined]
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("changed", ["callee", "constant"])
def test_a_change_in_what_a_kept_function_calls_is_seen(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A callee that was edited, and a constant that it takes from a third file; the caller's own file stays."""
    numba = pytest.importorskip("numba", reason="numba is not installed")
    folder = tmp_path / "pangu"
    folder.mkdir()
    import pangu

    monkeypatch.setattr(pangu, "constant", None, raising=False)
    for name, text in {"caller": CALLER, "callee": CALLEE, "constant": "STEP = 1\n"}.items():
        (folder / f"{name}.py").write_text(text)
        monkeypatch.setitem(sys.modules, f"pangu.{name}", ModuleType(name))

    def result() -> tuple[int, int]:
        for cached in (compiled_sources.digest_of, compiled_sources.sources_of, compiled_sources.imported_files):
            cached.cache_clear()
        modules = [loaded(folder, name) for name in ("constant", "callee", "caller")]
        outer = modules[-1].outer
        kept = keep_while_unchanged(numba.njit(cache=True)(outer), outer)
        return kept(10), sum(kept.stats.cache_hits.values())

    assert result() == (11, 0) and result() == (11, 1)
    place = folder / f"{changed}.py"
    place.write_text(place.read_text().replace("x + STEP", "x + STEP + 1").replace("STEP = 1", "STEP = 2"))
    assert result() == (12, 0)


def test_the_sources_are_those_that_are_imported_directly_or_not() -> None:
    names = {path.relative_to(REPOSITORY).as_posix() for path in sources_of(REPOSITORY / "pangu/tokenizer/unigram.py")}
    assert {"pangu/tokenizer/unigram.py", "pangu/tokenizer/lazily_compiled.py"} <= names
    assert not any(name.startswith("data_pipeline") for name in names)
    engine = sources_of(REPOSITORY / "pangu/generation/compiled/phases.py")
    assert {"phases.py", "products.py", "vectors.py"} <= {path.name for path in engine}
    assert "compiled_network.py" not in {path.name for path in engine}  # Python that no machine code is made of
