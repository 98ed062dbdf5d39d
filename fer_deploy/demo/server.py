"""Give the page out on this machine: a table of files in memory, read-only, with strict headers."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from fer_deploy import __version__
from fer_deploy.demo.site import MEDIA_TYPES, POLICY, Site
from fer_deploy.errors import UnavailableError

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

_IDLE_SECONDS = 30


class PageServer(ThreadingHTTPServer):
    """An HTTP server of one site. Listens from the start; `serve_forever` answers.

    Args:
        site: what to give out.
        host: the address to listen on; the default reaches this machine alone.
        port: 0 takes a free one.

    Raises:
        UnavailableError: the address can't be listened on.
    """

    daemon_threads = True

    def __init__(self, site: Site, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.site = site
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UnavailableError(
                f"can't serve on {host} port {port}: {reason}; try --port 0 for a free one"
            ) from error

    @property
    def address(self) -> str:
        """What to type into a browser."""
        return f"http://{self.server_address[0]!s}:{self.server_port}/"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the page."""
        return ipaddress.ip_address(str(self.server_address[0])).is_loopback

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that went away or fell silent; anything else is a fault of ours."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    def serve(self, *, ready: Callable[[], None] = lambda: None) -> None:
        """Answer until Ctrl-C."""
        with self, suppress(KeyboardInterrupt):
            ready()
            self.serve_forever()


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"
    server_version = f"ferdeploy/{__version__}"
    sys_version = ""
    timeout = _IDLE_SECONDS

    def do_GET(self) -> None:
        """Send a file of the site."""
        self._answer(with_content=True)

    def do_HEAD(self) -> None:
        """Send a file's headers."""
        self._answer(with_content=False)

    def _answer(self, *, with_content: bool) -> None:
        try:
            name = unquote(urlsplit(self.path).path).removeprefix("/") or "index.html"
            content = self.server.site.files.get(name) if self._asked_by_name_of_ours() else None
        except ValueError:  # no address at all, such as http://[
            name, content = "", None
        if content is None:
            status, kind, content = HTTPStatus.NOT_FOUND, MEDIA_TYPES[".txt"], b"not a file of this page\n"
        else:
            status, kind = HTTPStatus.OK, MEDIA_TYPES[PurePosixPath(name).suffix]
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for header, value in HEADERS:
            self.send_header(header, value)
        self.end_headers()
        if with_content:
            with suppress(ConnectionError):  # the browser went away
                self.wfile.write(content)

    def _asked_by_name_of_ours(self) -> bool:
        """On the loopback, refuse requests for other host names: some other site's name was pointed at this machine."""
        host = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        return not self.server.loopback or host in ("localhost", "127.0.0.1", "::1", str(self.server.server_address[0]))

    def log_message(self, *_: object) -> None:
        """Nothing: who looks at the page is nobody's business."""
