"""A folder of everything that is hostile, through the command: all good records come out, the rest lies in the rejects
with reason and byte, no process grows beyond 1 GB, the exit code and the last line are honest.

What stands here is named after the table in docs/engines.md; the readers' own tests (test_read*, test_warc,
test_charset, test_extract) go into detail."""

import bz2
import gzip
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from data_pipeline.record import reason_class
from data_pipeline.stages.read import page_files as read_pages
from data_pipeline.stages.read.warc import WarcDocument, read_documents
from pangu.foundation.errors import UserError
from tests.data_pipeline.conftest import make_text, run_recipe, write_jsonl
from tests.data_pipeline.test_read import kept, read_rows, reasons, source_of
from tests.data_pipeline.test_read_pages import page, response

MAXIMUM_KILOBYTES = 1_000_000
# runs a command and says how large its largest process was; in a process of its own: this one has had other children
LARGEST_PROCESS = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def good(name: str) -> str:
    return f"good-{name} " + make_text(sum(name.encode()), 3)


def line(name: str) -> bytes:
    return json.dumps({"id": f"good-{name}", "text": good(name)}, ensure_ascii=False).encode() + b"\n"


def flipped(data: bytes, place: float) -> bytes:
    """One bit of it is another."""
    changed = bytearray(data)
    changed[int(len(data) * place)] ^= 0x10
    return bytes(changed)


def write_hostile(folder: Path) -> dict[str, str]:
    """Fill the folder; the good records' ids, each with the file that it is in."""
    checked = zstandard.ZstdCompressor(write_checksum=True)
    packers = {"gz": gzip.compress, "zst": checked.compress, "bz2": bz2.compress}
    files: dict[str, bytes] = {}
    expected: dict[str, str] = {}

    def put(name: str, *parts: bytes | str) -> None:
        """`str` parts name good records."""
        files[name] = b"".join(line(part) if isinstance(part, str) else part for part in parts)
        expected.update({f"good-{part}": name for part in parts if isinstance(part, str)})

    put("lines.jsonl", "first", b'{"id": "cut\n', b"\0\n" * 50, "nul", b"\xff\xfe\x80" * 9 + b"\n", "bytes",
        b'{"id": "s", "text": "\\ud800"}\n', "surrogate", b"[" * 300_000 + b"\n", "deep",
        b'{"text":' * 100_000 + b"1" + b"}" * 100_000 + b"\n", "deeper", b'{"id": ' + b"9" * 5000 + b"}\n", "digits",
        b'{"id": 1, "text": 5}\n[1]\n"x"\nnull\n', "last", b'{"text": "no end')  # fmt: skip
    for kind, pack in packers.items():
        parts = [line(f"{kind}{number}") for number in range(12)]
        members = [pack(part) for part in parts]
        members[5] = flipped(members[5], 0.6)
        files[f"flipped.jsonl.{kind}"] = b"".join([*members[:11], members[11][: len(members[11]) * 2 // 3]])
        expected.update({f"good-{kind}{n}": f"flipped.jsonl.{kind}" for n in range(11) if n != 5})
        files[f"bomb.jsonl.{kind}"] = pack(line(f"before-bomb-{kind}")) + pack(bytes(100 << 20))
        expected[f"good-before-bomb-{kind}"] = f"bomb.jsonl.{kind}"
        files[f"empty.jsonl.{kind}"] = pack(b"")
        files[f"head-only.jsonl.{kind}"] = pack(b"x" * 100)[:7]
    files["wide.jsonl"] = line("utf16").decode().encode("utf-16")
    files["gbk.jsonl"] = line("gbk").decode().encode("gb18030")
    expected.update({"good-utf16": "wide.jsonl", "good-gbk": "gbk.jsonl"})
    files["nothing.jsonl"] = b""
    files["noise.jsonl"] = random.Random(5).randbytes(30_000)
    files["noise.warc.gz"] = random.Random(6).randbytes(30_000)
    files["noise.html"] = random.Random(7).randbytes(30_000)
    files["noise.parquet"] = random.Random(8).randbytes(30_000)
    files["quote.csv"] = b'id,text\n1,"never closed\n' + b"2," + good("csv").replace("\n", "").encode() + b"\n"
    expected["2"] = "quote.csv"
    members = [gzip.compress(response(page(number), number)) for number in range(9)]
    members[4] = flipped(members[4], 0.5)
    files["crawl.warc.gz"] = b"".join(members)[:-40]
    for name, data in files.items():
        (folder / name).write_bytes(data)
    with open(folder / "endless.jsonl", "wb") as file:  # a line of 1 GB, of which the disk holds next to nothing
        file.write(line("before-endless") + b'{"text": "')
        file.seek(1 << 30, os.SEEK_CUR)
        file.write(b'"}\n' + line("after-endless"))
    expected.update({"good-before-endless": "endless.jsonl", "good-after-endless": "endless.jsonl"})
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * 300 + [1], pa.int32()), ["长" * (8 << 20), good("parquet")])
    pq.write_table(pa.table({"id": [f"good-{n}" for n in range(300)] + ["good-parquet"], "text": shared}),
                   folder / "repeated.parquet")  # fmt: skip
    expected["good-parquet"] = "repeated.parquet"
    return expected


@pytest.mark.timeout(900)
def test_everything_at_once(tmp_path: Path, recipe_at: Callable[..., Path]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    expected = write_hostile(folder)
    (folder / "loop").symlink_to(folder)
    (folder / "circle.jsonl").symlink_to("circle.jsonl")
    (folder / "lost.jsonl").symlink_to("nowhere.jsonl")
    (folder / "unreadable.jsonl").symlink_to("/proc/self/mem")
    os.mkfifo(folder / "pipe.jsonl")
    recipe = recipe_at(
        [{"name": "s", "paths": "in"}], [{"read": {"maximum_record_bytes": "16MB"}}, "dedup_exact"], workers=2
    )
    out = tmp_path / "out"
    command = [sys.executable, "-m", "data_pipeline", "run", str(recipe), "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-c", LARGEST_PROCESS, *command], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stderr.splitlines()[-1]) < MAXIMUM_KILOBYTES
    records = pq.read_table(out / "documents").to_pylist()
    rejects = pq.read_table(out / "rejects").to_pylist()
    last = done.stdout.strip().splitlines()[-1]
    assert re.fullmatch(rf"{out}: {len(records)} documents, {len(rejects)} rejects; done in [\d:]+", last)

    found = {row["id"]: row for row in records if row["id"]}
    assert set(expected) <= set(found)
    for name, file in expected.items():
        assert found[name]["path"] == file
        assert found[name]["text"].startswith("good-")
    pages = [row["url"] for row in records if row["path"] == "crawl.warc.gz"]
    assert [f"http://a.cn/{number}.html" for number in (0, 1, 2, 3, 5, 6, 7)] == pages

    by_file: dict[str, Counter[str]] = {}
    for row in rejects:
        by_file.setdefault(row["path"], Counter())[reason_class(row["drop_reason"])] += 1
        assert row["drop_reason"] and row["offset"] >= 0
    for kind, name in (("gz", "gzip"), ("zst", "zstd"), ("bz2", "bzip2")):
        assert {f"damaged_{name}", f"truncated_{name}"} <= set(by_file[f"flipped.jsonl.{kind}"])
        assert "decompression_bomb" in by_file[f"bomb.jsonl.{kind}"]
        assert f"truncated_{name}" in by_file[f"head-only.jsonl.{kind}"]
    assert by_file["endless.jsonl"] == {"line_too_long": 1}
    assert by_file["repeated.parquet"] == {"record_too_long": 300}
    assert by_file["lines.jsonl"]["not_json"] == 5 and by_file["lines.jsonl"]["no_text"] == 1
    assert by_file["lines.jsonl"]["not_an_object"] == 3
    for name in ("circle.jsonl", "lost.jsonl", "unreadable.jsonl"):
        assert by_file[name] == {"unreadable": 1}
    for name in ("noise.jsonl", "noise.parquet", "noise.warc.gz", "noise.html"):
        assert by_file[name]
    # a reject says where the record begins
    data = (folder / "lines.jsonl").read_bytes()
    for row in rejects:
        if row["path"] == "lines.jsonl" and reason_class(row["drop_reason"]) == "not_json":
            start = row["offset"]
            assert start == 0 or data[start - 1 : start] == b"\n"
            assert (row["text"] or "")[:4].encode() == data[start : start + 4]


def test_a_pipe_that_is_named_is_refused(tmp_path: Path) -> None:
    """Reading it would never end."""
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(UserError, match="a pipe or a device, not a file"):
        read_rows(source_of("pipe.jsonl"), tmp_path)


def test_a_folder_that_cannot_be_read_costs_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", [{"id": "a", "text": "文字"}])
    (tmp_path / "in" / "closed").mkdir()
    listed = Path.iterdir

    def refuse(self: Path):
        if self.name == "closed":
            raise PermissionError(13, "Permission denied")
        return listed(self)

    monkeypatch.setattr(Path, "iterdir", refuse)
    rows = read_rows(source_of("in"), tmp_path)
    assert [row["id"] for row in kept(rows)] == ["a"]
    assert [(row["path"], reason_class(row["drop_reason"])) for row in rows if row["drop_reason"]] == [
        ("closed", "unreadable")
    ]


def test_an_endless_line_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the number of ranges that it reaches over."""
    (tmp_path / "a.jsonl").write_bytes(line("a") + b"x" * 3_000_000 + b"\n" + line("b"))
    read = 0
    from data_pipeline.stages.read import compressed_bytes as read_bytes
    from data_pipeline.stages.read import record_formats as read_formats

    class Counted:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def seek(self, place):
            self.file.seek(place)

        def read(self, size=-1):
            nonlocal read
            data = self.file.read(size)
            read += len(data)
            return data

    monkeypatch.setattr(read_bytes, "BLOCK", 10_000)
    monkeypatch.setattr(read_formats, "BLOCK", 10_000)
    for module in (read_bytes, read_formats):
        monkeypatch.setattr(module, "open_input", lambda path: Counted(open(path, "rb")))  # noqa: SIM115
    rows = read_rows(source_of("a.jsonl"), tmp_path, item_bytes=100_000, maximum_record_bytes=1000)
    assert [row["id"] for row in kept(rows)] == ["good-a", "good-b"] and reasons(rows) == ["line_too_long"]
    assert read < 3 * 3_000_000


def test_warc_record_ids_come_through(tmp_path: Path) -> None:
    def named(data: bytes, name: str) -> bytes:
        return data.replace(b"WARC-Date", f"WARC-Record-ID: <urn:uuid:{name}>\r\nWARC-Date".encode())

    parts = [named(response(page(0), 0), "one"), named(response(b"", 1, status="404 Not Found"), "two"),
             named(response(b"<p></p>", 2), "three"), response(page(2), 3)]  # fmt: skip
    (tmp_path / "a.warc").write_bytes(b"".join(parts))
    rows = read_rows(source_of("a.warc"), tmp_path)
    assert [(row["id"], row["drop_reason"] is None) for row in rows] == [
        ("urn:uuid:one", True), ("urn:uuid:two", False), ("urn:uuid:three", False), (None, True),
    ]  # fmt: skip


def test_a_page_that_kills_its_worker_is_quarantined_with_its_offset(
    tmp_path: Path, recipe_at: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ctypes
    import faulthandler

    extracted = read_pages._extracted

    def deadly(extract, data: bytes, *rest):
        if b"deadly" in data:
            faulthandler.disable()  # pytest's, which fills the screen
            ctypes.string_at(0)
        return extracted(extract, data, *rest)

    monkeypatch.setattr(read_pages, "_extracted", deadly)
    parts = [response(page(0), 0), response(b"<p>deadly</p>", 1), response(page(2), 2)]
    (tmp_path / "a.warc").write_bytes(b"".join(parts))
    run_recipe(recipe_at([{"name": "s", "paths": "a.warc"}], ["read"], workers=1), tmp_path / "out")
    assert pq.read_table(tmp_path / "out/documents").column("url").to_pylist() == [
        "http://a.cn/0.html", "http://a.cn/2.html",
    ]  # fmt: skip
    (reject,) = pq.read_table(tmp_path / "out/rejects").to_pylist()
    assert reject["drop_reason"].startswith("quarantined:") and reject["url"] == "http://a.cn/1.html"
    assert reject["offset"] == len(parts[0])


def test_an_output_that_is_read_only_is_one_line(tmp_path: Path, recipe_at: Callable[..., Path]) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": "文"}])
    recipe = recipe_at([{"name": "s", "paths": "a.jsonl"}], ["read"])
    done = subprocess.run(
        [sys.executable, "-m", "data_pipeline", "run", str(recipe), "--out", "/proc/out"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(r"error: /proc/out: the output directory cannot be written: .*\n", done.stderr)


def test_bits_that_flip_in_an_archive(tmp_path: Path) -> None:
    """Of 40 pages in gzip members, 10 flipped bits lose 10 pages at most."""
    members = [gzip.compress(response(page(number), number)) for number in range(40)]
    for seed in range(5):
        chooser = np.random.default_rng(seed)
        data = bytearray(b"".join(members))
        for place in chooser.integers(0, len(data), 10):
            data[place] ^= 1 << int(chooser.integers(8))
        (tmp_path / "a.warc.gz").write_bytes(bytes(data))
        found = {item.url for item in read_documents(tmp_path / "a.warc.gz") if isinstance(item, WarcDocument)}
        assert len(found) >= 30
