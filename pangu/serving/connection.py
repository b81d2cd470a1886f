"""Close connections that hold a socket and do nothing with it: requests that never end, answers that nobody reads.

uvicorn waits for the first request of a connection, and for its client to read, without end.
"""

import asyncio
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

SILENT_SECONDS = 20.0  # from a connection, or the first byte of a request, to the end of its headers
UNREAD_SECONDS = 30.0  # that a client may take to read what is waiting for it (64 KiB)
MOST_CONNECTIONS = 2000  # then 503


class PatientProtocol(H11Protocol):
    """uvicorn's protocol with two more limits of time."""

    silent: asyncio.TimerHandle | None = None
    unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.watch()

    def watch(self) -> None:
        """Start the clock where the headers of a request are not whole, stop it where they are."""
        is_idle = self.cycle is None or self.cycle.response_complete
        is_open = is_idle and self.conn.their_state is h11.IDLE
        if not is_open:
            stop(self.silent)
            self.silent = None
        elif self.silent is None:
            self.silent = self.loop.call_later(SILENT_SECONDS, self.transport.abort)

    def pause_writing(self) -> None:
        """Begin to wait for the client: more is written than it reads."""
        super().pause_writing()
        self.unread = self.unread or self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        stop(self.unread)
        self.unread = None
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        stop(self.silent)
        stop(self.unread)
        self.silent = self.unread = None
        super().connection_lost(exc)


def stop(timer: asyncio.TimerHandle | None) -> None:
    """Stop a clock, if one runs."""
    if timer is not None:
        timer.cancel()


def config_of(application: ASGIApp, **options: Any) -> uvicorn.Config:
    """Return how uvicorn serves an application."""
    return uvicorn.Config(
        application,
        http=PatientProtocol,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=30,
        limit_concurrency=MOST_CONNECTIONS,
        **options,
    )
