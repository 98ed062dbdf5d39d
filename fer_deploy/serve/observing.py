"""The outermost layer of the application: an id, a log line and counters for each request, and common headers."""

from __future__ import annotations

import re
import time
import uuid

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fer_deploy.serve.log import event
from fer_deploy.serve.metrics import Metrics
from fer_deploy.serve.problems import CLIENT_CLOSED

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_UNROUTED = frozenset({"/openapi.json"})
"""Paths that FastAPI answers without one of our routes."""


class Observed:
    """An ASGI application whose requests are logged and counted.

    Args:
        application: answers the requests.
        metrics: counts them.
    """

    def __init__(self, application: ASGIApp, metrics: Metrics) -> None:
        self._application = application
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        started = time.perf_counter()
        client_id = Headers(scope=scope).get("x-request-id", "")
        request_id = client_id if _REQUEST_ID.fullmatch(client_id) else uuid.uuid4().hex
        headers = [
            (b"x-request-id", request_id.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"cache-control", b"no-store"),
        ]
        status = CLIENT_CLOSED
        bytes_sent = 0
        fault: Exception | None = None

        async def observed_send(message: Message) -> None:
            nonlocal status, bytes_sent
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], *headers]}
            elif message["type"] == "http.response.body":
                bytes_sent += len(message.get("body", b""))
            await send(message)

        self._metrics.began()
        try:
            await self._application(scope, receive, observed_send)
        except Exception as error:  # FastAPI has answered with 500 already and raises for the log
            fault = error
        finally:
            seconds = time.perf_counter() - started
            method = scope["method"] if scope["method"] in _METHODS else "other"
            route = _route(scope)
            self._metrics.answered(method, route, status, seconds)
            event(
                "request",
                level=40 if fault else 20,
                error=fault,
                id=request_id,
                method=method,
                route=route,
                status=status,
                milliseconds=round(seconds * 1000, 2),
                bytes_sent=bytes_sent,
            )


def _route(scope: Scope) -> str:
    """The route's pattern. Never the path itself: a client could fill the memory with counters of made-up paths."""
    pattern = getattr(scope.get("route"), "path", None)
    return pattern or (scope["path"] if scope["path"] in _UNROUTED else "none")
