"""The manifest: rows that come back as they went in, and files that are not what they should be."""

import sqlite3
from pathlib import Path

import pytest

from data_pipeline.engine.manifest import Finished, Key, Manifest
from data_pipeline.engine.run_files import Output, RunFile, commit_directory, write_whole
from pangu.foundation.errors import UserError

ROW = Finished("00000", Key("s", "c", "i"), (Output("a.parquet", 3, "x", 1, "kept"),), {"documents": 1}, 0.5)


def test_rows_come_back(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path)
    manifest.record_stages([("read", "read"), ("clean-2", "clean")])
    manifest.record_step("read/records", {"a": 1}, {"module": "x"}, 3)
    manifest.record("read/records", ROW)
    manifest.record("read/records", ROW)
    manifest.close()
    again = Manifest(tmp_path, read_only=True)
    assert again.finished("read/records") == {"00000": ROW}
    assert again.step_settings("read/records") == ({"a": 1}, {"module": "x"}, 3)
    assert again.step_settings("other") is None
    assert again.stages() == [("read", "read"), ("clean-2", "clean")]
    assert again.steps_of("read") == ["read/records"] and again.steps_of("clean-2") == []
    assert not again.is_present(ROW)
    (tmp_path / "a.parquet").write_bytes(b"abc")
    assert again.is_present(ROW)
    with pytest.raises(sqlite3.OperationalError):
        again.record("read/records", ROW)


def test_forget(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path)
    manifest.record("read/records", ROW)
    manifest.forget("read/records", ["00000"])
    assert manifest.finished("read/records") == {}


def test_not_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "manifest.sqlite").write_text("something else, long enough to be looked at as a header")
    with pytest.raises(UserError, match="give another --out"):
        Manifest(tmp_path)


def test_newer_format(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "manifest.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.commit()
    with pytest.raises(UserError, match="version 99"):
        Manifest(tmp_path)


def test_whole_file(tmp_path: Path) -> None:
    file = RunFile(tmp_path, "folder/a.bin")
    file.write(b"abc")
    assert not (tmp_path / "folder").exists()
    output = file.finish(rows=1, role="kept")
    assert (tmp_path / "folder" / "a.bin").read_bytes() == b"abc"
    assert output == Output("folder/a.bin", 3, "06b05ab6733a618578af5f94892f3950", 1, "kept")
    other = RunFile(tmp_path, "b.bin")
    other.write(b"abc")
    other.abandon()
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["a.bin"]


def test_commit_directory_replaces_the_old_one(tmp_path: Path) -> None:
    for name, text in (("new", "2"), ("final", "1")):
        (tmp_path / name).mkdir()
        (tmp_path / name / text).write_text(text)
    commit_directory(tmp_path / "new", tmp_path / "final")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["2"]


def test_write_whole_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        write_whole(tmp_path / "missing" / "a.yaml", "text")
