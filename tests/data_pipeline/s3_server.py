"""An S3 server of one bucket, as far as fsspec's s3fs asks: objects appear whole, as they do there."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.http_server import serve

Objects = dict[str, bytes]


@contextmanager
def s3_server(before_put: Callable[[str], None] = lambda key: None) -> Iterator[tuple[str, Objects]]:
    """Serve until the end of the block: (address, the objects by `bucket/key`). `before_put(key)` is called when half
    of an object has come."""
    objects: Objects = {}
    with serve(_handler(objects, before_put)) as address:
        yield f"http://{address}", objects


def _handler(objects: Objects, before_put: Callable[[str], None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        @property
        def key(self) -> str:
            return unquote(urlsplit(self.path).path).strip("/")

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def body(self) -> bytes:
            if "chunked" not in (self.headers.get("Transfer-Encoding") or ""):
                size = int(self.headers.get("Content-Length") or 0)
                first = self.rfile.read(size // 2)
                self.half()
                return first + self.rfile.read(size - size // 2)
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
                self.half()
            while self.rfile.readline().strip():
                pass
            return b"".join(parts)

        def half(self) -> None:
            if self.command == "PUT":
                before_put(self.key)

        def do_PUT(self) -> None:
            try:
                content = self.body()
            except (OSError, ValueError):
                return
            size = self.headers.get("x-amz-decoded-content-length")
            if size is not None:  # the parts of a signed stream: size;signature, bytes
                content = _unframed(content)
            if size is not None and len(content) != int(size):
                return  # the client has gone: nothing appears
            objects[self.key] = content
            self.answer(200, ETag=_tag(content))

        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            if "list-type" in query or "/" not in self.key:
                return self.answer(200, _listing(self.key, query, objects), Content_Type="application/xml")
            content = objects.get(self.key)
            if content is None:
                return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            times = {"Last_Modified": "Mon, 30 Nov 2026 00:00:00 GMT"}
            return self.answer(200, content, ETag=_tag(content), **times)

        do_HEAD = do_GET

        def do_DELETE(self) -> None:
            objects.pop(self.key, None)
            self.answer(204)

    return Handler


def _tag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


def _unframed(data: bytes) -> bytes:
    found, place = [], 0
    while True:
        end = data.index(b"\r\n", place)
        size = int(data[place:end].split(b";")[0], 16)
        if not size:
            return b"".join(found)
        found.append(data[end + 2 : end + 2 + size])
        place = end + 4 + size


def _listing(bucket: str, query: dict[str, list[str]], objects: Objects) -> bytes:
    prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
    names = sorted(key.removeprefix(f"{bucket}/") for key in objects if key.startswith(f"{bucket}/"))
    entries, folders = [], set()
    for name in (name for name in names if name.startswith(prefix)):
        rest = name[len(prefix) :]
        if delimiter and delimiter in rest:
            folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
            continue
        content = objects[f"{bucket}/{name}"]
        entries.append(
            f"<Contents><Key>{escape(name)}</Key><Size>{len(content)}</Size><ETag>{escape(_tag(content))}</ETag>"
            "<LastModified>2026-11-30T00:00:00.000Z</LastModified><StorageClass>STANDARD</StorageClass></Contents>"
        )
    entries += [f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in sorted(folders)]
    head = f"<Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(entries)}</KeyCount>"
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"{head}<MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>{''.join(entries)}</ListBucketResult>"
    ).encode()
