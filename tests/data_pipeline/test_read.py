"""The read stage: every good record comes out, every bad one goes to the rejects with its reason and its byte."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.recipe import Fields, Source
from data_pipeline.record import reason_class
from data_pipeline.stages.read.compressed_bytes import Line
from data_pipeline.stages.read.record_formats import Document, Reject, parse_json_line
from data_pipeline.stages.read.source_files import piece_bytes, read_items
from data_pipeline.stages.read.stage import Settings, read
from pangu.foundation.errors import UserError
from tests.data_pipeline.conftest import contents, make_text, run_recipe, write_jsonl


class NoProgress:
    """Stands in for a worker's progress."""

    def at(self, number: int) -> bool:
        return True

    def done(self, documents: int, size: int) -> None: ...


def read_rows(source: Source, base: Path, **changes: Any) -> list[dict]:
    chosen = Settings(**changes)
    rows = []
    for item in read_items([source], base, chosen.item_bytes):
        for batch in read(item.payload, chosen, NoProgress()):
            rows += batch.to_pylist()
    return rows


def kept(rows: list[dict]) -> list[dict]:
    return [row for row in rows if row["drop_reason"] is None]


def reasons(rows: list[dict]) -> list[str]:
    return [reason_class(row["drop_reason"]) for row in rows if row["drop_reason"]]


def source_of(*paths: str, **fields: Any) -> Source:
    return Source(name="s", paths=paths, **fields)


def test_hostile_jsonl(tmp_path: Path) -> None:
    good = [
        json.dumps({"id": number, "text": make_text(number), "extra": [1]}, ensure_ascii=False) for number in range(100)
    ]
    bad: list[tuple[bytes, str]] = [
        (b'{"id": "x", "text": "broken', "not_json"),
        (b'["a", "list"]', "not_an_object"),
        (b'"a string"', "not_an_object"),
        (b'{"id": "n1"}', "no_text"),
        (b'{"id": "n2", "text": null}', "no_text"),
        (b'{"id": "n3", "text": 7}', "no_text"),
        (b'{"id": "n4", "text": "  "}', "empty_text"),
        (b"\xff\xfe\x80\x81\x90" * 5, "unknown_charset"),
        (b"[" * 100_000, "not_json"),
    ]
    saved = [
        ('{"id": "nul", "text": "有\\u0000零"}'.encode(), "有零"),
        ('{"id": "raw nul", "text": "有\0零"}'.encode(), "有零"),
        (b'{"id": "half", "text": "a\\ud800b"}', "ab"),
        ('{"id": "gbk", "text": "中文的内容，用另一种编码写成的。"}'.encode("gbk"), "中文的内容，用另一种编码写成的。"),
    ]
    parts = [b"\xef\xbb\xbf"]
    for number, row in enumerate(good):
        parts.append(row.encode() + (b"\r\n" if number % 2 else b"\n"))
        if number < len(bad):
            parts.append(bad[number][0] + b"\n")
        elif number < len(bad) + len(saved):
            parts.append(saved[number - len(bad)][0] + b"\n\n")
    data = b"".join(parts) + b'{"id": "cut", "text": "cu'
    (tmp_path / "hostile.jsonl").write_bytes(data)
    rows = read_rows(source_of("hostile.jsonl"), tmp_path)
    by_id = {row["id"]: row for row in kept(rows)}
    assert [by_id[str(number)]["text"] for number in range(100)] == [make_text(number) for number in range(100)]
    assert by_id["1"]["meta"] == '{"extra":[1]}'
    assert [by_id[name]["text"] for name in ("nul", "raw nul", "half", "gbk")] == [text for _, text in saved]
    assert len(by_id) == 104
    assert reasons(rows) == [reason for _, reason in bad] + ["not_json"]
    for found in kept(rows)[:100]:
        line = data[found["offset"] :].split(b"\n")[0]
        assert found["id"].encode() in line
    assert [row["id"] for row in rows if row["drop_reason"] and row["id"]] == ["n1", "n2", "n3", "n4"]
    assert len({row["doc_id"] for row in rows}) == len(rows)


@given(st.lists(st.binary(max_size=60).filter(lambda row: b"\n" not in row), max_size=8), st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_good_records_survive_any_neighbours(
    tmp_path_factory: pytest.TempPathFactory, rubbish: list[bytes], item_bytes: int
) -> None:
    base = tmp_path_factory.mktemp("fuzz")
    good = [
        json.dumps({"id": f"good-{number}", "text": "文" * (number + 1)}).encode() for number in range(len(rubbish) + 1)
    ]
    rows = [row for pair in zip(good, [*rubbish, b""], strict=True) for row in pair]
    # a file that begins with a byte order mark of UTF-16 is read as that, so the first line is a good one
    (base / "a.jsonl").write_bytes(b"\n".join(rows))
    found = read_rows(source_of("a.jsonl"), base, item_bytes=item_bytes)
    assert [row["id"] for row in kept(found) if (row["id"] or "").startswith("good-")] == [
        f"good-{number}" for number in range(len(good))
    ]


@given(st.binary(max_size=300))
def test_any_line_is_a_document_or_a_reject(data: bytes) -> None:
    found = parse_json_line(Line(5, data), Fields(), set())
    assert isinstance(found, Document | Reject) and found.offset == 5
    if isinstance(found, Document):
        found.text.encode()
        assert "\0" not in found.text


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["id", "text", "title", "url", "other", "x"]), JSON_VALUES))
def test_any_object(value: dict) -> None:
    found = parse_json_line(Line(0, json.dumps(value).encode()), Fields(), set())
    text = value.get("text")
    if isinstance(text, str) and text.replace("\0", "").strip() and "\ud800" <= max(text) <= "\udfff":
        return
    is_text = isinstance(text, str) and bool(text.replace("\0", "").strip())
    assert isinstance(found, Document) == is_text
    if isinstance(value.get("id"), int) and not isinstance(value["id"], bool):
        assert found.id == str(value["id"])


def test_ranges_cover_a_file_once(tmp_path: Path) -> None:
    rows = [{"id": str(number), "text": make_text(number, number % 9 + 1)} for number in range(60)]
    write_jsonl(tmp_path / "a.jsonl", rows)
    whole = read_rows(source_of("a.jsonl"), tmp_path)
    for item_bytes in (97, 1000, 5000):
        assert read_rows(source_of("a.jsonl"), tmp_path, item_bytes=item_bytes) == whole
    assert [row["id"] for row in whole] == [row["id"] for row in rows]


def test_compressed_and_cut(tmp_path: Path) -> None:
    rows = [{"id": str(number), "text": make_text(number)} for number in range(2000)]
    packed = gzip.compress(write_jsonl(tmp_path / "a.jsonl", rows).read_bytes())
    (tmp_path / "cut.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    found = read_rows(source_of("cut.jsonl.gz"), tmp_path)
    assert [row["id"] for row in kept(found)] == [str(number) for number in range(len(kept(found)))]
    assert len(kept(found)) > 500
    assert reasons(found) == ["cut_record", "truncated_gzip"]


def test_long_lines(tmp_path: Path) -> None:
    rows = [{"id": "a", "text": "短"}, {"id": "b", "text": "长" * 5000}, {"id": "c", "text": "短"}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    found = read_rows(source_of("a.jsonl"), tmp_path, maximum_record_bytes=1000)
    assert [row["id"] for row in kept(found)] == ["a", "c"]
    assert reasons(found) == ["line_too_long"]


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("file", ["一\n二\n\n三"]),
        ("paragraph", ["一\n二", "三"]),
        ("line", ["一", "二", "三"]),
    ],
)
def test_text_splits(tmp_path: Path, split: str, expected: list[str]) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeff一\r\n二\r\n\r\n三\r\n".encode())
    rows = read_rows(source_of("a.txt", split=split), tmp_path)
    assert [row["text"] for row in kept(rows)] == expected
    assert reasons(rows) == []


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "utf-16"])
def test_text_encodings(tmp_path: Path, encoding: str) -> None:
    text = "\n".join(make_text(number) for number in range(5))
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    assert [row["text"] for row in read_rows(source_of("a.txt"), tmp_path)] == [text]


def test_html(tmp_path: Path) -> None:
    (tmp_path / "deep.html").write_text("<div>" * 50_000 + "深" + "</div>" * 50_000)
    (tmp_path / "gbk.html").write_bytes(f'<meta charset="gbk"><title>题</title><p>{make_text(1)}</p>'.encode("gbk"))
    (tmp_path / "empty.html").write_bytes(b"")
    rows = read_rows(source_of("."), tmp_path)
    assert [row["path"] for row in kept(rows)] == ["deep.html", "gbk.html"]
    assert "".join(kept(rows)[-1]["text"].split()).endswith("".join(make_text(1).split()))
    assert kept(rows)[-1]["title"] == "题"
    assert reasons(rows) == ["empty_file"]


def test_parquet(tmp_path: Path) -> None:
    table = pa.table({"content": ["甲", None, "丙"], "key": [1, 2, 3], "more": [0.5, 1.5, 2.5]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-50])
    pq.write_table(pa.table({"other": [1]}), tmp_path / "c.parquet")
    fields = {"text": "content", "id": "key"}
    rows = read_rows(source_of("*.parquet", fields=fields), tmp_path)
    assert [(row["id"], row["text"], row["offset"], row["meta"]) for row in kept(rows)] == [
        ("1", "甲", 0, '{"more":0.5}'),
        ("3", "丙", 2, '{"more":2.5}'),
    ]
    assert reasons(rows) == ["no_text", "damaged_parquet", "no_text"]


def test_files_of_a_source(tmp_path: Path) -> None:
    for name in ("b/2.txt", "b/1.txt.gz", "a.txt", ".hidden/x.txt", "b/picture.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"text of " + name.encode())
    os.symlink(tmp_path, tmp_path / "b" / "loop")
    (tmp_path / os.fsdecode(b"\xff.txt")).write_bytes(b"odd name")
    rows = read_rows(source_of("."), tmp_path)
    assert [row["path"] for row in rows] == ["a.txt", "b/1.txt.gz", "b/2.txt", "b/picture.png", "\\xff.txt"]
    assert reasons(rows) == ["unsupported_file"]
    assert [row["path"] for row in read_rows(source_of("b", "**/*.txt"), tmp_path)][:2] == ["1.txt.gz", "2.txt"]
    with pytest.raises(UserError, match="no such file"):
        read_rows(source_of("missing"), tmp_path)
    with pytest.raises(UserError, match="unknown kind of file"):
        read_rows(source_of("b/picture.png"), tmp_path)
    with pytest.raises(UserError, match="no file to read"):
        read_rows(source_of("*.html"), tmp_path)


def test_file_that_vanishes_is_a_reject(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("文")
    chosen = Settings()
    items = read_items([source_of("a.txt")], tmp_path, chosen.item_bytes)
    (tmp_path / "a.txt").unlink()
    rows = [row for batch in read(items[0].payload, chosen, NoProgress()) for row in batch.to_pylist()]
    assert reasons(rows) == ["unreadable"]


def test_every_id_comes_out_somewhere(tmp_path: Path, recipe_at: Callable[..., Path]) -> None:
    rows: list[dict] = [{"id": f"d{number}", "text": make_text(number % 40)} for number in range(60)]
    rows += [{"id": "short", "text": "短"}, {"id": "none"}]
    write_jsonl(tmp_path / "in" / "a.jsonl", rows)
    recipe = recipe_at([{"name": "a", "paths": "in/*"}], ["read", {"clean": {"minimum_characters": 40}}, "dedup_exact"])
    run_recipe(recipe, tmp_path / "out")
    tables = [pq.read_table(pa.BufferReader(data)) for data in contents(tmp_path / "out").values()]
    ids = [number for table in tables for number in table.column("id").to_pylist()]
    assert sorted(ids) == sorted(row["id"] for row in rows)
    dropped = {row["id"]: row["drop_reason"] for table in tables for row in table.to_pylist() if row["drop_reason"]}
    assert len(dropped) == 22
    assert dropped["short"].startswith("too_short") and dropped["none"].startswith("no_text")
    assert dropped["d40"].startswith("duplicate_of:")


def test_of_many_empty_lines_nothing_but_the_place_is_left(tmp_path: Path) -> None:
    lines = [b'{"id": "a", "text": "x"}', b"", b"", b"", b'{"id": "b", "text": "x"}', b"", b'{"id": "c", "text": "x"}']
    data = b"\n".join([*lines, b"\n" * 3_000_000, b'{"id": "d", "text": "x"}'])
    (tmp_path / "a.jsonl").write_bytes(data)
    rows = read_rows(source_of("a.jsonl"), tmp_path)
    assert [(row["id"], row["offset"]) for row in rows] == [
        (name, data.index(b'{"id": "%s"' % name.encode())) for name in "abcd"
    ]


def test_columns_of_parquet_that_python_has_no_value_for(tmp_path: Path) -> None:
    table = pa.table(
        {
            "text": pa.array(["文字".encode(), "GB的文字，也来一些。".encode("gb18030")], pa.binary()),
            "time": pa.array([1, None], pa.timestamp("ns")),
            "price": pa.array([None, None], pa.decimal128(9, 2)),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": [["a"], ["b"]]}), tmp_path / "b.parquet")
    rows = kept(read_rows(source_of("a.parquet"), tmp_path))
    assert [row["text"] for row in rows] == ["文字", "GB的文字，也来一些。"]
    assert json.loads(rows[0]["meta"])["time"] == "1970-01-01 00:00:00.000000001"
    assert reasons(read_rows(source_of("b.parquet"), tmp_path)) == ["no_text", "no_text"]


def test_a_source_is_cut_to_its_size() -> None:
    megabyte = 1 << 20
    sizes = (0, 5, 20 * megabyte, 127 * megabyte, 128 * megabyte, 500 * megabyte, 10**12)
    assert [piece_bytes(size) // megabyte for size in sizes] == [4, 4, 4, 4, 8, 16, 64]
