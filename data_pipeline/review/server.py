"""The other side of the review page: HTTP on 127.0.0.1, nothing else reaches it.

    GET  /               the page
    GET  /review         what there is: number of items, kinds, the first open item, the summary
    GET  /items/N        an item
    POST /items/N        {"verdict": "keep" | "junk" | "unsure" | null, "kind": KIND | null}; answers like GET /review

Other pages that the browser has open must neither read documents nor write verdicts: the `Host` must be this server's
name (so that no foreign name can be pointed here), and a POST must be JSON from this page (its `Origin`).
"""

import json
import re
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from data_pipeline.review.session import KINDS, Session
from pangu.foundation.errors import UserError
from pangu.foundation.translation import language, translated, translated_html

ADDRESS = "127.0.0.1"
PAGE = Path(__file__).with_name("page.html")
# a verdict is tiny; what is longer is none
_LONGEST_BODY = 4096


def page_in_language() -> str:
    """Return the page in the language of the process; its script finds its words in WORDS."""
    text = PAGE.read_text(encoding="utf-8")
    if language() == "en":
        return text
    words = {said: translated(said) for said in (*re.findall(r'\b_\("([^"]*)"\)', text), "keep", "junk", "unsure")}
    text = translated_html(text.replace('<html lang="en">', '<html lang="zh-CN">'))
    return text.replace("{/*words*/}", json.dumps(words, ensure_ascii=False))


class ReviewServer(ThreadingHTTPServer):
    """Serves one session. Port 0 takes any that is free."""

    daemon_threads = True
    # a port that another process listens at is not shared with it
    allow_reuse_port = False

    def __init__(self, session: Session, port: int) -> None:
        self.session = session
        self.turn = threading.Lock()
        try:
            super().__init__((ADDRESS, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"--port {port}: {reason}; 0 takes a free one") from error

    @property
    def url(self) -> str:
        """Return what to open in a browser."""
        return f"http://{ADDRESS}:{self.server_address[1]}/"

    def state(self) -> dict[str, Any]:
        """Return what the page shows besides the document."""
        summary = self.session.summary()
        return {
            **summary,
            "kinds": {kind: translated(words) for kind, words in KINDS.items()},
            "kinds_seen": summary["kinds"],
            "first_open": self.session.first_open,
        }


class _Handler(BaseHTTPRequestHandler):
    server: ReviewServer
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        if not self._is_from_here():
            return
        if self.path == "/":
            self._send(HTTPStatus.OK, page_in_language().encode(), "text/html; charset=utf-8")
        elif self.path == "/review":
            with self.server.turn:
                self._json(HTTPStatus.OK, self.server.state())
        elif (number := self._number()) is not None:
            with self.server.turn:
                item = vars(self.server.session.items[number])
            self._json(HTTPStatus.OK, {**item, "doc_id": str(item["doc_id"])})  # beyond what JavaScript counts to

    def do_POST(self) -> None:
        # until the body has been read: it would be taken for the next request
        self.close_connection = True
        if not self._is_from_here():
            return
        origin = self.headers.get("Origin")
        if origin is not None and origin.rstrip("/") not in {f"http://{host}" for host in self._hosts()}:
            return self._json(HTTPStatus.FORBIDDEN, {"error": "verdicts come from the review page only"})
        if self.headers.get_content_type() != "application/json":
            return self._json(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, {"error": "a verdict is JSON"})
        number = self._number()
        if number is None:
            return None
        try:
            length = int(self.headers.get("Content-Length", ""))
            if not 0 < length <= _LONGEST_BODY:
                raise ValueError(f"a verdict has 1 to {_LONGEST_BODY} bytes")
            body = self.rfile.read(length)
            self.close_connection = self.headers.get("Connection", "").lower() == "close"
            given = json.loads(body)
            if not isinstance(given, dict) or not set(given) <= {"verdict", "kind"}:
                raise ValueError("a verdict is an object with `verdict` and `kind`")
            verdict, kind = given.get("verdict"), given.get("kind")
            if not all(value is None or isinstance(value, str) for value in (verdict, kind)):
                raise ValueError("`verdict` and `kind` are strings or null")
            with self.server.turn:
                self.server.session.judge(number, verdict, kind)
                state = self.server.state()
        except (ValueError, RecursionError) as error:
            return self._json(HTTPStatus.BAD_REQUEST, {"error": str(error)})
        except UserError as error:  # the file cannot be written: the page says so, nothing is lost
            return self._json(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": str(error)})
        return self._json(HTTPStatus.OK, state)

    def _hosts(self) -> tuple[str, str]:
        port = self.server.server_address[1]
        return f"{ADDRESS}:{port}", f"localhost:{port}"

    def _is_from_here(self) -> bool:
        if self.headers.get("Host") in self._hosts():
            return True
        self.close_connection = True
        self._json(HTTPStatus.FORBIDDEN, {"error": f"this server is {self._hosts()[0]}"})
        return False

    def _number(self) -> int | None:
        """Return the item of the path; None, and answered with 404, where there is none."""
        name = self.path.removeprefix("/items/")
        if name != self.path and name.isascii() and name.isdecimal() and len(name) < 10:
            number = int(name)
            if number < len(self.server.session.items):
                return number
        self._json(HTTPStatus.NOT_FOUND, {"error": f"nothing at {self.path[:100]}"})
        return None

    def _json(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        self._send(status, json.dumps(content, ensure_ascii=False).encode("utf-8", "replace"), "application/json")

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header(
            "Content-Security-Policy",
            "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; "
            "img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
        )
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing: requests are not worth a line each."""
