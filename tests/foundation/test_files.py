"""Files and directories that appear whole or not at all, whatever happens; and locks."""

import contextlib
import errno
import hashlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pangu.foundation import directory
from pangu.foundation.atomic_file import AtomicFile, atomic_file, write_whole
from pangu.foundation.errors import UserError, WriteError
from pangu.foundation.lock import Lock
from pangu.foundation.small_file import NotPlainError, read_small
from tests.conftest import REPOSITORY


def by_write_whole(path: Path, content: bytes) -> None:
    write_whole(path, content)


def by_context(path: Path, content: bytes) -> None:
    with atomic_file(path) as file:
        file.write(content)


def by_atomic_file(path: Path, content: bytes) -> None:
    with AtomicFile(path, is_exclusive=True) as file:
        for start in range(0, len(content), 700_000):
            file.write(memoryview(content)[start : start + 700_000])
        file.commit()


WAYS = [by_write_whole, by_context, by_atomic_file]


@pytest.mark.parametrize("write", WAYS)
def test_a_file_has_its_content_its_mode_and_no_leftovers(tmp_path: Path, write: Callable) -> None:
    content = os.urandom(3_000_001)
    path = tmp_path / ("长" * 80 + ".bin")  # 244 bytes: the hidden name must not be longer than 255
    before = os.umask(0o027)
    try:
        write(path, b"old")
        write(path, content)
    finally:
        os.umask(before)
    assert path.read_bytes() == content and path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", WAYS)
@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_what_was_there_and_says_so_in_one_line(
    tmp_path: Path, write: Callable, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    if write is by_context and call == "write":
        monkeypatch.setattr(os, "open", lambda *_: os.dup(full.fileno()))
        full = open("/dev/full", "wb")  # noqa: SIM115 (closed with the process)
    else:
        monkeypatch.setattr(os, call, refuse)
    with pytest.raises(WriteError) as caught:
        write(path, b"new")
    monkeypatch.undo()
    assert str(caught.value) == f"{path}: cannot be written: No space left on device"
    assert isinstance(caught.value, UserError) and isinstance(caught.value, OSError)
    assert caught.value.errno == errno.ENOSPC and str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def refuse(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("write", WAYS)
def test_places_that_a_rename_would_destroy_are_refused(tmp_path: Path, write: Callable) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, said in (
        (tmp_path, "it is a directory"), (tmp_path / "pipe", "it is no plain file"), (Path("/dev/null"), "no plain"),
        (tmp_path / "none" / "x", "No such file or directory"), (tmp_path / "a\0b", "null"),
        (Path("/proc/x"), "x: cann"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said) as caught:
            write(path, b"x")
        assert str(path).split("\0")[0] in str(caught.value) and "\n" not in str(caught.value)
    assert Path("/dev/null").is_char_device()


def test_small_files_are_plain_ones_and_nothing_stays_open(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    (tmp_path / "file").write_bytes(b"text")
    before = len(os.listdir("/proc/self/fd"))
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "link"):
        with pytest.raises(NotPlainError, match="it is no plain file"):
            read_small(path)
    assert read_small(tmp_path / "file") == b"text"
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_error_of_the_block_is_its_own(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "out"):
        (tmp_path / "input").open()
    with pytest.raises(ZeroDivisionError), atomic_file(tmp_path / "out"):
        1 / 0  # noqa: B018
    with contextlib.suppress(KeyboardInterrupt), AtomicFile(tmp_path / "out") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    with AtomicFile(tmp_path / "out") as file:
        file.write(b"never committed")
    assert list(tmp_path.iterdir()) == []


def test_the_digest_sees_every_byte(tmp_path: Path) -> None:
    content = os.urandom(2_500_000)
    with AtomicFile(tmp_path / "out", digest=hashlib.sha256()) as file:
        for start in range(0, len(content), 99_999):
            assert file.write(content[start : start + 99_999]) == len(content[start : start + 99_999])
        assert file.tell() == file.size == len(content)
        file.commit(is_synced=False)
    assert file.digest.hexdigest() == hashlib.sha256(content).hexdigest()


def test_a_kill_leaves_a_hidden_file_that_the_next_attempt_overwrites(tmp_path: Path) -> None:
    program = (
        "import os, signal; from pathlib import Path; from pangu.foundation.atomic_file import AtomicFile\n"
        f"file = AtomicFile(Path({str(tmp_path / 'out')!r}), is_exclusive=True)\n"
        "file.write(b'x' * 3_000_000); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY)
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [".out.partial"]
    by_atomic_file(tmp_path / "out", b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and (tmp_path / "out").read_bytes() == b"whole"


def test_two_writers_of_one_file_are_refused(tmp_path: Path) -> None:
    with AtomicFile(tmp_path / "out", is_exclusive=True) as first:
        with pytest.raises(UserError, match="out: is being written by another process"):
            AtomicFile(tmp_path / "out", is_exclusive=True)
        first.write(b"first")
        first.commit()
    assert (tmp_path / "out").read_bytes() == b"first"


def filled(path: Path, name: str) -> Path:
    path.mkdir(parents=True)
    (path / name).write_text(name)
    return path


def names(path: Path) -> list[str]:
    return sorted(str(one.relative_to(path)) for one in path.rglob("*"))


def test_a_directory_takes_the_place_of_another(tmp_path: Path) -> None:
    directory.commit_directory(filled(tmp_path / ".new", "1"), tmp_path / "deep" / "final")
    directory.commit_directory(filled(tmp_path / ".new", "2"), tmp_path / "deep" / "final")
    filled(tmp_path / ".new.old", "of a run that was killed")
    directory.commit_directory(filled(tmp_path / ".new", "3"), tmp_path / "deep" / "final")
    assert names(tmp_path) == ["deep", "deep/final", "deep/final/3"]
    directory.remove_directory(tmp_path / "deep" / "final")
    assert names(tmp_path) == ["deep"]


def test_a_directory_that_cannot_be_synced_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path / "final", "old")
    new = filled(tmp_path / ".new", "new")
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(WriteError, match="final: cannot be written: No space left on device"):
        directory.commit_directory(new, tmp_path / "final")
    assert names(tmp_path / "final") == ["old"]


def test_a_file_in_a_hidden_directory_on_a_full_disk_is_named_by_the_directory(tmp_path: Path) -> None:
    with (
        pytest.raises(WriteError, match=r"out: cannot be written: No space left"),
        directory.hidden_directory(tmp_path / "out"),
        open("/dev/full", "wb", buffering=0) as file,
    ):
        file.write(b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_hidden_directory_is_empty_and_gone_at_the_end(tmp_path: Path) -> None:
    filled(tmp_path / ".out.partial", "of a run that was killed")
    with directory.hidden_directory(tmp_path / "out") as hidden:
        assert list(hidden.iterdir()) == []
        with (
            pytest.raises(UserError, match="out: is being written by another process"),
            directory.hidden_directory(tmp_path / "out"),
        ):
            pass
        (hidden / "a").write_text("a")
        os.rename(hidden, tmp_path / "out")
    assert names(tmp_path) == ["out", "out/a"]
    with pytest.raises(UserError, match="cannot be written"), directory.hidden_directory(tmp_path / "no" / "out"):
        pass


def test_an_output_directory_is_no_url_and_no_file(tmp_path: Path) -> None:
    directory.make_directory(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: cannot be written: File exists"):
        directory.make_directory(tmp_path / "file")
    with pytest.raises(UserError, match="is a path, not a URL"):
        directory.make_directory(Path("s3://bucket/x"))


def test_a_lock_keeps_others_out_says_who_and_ends_with_the_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    program = (
        "import sys, time; from pathlib import Path; from pangu.foundation.lock import Lock\n"
        f"lock = Lock(Path({str(path)!r}), 'busy'); print('locked', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", program], cwd=REPOSITORY, stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"locked\n"
    with pytest.raises(UserError, match=f"here: process {holder.pid} on .+ is at work"):
        Lock(path, "here: {holder} is at work")
    holder.kill()
    holder.wait()
    with Lock(path, "busy"), pytest.raises(UserError, match="busy"):
        Lock(path, "busy")
    with Lock(tmp_path, "busy"), pytest.raises(UserError, match="busy"):  # a directory serves as well
        Lock(tmp_path, "busy")
    with pytest.raises(WriteError, match="cannot be written: No such file"):
        Lock(tmp_path / "no" / "lock", "busy")
