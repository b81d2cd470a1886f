"""Outputs behind URLs: the manifest there promises what the one of a run does, whatever is killed."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipeline.cli import main
from data_pipeline.engine import remote_output
from data_pipeline.engine.output_place import as_url, run_directory
from data_pipeline.engine.run_files import checksum
from pangu.foundation.errors import UserError
from tests.conftest import REPOSITORY
from tests.data_pipeline.conftest import contents, make_text, write_jsonl
from tests.data_pipeline.s3_server import s3_server
from tests.data_pipeline.webhdfs_server import webhdfs_server

pytest.importorskip("fsspec")
FILES = {
    "documents/a.parquet": b"one",
    "documents/b.parquet": b"two" * 999,
    "rejects/r.parquet": b"",
    "packed/说.idx": b"x",
}


class Killed(BaseException):
    """What a kill is to the code that it hits."""


def fill(root: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    for own in ("stages/x/y.parquet", "manifest.sqlite", "tmp/z"):
        (root / own).parent.mkdir(parents=True, exist_ok=True)
        (root / own).write_bytes(b"own")


def manifest_of(place: Path) -> dict:
    return json.loads((place / "manifest.json").read_text())


def is_whole(place: Path) -> bool:
    """Whether the files are those that the manifest names, to the byte."""
    return all(
        (place / name).is_file() and checksum(place / name) == facts["checksum"]
        for name, facts in manifest_of(place)["files"].items()
    )


def test_what_a_kill_leaves_is_never_called_complete_and_the_same_copy_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.local import LocalFileSystem

    root, place = tmp_path / "run", tmp_path / "there"
    url = f"local://{place}"
    later = {**FILES, "documents/a.parquet": b"ONE", "documents/c.parquet": b"three"}
    del later["documents/b.parquet"]
    for files in (FILES, later):
        before = manifest_of(place) if place.exists() else None
        fill(root, files)
        for name in set(FILES) - set(files):
            (root / name).unlink()
        for operation in ("put_file", "mv", "rm_file"):
            whole = getattr(LocalFileSystem, operation)
            for moment in range(9):
                calls = iter(range(99))

                def stop(self, *arguments, whole=whole, moment=moment, calls=calls, **named):
                    if next(calls) == moment:
                        raise Killed
                    return whole(self, *arguments, **named)

                monkeypatch.setattr(LocalFileSystem, operation, stop)
                try:
                    remote_output.copy(root, url)
                    is_killed = False
                except Killed:
                    is_killed = True
                monkeypatch.setattr(LocalFileSystem, operation, whole)
                if not (place / "manifest.json").is_file():
                    continue  # killed while the manifest had no name
                if manifest_of(place)["state"] == "complete":
                    assert is_whole(place)
                    if is_killed:
                        assert manifest_of(place) == before
                if not is_killed:
                    break
        assert manifest_of(place)["state"] == "complete" and is_whole(place)
        found = {path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()}
        del found["manifest.json"]
        assert found == files
    assert remote_output.copy(root, url) == remote_output.Copied(0, 0, len(later), 0)
    # what somebody has changed or removed there is copied again
    (place / "documents/a.parquet").write_bytes(b"oNe")
    (place / "documents/c.parquet").unlink()
    assert remote_output.copy(root, url).files == 2 and is_whole(place)


def test_what_is_not_ours_is_never_touched(tmp_path: Path) -> None:
    fill(tmp_path / "run", FILES)
    place = tmp_path / "there"
    (place / "documents").mkdir(parents=True)
    (place / "documents/theirs.parquet").write_bytes(b"theirs")
    with pytest.raises(
        UserError, match=r"local://.*there: is not empty \(documents/theirs.parquet\) and has no manifest"
    ):
        remote_output.copy(tmp_path / "run", f"local://{place}")
    (place / "manifest.json").write_text("[]")
    with pytest.raises(UserError, match=r"there/manifest.json: not the manifest of a run"):
        remote_output.copy(tmp_path / "run", f"local://{place}")
    assert sorted(path.name for path in place.rglob("*")) == ["documents", "manifest.json", "theirs.parquet"]
    (place / "manifest.json").unlink()
    (place / "documents/theirs.parquet").unlink()
    remote_output.copy(tmp_path / "run", f"local://{place}")
    (place / "documents/theirs.parquet").write_bytes(b"theirs")
    (tmp_path / "run/documents/a.parquet").unlink()
    assert remote_output.copy(tmp_path / "run", f"local://{place}").removed == 1
    assert (place / "documents/theirs.parquet").read_bytes() == b"theirs"
    with pytest.raises(UserError, match="nosuch://x: ValueError: Protocol not known"):
        remote_output.copy(tmp_path / "run", "nosuch://x")


def test_places() -> None:
    assert as_url("s3://b/out/") == "s3://b/out" and as_url("out") is None and as_url("file:///a") is None
    assert run_directory("file:///a%20b") == Path("/a b") and run_directory("a//b") == Path("a/b")
    one, other = run_directory("s3://b/out"), run_directory("s3://c/out")
    assert one != other and one.name.startswith("out-")


@pytest.fixture
def recipe(tmp_path: Path, recipe_at: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_jsonl(tmp_path / "a.jsonl", [{"id": str(i), "text": make_text(i)} for i in range(40)])
    return recipe_at(
        [{"name": "a", "paths": "a.jsonl"}],
        [{"read": {"shard_bytes": 2000, "item_bytes": 4000}}, "dedup_exact"],
        workers=1,
    )


def test_a_run_writes_to_a_url_and_every_verb_reads_it(
    tmp_path: Path, recipe: Path, capsys: pytest.CaptureFixture
) -> None:
    url = f"local://{tmp_path}/there"
    assert main(["run", str(recipe), "--out", url]) == 0
    assert main(["run", str(recipe), "--out", str(tmp_path / "here")]) == 0
    here = contents(tmp_path / "here")
    assert contents(tmp_path / "there") == here and len(here) > 3
    assert f"{url}: {len(here)} files copied" in capsys.readouterr().err
    assert main(["stats", url]) == 0 and main(["plan", str(recipe), "--out", url]) == 0
    assert "dedup_exact" in capsys.readouterr().out
    assert main(["run", str(recipe), "--out", url]) == 0
    assert f"0 files copied (0.0 MB), {len(here)} were there" in capsys.readouterr().err
    assert main(["run", str(recipe), "--out", str(tmp_path / "here"), "--work", "x"]) == 2
    assert "--work: belongs to an --out that is a URL" in capsys.readouterr().err


def test_kill_9_while_an_object_is_on_its_way(tmp_path: Path, recipe: Path) -> None:
    pytest.importorskip("s3fs", reason="s3fs, which s3:// needs, is not installed")
    process: list[subprocess.Popen] = []
    puts: list[str] = []

    def strike(key: str) -> None:
        puts.append(key)
        if len(puts) in (1, 3, 6):
            os.kill(process[-1].pid, signal.SIGKILL)
            process[-1].wait()

    assert main(["run", str(recipe), "--out", str(tmp_path / "here")]) == 0
    with s3_server(strike) as (address, objects):
        environment = {
            **os.environ,
            "FSSPEC_S3_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        command = [sys.executable, "-m", "data_pipeline", "run", str(recipe), "--out", "s3://bucket/corpus"]
        codes = []
        while not codes or codes[-1]:
            process.append(subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE))
            process[-1].communicate()
            codes.append(process[-1].returncode)
            found = objects.get("bucket/corpus/manifest.json")
            assert (found is not None and json.loads(found)["state"] == "complete") == (codes[-1] == 0)
            assert len(codes) < 6
        assert codes == [-signal.SIGKILL] * 3 + [0]
        there = {key.removeprefix("bucket/corpus/"): data for key, data in objects.items()}
    named = json.loads(there.pop("manifest.json"))["files"]
    assert there == contents(tmp_path / "here") and named.keys() == there.keys()
    # no object was sent twice but those that were struck, and the manifest
    sent = [key for key in puts if not key.endswith("manifest.json")]
    assert len(sent) - len(set(sent)) <= 3


def test_kill_9_while_a_file_of_hdfs_grows(tmp_path: Path, recipe: Path) -> None:
    pytest.importorskip("requests", reason="requests, which webhdfs:// needs, is not installed")
    process: list[subprocess.Popen] = []
    appended: list[str] = []

    def strike(path: str) -> None:
        appended.append(path)
        if len(appended) in (1, 3, 6):
            os.kill(process[-1].pid, signal.SIGKILL)
            process[-1].wait()

    assert main(["run", str(recipe), "--out", str(tmp_path / "here")]) == 0
    with webhdfs_server(strike) as (address, files):
        url = f"webhdfs://{address}/user/me/corpus"
        command = [sys.executable, "-m", "data_pipeline", "run", str(recipe), "--out", url]
        codes = []
        while not codes or codes[-1]:
            process.append(subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE))
            process[-1].communicate()
            codes.append(process[-1].returncode)
            found = files.get("/user/me/corpus/manifest.json")
            assert (found is not None and json.loads(found)["state"] == "complete") == (codes[-1] == 0)
            assert len(codes) < 6
        assert codes == [-signal.SIGKILL] * 3 + [0]
        # what somebody has changed there to the same size is known by its time, and copied again
        name = next(path for path, data in files.items() if path.endswith(".parquet") and data)
        whole = files[name]
        with remote_output.file_system(url)[0].open(name, "wb") as file:
            file.write(bytes(len(whole)))
        assert files[name] != whole
        assert main(["run", str(recipe), "--out", url]) == 0 and files[name] == whole
        assert main(["stats", url]) == 0
        there = {path.removeprefix("/user/me/corpus/"): data for path, data in files.items()}
    named = json.loads(there.pop("manifest.json"))["files"]
    assert there == contents(tmp_path / "here") and named.keys() == there.keys()
