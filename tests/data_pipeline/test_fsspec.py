"""Sources behind URLs: the same records as from files, and one line where something is missing."""

import gzip
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline.recipe import Recipe
from data_pipeline.stages.read import remote_files as read_remote
from data_pipeline.stages.read.remote_files import is_url
from pangu.foundation.errors import UserError
from tests.data_pipeline.conftest import contents, make_text, run_recipe, write_jsonl
from tests.data_pipeline.test_read import kept, read_rows, reasons, source_of
from tests.data_pipeline.test_read_pages import hostile_archive

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def memory() -> Iterator[Callable[[str, bytes], None]]:
    """Puts files into fsspec's memory:// (which forked workers inherit)."""
    system = fsspec.filesystem("memory")
    yield lambda name, data: system.pipe(f"/{name}", data)
    system.store.clear()


def fill(folder: Path) -> dict[str, bytes]:
    rows = [{"id": str(number), "text": make_text(number)} for number in range(40)]
    plain = write_jsonl(folder / "a.jsonl", rows).read_bytes()
    pq.write_table(pa.table({"text": [make_text(90)], "id": ["p"]}), folder / "t.parquet")
    files = {
        "a.jsonl": plain,
        "b/c.jsonl.gz": gzip.compress(plain)[:-300],
        "b/page.html": f"<title>题</title><p>{make_text(1)}</p>".encode("gb18030"),
        "b/w.warc.gz": hostile_archive(),
        "t.parquet": (folder / "t.parquet").read_bytes(),
        ".hidden/x.jsonl": plain,
        "b/picture.png": b"\x89PNG",
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    return files


def test_the_same_bytes_as_from_files(
    tmp_path: Path, memory: Callable[[str, bytes], None], recipe_at: Callable[..., Path]
) -> None:
    for name, data in fill(tmp_path / "in").items():
        memory(f"bucket/{name}", data)
    outcomes = []
    stages = [{"read": {"item_bytes": 3000, "maximum_record_bytes": "4MB"}}, "dedup_exact"]
    for out, place in (("files", "in"), ("memory", "memory://bucket"), ("url", f"file://{tmp_path}/in")):
        recipe = recipe_at([{"name": "s", "paths": place}], stages, workers=2)
        run_recipe(recipe, tmp_path / out)
        outcomes.append(contents(tmp_path / out))
        again = run_recipe(recipe, tmp_path / out)
        assert all(summary.reused == summary.tasks for summary in again.values())
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert len(outcomes[0]) > 8


def test_names_and_patterns(tmp_path: Path, memory: Callable[[str, bytes], None]) -> None:
    for name in ("x/1.txt", "x/2.txt", "x/y/3.txt", "x/z.png"):
        memory(name, f"text of {name}".encode())
    named = {
        url: [row["path"] for row in read_rows(source_of(url), tmp_path)]
        for url in ("memory://x/1.txt", "memory://x/*.txt", "memory://x/**/*.txt", "memory://x")
    }
    assert named == {
        "memory://x/1.txt": ["1.txt"],
        "memory://x/*.txt": ["1.txt", "2.txt"],
        "memory://x/**/*.txt": ["1.txt", "2.txt", "y/3.txt"],
        "memory://x": ["1.txt", "2.txt", "y/3.txt", "z.png"],
    }
    assert len(read_rows(source_of("memory://x", "memory://x/1.txt"), tmp_path)) == 4
    with pytest.raises(UserError, match="unknown kind of file"):
        read_rows(source_of("memory://x/z.png"), tmp_path)
    with pytest.raises(UserError, match="no such file, directory or glob"):
        read_rows(source_of("memory://nothing"), tmp_path)
    with pytest.raises(UserError, match="no file to read"):
        read_rows(source_of("memory://x/*.html"), tmp_path)


def test_a_changed_file_is_read_again(
    tmp_path: Path, memory: Callable[[str, bytes], None], recipe_at: Callable[..., Path]
) -> None:
    memory("x/1.txt", b"one text")
    recipe = recipe_at([{"name": "s", "paths": "memory://x"}], ["read"])
    run_recipe(recipe, tmp_path / "out")
    memory("x/1.txt", b"another!")
    assert run_recipe(recipe, tmp_path / "out")["read"].reused == 0
    assert pq.read_table(tmp_path / "out/documents").column("text").to_pylist() == ["another!"]


def test_names_that_climb_stay_names(
    tmp_path: Path, memory: Callable[[str, bytes], None], recipe_at: Callable[..., Path]
) -> None:
    """An object's key may be anything; what a run writes is named by itself."""
    line = json.dumps({"id": "../../evil", "text": make_text(1)}).encode()
    fsspec.filesystem("memory").store["/x/../../../evil.jsonl"] = fsspec.implementations.memory.MemoryFile(
        None, "/x/../../../evil.jsonl", line
    )
    memory("x/good.jsonl", line)
    recipe = recipe_at([{"name": "s", "paths": "memory://x"}], ["read"])
    before = sorted(tmp_path.rglob("*"))
    run_recipe(recipe, tmp_path / "deep" / "er" / "out")
    outside = [path for path in sorted(tmp_path.rglob("*")) if path not in before and "deep" not in path.parts]
    assert outside == []
    assert "../../evil" in pq.read_table(tmp_path / "deep/er/out/documents").column("id").to_pylist()


def test_a_file_system_that_fails_ends_the_run_in_one_line(
    tmp_path: Path, memory: Callable[[str, bytes], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that is down says nothing about the records, so they are no rejects."""
    memory("x/1.txt", b"text")
    assert kept(read_rows(source_of("memory://x/1.txt"), tmp_path))
    system = type(fsspec.filesystem("memory"))

    def refuse(error: Exception) -> Callable[..., None]:
        def fail(*_: object, **__: object) -> None:
            raise error

        return fail

    monkeypatch.setattr(system, "open", refuse(RuntimeError("connection\nreset")))
    with pytest.raises(UserError, match=r"memory://.*1.txt: RuntimeError: connection reset; run again"):
        read_rows(source_of("memory://x/1.txt"), tmp_path)
    monkeypatch.setattr(system, "open", refuse(PermissionError(13, "denied")))
    assert reasons(read_rows(source_of("memory://x/1.txt"), tmp_path)) == ["unreadable"]


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"nosuch://bucket: ValueError: Protocol not known"):
        read_rows(source_of("nosuch://bucket"), tmp_path)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(UserError, match=r"URLs need fsspec; `pip install fsspec`"):
        read_rows(source_of("s3://bucket"), tmp_path)


def test_outputs_are_no_urls(tmp_path: Path, recipe_at: Callable[..., Path]) -> None:
    (tmp_path / "a.txt").write_text("文")
    recipe = recipe_at([{"name": "s", "paths": "a.txt"}], ["read"])
    with pytest.raises(UserError, match="the output directory is a path, not a URL"):
        run_recipe(recipe, Path("s3://bucket/out"))
    assert Recipe.load(recipe)


def test_is_url() -> None:
    assert is_url("s3://b/x") and is_url("hdfs://h:9000/x") and not is_url("C:/x") and not is_url("a/b://c")
    assert read_remote.local_path("file:///a%20b/c") == Path("/a b/c")
