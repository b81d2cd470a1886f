"""The compiled tables on disk: shared, checked, and never needed."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pangu.tokenizer.array_cache import cached, pack, unpack
from pangu.tokenizer.double_array import build_double_array

BUILT = np.arange(1000, dtype=np.uint8)


class Builder:
    """Counts how often it had to build."""

    calls = 0

    def __call__(self) -> np.ndarray:
        self.calls += 1
        return BUILT


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "pangu-alpha"


def test_the_second_call_reads_what_the_first_wrote(cache: Path) -> None:
    build = Builder()
    for _ in range(3):
        assert np.array_equal(cached("table", build), BUILT)
    assert build.calls == 1
    assert [path.name for path in cache.iterdir()] == ["table"]


@pytest.mark.parametrize("damage", [b"", b"abc", BUILT.tobytes(), BUILT.tobytes()[:-1] + b"\0\0\0\0\0"])
def test_a_damaged_file_is_written_anew(cache: Path, damage: bytes) -> None:
    build = Builder()
    cached("table", build)
    whole = (cache / "table").read_bytes()
    (cache / "table").write_bytes(damage)
    assert np.array_equal(cached("table", build), BUILT)
    assert build.calls == 2
    assert (cache / "table").read_bytes() == whole


def test_without_a_place_to_write_everything_works(cache: Path) -> None:
    cache.write_text("a file where the directory should be")
    build = Builder()
    for _ in range(2):
        assert np.array_equal(cached("table", build), BUILT)
    assert build.calls == 2


def test_the_files_last_used_are_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pangu.tokenizer.array_cache.FILES_KEPT", 2)
    build = Builder()
    for age, name in enumerate(["old", "used", "new"]):
        cached(name, build)
        os.utime(cache / name, (1000 + age, 1000 + age))
        cached("used", build)
    assert sorted(path.name for path in cache.iterdir()) == ["new", "used"]


def test_unpacking_gives_back_what_was_packed() -> None:
    arrays: list[np.ndarray] = [
        np.arange(3, dtype=np.uint8),
        np.empty(0, np.int32),
        np.array([0.5, -np.inf]),
        np.arange(7, dtype=np.uint16),
    ]
    for before, after in zip(arrays, unpack(pack(arrays), np.uint8, np.int32, np.float64, np.uint16), strict=True):
        assert np.array_equal(before, after) and before.dtype == after.dtype


@given(st.lists(st.text("abcdefg", min_size=1, max_size=6), min_size=1, unique=True), st.text("abcdefg", min_size=1))
def test_the_trie_holds_the_words_and_no_others(words: list[str], other: str) -> None:
    codes = {character: code for code, character in enumerate("abcdefg", start=1)}
    base, check, nodes = build_double_array(words, codes)
    for text in (*words, other):
        node = codes[text[0]]
        for character in text[1:]:
            child = base[node] + codes[character] if base[node] else -1
            node = child if child >= 0 and check[child] == node else -1
            if node < 0:
                break
        assert (node in nodes.tolist()) == (text in words)
        if text in words:
            assert node == nodes[words.index(text)]


def test_an_installation_that_cannot_be_written_to() -> None:
    """numba finds no place for its machine code either: the kernels are compiled for this process."""
    program = (
        "from pangu.tokenizer import lazily_compiled as compiled\n"
        "import numba.core.caching as caching\n"
        "caching.CodeLibraryCacheImpl._locator_classes = []\n"
        "compiled.PATIENCE = 0\n"
        "print(compiled.Compiled(lambda numbers: numbers[0] + 1)((41, 0)))"
    )
    environment = dict(os.environ, PYTHONPATH=str(Path(__file__).parents[2]))
    result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert result.stdout == "42\n", result.stderr
