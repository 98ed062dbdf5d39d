"""Errors as HTTP answers: problem details (RFC 9457) with one line that says what is wrong and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from fer_deploy.serve.batching import OverloadedError, TooLateError

if TYPE_CHECKING:
    from fer_deploy.serve.metrics import Metrics

CLIENT_CLOSED = 499
"""nginx's code for a client that left before its answer: logged and counted, never sent."""

_ROUTING_DETAILS = {
    404: "no such route: see /openapi.json",
    405: "the route does not have this method: see /openapi.json",
}


class RequestRefusedError(Exception):
    """A request that is answered with a problem.

    Args:
        status: the HTTP status of the answer.
        title: the kind of problem, in two or three words.
        detail: what is wrong and what to do, in one line.
        reason: the label under which `/metrics` counts it.
    """

    def __init__(self, status: int, title: str, detail: str, *, reason: str) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail, self.reason = status, title, detail, reason


def problem(status: int, title: str, detail: str, headers: dict[str, str] | None = None) -> Response:
    """A problem as an answer."""
    content = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return JSONResponse(content, status, headers, media_type="application/problem+json")


def add_problem_handlers(app: FastAPI, metrics: Metrics) -> None:
    """Answer every exception of the routes with a problem, and count refusals."""

    @app.exception_handler(RequestRefusedError)
    async def refused(_request: Request, error: RequestRefusedError) -> Response:
        metrics.refused(error.reason)
        return problem(error.status, error.title, error.detail)

    @app.exception_handler(OverloadedError)
    async def overloaded(_request: Request, error: OverloadedError) -> Response:
        metrics.refused("full")
        return problem(503, "Overloaded", str(error), {"retry-after": "1"})

    @app.exception_handler(TooLateError)
    async def too_late(_request: Request, error: TooLateError) -> Response:
        metrics.refused("late")
        return problem(503, "Too late", str(error), {"retry-after": "1"})

    @app.exception_handler(ClientDisconnect)
    async def disconnected(_request: Request, _error: ClientDisconnect) -> Response:
        return Response(status_code=CLIENT_CLOSED)

    @app.exception_handler(HTTPException)
    async def http_error(_request: Request, error: HTTPException) -> Response:
        detail = _ROUTING_DETAILS.get(error.status_code, str(error.detail))
        headers = {name.lower(): value for name, value in (error.headers or {}).items()}
        if headers.get("allow") == "GET":  # HEAD has routes of its own, which Starlette does not look at here
            headers["allow"] = "GET, HEAD"
        return problem(error.status_code, str(error.detail), detail, headers)

    @app.exception_handler(Exception)
    async def fault(_request: Request, _error: Exception) -> Response:
        return problem(500, "Internal error", "a fault of the service: its log has the details under the request's id")
