"""Every file of a source is read or is a reject: formats beside the common ones, archives, odd JSON, odd columns."""

import bz2
import gzip
import importlib.util
import io
import json
import lzma
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline.recipe import Fields, Source
from data_pipeline.stages.read.compressed_bytes import FREE_BYTES, Line, read_stream
from data_pipeline.stages.read.formats import json_values
from data_pipeline.stages.read.record_fields import take_text
from data_pipeline.stages.read.source_files import count_kinds, kinds_in_words
from tests.data_pipeline.conftest import run_recipe, write_jsonl
from tests.data_pipeline.test_read import read_rows, reasons

TEXT = "河边小镇的春天来得很早，集市上的人们买卖蔬菜、鲜鱼和手工编的竹篮，孩子们在码头边放风筝。"
PAGE = f"<html><head><title>题</title></head><body><div><p>{TEXT}</p><p>{TEXT}老人下棋。</p></div></body></html>"


def source(place: str, **settings: object) -> Source:
    return Source(name="s", paths=(place,), **settings)  # type: ignore[arg-type]


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def tarred(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        link = tarfile.TarInfo("link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return out.getvalue()


def docx(*paragraphs: str) -> bytes:
    space = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    body = "".join(f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>" for text in paragraphs)
    table = "<w:tbl><w:tr><w:tc><w:p><w:r><w:t>甲</w:t></w:r></w:p></w:tc><w:tc><w:p/></w:tc></w:tr></w:tbl>"
    return zipped({"word/document.xml": f"<w:document {space}><w:body>{body}{table}</w:body></w:document>".encode()})


def epub(*chapters: str) -> bytes:
    items = "".join(f'<item id="c{n}" href="t%20{n}.xhtml"/>' for n in range(len(chapters)))
    spine = "".join(f'<itemref idref="c{n}"/>' for n in range(len(chapters)))
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata>'
        f"<dc:title>书名</dc:title></metadata><manifest>{items}</manifest><spine>{spine}</spine></package>"
    )
    container = '<container xmlns="urn:oasis"><rootfiles><rootfile full-path="OPS/p.opf"/></rootfiles></container>'
    pages = {f"OPS/t {n}.xhtml": f"<html><body><p>{text}</p></body></html>".encode() for n, text in enumerate(chapters)}
    return zipped({"META-INF/container.xml": container.encode(), "OPS/p.opf": package.encode(), **pages})


def test_every_file_of_a_folder_is_read_or_a_reject(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    table = pa.table({"id": ["1", "2"], "text": [TEXT, TEXT + "二"]})
    with pa.OSFile(str(folder / "a.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with pa.OSFile(str(folder / "b.ipc"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    lines = json.dumps({"text": TEXT}).encode() + b"\n"
    with pa.CompressedOutputStream(pa.OSFile(str(folder / "c.jsonl.lz4"), "wb"), "lz4") as lz4:
        lz4.write(lines)
    files = {
        "d.jsonl.xz": lzma.compress(lines) + lzma.compress(lines),
        "e.docx": docx(TEXT, "第二段"),
        "f.epub": epub(TEXT, "第二章的正文。"),
        "g.shtml": PAGE.encode(),
        "h.php": PAGE.encode(),
        "i.mht": b"MIME-Version: 1.0\nContent-Type: text/html; charset=utf-8\n\n" + PAGE.encode(),
        "j": PAGE.encode(),
        "k": lines,
        "l": TEXT.encode("gbk"),
        "m": bytes(range(256)) * 40,
        "n.bin": b"\0\1",
        "o.docx": b"text",
        "p.zip": zipped({"a/x.txt": TEXT.encode(), "y.jsonl": lines, "z.exe": b"MZ", "../up.txt": b"up"}),
        "q.tar.gz": gzip.compress(tarred({"a.txt": TEXT.encode(), "b.txt.bz2": bz2.compress(TEXT.encode())})),
        "r.zip": b"PK",
        "s.arc": f"http://a.cn/ 1.2.3.4 20010203040506 text/html {len(PAGE.encode())}\n{PAGE}\n".encode(),
        "t.wacz": zipped({"archive/x.warc": b"", "pages/pages.jsonl": b"{}"}),
        "u.pdf": b"%PDF-1.4 nothing",
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    rows = read_rows(source("in"), tmp_path)
    kept = {(row["path"], row["offset"]) for row in rows if row["drop_reason"] is None}
    assert {path for path, _ in kept} == {
        *("a.arrow", "b.ipc", "c.jsonl.lz4", "d.jsonl.xz", "e.docx", "f.epub", "g.shtml", "h.php", "i.mht"),
        *("j", "k", "l", "p.zip!/a/x.txt", "p.zip!/y.jsonl", "q.tar.gz!/a.txt", "q.tar.gz!/b.txt.bz2", "s.arc"),
    }
    assert len([path for path, _ in kept if path in ("a.arrow", "b.ipc", "d.jsonl.xz")]) == 6
    assert all(row["drop_reason"] for row in rows if row["path"] == "u.pdf")
    dropped = {(row["path"], row["drop_reason"].partition(":")[0]) for row in rows if row["drop_reason"]}
    assert {
        *(
            ("m", "unsupported_file"),
            ("n.bin", "unsupported_file"),
            ("o.docx", "damaged_docx"),
            ("r.zip", "damaged_zip"),
        ),
        *(("p.zip!/z.exe", "unsupported_file"), ("p.zip", "unsafe_member"), ("q.tar.gz", "unsafe_member")),
    } <= dropped
    assert {path.partition("!/")[0] for path, _ in (*kept, *dropped)} >= {*files, "a.arrow", "b.ipc"}
    texts = {row["path"]: row["text"] for row in rows if row["drop_reason"] is None}
    assert texts["e.docx"] == f"{TEXT}\n第二段\n甲"
    assert texts["f.epub"] == f"{TEXT}\n\n第二章的正文。" and TEXT in texts["s.arc"]
    kinds = count_kinds([source("in")], tmp_path)["s"]
    assert sum(kinds.values()) == len(files) + 3 and "not read: 1 .bin" in kinds_in_words(kinds)


def test_a_file_in_which_nothing_is_is_a_reject(tmp_path: Path) -> None:
    """Files of every kind that hold no record, books that do not say their order, and a table without a row."""
    folder = tmp_path / "in"
    folder.mkdir()
    empty = pa.table({"text": pa.array([], pa.string())})
    pq.write_table(empty, folder / "a.parquet")
    with pa.OSFile(str(folder / "b.arrow"), "wb") as sink, pa.ipc.new_file(sink, empty.schema) as writer:
        writer.write_table(empty)
    files = {
        "c.jsonl": b"",
        "d.jsonl": b"\n\n \r\n",
        "e.json": b"[]",
        "f.jsonl.gz": gzip.compress(b""),
        "g.zip": zipped({}),
        "h.zip": zipped({"in.zip": zipped({})}),
        "i.warc": b"",
        "j.txt": b" \n\n",
        "k.csv": b"id,text\r\n",
        "l.html": b"",
        "m.tar": tarred({}),
        "n.epub": epub(TEXT)[:90],
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    spineless = epub(TEXT, "第二章。")
    with zipfile.ZipFile(io.BytesIO(spineless)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["OPS/p.opf"] = re.sub(rb"<spine>.*</spine>", b"<spine/>", parts["OPS/p.opf"])
    (folder / "o.epub").write_bytes(zipped(parts))
    rows = read_rows(source("in"), tmp_path)
    by_file: dict[str, list] = {}
    for row in rows:
        by_file.setdefault(row["path"].partition("!/")[0], []).append(row)
    assert by_file.keys() == {*files, "a.parquet", "b.arrow", "o.epub"}
    (book,) = by_file.pop("o.epub")
    assert book["text"] == f"{TEXT}\n\n第二章。"
    assert all(row["drop_reason"] for rows in by_file.values() for row in rows)
    named = {row["drop_reason"].partition(":")[0] for path in by_file if path != "n.epub" for row in by_file[path]}
    assert named <= {"no_records", "empty_file", "unsafe_member", "damaged_zip"}


EVERY_ENDING = (
    *("jsonl", "json", "csv", "tsv", "txt", "html", "warc", "wet", "zip", "tar", "epub", "docx", "pdf", "parquet"),
    *("arrow", "md"),
)


@pytest.mark.parametrize("ending", EVERY_ENDING)
def test_a_file_without_a_byte_is_called_so_whatever_its_format(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"a.{ending}").write_bytes(b"")
    rows = read_rows(source(f"a.{ending}"), tmp_path)
    assert [row["drop_reason"] for row in rows] == ["empty_file"]


def test_the_text_of_a_pdf(tmp_path: Path) -> None:
    pypdf = pytest.importorskip("pypdf")
    writer = pypdf.PdfWriter()
    writer.add_blank_page(72, 72)
    writer.write(tmp_path / "a.pdf")
    assert reasons(read_rows(source("a.pdf"), tmp_path)) == ["no_text_layer"]


def test_bombs_in_archives_are_stopped(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped({"a.txt": b"\0" * (FREE_BYTES * 2), "b.txt": TEXT.encode()}))
    inner = zipped({"c.zip": zipped({"a.zip": zipped({"x.txt": b"x"})})})
    (tmp_path / "b.zip").write_bytes(inner)
    assert set(reasons(read_rows(source("*.zip"), tmp_path))) == {"decompression_bomb", "nested_archive"}


@pytest.mark.parametrize(
    ("data", "ids"),
    [
        ('[\n  {"id": 1, "text": "甲]}\\"["},\n  {"id": 2, "text": "乙"}\n]', ["1", "2"]),
        ('[{"id": 1, "text": "甲"}, {"id": 2, "text": "乙"}]', ["1", "2"]),
        ('{\n  "id": 1,\n  "text": "甲"\n}\n{\n  "id": 2, "text": "乙"\n}', ["1", "2"]),
        ('\ufeff[{"id": 1, "text": "甲"}, {"id": 2, "text": 3}, {"id": 3, "te', ["1"]),
        ('{"id": 1, "text": "甲"}\n[1]\n{"id": 2, "text": "乙"}', ["1", "2"]),
    ],
)
def test_json_that_is_no_lines(tmp_path: Path, data: str, ids: list[str]) -> None:
    (tmp_path / "a.json").write_text(data, encoding="utf-8")
    rows = read_rows(source("a.json"), tmp_path)
    assert [row["id"] for row in rows if row["drop_reason"] is None] == ids
    # nor does it matter how large the pieces are that a file could be cut into
    assert read_rows(source("a.json"), tmp_path, item_bytes=10) == rows


def test_values_come_out_alike_however_the_stream_is_cut() -> None:
    data = json.dumps([{"text": '引"号\\', "list": [[1], "]"]}, "单", {"a": {}}], ensure_ascii=False).encode()
    whole = [line.data for line in json_values.values(iter([data]), 1 << 20) if isinstance(line, Line)]
    assert len(whole) == 3
    for size in (1, 2, 3, 7):
        blocks = [data[place : place + size] for place in range(0, len(data), size)]
        assert [line.data for line in json_values.values(iter(blocks), 1 << 20) if isinstance(line, Line)] == whole
    found = list(json_values.values(iter([b'[{"a": "' + b"x" * 100 + b'"}', b', {"b": 1}]']), 50))
    assert [type(line).__name__ for line in found] == ["Damage", "Line"]


def test_paths_and_joins() -> None:
    record = {"标题": "题", "段落": [{"内容": "一"}, {"别的": 1}, {"内容": "二"}], "a": {"b": ["x", "y"]}, "c.d": "点"}
    assert take_text(dict(record), "段落[].内容") == "一\n二"
    assert take_text(dict(record), ("标题", "段落[].内容", "没有")) == "题\n一\n二"
    assert take_text(dict(record), "a.b[1]") == "y" and take_text(dict(record), "a.b[]") == "x\ny"
    assert take_text(dict(record), "c.d") == "点" and take_text(dict(record), "没有") is None


def test_fields_by_paths(tmp_path: Path, recipe_at: Callable[..., Path]) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"meta": {"id": 7}, "title": "题", "body": [{"t": TEXT}], "n": 1}])
    fields = {"text": ["title", "body[].t"], "id": "meta.id"}
    row = read_rows(source("a.jsonl", fields=Fields(**fields)), tmp_path)[0]  # type: ignore[arg-type]
    assert (row["id"], row["title"], row["text"]) == ("7", "题", f"题\n{TEXT}")
    run_recipe(recipe_at([{"name": "a", "paths": "a.jsonl", "fields": fields}], ["read"]), tmp_path / "out")
    (tmp_path / "a.csv").write_text("title,body\n题,文\n", encoding="utf-8")
    assert read_rows(source("a.csv", fields=Fields(text=("title", "body"))), tmp_path)[0]["text"] == "题\n文"


def test_long_numbers_keep_their_digits(tmp_path: Path) -> None:
    line = '{"id": 12345678901234567890123, "n": [98765432109876543210987], "x": 1.5, "text": "文 1234567890123456789"}'
    (tmp_path / "a.jsonl").write_text(line, encoding="utf-8")
    row = read_rows(source("a.jsonl"), tmp_path)[0]
    assert row["id"] == "12345678901234567890123" and "98765432109876543210987" in row["meta"]


def test_surrogates_and_bad_bytes_cost_a_character(tmp_path: Path) -> None:
    pair = "\U0001f600".encode("utf-16-be")
    cesu = b"".join(chr(int.from_bytes(pair[place : place + 2])).encode("utf-8", "surrogatepass") for place in (0, 2))
    text = TEXT.encode()
    lines = [b'{"text": "' + cesu + text + b'"}', b'{"text": "' + text + b"\xff" + text + b'"}']
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([*lines, b'{"text": "' + TEXT.encode("gbk") + b'"}']))
    rows = read_rows(source("a.jsonl"), tmp_path)
    assert [row["text"] for row in rows] == [f"\U0001f600{TEXT}", f"{TEXT}\ufffd{TEXT}", TEXT]


def test_odd_columns_of_parquet_cost_no_rows(tmp_path: Path) -> None:
    stamp = pa.array([{"at": 1_500_000_000_123_456_789}], pa.struct([("at", pa.timestamp("ns"))]))
    nested = pa.array([[1_500_000_000_123_456_789]], pa.list_(pa.timestamp("ns")))
    pq.write_table(pa.table({"text": [TEXT], "when": stamp, "list": nested}), tmp_path / "a.parquet")
    row = read_rows(source("a.parquet"), tmp_path)[0]
    assert row["drop_reason"] is None and row["meta"].count("2017-07-14 02:40:00.123456789") == 2
    doubled = pa.Table.from_arrays([pa.array(["甲"]), pa.array(["乙"])], names=["text", "text"])
    pq.write_table(doubled, tmp_path / "b.parquet")
    rows = read_rows(source("b.parquet"), tmp_path)
    assert [row["text"] for row in rows if row["drop_reason"] is None] == ["甲"]
    assert reasons(rows) == ["doubled_field"]
    (tmp_path / "c.csv").write_text("text,text,,\n甲,乙,,\n,丙,,\n", encoding="utf-8")
    rows = read_rows(source("c.csv"), tmp_path)
    assert [row["text"] for row in rows if row["drop_reason"] is None][:1] == ["甲"]
    assert "doubled_field" in reasons(rows) and "丙" not in {row["text"] for row in rows}


@pytest.mark.parametrize(
    "write", [lambda rows: "\n".join(rows), lambda rows: "[\n" + ",\n".join(rows) + "\n]"], ids=["lines", "array"]
)
def test_of_two_json_fields_of_one_name_the_first_is_taken_and_that_is_said_once(
    tmp_path: Path, write: Callable[[list[str]], str]
) -> None:
    rows = [
        '{"text": "甲", "id": "1", "text": "乙"}',
        '{"text" : "甲", "meta": {"a": 1, "a": 2}, "text"\t: "丙"}',
        '{"text": "甲\x01", "text": "乙"}',
        '{"text": "a \\"text\\": and \\"text\\": are words", "meta": {"text": 1}}',
    ]
    (tmp_path / "a.json").write_text(write(rows), encoding="utf-8")
    found = read_rows(source("a.json"), tmp_path)
    kept = [row for row in found if row["drop_reason"] is None]
    assert [row["text"].rstrip("\x01") for row in kept] == ["甲", "甲", "甲", 'a "text": and "text": are words']
    assert '"a":1' in kept[1]["meta"]
    said = sorted(row["drop_reason"] for row in found if row["drop_reason"])
    assert [reason.split(" ")[0] for reason in said] == ["doubled_field:'a'", "doubled_field:'text'"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[:1500], "damaged_tar:truncated header; what lies behind is not read"),
        (lambda data: data[:1024], "truncated_tar:it ends without the mark of its end"),
        (lambda data: data[:1030] + b"\xff" * 300 + data[1330:], "damaged_tar:bad checksum; what lies behind"),
        (lambda data: data[:1024] + data[3072:], None),
    ],
    ids=["cut in a header", "cut between members", "a damaged header", "whole"],
)
def test_what_a_damaged_tar_loses_is_said(tmp_path: Path, damage: Callable[[bytes], bytes], said: str | None) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in ("a.txt", "b.txt", "c.txt"):
            entry = tarfile.TarInfo(name)
            entry.size = len(TEXT.encode())
            archive.addfile(entry, io.BytesIO(TEXT.encode()))
    (tmp_path / "a.tar").write_bytes(damage(out.getvalue()))
    rows = read_rows(source("a.tar"), tmp_path)
    assert [row["path"] for row in rows if row["drop_reason"] is None] == ["a.tar!/a.txt"]
    reasons_said = [row["drop_reason"] for row in rows if row["drop_reason"]]
    assert len(reasons_said) == (said is not None)
    assert said is None or reasons_said[0].startswith(said)


def test_damage_inside_xz_and_lz4_is_said(tmp_path: Path) -> None:
    for name, magic in (("a.xz", b"\xfd7zXZ\x00"), ("a.lz4", b"\x04\x22\x4d\x18")):
        (tmp_path / name).write_bytes(magic + b"nothing that they would write")
        assert "damaged" in str(list(read_stream(tmp_path / name, 200)))


def test_the_cases(shared: Path, tmp_path: Path) -> None:
    cases = shared.parent / "cases" / "corpus"
    rows = read_rows(source(str(cases / "folder_skips")), tmp_path)
    assert {row["path"] for row in rows} == {path.name for path in (cases / "folder_skips").iterdir()}
    assert len([row for row in rows if row["drop_reason"] is None]) == 4
    for name, kept in (("json_array_pretty.json", 5), ("parquet_nested_ns.parquet", None), ("cesu8_emoji.jsonl", None)):
        rows = read_rows(source(str(cases / name)), tmp_path)
        assert rows and all(row["drop_reason"] is None for row in rows) and kept in (None, len(rows))
    rows = read_rows(source(str(cases / "warc_http_variants.warc")), tmp_path)
    # two of its records are revisits, which hold no page
    assert len(rows) == 27
    without_brotli = set() if importlib.util.find_spec("brotli") else {"needs_brotli"}
    assert set(reasons(rows)) == {"http_status", "empty", "content_type", *without_brotli}


@pytest.mark.parametrize(
    "between",
    [("", ""), ("", "\r"), ("\x1e", ""), ("", "\x1e"), ("", " , ")],
    ids=["nothing", "CR", "RS", "RS behind", "comma"],
)
def test_several_objects_on_a_line(tmp_path: Path, between: tuple[str, str]) -> None:
    before, behind = between
    values = [json.dumps({"text": f'{TEXT}{{{number}}}\\"'}, ensure_ascii=False) for number in range(3)]
    (tmp_path / "a.jsonl").write_text("".join(before + value + behind for value in values) + "\n", encoding="utf-8")
    rows = read_rows(source("a.jsonl"), tmp_path)
    assert [row["text"] for row in rows] == [json.loads(value)["text"] for value in values]
    assert len({row["offset"] for row in rows}) == 3 and not any(row["drop_reason"] for row in rows)


@pytest.mark.parametrize(
    "line", ['{"text": "甲"} 余下', '{"text": "甲"}{"text": "乙', '{"text": "甲"} 与 {"text": "乙"}']
)
def test_what_is_no_row_of_objects_is_one_reject(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.jsonl").write_text(line + "\n", encoding="utf-8")
    (row,) = read_rows(source("a.jsonl"), tmp_path)
    assert row["drop_reason"].startswith("not_json") and row["text"] == line


@pytest.mark.parametrize("item_bytes", [None, 200])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_lines_of_utf16_without_a_mark(tmp_path: Path, encoding: str, item_bytes: int | None) -> None:
    lines = [json.dumps({"text": f"{TEXT}{number}"}, ensure_ascii=False) for number in range(9)]
    (tmp_path / "a.jsonl").write_bytes("\n".join(lines).encode(encoding))
    rows = read_rows(source("a.jsonl"), tmp_path, item_bytes=item_bytes)
    assert [row["text"] for row in rows] == [f"{TEXT}{number}" for number in range(9)]


@pytest.mark.parametrize("head", ["id|text", "sep=|\nid|text", "sep=#\r\nid#text"])
def test_csv_with_bars_or_what_its_first_line_says(tmp_path: Path, head: str) -> None:
    mark = "#" if "#" in head else "|"
    (tmp_path / "a.csv").write_text(f"{head}\n1{mark}{TEXT}\n", encoding="utf-8")
    (row,) = read_rows(source("a.csv"), tmp_path)
    assert (row["id"], row["text"], row["drop_reason"]) == ("1", TEXT, None)
