"""Web archives: whole records come out of whatever surrounds them."""

import gzip
import random
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.stages.read.warc import WarcDocument, WarcRecord, WarcReject, read_documents, read_records

HTML = (
    "<html><body><div class=article>"
    + "<p>今天的天气很好，我们一起去公园看了花，还拍了许多照片。</p>" * 4
    + "</div></body></html>"
)


def record(
    kind: str,
    content: bytes,
    url: str = "http://a.cn/1.html",
    content_type: str = "application/http; msgtype=response",
    **changes: str,
) -> bytes:
    headers = {
        "WARC-Type": kind, "WARC-Target-URI": url, "WARC-Date": "2020-08-08T17:27:41Z", "Content-Type": content_type,
        "Content-Length": str(len(content)), **{name.replace("_", "-"): value for name, value in changes.items()},
    }  # fmt: skip
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return b"WARC/1.0\r\n" + head.encode() + b"\r\n" + content + b"\r\n\r\n"


def response(body: bytes, *headers: str, status: str = "200 OK", **changes: str) -> bytes:
    http = "".join(
        f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *(headers or ("Content-Type: text/html; charset=utf-8",)))
    )
    return record("response", http.encode() + b"\r\n" + body, **changes)


def pages(count: int) -> list[bytes]:
    return [response(HTML.replace("公园", f"公园{i}").encode(), url=f"http://a.cn/{i}.html") for i in range(count)]


def split(found: list) -> tuple[list, list[WarcReject]]:
    return [x for x in found if not isinstance(x, WarcReject)], [x for x in found if isinstance(x, WarcReject)]


@pytest.fixture
def write(tmp_path: Path):
    def save(data: bytes, name: str = "a.warc") -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return save


@pytest.mark.parametrize("packing", ["plain", "members", "one member", "zstd"])
def test_every_packing_gives_the_same_documents(write, packing: str) -> None:
    parts = [
        record("warcinfo", b"software: x\r\n", content_type="application/warc-fields"),
        *pages(5),
        record("request", b"GET / HTTP/1.1\r\n\r\n"),
    ]
    if packing == "plain":
        data = b"".join(parts)
    elif packing == "members":
        data = b"".join(gzip.compress(part) for part in parts)
    elif packing == "one member":
        data = gzip.compress(b"".join(parts))
    else:
        import zstandard

        data = b"".join(zstandard.compress(part) for part in parts)
    documents, rejects = split(list(read_documents(write(data))))
    assert [document.url for document in documents] == [f"http://a.cn/{i}.html" for i in range(5)] and not rejects
    assert all(f"公园{i}" in document.extract().text for i, document in enumerate(documents))
    assert [document.offset for document in documents] == [b"".join(parts).index(part) for part in parts[1:6]]


def test_wet_records_are_texts(write) -> None:
    text = "第一行文字，来自网页。\n第二行文字，也来自网页。"
    document, *rest = read_documents(write(record("conversion", text.encode(), content_type="text/plain")))
    assert isinstance(document, WarcDocument) and not rest and not document.is_html
    assert document.extract().text == text


def test_http_encodings_are_undone(write) -> None:
    body = HTML.encode()
    chunked = b"".join(b"%x;x=y\r\n%s\r\n" % (len(part), part) for part in (body[:50], body[50:])) + b"0\r\n\r\n"
    raw = zlib.compressobj(wbits=-15)
    html = "Content-Type: text/html"
    variants = [
        response(chunked, html, "Transfer-Encoding: chunked"),
        response(body, html, "Transfer-Encoding: chunked"),  # joined already, the header kept
        response(gzip.compress(body), html, "Content-Encoding: gzip"),
        response(body, html, "Content-Encoding: gzip"),  # undone already
        response(zlib.compress(body), html, "Content-Encoding: deflate"),
        response(raw.compress(body) + raw.flush(), html, "Content-Encoding: deflate"),
        response(HTML.encode("gbk"), "Content-Type: text/html; charset=gbk"),
    ]
    documents, rejects = split(list(read_documents(write(b"".join(variants)))))
    assert not rejects and len({document.extract().text for document in documents}) == 1


def test_what_is_no_page_is_rejected_with_its_reason(write) -> None:
    parts = [
        response(b"\x89PNG", "Content-Type: image/png"),
        response(HTML.encode(), status="404 Not Found"),
        response(b"", "Content-Type: text/html"),
        response(b"xx", "Content-Type: text/html", "Content-Encoding: exi"),
        record("response", b"HTTP/1.1 200 OK"),
    ]
    documents, rejects = split(list(read_documents(write(b"".join(parts)))))
    assert not documents
    assert [reject.reason.split(":")[0] for reject in rejects] == [
        "content_type",
        "http_status",
        "empty",
        "content_encoding",
        "damaged_http",
    ]
    assert [reject.offset for reject in rejects] == [sum(map(len, parts[:i])) for i in range(5)]


def test_damage_in_one_gzip_member_costs_that_record_only(write) -> None:
    members = [gzip.compress(part) for part in pages(20)]
    broken = bytearray(members[7])
    broken[40:60] = bytes(20)
    documents, rejects = split(list(read_documents(write(b"".join([*members[:7], bytes(broken), *members[8:]])))))
    urls = [document.url for document in documents]
    assert [f"http://a.cn/{i}.html" for i in range(20) if i != 7] == [
        url for url in urls if url != "http://a.cn/7.html"
    ]
    assert any(reject.reason.startswith("damaged_gzip") for reject in rejects)


def test_garbage_between_plain_records(write) -> None:
    parts = pages(4)
    garbage = random.Random(1).randbytes(5000).replace(b"WARC", b"")
    documents, rejects = split(list(read_documents(write(parts[0] + garbage + b"\r\n" + b"".join(parts[1:])))))
    assert [document.url for document in documents] == [f"http://a.cn/{i}.html" for i in range(4)]
    assert [reject.reason.split(":")[0] for reject in rejects] in (["not_warc"], [])


@pytest.mark.parametrize("length", ["10", "5000", "99999999", "-1", "", "abc"])
def test_a_lying_length_costs_one_record_at_most(write, length: str) -> None:
    parts = pages(6)
    parts[2] = response(HTML.encode(), url="http://a.cn/2.html", Content_Length=length)
    documents, _ = split(list(read_documents(write(b"".join(parts)))))
    urls = [document.url for document in documents]
    assert [url for url in urls if url != "http://a.cn/2.html"] == [f"http://a.cn/{i}.html" for i in (0, 1, 3, 4, 5)]


@pytest.mark.parametrize("packed", [False, True])
def test_a_cut_end_is_told(write, packed: bool) -> None:
    data = b"".join(gzip.compress(part) if packed else part for part in pages(5))
    documents, rejects = split(list(read_documents(write(data[:-100]))))
    assert len(documents) == 4
    assert any(reject.reason.startswith(("cut_record", "truncated_gzip")) for reject in rejects)


def test_a_record_over_the_limit_is_passed(write) -> None:
    big = response(b"<html>" + b"a" * 300_000, url="http://a.cn/big.html")
    parts = pages(2)
    documents, rejects = split(list(read_documents(write(parts[0] + big + parts[1]), max_record_bytes=100_000)))
    assert [document.url for document in documents] == ["http://a.cn/0.html", "http://a.cn/1.html"]
    assert [(reject.offset, reject.reason.split(":")[0]) for reject in rejects] == [(len(parts[0]), "record_too_long")]


def test_a_bomb_in_a_body_is_stopped(write) -> None:
    bomb = gzip.compress(bytes(50 << 20))
    parts = pages(2)
    data = parts[0] + response(bomb, "Content-Type: text/html", "Content-Encoding: gzip") + parts[1]
    documents, rejects = split(list(read_documents(write(data))))
    assert len(documents) == 2
    assert [reject.reason.split(":")[0] for reject in rejects] == ["decompression_bomb"]


@given(st.integers(0, 2**32), st.integers(1, 8), st.booleans())
@settings(max_examples=60, deadline=None)
def test_damaged_archives_end_and_never_raise(
    tmp_path_factory: pytest.TempPathFactory, seed: int, wounds: int, packed: bool
) -> None:
    chooser = random.Random(seed)
    data = bytearray(b"".join(gzip.compress(part) if packed else part for part in pages(6)))
    for _ in range(wounds):
        place = chooser.randrange(len(data))
        data[place : place + chooser.randint(0, 60)] = chooser.randbytes(chooser.randint(0, 30))
    path = tmp_path_factory.mktemp("warc") / "a.warc"
    path.write_bytes(bytes(data))
    found = list(read_records(path))
    offsets = [item.offset for item in found]
    assert all(0 <= offset <= 100_000 for offset in offsets)
    list(read_documents(path))


def test_real_archives(shared: Path) -> None:
    folder = shared / "warc"
    records = list(read_records(folder / "commoncrawl_12_chinese_pages.warc.gz"))
    assert len(records) == 50 and all(isinstance(item, WarcRecord) for item in records)
    documents, rejects = split(list(read_documents(folder / "commoncrawl_12_chinese_pages.warc.gz")))
    charsets = [document.extract().charset for document in documents]
    assert len(documents) == 16 and not rejects and charsets.count("gb18030") >= 5
    japanese, rejects = split(list(read_documents(folder / "clueweb09_japanese.warc.gz")))
    assert len(japanese) == 29 and not rejects
    assert {document.extract().charset for document in japanese} <= {
        "euc-jp",
        "shift_jis",
        "utf-8",
        "iso-2022-jp",
        "windows-1252",
    }
    wet, _ = split(list(read_documents(folder / "sample.wet")))
    assert ["馬克·吐溫" in document.extract().text for document in wet] == [False, True, False]
    _, rejects = split(list(read_documents(folder / "clipped.warc.gz")))
    assert rejects


def test_starts_of_records_without_end_take_linear_time(tmp_path: Path) -> None:
    (tmp_path / "a.warc").write_bytes(b"WARC/1.0\r\n" * 60_000 + b"\r\n\r\n" + response(HTML.encode()))
    found = list(read_records(tmp_path / "a.warc"))
    assert sum(isinstance(one, WarcReject) for one in found) >= 50_000
    assert isinstance(found[-1], WarcRecord) and found[-1].content.endswith(b"</html>")
