"""Decide who may ask, and how much: key, Host, Origin, content type, size, time.

A web page that somebody has open can reach 127.0.0.1. It cannot choose the Host header, so a name that was rebound to
this machine is refused, and its Origin is refused as well.
"""

import asyncio
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pangu.foundation.json_text import repeated_name
from pangu.serving.protocol import RequestError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
READ_SECONDS = 20.0  # for a body to arrive
# What a browser is told that asks beforehand whether a page of another origin may.
PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "Authorization, Content-Type",
    "Access-Control-Max-Age": "600",
    "Vary": "Origin",
}
OPEN_PATHS = ("/", "/health")  # without a key


@dataclass(frozen=True)
class Policy:
    """keys: none: everybody may ask. hosts: names that a Host header may have. origins: pages that may ask besides."""

    keys: tuple[str, ...] = ()
    hosts: tuple[str, ...] = LOOPBACK
    origins: tuple[str, ...] = ()
    most_bytes: int = 1 << 20
    count: Callable[[int], None] = field(default=lambda status: None)


class Guard:
    """ASGI middleware that lets through what the policy allows."""

    def __init__(self, app: ASGIApp, policy: Policy) -> None:
        self.app, self.policy = app, policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it in one line."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.policy.count(message["status"])
                message["headers"] = [*message.get("headers", []), (b"x-content-type-options", b"nosniff")]
                origin = headers.get("origin")
                if origin in self.policy.origins:
                    message["headers"].append((b"access-control-allow-origin", origin.encode()))
            await send(message)

        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            if scope["method"] == "OPTIONS" and headers.get("origin") in self.policy.origins:
                await Response(status_code=204, headers=PREFLIGHT)(scope, receive, counted)
                return
            self.check(scope, headers)
        except RequestError as error:
            await JSONResponse(error.body, error.status)(scope, receive, counted)
            return
        await self.app(scope, receive, counted)

    def check(self, scope: Scope, headers: dict[str, str]) -> None:
        """Raise RequestError for what may not ask."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if hostname(f"//{host}") not in self.policy.hosts:
            told = f"Host {host[:100]!r} is not this server's; start it with --allow-host to add a name"
            raise RequestError(403, told)
        if origin and origin not in self.policy.origins and origin.split("://")[-1] != host:
            told = f"Origin {origin[:100]!r} may not ask; start the server with --allow-origin to let it"
            raise RequestError(403, told)
        if self.policy.keys and scope["path"] not in OPEN_PATHS and not self.is_known(headers.get("authorization", "")):
            raise RequestError(
                401, "the API key is missing or wrong; send `Authorization: Bearer KEY`", code="invalid_api_key"
            )
        if scope["method"] == "POST":
            kind = headers.get("content-type", "").split(";")[0].strip().lower()
            if kind != "application/json":
                raise RequestError(415, f"Content-Type {kind or 'is missing'}; send application/json")
            length = headers.get("content-length", "0")
            if length.isdigit() and int(length) > self.policy.most_bytes:
                raise too_large(self.policy.most_bytes)

    def is_known(self, authorization: str) -> bool:
        """Return whether a key is one of ours, in a time that does not depend on which characters are right."""
        given = authorization.removeprefix("Bearer ").encode("latin-1")  # the bytes that were sent
        return sum(hmac.compare_digest(given, key.encode()) for key in self.policy.keys) > 0


def hostname(address: str) -> str:
    """Return the name in //name:port; "" where it is none."""
    try:
        return (urlsplit(address).hostname or "").lower()
    except ValueError:
        return ""


def too_large(most: int) -> RequestError:
    """Return the error for a body that is too large."""
    return RequestError(413, f"the body is larger than {most} bytes")


async def read_json(request: Request, policy: Policy) -> Any:
    """Read a body. Raises RequestError for what is too large, too slow, or not JSON."""
    body = bytearray()
    try:
        async with asyncio.timeout(READ_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > policy.most_bytes:
                    raise too_large(policy.most_bytes)
    except TimeoutError:
        raise RequestError(408, f"the body did not arrive within {READ_SECONDS:.0f} seconds") from None
    except ClientDisconnect:
        raise RequestError(400, "the body ended early") from None
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_object)
    except UnicodeDecodeError:
        raise RequestError(400, "the body is not UTF-8") from None
    except RecursionError:
        raise RequestError(400, "the body is nested too deeply") from None
    except ValueError as error:
        raise RequestError(400, f"the body is not JSON: {error}") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    name = repeated_name(pairs)
    if name is not None:  # readers differ: some take the first value, some the last
        raise RequestError(400, f"field {name!r}: is there more than once in one object; leave one", name)
    return dict(pairs)
