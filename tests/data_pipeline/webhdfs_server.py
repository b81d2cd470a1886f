"""A name node and a data node of HDFS in one, as far as fsspec's WebHDFS client asks.

As there, a file is made empty and grows by appending, nothing is renamed onto a file, and a request for bytes is sent
on to another address."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit

from tests.http_server import serve

Files = dict[str, bytes]


@contextmanager
def webhdfs_server(before_append: Callable[[str], None] = lambda path: None) -> Iterator[tuple[str, Files]]:
    """Serve until the end of the block: (host and port, the files by path). `before_append(path)` is called when the
    bytes of a file have come and are not written yet."""
    files: Files = {}
    times: dict[str, int] = {}
    with serve(_handler(files, times, before_append)) as address:
        yield address, files


def _handler(files: Files, times: dict[str, int], before_append: Callable[[str], None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def say(self, value: object) -> None:
            self.answer(200, json.dumps(value).encode(), **{"Content-Type": "application/json"})

        def status(self, path: str, name: str) -> dict[str, object]:
            kind = "FILE" if path in files else "DIRECTORY"
            return {
                "pathSuffix": name,
                "type": kind,
                "length": len(files.get(path, b"")),
                "modificationTime": times.get(path, 0),
            }

        def handle_request(self) -> None:
            parts = urlsplit(self.path)
            path = "/" + unquote(parts.path).removeprefix("/webhdfs/v1").strip("/")
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            inside = sorted(
                {name[len(path) :].strip("/").split("/")[0] for name in files if name.startswith(path + "/")}
            )
            operation = query["op"]
            if operation in ("CREATE", "APPEND", "OPEN") and "there" not in query:
                self.answer(307, Location=f"http://{self.headers['Host']}{self.path}&there=1")
            elif operation == "CREATE":
                files[path], times[path] = b"", len(times) + 1
                self.answer(201)
            elif operation == "APPEND":
                before_append(path)
                files[path] += data
                times[path] = sum(times.values()) + 1
                self.answer(200)
            elif operation == "MKDIRS":
                self.say({"boolean": True})
            elif path not in files and not inside:
                exception = {"exception": "FileNotFoundException", "message": f"File does not exist: {path}"}
                self.answer(404, json.dumps({"RemoteException": exception}).encode())
            elif operation == "GETFILESTATUS":
                self.say({"FileStatus": self.status(path, "")})
            elif operation == "LISTSTATUS":
                found = [self.status(f"{path}/{name}", name) for name in inside] or [self.status(path, "")]
                self.say({"FileStatuses": {"FileStatus": found}})
            elif operation == "OPEN":
                start = int(query["offset"])
                self.answer(200, files[path][start : start + int(query["length"])])
            elif operation == "RENAME":
                is_free = query["destination"] not in files
                if is_free:
                    files[query["destination"]], times[query["destination"]] = files.pop(path), times[path]
                self.say({"boolean": is_free})
            else:
                assert operation == "DELETE", operation
                del files[path]
                self.say({"boolean": True})

        do_GET = do_PUT = do_POST = do_DELETE = handle_request

    return Handler
