"""Web archives and CSV as sources: good records come out of hostile ones, and a page that fails costs itself alone."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_pipeline.extraction import extract
from data_pipeline.record import reason_class
from data_pipeline.stages.read import warc
from data_pipeline.stages.read.csv_file import ends_in_quotes
from pangu.foundation.errors import UserError
from tests.data_pipeline.conftest import contents, run_recipe
from tests.data_pipeline.test_read import kept, read_rows, reasons, source_of

SENTENCE = "今天的天气很好，我们一起去公园看了花，还拍了许多照片。"


def page(number: int) -> bytes:
    text = f"<p>{SENTENCE}</p>" * 6 + f"第{number}篇。"
    body = f"<html><head><title>第{number}篇游记</title></head><body><div>{text}</div></body></html>"
    return body.encode("gb18030" if number % 2 else "utf-8")


def record(content: bytes, number: int, kind: str = "response", length: int | None = None) -> bytes:
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://a.cn/{number}.html\r\n"
        f"WARC-Date: 2020-08-08T17:27:41Z\r\nContent-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {len(content) if length is None else length}\r\n\r\n"
    )
    return head.encode() + content + b"\r\n\r\n"


def response(body: bytes, number: int, status: str = "200 OK", more: str = "") -> bytes:
    return record(f"HTTP/1.1 {status}\r\nContent-Type: text/html\r\n{more}\r\n".encode() + body, number)


def hostile_archive() -> bytes:
    """Twelve good pages in gzip members, with everything between them that a crawl brings along."""
    bomb = gzip.compress(b"\0" * (8 << 20))
    bad = [
        response(b"", 100, status="404 Not Found"),
        record(page(1), 101, length=10**12),
        record(page(1), 102, kind="request"),
        response(bomb, 103, more="Content-Encoding: gzip\r\n"),
        response(b"<div>" * 200_000, 104),
        response(bytes(range(256)) * 50, 105),
        b"\x00\xff" * 500 + b"\r\n",
        record(b"HTTP/1.1 200 OK\r\nno end of the header", 107),
    ]
    parts = []
    for number in range(12):
        parts.append(gzip.compress(response(page(number), number)))
        if number < len(bad):
            parts.append(gzip.compress(bad[number]))
    damaged = bytearray(gzip.compress(response(page(1), 200)))
    damaged[len(damaged) // 2] ^= 0xFF
    return b"".join([*parts[:7], bytes(damaged), *parts[7:], gzip.compress(response(page(2), 300))[:-60]])


def test_a_hostile_archive(tmp_path: Path, recipe_at: Callable[..., Path]) -> None:
    (tmp_path / "crawl").mkdir()
    (tmp_path / "crawl/a.warc.gz").write_bytes(hostile_archive())
    recipe = recipe_at(
        [{"name": "web", "paths": "crawl"}], [{"read": {"maximum_record_bytes": "4MB"}}, "dedup_fuzzy"], workers=2
    )
    for out in ("one", "two"):
        run_recipe(recipe, tmp_path / out)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    rows = pq.read_table(tmp_path / "one/stages/read/kept").to_pylist()
    assert [row["url"] for row in rows if SENTENCE in row["text"]] == [f"http://a.cn/{n}.html" for n in range(12)]
    assert rows[1]["title"] == "第1篇游记" and rows[1]["meta"].startswith('{"charset":"gb18030"')
    rejects = pq.read_table(tmp_path / "one/stages/read/dropped").to_pylist()
    by_url = {row["url"]: reason_class(row["drop_reason"]) for row in rejects if row["url"]}
    assert by_url["http://a.cn/100.html"] == "http_status"
    assert by_url["http://a.cn/101.html"] == "record_too_long"
    assert by_url["http://a.cn/103.html"] == "decompression_bomb"
    assert by_url["http://a.cn/107.html"] == "damaged_http"
    assert {"not_warc", "damaged_gzip"} <= {reason_class(row["drop_reason"]) for row in rejects}
    assert "http://a.cn/102.html" not in by_url
    # the twelve pages say nearly the same
    assert pq.read_table(tmp_path / "one/documents").num_rows < 12


def test_a_page_that_the_extractor_fails_on_is_one_reject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(html: bytes, *_: object, **__: object) -> None:
        raise RecursionError("too deep\ud800")

    monkeypatch.setattr(extract, "extract", fail)
    (tmp_path / "a.html").write_bytes(page(0))
    (row,) = read_rows(source_of("a.html"), tmp_path)
    assert row["drop_reason"].startswith("extraction_failed:RecursionError too deep")
    monkeypatch.setattr(warc, "extract", fail)
    (tmp_path / "a.warc").write_bytes(response(page(0), 0) + response(page(2), 2))
    rows = read_rows(source_of("a.warc"), tmp_path)
    assert [(row["url"], reason_class(row["drop_reason"])) for row in rows] == [
        ("http://a.cn/0.html", "extraction_failed"),
        ("http://a.cn/2.html", "extraction_failed"),
    ]


def test_texts_of_a_wet_file(shared: Path) -> None:
    rows = read_rows(source_of(str(shared / "warc/sample.wet")), shared)
    assert kept(rows) and all(row["url"] for row in kept(rows))


def test_real_archives(shared: Path) -> None:
    rows = read_rows(source_of(str(shared / "warc/commoncrawl_12_chinese_pages.warc.gz")), shared)
    assert len(rows) == 16 and len(kept(rows)) >= 12


def test_csv(tmp_path: Path) -> None:
    table = (
        "\ufeffid;text;题目;url\r\n"
        "1;普通的一行;甲;http://a.cn\r\n"
        '2;"有分号;有""引号""\n\n还有空行";乙;\r\n'
        "\r\n"
        '3;"从不结束的引号;丙;\r\n'
        "4;少一列\r\n"
        "5;多;一;列;吗\r\n"
        "6;;空;\r\n"
        '7;一个"引号;丁;\r\n'
    )
    (tmp_path / "a.csv").write_text(table, encoding="utf-8", newline="")
    rows = read_rows(source_of("a.csv", fields={"title": "题目"}), tmp_path)
    assert [(row["id"], row["text"], row["title"], row["url"]) for row in kept(rows)] == [
        ("1", "普通的一行", "甲", "http://a.cn"),
        ("2", '有分号;有"引号"\n\n还有空行', "乙", None),
        ("7", '一个"引号', "丁", None),
    ]
    assert reasons(rows) == ["unclosed_quote", "not_csv", "not_csv", "empty_text"]
    assert [row["id"] for row in rows if row["drop_reason"]] == [None, "4", "5", "6"]
    data = table.encode()
    assert all(data[row["offset"] :].startswith((row["id"] or "3").encode()) for row in rows)


def test_csv_in_gb18030_with_tabs(tmp_path: Path) -> None:
    rows = [f"{number}\t第{number}段中文的内容，用另一种编码写成的。" for number in range(5)]
    (tmp_path / "a.tsv").write_bytes(("id\ttext\n" + "\n".join(rows)).encode("gb18030"))
    assert [f"{row['id']}\t{row['text']}" for row in kept(read_rows(source_of("a.tsv"), tmp_path))] == rows


def test_csv_without_the_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,content\n1,有内容\n")
    (row,) = read_rows(source_of("a.csv"), tmp_path)
    assert row["drop_reason"] == "no_text:no column 'text' among id, content"


@given(st.lists(st.lists(st.text(alphabet='a",\n 文', max_size=6), min_size=2, max_size=3), min_size=1, max_size=4))
@example([["", "\n\n\n"]])
def test_any_table_that_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]) -> None:
    rows = [["id", "text"], *([f"{number}", "文" + row[1]] for number, row in enumerate(rows))]
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    base = tmp_path_factory.mktemp("csv")
    (base / "a.csv").write_text(text.getvalue(), encoding="utf-8", newline="")
    found = read_rows(source_of("a.csv"), base)
    assert [[row["id"], row["text"]] for row in found] == rows[1:]


def test_opened_quotes_take_linear_time(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text\n" + '1,"文\n' * 50_000 + "2,好\n")
    rows = read_rows(source_of("a.csv"), tmp_path)
    assert [row["id"] for row in kept(rows)] == ["2"] and len(rows) == 50_001


def test_ends_in_quotes() -> None:
    for line, inside, expected in (
        ('a,"b', False, True), ('"a","b"', False, False), ('a"b,"c"', False, False), ('"","', False, True),
        ('x"y', True, True), ('x",y', True, False), ('x""', True, True), ('x"\r', True, False), ("", True, True),
    ):  # fmt: skip
        assert ends_in_quotes(line.encode(), b",", inside) == expected, line


def test_a_page_in_a_field_is_extracted(tmp_path: Path) -> None:
    html = [page(0).decode(), page(1).decode("gb18030"), "<script>var a = 1</script>", "  "]
    records = [{"content": one, "id": str(number), "url": "http://a.cn/"} for number, one in enumerate(html)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    pq.write_table(pa.table({"content": [page(0), page(1)], "label": ["x", "y"]}), tmp_path / "b.parquet")
    (tmp_path / "c.csv").write_text('id,content\n5,"' + html[0].replace('"', '""') + '"\n')
    for name, count in (("a.jsonl", 2), ("b.parquet", 2), ("c.csv", 1)):
        rows = read_rows(source_of(name, fields={"html": "content"}), tmp_path)
        good = kept(rows)
        assert len(good) == count
        assert all(row["text"].count(SENTENCE) == 6 and "<" not in row["text"] for row in good)
        assert good[0]["title"] == "第0篇游记" and good[0]["signals"]["confidence"] > 0.5
    rows = read_rows(source_of("a.jsonl", fields={"html": "content"}), tmp_path)
    assert [reason_class(row["drop_reason"]) for row in rows[2:]] == ["no_text", "empty"]


def test_form_and_confidence_of_pages_are_settings(tmp_path: Path, recipe_at: Callable[..., Path]) -> None:
    (tmp_path / "pages").mkdir()
    html = f"<title>游记</title><div><p>{SENTENCE}</p><h2>第一天</h2>{f'<p>{SENTENCE}</p>' * 6}</div>"
    (tmp_path / "pages/a.html").write_text(f"<meta charset=utf-8>{html}")
    for least, kind in ((0.5, "kept"), (1.0, "dropped")):
        read = {"read": {"format": "markdown", "minimum_confidence": least}}
        run_recipe(recipe_at([{"name": "web", "paths": "pages"}], [read], workers=1), tmp_path / kind)
        (row,) = pq.read_table(tmp_path / kind / "stages/read" / kind).to_pylist()
        assert "## 第一天\n\n" + SENTENCE in row["text"]
        if kind == "kept":
            assert 0.5 <= row["signals"]["confidence"] < 1
        else:
            assert reason_class(row["drop_reason"]) == "low_confidence"


def test_links_in_plain_text_are_a_mistake(tmp_path: Path, recipe_at: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="need `format: markdown`"):
        run_recipe(
            recipe_at([{"name": "web", "paths": "pages"}], [{"read": {"links": True}}], workers=1), tmp_path / "o"
        )
