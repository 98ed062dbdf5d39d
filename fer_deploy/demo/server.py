"""Serve the page on this machine: files from memory, read-only, with strict headers and bounded connections."""

from __future__ import annotations

import io
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from fer_deploy import __version__
from fer_deploy.demo.site import MEDIA_TYPES, POLICY, Site
from fer_deploy.errors import UnavailableError
from fer_deploy.hosts import is_loopback, may_answer

HEADERS: tuple[tuple[str, str], ...] = (
    ("Content-Security-Policy", f"{POLICY}; frame-ancestors 'none'"),
    ("Permissions-Policy", "camera=(self), microphone=(), geolocation=(), display-capture=()"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    # Isolation: the page may then compute on several threads, and no other page can reach into it.
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Embedder-Policy", "require-corp"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-cache"),
)
"""Sent with every answer."""

MAXIMUM_HEAD_BYTES = 64 * 1024
"""Bytes of a request's head; more closes the connection."""

_ANSWER_SECONDS = 300
"""Time for a browser to take one file: 14 MB over a slow network."""

_FULL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"


class PageServer(ThreadingHTTPServer):
    """An HTTP server of one site. It listens from the start; `serve_forever` answers.

    Args:
        site: the files to serve.
        host: the address to listen on; the default reaches this machine only.
        port: 0 takes a free one.
        allowed_hosts: names that requests may use besides those of this machine; see `fer_deploy.hosts.may_answer`.
        maximum_connections: open connections, each with a thread of its own. Each further one is answered with 503.
        head_seconds: time for a connection to send the whole head of its next request.

    Raises:
        UnavailableError: it cannot listen on this address.
    """

    daemon_threads = True
    request_queue_size = 128  # five, the default, make browsers wait a second where several connect at once

    def __init__(
        self,
        site: Site,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        allowed_hosts: Collection[str] = (),
        maximum_connections: int = 64,
        head_seconds: float = 10.0,
    ) -> None:
        self.site = site
        self.allowed_hosts = allowed_hosts
        self.head_seconds = head_seconds
        self._free_connections = threading.BoundedSemaphore(maximum_connections)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UnavailableError(
                f"cannot serve on {host} port {port}: {reason}: try --port 0 for a free one"
            ) from error

    @property
    def address(self) -> str:
        """The address of the page, for a browser."""
        host = str(self.server_address[0])
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}/"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the page."""
        return is_loopback(str(self.server_address[0]))

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection, or refuse the connection where there are too many."""
        if not self._free_connections.acquire(blocking=False):
            with suppress(OSError):
                request.sendall(_FULL)
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._free_connections.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer a connection's requests, in its thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free_connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a browser that disconnected or was too slow; any other error is a fault of ours."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    def serve(self, *, ready: Callable[[], None] = lambda: None) -> None:
        """Answer until Ctrl-C."""
        with self, suppress(KeyboardInterrupt):
            ready()
            self.serve_forever()


class _HeadReader(io.RawIOBase):
    """Reads from a socket, with a deadline and a bound for all reads since `begin` together.

    The timeout of a socket alone bounds each read, so that a client that sends a byte now and then is never cut off.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._deadline = 0.0
        self._bytes_left = 0

    def begin(self, seconds: float) -> None:
        """Start the clock for the next head."""
        self._deadline = time.monotonic() + seconds
        self._bytes_left = MAXIMUM_HEAD_BYTES

    def readable(self) -> bool:
        """Always true."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what has arrived; TimeoutError after the deadline, ConnectionError beyond the bound."""
        seconds = self._deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("the request's head did not arrive in time")
        if self._bytes_left <= 0:
            raise ConnectionError("the request's head is too long")
        self._connection.settimeout(seconds)
        count = self._connection.recv_into(buffer)
        self._bytes_left -= count
        return count


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"
    server_version = f"ferdeploy/{__version__}"
    sys_version = ""

    def setup(self) -> None:
        super().setup()
        self._head = _HeadReader(self.connection)
        self.rfile = io.BufferedReader(self._head)

    def handle_one_request(self) -> None:
        self._head.begin(self.server.head_seconds)
        super().handle_one_request()

    def parse_request(self) -> bool:
        complete = super().parse_request()
        self.connection.settimeout(_ANSWER_SECONDS)  # of the whole answer, since `sendall` counts it as one
        return complete

    def do_GET(self) -> None:
        """Send a file of the site."""
        self._answer(with_content=True)

    def do_HEAD(self) -> None:
        """Send the headers of a file."""
        self._answer(with_content=False)

    def _answer(self, *, with_content: bool) -> None:
        status, kind, content = self._find()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for header, value in HEADERS:
            self.send_header(header, value)
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            self.send_header("Connection", "close")  # the body is not read, and must not be parsed as a request
        self.end_headers()
        if with_content:
            with suppress(ConnectionError):  # the browser disconnected
                self.wfile.write(content)

    def _find(self) -> tuple[HTTPStatus, str, bytes]:
        """The status, media type and content of the answer."""
        text = MEDIA_TYPES[".txt"]
        if not self._host_is_allowed():
            line = f"open the page as {self.server.address}, or start it with --allow-host NAME\n"
            return HTTPStatus.MISDIRECTED_REQUEST, text, line.encode()
        try:
            name = unquote(urlsplit(self.path).path).removeprefix("/") or "index.html"
        except ValueError:  # not an address, such as http://[
            name = ""
        content = self.server.site.files.get(name)
        if content is None:
            return HTTPStatus.NOT_FOUND, text, b"not a file of this page\n"
        return HTTPStatus.OK, MEDIA_TYPES[PurePosixPath(name).suffix], content

    def _host_is_allowed(self) -> bool:
        """Whether the request is for this machine, and not for another site's name that was pointed at it."""
        if not self.server.loopback and not self.server.allowed_hosts:
            return True
        hosts = self.headers.get_all("Host", [])
        if not hosts:
            return self.request_version == "HTTP/1.0"  # browsers always send one
        return len(hosts) == 1 and may_answer(hosts[0], self.server.allowed_hosts)

    def log_message(self, *_: object) -> None:
        """Log nothing: visits are private."""
