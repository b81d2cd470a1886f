"""Files that change between the plan of a run and their reading, or while they are read: every record comes out whole,
or a line in the rejects says why not."""

import gzip
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.recipe import Source
from data_pipeline.record import reason_class
from data_pipeline.stages.read import compressed_bytes
from data_pipeline.stages.read.source_files import read_items
from data_pipeline.stages.read.stage import Settings, read
from tests.data_pipeline.conftest import make_text, run_recipe, write_jsonl


class Progress:
    """Stands in for a worker's progress; `act` is called once, when record number `when` is at hand."""

    def __init__(self, act: Callable[[], Any] = lambda: None, when: int = 0):
        self.act, self.when, self.seen = act, when, 0

    def at(self, number: int) -> bool:
        self.seen += 1
        if self.seen == self.when:
            self.act()
        return True

    def done(self, documents: int, size: int) -> None: ...


def rows_of(
    path: Path, change: Callable[[], Any] | None = None, progress: Progress | None = None, **fields: Any
) -> list:
    """Plan the reading of a file, change it, read it."""
    item_bytes = fields.pop("item_bytes", None)
    source = Source(name="s", paths=(path.name,), **fields)
    planned = read_items([source], path.parent, item_bytes)
    if change is not None:
        change()
    progress = progress or Progress()
    batches = [batch for item in planned for batch in read(item.payload, Settings(), progress)]
    return [row for batch in batches for row in batch.to_pylist()]


def texts(rows: list) -> list[str]:
    return [row["text"] for row in rows if row["drop_reason"] is None]


def reasons(rows: list) -> list[str]:
    return [reason_class(row["drop_reason"]) for row in rows if row["drop_reason"]]


def line(number: int) -> str:
    return json.dumps({"text": make_text(number)}, ensure_ascii=False) + "\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(map(line, range(40))), encoding="utf-8")
    return path


ALL = [make_text(number) for number in range(40)]


@pytest.mark.parametrize("item_bytes", [None, 3000])
def test_a_file_that_grows_gives_whole_records(log: Path, item_bytes: int | None) -> None:
    def grow(text: str) -> Callable[[], None]:
        def write() -> None:
            with log.open("a", encoding="utf-8") as file:
                file.write(text)

        return write

    found = rows_of(log, grow(line(40) + line(41)[:30]), item_bytes=item_bytes)
    assert texts(found)[:40] == ALL
    # a file that is not cut is read to its end, of which half a record is a reject
    assert texts(found)[40:] == ([] if item_bytes else [make_text(40)])
    assert reasons(found) == ([] if item_bytes else ["cut_record"])


def test_a_record_that_is_half_written_when_the_run_is_planned(log: Path) -> None:
    whole = log.read_text(encoding="utf-8")
    log.write_text(whole[:-20], encoding="utf-8")
    found = rows_of(log, lambda: log.write_text(whole, encoding="utf-8"), item_bytes=3000)
    assert texts(found) == ALL and not reasons(found)


@pytest.mark.parametrize("split", ["line", "paragraph"])
def test_half_a_line_of_text_is_no_document(tmp_path: Path, split: str) -> None:
    path = tmp_path / "log.txt"
    path.write_text("第一行。\n\n第二行。\n", encoding="utf-8")

    def grow() -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write("\n第三行只")

    found = rows_of(path, grow, split=split)
    assert texts(found) == ["第一行。", "第二行。"] and reasons(found) == ["cut_record"]
    # nobody writes to it: its last line is one
    found = rows_of(path, split=split)
    assert texts(found) == ["第一行。", "第二行。", "第三行只"] and not reasons(found)


def test_half_a_row_of_csv_is_no_document(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,text\n1,第一行。\n", encoding="utf-8")

    def grow() -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write("2,第二")

    found = rows_of(path, grow)
    assert texts(found) == ["第一行。"] and reasons(found) == ["cut_record"]


@pytest.mark.parametrize("item_bytes", [None, 3000])
def test_a_file_that_is_cut_says_so(log: Path, item_bytes: int | None) -> None:
    found = rows_of(log, lambda: os.truncate(log, 5000), item_bytes=item_bytes)
    kept = texts(found)
    assert kept == ALL[: len(kept)]
    assert set(reasons(found)) <= {"changed_file", "cut_record"} and "changed_file" in reasons(found)
    # of a file that is read in pieces no piece is read of what may be another file
    assert bool(kept) == (item_bytes is None)


def test_a_rotated_log_is_not_read_as_pieces_of_another(log: Path) -> None:
    def rotate() -> None:
        log.rename(log.with_suffix(".1"))
        log.write_text("".join(map(line, range(100, 180))), encoding="utf-8")

    found = rows_of(log, rotate, item_bytes=3000)
    assert not texts(found) and set(reasons(found)) == {"changed_file"}
    # read whole, it is what it is now
    found = rows_of(log, rotate)
    assert texts(found) == [make_text(number) for number in range(100, 180)] and not reasons(found)


@pytest.mark.parametrize("item_bytes", [None, 3000])
def test_a_file_that_is_gone_is_unreadable(log: Path, item_bytes: int | None) -> None:
    found = rows_of(log, log.unlink, item_bytes=item_bytes)
    assert not texts(found) and set(reasons(found)) == {"unreadable"}


def test_a_file_that_goes_while_it_is_read_is_read_whole(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed_bytes, "BLOCK", 1000)
    assert texts(rows_of(log, progress=Progress(log.unlink, 5))) == ALL


@pytest.mark.parametrize("item_bytes", [None, 3000])
def test_a_file_that_is_cut_while_it_is_read(
    log: Path, monkeypatch: pytest.MonkeyPatch, item_bytes: int | None
) -> None:
    monkeypatch.setattr(compressed_bytes, "BLOCK", 1000)
    found = rows_of(log, progress=Progress(lambda: os.truncate(log, 4100), 3), item_bytes=item_bytes)
    kept = texts(found)
    assert kept == ALL[: len(kept)] and 0 < len(kept) < 40
    assert "changed_file" in reasons(found) and set(reasons(found)) <= {"changed_file", "cut_record"}


def test_a_file_that_is_written_anew_while_it_is_read(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed_bytes, "BLOCK", 1000)

    def rewrite() -> None:
        log.write_text("".join(reversed(log.read_text(encoding="utf-8").splitlines(True))), encoding="utf-8")
        os.utime(log, ns=(1, 1))

    assert "changed_file" in reasons(rows_of(log, progress=Progress(rewrite, 3)))
    assert "changed_file" in reasons(rows_of(log, progress=Progress(rewrite, 3), item_bytes=3000))


def test_a_file_that_another_replaces_while_it_is_read_is_read_whole(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compressed_bytes, "BLOCK", 1000)
    other = log.with_suffix(".new")
    other.write_text("".join(map(line, range(100, 180))), encoding="utf-8")
    found = rows_of(log, progress=Progress(lambda: other.replace(log), 3))
    assert texts(found) == ALL and not reasons(found)


def test_a_stale_handle_costs_what_lies_behind_it(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of NFS, where the file of an open handle may be gone."""
    from data_pipeline.stages.read import record_formats

    def stale(path: Path, ratio: float, start: int = 0) -> Iterator[bytes]:
        yield log.read_bytes()[:5000]
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(record_formats, "read_stream", stale)
    found = rows_of(log)
    kept = texts(found)
    assert kept and kept == ALL[: len(kept)] and reasons(found) == ["unreadable"]
    assert "Stale file handle" in found[-1]["drop_reason"]


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "txt", "html", "warc", "md", "wet"])
def test_an_empty_file_is_called_so_whatever_it_is_packed_in(tmp_path: Path, ending: str) -> None:
    import bz2
    import lzma

    import zstandard

    packed = {
        "gz": gzip.compress(b""),
        "bz2": bz2.compress(b""),
        "xz": lzma.compress(b""),
        "zst": zstandard.ZstdCompressor().compress(b""),
    }
    for suffix, data in packed.items():
        path = tmp_path / f"a.{ending}.{suffix}"
        path.write_bytes(data)
        assert [row["drop_reason"] for row in rows_of(path)] == ["empty_file"]
    if ending in ("jsonl", "json", "csv", "txt", "md"):
        path = tmp_path / f"mark.{ending}"
        path.write_bytes(b"\xef\xbb\xbf")
        assert [row["drop_reason"] for row in rows_of(path)] == ["empty_file"]


def test_an_array_without_its_end_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[\n" + ",\n".join(line(number).strip() for number in range(3)) + ",\n", encoding="utf-8")
    found = rows_of(path)
    assert texts(found) == ALL[:3] and reasons(found) == ["cut_record"]


def test_the_next_run_reads_what_has_come(tmp_path: Path, recipe_at: Callable[..., Path]) -> None:
    path = write_jsonl(tmp_path / "in/a.jsonl", [{"text": make_text(number)} for number in range(3)])
    recipe = recipe_at([{"name": "a", "paths": [str(path)]}], ["read"])
    assert run_recipe(recipe, tmp_path / "out")["read"].documents == 3
    with path.open("a", encoding="utf-8") as file:
        file.write(line(3) + line(4)[:9])
    summary = run_recipe(recipe, tmp_path / "out")["read"]
    assert (summary.documents, summary.dropped) == (4, {"not_json": 1})
    path.write_text(line(7), encoding="utf-8")
    summary = run_recipe(recipe, tmp_path / "out")["read"]
    assert (summary.documents, summary.dropped) == (1, {})
