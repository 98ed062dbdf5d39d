"""Connections: how many there may be, and when one that is too slow is cut off.

uvicorn bounds the size of a request's head (`h11_max_incomplete_event_size`), but neither the number of connections,
nor the time for a head or for the rest of a refused body, nor the time for a client to read its answer. Without these
limits one client can hold connections and memory until the service is restarted. uvicorn also closes a connection at
once when it refuses a body, which resets it before the client has read why.

The limits need no knowledge of uvicorn's protocol: a wrapper around it counts connections and passes every call on, the
application reports when a request begins and ends, and one sweep looks at all connections.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, cast

from starlette.types import Message, Receive, Scope

from fer_deploy.serve.settings import ServiceSettings

_CURRENT: ContextVar[Connection] = ContextVar("connection")
"""The connection whose bytes are being parsed. Tasks that uvicorn starts for a request inherit it."""

_BODY_HEADERS = frozenset({b"content-length", b"transfer-encoding"})

_LINGER_SECONDS = 5.0
"""Time for a client to finish a body that was refused, and to read the answer."""

_FULL_BODY = b"too many connections: try later\n"
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n"
    b"retry-after: 1\r\nconnection: close\r\n\r\n%s" % (len(_FULL_BODY), _FULL_BODY)
)


class Connections:
    """The open connections of a service.

    Args:
        settings: the limits.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings = settings
        self._open: set[Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._sweep_seconds = min(1.0, settings.header_seconds / 4, settings.maximum_seconds / 4)

    def __len__(self) -> int:
        return len(self._open)

    def guarded(self, protocol: Callable[..., asyncio.Protocol]) -> Callable[..., Connection]:
        """A protocol factory like `protocol`, whose connections are counted and timed."""
        return lambda **options: Connection(protocol(**options), self)

    @contextmanager
    def request_under_way(self, scope: Scope, receive: Receive) -> Iterator[Receive]:
        """For the length of a request, stop the clock of its connection. The application calls this.

        Args:
            scope: the request's (ASGI).
            receive: the request's, from the server.

        Returns:
            What the application has to use instead of `receive`: it notices whether the body is read to its end.
        """
        connection = _CURRENT.get(None)
        if connection is None:  # called without a server, as tests of ASGI applications do
            yield receive
            return

        async def noticing() -> Message:
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                connection.body_is_read = True
            return message

        connection.requests += 1
        connection.body_is_read = not _BODY_HEADERS.intersection(name for name, _value in scope["headers"])
        try:
            yield noticing
        finally:
            connection.requests -= 1
            connection.idle_since = time.monotonic()

    def add(self, connection: Connection) -> bool:
        """Count a connection; False where there are too many."""
        self._open.add(connection)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(self._sweep_seconds, self._cut_off_slow)
        return len(self._open) <= self.settings.maximum_connections

    def remove(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self._open.discard(connection)

    def _cut_off_slow(self) -> None:
        now = time.monotonic()
        for connection in list(self._open):
            connection.check(now, self.settings)
        self._sweep = None
        if self._open:
            self._sweep = asyncio.get_running_loop().call_later(self._sweep_seconds, self._cut_off_slow)


class Connection(asyncio.Protocol):
    """One connection: passes everything on to a protocol, unless there are too many connections.

    Attributes:
        requests: requests that the application is answering.
        idle_since: when the connection was made, or its last request was answered, on the clock of `time.monotonic`.
        body_is_read: whether the application has read the body of the last request to its end.
    """

    def __init__(self, protocol: asyncio.Protocol, connections: Connections) -> None:
        self.requests = 0
        self.idle_since = time.monotonic()
        self.body_is_read = True
        self.lingers_since: float | None = None
        self._protocol = protocol
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._accepted = False
        self._unread_since: float | None = None

    def connection_made(self, transport: Any) -> None:
        """Accept the connection, or refuse it where there are too many."""
        self._transport = transport
        self._accepted = self._connections.add(self)
        if self._accepted:
            self._protocol.connection_made(cast(asyncio.Transport, _LingeringTransport(transport, self)))
        else:
            transport.write(_FULL)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._connections.remove(self)
        if self._accepted:
            self._protocol.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass bytes on; a request that they complete is counted as this connection's."""
        if self._transport is None or self._transport.is_closing() or self.lingers_since is not None:
            return
        token = _CURRENT.set(self)
        try:
            self._protocol.data_received(data)
        finally:
            _CURRENT.reset(token)

    def eof_received(self) -> bool | None:
        """Pass it on. The client has ended a refused body: close."""
        if self.lingers_since is not None or not self._accepted:
            return None
        return self._protocol.eof_received()

    def pause_writing(self) -> None:
        """Pass it on."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._protocol.resume_writing()

    def check(self, now: float, settings: ServiceSettings) -> None:
        """Close the connection if no request has come in time, and drop it if its client does not read.

        A body that is still arriving after its request was answered counts as the head of the next one: its client has
        as long to end it, and can read its answer meanwhile.

        Args:
            now: on the clock of `time.monotonic`.
            settings: the limits.
        """
        if self._transport is None:
            return
        if not self._transport.get_write_buffer_size():
            self._unread_since = None
        elif self._unread_since is None:
            self._unread_since = now
        elif now - self._unread_since > settings.maximum_seconds:
            self._transport.abort()
            return
        if self.lingers_since is not None:
            if now - self.lingers_since > _LINGER_SECONDS:
                self._transport.close()
        elif not self.requests and now - self.idle_since > settings.header_seconds:
            self._transport.close()

    def finish(self) -> None:
        """Close the connection; while a refused body is still arriving, only the sending half.

        To close a socket that has unread bytes resets the connection, and the client would lose the answer that says
        what is wrong.
        """
        if self._transport is None or self._transport.is_closing() or self.lingers_since is not None:
            return
        if self.body_is_read or not self._transport.can_write_eof():
            self._transport.close()
            return
        self.lingers_since = time.monotonic()
        self._transport.write_eof()
        with suppress(RuntimeError):  # it was not paused
            self._transport.resume_reading()


class _LingeringTransport:
    """A transport whose `close` leaves it to its connection how to close."""

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        self._transport = transport
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        self._connection.finish()

    def is_closing(self) -> bool:
        return self._connection.lingers_since is not None or self._transport.is_closing()
