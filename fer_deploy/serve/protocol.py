"""uvicorn's HTTP protocol, with the bounds that it lacks: a client that is slow or endless is cut off.

uvicorn waits for ever for a request's head, keeps heads of any length, reads on for ever after an answer that came
before the end of the body, and waits for ever for an answer to be taken. Each is a way for one client to hold a
connection, or memory, until the service is restarted. The bodies' own limits are in `application`.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fer_deploy.serve.settings import Settings

_TEXT = {
    431: (b"Request Header Fields Too Large", b"the request's head is too long\n"),
    503: (b"Service Unavailable", b"too many connections: try later\n"),
}
_LINGER_SECONDS = 5.0
"""For a client to end a body that nobody wants any more; so that it reads its answer before the connection closes."""
_UPGRADE = re.compile(rb"^upgrade[ \t]*:", re.IGNORECASE | re.MULTILINE)
"""Java's client and `curl --http2` offer HTTP/2 in a request that they send as HTTP/1.1 all the same. A server may take
no notice (RFC 9110, 7.8); the parser does, and would skip the request's body."""


def bounded_protocol(settings: Settings) -> type[HttpToolsProtocol]:
    """The protocol class for uvicorn's `http` option, with these limits."""

    class BoundedProtocol(HttpToolsProtocol):
        """One connection."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._timer: asyncio.TimerHandle | None = None
            self._awaits_head = True
            self._head_bytes = 0
            self._idle_bytes = 0
            """Bytes since the parser last came forward: one endless line gives it nothing to call back for."""
            self._unread: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            """Take the connection, or refuse it where there are too many."""
            super().connection_made(transport)
            if len(self.connections) > settings.maximum_connections:
                self._end_with(503)
                return
            self._start_timer(settings.header_seconds)

        def connection_lost(self, exc: Exception | None) -> None:
            """Forget the timers."""
            self._stop_timer()
            self._is_read()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            """Parse what came, unless the connection is being closed."""
            if self.transport.is_closing():
                return
            self._idle_bytes += len(data)
            if self._awaits_head:
                head, end, rest = data.partition(b"\r\n\r\n")
                data = _UPGRADE.sub(b"x-not-upgraded:", head) + end + rest
            super().data_received(data)
            if self._idle_bytes > settings.maximum_head_bytes and not self.transport.is_closing():
                self._end_with(431)
            answered = self.cycle is None or self.cycle.response_complete
            if self._awaits_head and answered and self._timer is None:
                self._start_timer(settings.header_seconds)

        def pause_writing(self) -> None:
            """The client takes nothing of its answers: not for ever."""
            super().pause_writing()
            self._must_be_read()

        def resume_writing(self) -> None:
            """It does."""
            self._is_read()
            super().resume_writing()
            if self.transport.is_closing():
                self._must_be_read()

        def on_message_begin(self) -> None:
            """A request begins."""
            self._head_bytes = 0
            super().on_message_begin()

        def on_url(self, url: bytes) -> None:
            """Part of a request's target."""
            if self._head_fits(len(url)):
                super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            """One line of a request's head, or of a chunked body's trailer."""
            if self._head_fits(len(name) + len(value) + 4):
                super().on_header(name, value)

        def on_headers_complete(self) -> None:
            """The head is there: from here on the application's own time limit holds."""
            self._idle_bytes = 0
            if self.transport.is_closing():
                return
            self._awaits_head = False
            self._stop_timer()
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            """Part of a body."""
            self._idle_bytes = 0
            if not self.transport.is_closing():
                super().on_body(body)

        def on_message_complete(self) -> None:
            """The body has ended."""
            self._idle_bytes = 0
            if self.transport.is_closing():
                return
            self._awaits_head = True
            self._stop_timer()
            super().on_message_complete()

        def on_response_complete(self) -> None:
            """An answer went out; where the request's body has not ended, do not wait for that for ever."""
            super().on_response_complete()
            if not self._awaits_head and not self.transport.is_closing():
                self._start_timer(_LINGER_SECONDS)
            if self.transport.is_closing():
                self._must_be_read()

        def _head_fits(self, more: int) -> bool:
            self._head_bytes += more
            if self._head_bytes > settings.maximum_head_bytes and not self.transport.is_closing():
                self._end_with(431)
            return not self.transport.is_closing()

        def _end_with(self, status: int) -> None:
            reason, text = _TEXT[status]
            self.transport.write(
                b"HTTP/1.1 %d %s\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n"
                b"retry-after: 1\r\nconnection: close\r\n\r\n%s" % (status, reason, len(text), text)
            )
            self.transport.close()
            self._must_be_read()

        def _must_be_read(self) -> None:
            """Cut the connection off unless its client takes, in time, what was written to it."""
            if self._unread is None and self.transport.get_write_buffer_size():
                self._unread = self.loop.call_later(settings.maximum_seconds, self.transport.abort)

        def _is_read(self) -> None:
            if self._unread is not None:
                self._unread.cancel()
                self._unread = None

        def _start_timer(self, seconds: float) -> None:
            self._stop_timer()
            self._timer = self.loop.call_later(seconds, self._time_is_up)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _time_is_up(self) -> None:
            self._timer = None
            if not self.transport.is_closing():
                self.transport.close()
                self._must_be_read()

    return BoundedProtocol
