"""A server, clients of it, and a scheduler whose steps a test takes itself."""

import asyncio
import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import pangu
from pangu.generation.options import GenerationOptions

uvicorn = pytest.importorskip("uvicorn", reason="the server needs uvicorn (pip install 'pangu-alpha[serve]')")

from starlette.types import ASGIApp  # noqa: E402

from pangu.serving.application import Server  # noqa: E402 (starlette may be absent)
from pangu.serving.connection import config_of  # noqa: E402
from pangu.serving.events import Event  # noqa: E402
from pangu.serving.guard import Policy  # noqa: E402
from pangu.serving.scheduler import Answering, Scheduler  # noqa: E402
from pangu.serving.statistics import Statistics  # noqa: E402


@contextlib.contextmanager
def running(application: ASGIApp) -> Iterator[int]:
    """uvicorn as `serve` sets it up, on a free port -> the port."""
    listening = socket.create_server(("127.0.0.1", 0))
    uvicorn_server = uvicorn.Server(config_of(application))
    thread = threading.Thread(target=lambda: asyncio.run(uvicorn_server.serve([listening])), daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        uvicorn_server.should_exit = True
        thread.join(timeout=20)


@contextlib.contextmanager
def serving(
    models: pangu.LanguageModel | dict[str, pangu.LanguageModel], policy: Policy | None = None, **options: Any
) -> Iterator[int]:
    """A real server on a free port -> the port. A model without a name is called small."""
    named = models if isinstance(models, dict) else {"small": models}
    server = Server(named, policy or Policy(), **options)
    server.start()
    try:
        with running(server.application()) as port:
            yield port
    finally:
        server.stop(1)


def ask(
    port: int, path: str, body: Any = None, method: str | None = None, **headers: str
) -> tuple[int, Any, dict[str, str]]:
    """-> (status, JSON or text, headers). body: an object, or bytes as they are."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    given = {"Content-Type": "application/json"} if data is not None else {}
    connection.request(method or ("GET" if data is None else "POST"), path, data, given | headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    with contextlib.suppress(ValueError):
        return answer.status, json.loads(text), dict(answer.getheaders())
    return answer.status, text, dict(answer.getheaders())


def completion(port: int, **fields: Any) -> dict[str, Any]:
    status, body, _ = ask(port, "/v1/completions", {"model": "small", **fields})
    assert status == 200, body
    return body


def scheduler_of(
    model: pangu.LanguageModel, rows: int, most_waiting: int = 8, prefix_rows: int | None = 0
) -> Scheduler:
    """A scheduler whose steps the test takes itself."""
    scheduler = Scheduler(model.generator, rows, most_waiting, Statistics(), prefix_rows)
    scheduler.thread = threading.Thread(target=lambda: None)
    scheduler.start()
    return scheduler


def step(scheduler: Scheduler) -> list[int]:
    """One step of the engine's loop -> the tokens that each part read."""
    if not scheduler.inbox.empty():
        scheduler._collect()
    scheduler._release_ended()
    scheduler._admit()
    parts = scheduler._parts()
    for part, logits in zip(parts, scheduler.batch.read(parts) if parts else [], strict=True):
        scheduler._take(part, logits)
    return [len(part.ids) for part in parts]


def answering(model: pangu.LanguageModel, prompt: str, events: list[Event], **fields: Any) -> Answering:
    options = GenerationOptions(max_new_tokens=fields.pop("new", 50), seed=1)
    return Answering(model.ids(prompt), options, events.append, **fields)
