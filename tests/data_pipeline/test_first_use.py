"""Kernels before they are compiled: the same results from Python, and who finds machine code where."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data_pipeline.commands import warm
from data_pipeline.engine.run_recipe import PLAIN_STAGES
from data_pipeline.kernels import first_use, survey
from data_pipeline.kernels.text_signals import text_signals
from data_pipeline.stages.dedup.paragraph import ParagraphSettings, deduplicate_paragraphs
from data_pipeline.stages.dedup.signatures import FuzzySettings, sketch
from data_pipeline.stages.dedup.substring import SubstringSettings, deduplicate_substrings
from tests.conftest import REPOSITORY
from tests.data_pipeline.conftest import contents, make_text, run_recipe, write_jsonl

ODD = ["", "短", "a\0b\n\n  \t甲" * 4, "𠮷野家，１２３％。" * 5, "é" * 70, "<p>&nbsp;1.5</p>\n" * 3]


@pytest.fixture
def python() -> Iterator[None]:
    """Kernels run as Python."""
    first_use.use_python(True)
    yield
    first_use.use_python(False)


def results() -> list:
    from data_pipeline.extraction.extract import Form, extract

    texts = pa.array([*ODD, make_text(1), make_text(1) + "。", make_text(2)], pa.large_string())
    sketches = sketch(texts, FuzzySettings())
    pages = [warm._PAGE.encode(), b"", b"<p>\xff\xfe<b", "<ul>" + "<li><a href=x>链接</a>" * 9]
    pages = [page.encode() if isinstance(page, str) else page for page in pages]
    return [
        {name: values.tobytes() for name, values in text_signals(texts).items()},
        [values.tobytes() for values in (sketches.digest, sketches.length, sketches.signature)],
        [values.tobytes() for values in survey.measure(texts)],
        survey.count_words(texts).tobytes(),
        deduplicate_paragraphs(texts, ParagraphSettings(documents=1, minimum_characters=3)).texts.to_pylist(),
        deduplicate_substrings(texts, SubstringSettings(length=8)).texts.to_pylist(),
        [extract(page, form=form) for page in pages for form in (Form(), Form("markdown", True, True))],
    ]


def test_python_gives_what_machine_code_gives(request: pytest.FixtureRequest) -> None:
    expected = results()
    request.getfixturevalue("python")
    with np.errstate(all="raise", over="ignore", under="ignore"):
        for one, other in zip(results(), expected, strict=True):
            assert one == other


def test_a_small_run_does_without_the_compiler_and_gives_the_same_bytes(
    tmp_path: Path, recipe_at: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from data_pipeline.engine.progress import Announcer
    from data_pipeline.engine.run_recipe import run
    from data_pipeline.recipe import Recipe

    write_jsonl(tmp_path / "a.jsonl", [{"id": str(i), "text": make_text(i % 7)} for i in range(9)])
    stages = ["read", {"clean": {"minimum_characters": 5}}, "filter", "dedup_fuzzy"]
    recipe = recipe_at([{"name": "a", "paths": "a.jsonl"}], stages, workers=1)
    run_recipe(recipe, tmp_path / "compiled")
    told: list[str] = []
    reporter = Announcer()
    monkeypatch.setattr(reporter, "say", told.extend)
    monkeypatch.setattr(first_use, "folders", lambda source: [tmp_path])
    monkeypatch.setitem(sys.modules, "data_pipeline.kernels.machine_code", None)  # asking for it would fail
    run(Recipe.load(recipe), tmp_path / "plain", reporter)
    assert told == [first_use.PLAIN_MESSAGE]
    assert contents(tmp_path / "plain") == contents(tmp_path / "compiled")
    assert not first_use.is_plain()


def test_who_compiles_is_told_and_who_has_little_to_do_need_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_use, "folders", lambda source: [tmp_path])
    try:
        assert first_use.prepare(["clean"], 1000) == first_use.PLAIN_MESSAGE and first_use.is_plain()
        assert first_use.prepare(["clean", "filter"], 10**6) == first_use.MESSAGE and not first_use.is_plain()
        assert first_use.prepare(["clean"], 1000, is_small_enough=False) == first_use.MESSAGE
        assert first_use.prepare(["read"], 10**9) is None and not first_use.is_plain()
        (tmp_path / "survey._survey-120.py311.nbi").touch()
        assert first_use.missing_kernels(["read", "clean", "filter"]) == ["text_signals"]
        assert first_use.prepare(["clean"], 1000) is None and not first_use.is_plain()
        assert {"surroundings", "measures"} <= set(first_use.missing_kernels([], has_pages=True))
    finally:
        first_use.use_python(False)


def test_the_kernels_of_stages_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(first_use.STAGE_KERNELS) - {"decontaminate"} <= PLAIN_STAGES
    monkeypatch.setattr(first_use, "folders", lambda source: [tmp_path])
    named = {name for names in first_use.STAGE_KERNELS.values() for name in names}
    assert set(first_use.missing_kernels(first_use.STAGE_KERNELS)) == named


def test_machine_code_is_found_by_its_content_and_old_versions_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    package = tmp_path / "one/data_pipeline/kernels"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    for name in ("compiled", "first_use", "machine_code"):
        (package / f"{name}.py").write_bytes((REPOSITORY / f"data_pipeline/kernels/{name}.py").read_bytes())
    (package / "twice.py").write_text(
        "from data_pipeline.kernels.compiled import compiled\n\n\n@compiled\ndef twice(x):\n    return x + x\n"
    )
    code = (
        "from data_pipeline.kernels.twice import twice; twice(2); d = twice.dispatcher;"
        "print(sum(d.stats.cache_hits.values()), sum(d.stats.cache_misses.values()))"
    )

    def run(place: Path) -> str:
        return subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True).stdout.strip()

    for number in range(9):
        (tmp_path / f"cache/pangu-alpha/kernels/kernels-{number:016x}").mkdir(parents=True)
    assert run(tmp_path / "one") == "0 1"
    (tmp_path / "one").rename(tmp_path / "moved")
    assert run(tmp_path / "moved") == "1 0"
    kept = list((tmp_path / "cache/pangu-alpha/kernels").iterdir())
    assert len(kept) == first_use.KEPT_VERSIONS + 1
    # another version has its own
    source = tmp_path / "moved/data_pipeline/kernels/twice.py"
    source.write_text(source.read_text().replace("x + x", "x + x + 0"))
    assert run(tmp_path / "moved") == "0 1"


def test_warm_compiles_beside_the_sources_whatever_the_user_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_use, "_mode", dict(first_use._mode))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    source = Path(survey.__file__)
    beside, users = first_use.folders(source)
    assert beside.parent == source.parent / "__pycache__" and users.is_relative_to(tmp_path)
    assert first_use.folders_to_read(source) == [beside, users]
    assert first_use.folders_to_write(source) == [users, beside]
    first_use.write_beside()
    assert first_use.folders_to_read(source) == [beside] and first_use.folders_to_write(source) == [beside, users]
