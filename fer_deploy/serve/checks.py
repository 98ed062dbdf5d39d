"""Requests that are refused before any route sees them: foreign hosts, ambiguous bodies, unknown versions."""

from __future__ import annotations

from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from fer_deploy.hosts import may_answer, resolves_to_loopback
from fer_deploy.serve.metrics import Metrics
from fer_deploy.serve.problems import problem
from fer_deploy.serve.settings import ServiceSettings

_VERSIONS = frozenset({"1.0", "1.1"})
_CLOSE = {"connection": "close"}


class Checked:
    """An ASGI application that gets only requests which pass the checks.

    Args:
        application: answers the requests.
        settings: the names that the service answers to.
        metrics: counts refusals.
    """

    def __init__(self, application: ASGIApp, settings: ServiceSettings, metrics: Metrics) -> None:
        self._application = application
        self._metrics = metrics
        self._allowed_hosts = settings.allowed_hosts
        self._checks_host = bool(settings.allowed_hosts) or resolves_to_loopback(settings.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        headers = Headers(scope=scope)
        host = headers.get("host")
        if scope["path"].startswith(("http://", "https://")):  # a whole URL, which every server must accept (RFC 9112)
            _scheme, _separator, rest = scope["path"].partition("://")
            host, slash, path = rest.partition("/")
            scope["path"] = slash + path or "/"
            scope["raw_path"] = quote(scope["path"]).encode()
        if scope["http_version"] not in _VERSIONS:
            self._metrics.refused("version")
            refusal = problem(505, "HTTP version not supported", "send version 1.1", _CLOSE)
        elif "content-length" in headers and "transfer-encoding" in headers:
            # A proxy may believe one and the parser the other: what follows could be read as a second request.
            self._metrics.refused("length")
            refusal = problem(400, "Ambiguous length", "send either Content-Length or Transfer-Encoding", _CLOSE)
        elif self._checks_host and host is not None and not may_answer(host, self._allowed_hosts):
            self._metrics.refused("host")
            refusal = problem(
                421,
                "Misdirected request",
                f"the service does not answer to the host {host[:100]!r}, only to localhost, 127.0.0.1, [::1] and "
                "allowed names: start it with --allow-host NAME",
            )
        else:
            await self._application(scope, receive, send)
            return
        await refusal(scope, receive, send)
