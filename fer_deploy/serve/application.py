"""The service's routes, its errors (RFC 9457, one line each), and what it logs and counts of every request."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from numpy.typing import NDArray
from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fer_deploy import __version__
from fer_deploy.errors import DataError
from fer_deploy.recognizer import Recognition, Recognizer
from fer_deploy.serve.batching import Batcher, OverloadedError, TooLateError
from fer_deploy.serve.log import event
from fer_deploy.serve.metrics import CONTENT_TYPE, Metrics
from fer_deploy.serve.schemas import ManyAnswer, ModelAnswer, OneAnswer, Problem, StatusAnswer, problem_responses
from fer_deploy.serve.settings import Settings

_DESCRIPTION = """Reads facial expressions with one ONNX file.

The labels are what crowd workers saw in pictures of faces, not what a person feels. Fear and disgust are read least
well. In the European Union, emotion recognition at work and in schools is forbidden but for medical and safety reasons
(Regulation 2024/1689, article 5).

No picture is kept, and neither pictures nor results are logged."""

_PICTURE = {"type": "string", "format": "binary"}
_PICTURE_TYPES = ("image/jpeg", "image/png", "image/webp", "image/gif")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_PAGES = frozenset({"/openapi.json"})
_CLIENT_CLOSED = 499  # nginx's code for a client that left before its answer; logged and counted, never sent


class _RefusedError(Exception):
    """A request that is answered with a problem."""

    def __init__(self, status: int, title: str, detail: str, *, reason: str | None = None) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail, self.reason = status, title, detail, reason


@dataclass
class _Room:
    """What one request's body takes of the bytes that may be held."""

    size: int = 0


class Service:
    """A model behind HTTP: an ASGI application, with a queue and threads that `close` ends.

    Args:
        recognizer: the model; give it `threads=1`, for the service has threads of its own.
        settings: the limits.
    """

    def __init__(self, recognizer: Recognizer, settings: Settings) -> None:
        self.settings = settings
        self.recognizer = recognizer
        self.draining = False
        self._held_bytes = 0
        contract = recognizer.contract
        self.metrics = Metrics(
            {"name": contract.name, "sha256": contract.sha256, "precision": contract.precision},
            waiting=lambda: self.batcher.waiting,
            held_bytes=lambda: self._held_bytes,
        )
        self.batcher = Batcher(
            recognizer,
            threads=settings.thread_count,
            maximum_queue=settings.maximum_queue,
            maximum_batch=settings.maximum_batch,
            maximum_pixels=settings.maximum_pixels,
            observer=self.metrics,
        )
        self._application = _Observed(_routes(self), self.metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        await self._application(scope, receive, send)

    def warm_up(self) -> None:
        """Read a picture, so that the first request need not wait for imports and first-time allocations."""
        from io import BytesIO

        from PIL import Image

        _batch, height, width = self.recognizer.contract.shape
        for kind in ("PNG", "JPEG"):
            picture = BytesIO()
            Image.new("RGB", (width or 48, height or 48)).save(picture, kind)
            self.recognizer.predict(picture.getvalue())

    def close(self) -> None:
        """Let the queue empty, and end the threads."""
        self.batcher.close()

    async def read(
        self, request: Request, contents: Sequence[bytes], *, deadline: float
    ) -> list[NDArray[np.float32] | DataError]:
        """Queue encoded faces and wait for what is read of them, but not longer than the client does.

        Raises:
            OverloadedError: there is no room.
            TooLateError: the deadline passed.
            ClientDisconnect: the client is gone; its faces are taken out of the queue.
        """
        futures = self.batcher.submit(contents, deadline=deadline)
        results = asyncio.gather(*futures, return_exceptions=True)
        gone = asyncio.ensure_future(_gone(request))
        either: set[asyncio.Future[Any]] = {results, gone}
        try:
            left = max(0.0, deadline - time.monotonic())
            await asyncio.wait(either, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not results.done():
                if gone.done():
                    raise ClientDisconnect
                raise TooLateError("the time limit passed before the answer was there: try later")
        finally:
            gone.cancel()
            for future in futures:
                future.cancel()
        answers: list[NDArray[np.float32] | DataError] = []
        for result in results.result():
            if isinstance(result, BaseException) and not isinstance(result, DataError):
                raise result
            answers.append(result)
            self._count(result)
        return answers

    def face(self, row: NDArray[np.float32]) -> dict[str, Any]:
        """A row of probabilities, as the answers tell it."""
        found = Recognition.from_row(row, self.recognizer.labels)
        rounded = {label: round(value, 6) for label, value in found.probabilities.items()}
        return {"label": found.label, "probability": rounded[found.label], "probabilities": rounded}

    async def body(self, request: Request, room: _Room, *, deadline: float) -> bytes:
        """The request's body, within the limits; `room` is what `held` gives."""
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                async for part in request.stream():
                    if room.size + len(part) > self.settings.maximum_bytes:
                        raise self._too_large()
                    self._check_room(len(part))
                    room.size += len(part)
                    self._held_bytes += len(part)
                    parts.append(part)
        except TimeoutError:
            limit = f"{self.settings.maximum_seconds:g} s"
            raise _RefusedError(
                408, "Request timeout", f"the body was not there within {limit}", reason="slow body"
            ) from None
        return b"".join(parts)

    @contextmanager
    def held(self, request: Request) -> Iterator[_Room]:
        """Count the bytes of a request's body for as long as they are in memory.

        They count as they come: a request that only promises many keeps nobody out.
        """
        if not self.batcher.has_room():
            raise OverloadedError("the queue is full: try later")
        length = request.headers.get("content-length")
        promised = int(length) if length and length.isascii() and length.isdigit() else 0
        if promised > self.settings.maximum_bytes:
            raise self._too_large()
        self._check_room(promised)
        room = _Room()
        try:
            yield room
        finally:
            self._held_bytes -= room.size

    def _check_room(self, more: int) -> None:
        if self._held_bytes + more > self.settings.maximum_held_bytes:
            raise OverloadedError("too many bytes are held already: try later")

    def _too_large(self) -> _RefusedError:
        limit = f"{self.settings.maximum_bytes:,} bytes"
        return _RefusedError(
            413, "Content too large", f"a body may have at most {limit}: send it smaller", reason="bytes"
        )

    def _count(self, result: NDArray[np.float32] | DataError) -> None:
        if isinstance(result, DataError):
            self.metrics.bad_picture()
        else:
            self.metrics.read(self.recognizer.labels[int(result.argmax())])


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _routes(service: Service) -> FastAPI:
    settings, metrics, contract = service.settings, service.metrics, service.recognizer.contract
    most = min(settings.maximum_pictures, settings.maximum_queue)

    app = FastAPI(
        title="ferdeploy",
        version=__version__,
        summary="Facial expressions from pictures of faces.",
        description=_DESCRIPTION,
        docs_url=None,  # FastAPI's pages load their scripts from another host
        redoc_url=None,
        separate_input_output_schemas=False,
    )

    @app.post(
        "/v1/face",
        summary="Read one picture that is a face.",
        response_model=OneAnswer,
        responses=problem_responses(400, 408, 413, 415, 422, 500, 503),
        openapi_extra={
            "requestBody": {
                "required": True,
                "description": "The encoded picture. Formats of other names are read too, under their own "
                "`image/...` or as `application/octet-stream`.",
                "content": {kind: {"schema": _PICTURE} for kind in _PICTURE_TYPES},
            }
        },
        tags=["read"],
    )
    async def read_face(request: Request) -> Response:
        deadline = time.monotonic() + settings.maximum_seconds
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind and kind != "application/octet-stream" and not kind.startswith("image/"):
            raise _RefusedError(
                415, "Unsupported media type", "send the picture itself, as image/jpeg or the like", reason="kind"
            )
        with service.held(request) as room:
            content = await service.body(request, room, deadline=deadline)
            (result,) = await service.read(request, [content], deadline=deadline)
        if isinstance(result, DataError):
            raise _RefusedError(422, "Unreadable picture", str(result), reason="picture")
        return JSONResponse({"model": contract.name, **service.face(result)})

    @app.post(
        "/v1/faces",
        summary="Read several pictures, each a face.",
        response_model=ManyAnswer,
        responses=problem_responses(400, 408, 413, 415, 422, 500, 503),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "multipart/form-data": {
                        "schema": {
                            "type": "object",
                            "required": ["pictures"],
                            "additionalProperties": False,
                            "properties": {
                                "pictures": {
                                    "type": "array",
                                    "minItems": 1,
                                    "maxItems": most,
                                    "items": _PICTURE,
                                }
                            },
                        },
                        "encoding": {"pictures": {"contentType": ", ".join(_PICTURE_TYPES)}},
                    }
                },
            }
        },
        tags=["read"],
    )
    async def read_faces(request: Request) -> Response:
        deadline = time.monotonic() + settings.maximum_seconds
        with service.held(request) as room:
            content = await service.body(request, room, deadline=deadline)
            pictures = await _parts(request.headers, content, most)
            del content
            results = await service.read(request, pictures, deadline=deadline)
        listed = [
            {"face": None, "error": str(result)}
            if isinstance(result, DataError)
            else {"face": service.face(result), "error": None}
            for result in results
        ]
        return JSONResponse({"model": contract.name, "results": listed})

    @app.get("/v1/model", summary="The model that is served.", response_model=ModelAnswer, tags=["about"])
    async def model() -> Response:
        return JSONResponse(
            {
                "name": contract.name,
                "labels": list(contract.labels),
                "precision": contract.precision,
                "sha256": contract.sha256,
                "metadata": dict(contract.metadata),
            }
        )

    @app.get("/health", summary="Whether the process lives.", response_model=StatusAnswer, tags=["about"])
    async def health() -> Response:
        return JSONResponse({"status": "ok"})

    @app.get(
        "/ready",
        summary="Whether requests should be sent here.",
        response_model=StatusAnswer,
        responses={503: {"description": "It is stopping.", "model": StatusAnswer}},
        tags=["about"],
    )
    async def ready() -> Response:
        if service.draining:
            return JSONResponse({"status": "stopping"}, status_code=503)
        return JSONResponse({"status": "ok"})

    @app.get(
        "/metrics",
        summary="Counters, for Prometheus.",
        response_class=Response,
        responses={200: {"content": {CONTENT_TYPE.partition(";")[0]: {"schema": {"type": "string"}}}}},
        tags=["about"],
    )
    async def prometheus() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    @app.exception_handler(_RefusedError)
    async def refused(_request: Request, error: _RefusedError) -> Response:
        if error.reason:
            metrics.refused(error.reason)
        return _problem(error.status, error.title, error.detail)

    @app.exception_handler(OverloadedError)
    async def overloaded(_request: Request, error: OverloadedError) -> Response:
        metrics.refused("full")
        return _problem(503, "Overloaded", str(error), {"retry-after": "1"})

    @app.exception_handler(TooLateError)
    async def too_late(_request: Request, error: TooLateError) -> Response:
        metrics.refused("late")
        return _problem(503, "Too late", str(error), {"retry-after": "1"})

    @app.exception_handler(ClientDisconnect)
    async def disconnected(_request: Request, _error: ClientDisconnect) -> Response:
        return Response(status_code=_CLIENT_CLOSED)

    @app.exception_handler(HTTPException)
    async def http_error(_request: Request, error: HTTPException) -> Response:
        details = {404: "no such route: see /openapi.json", 405: "the route has no such method: see /openapi.json"}
        detail = details.get(error.status_code, str(error.detail))
        return _problem(error.status_code, str(error.detail), detail, dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def fault(_request: Request, _error: Exception) -> Response:
        return _problem(500, "Internal error", "a fault of the service; its log tells more under the request's id")

    # FastAPI adds its own 422 to routes with parameters only; ours have none. The schema of problems is added by hand,
    # since no route returns it as a model.
    schema = app.openapi()
    schema["components"]["schemas"]["Problem"] = Problem.model_json_schema()
    return app


async def _parts(headers: Headers, content: bytes, maximum: int) -> list[bytes]:
    """The files of a multipart body that is in memory, in order."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise _RefusedError(415, "Unsupported media type", "send the pictures as multipart/form-data", reason="kind")

    async def stream() -> AsyncGenerator[bytes, None]:
        yield content
        yield b""

    parser = MultiPartParser(headers, stream(), max_files=maximum, max_fields=maximum)
    parser.spool_max_size = len(content) + 1  # never to the disk: the whole body is in memory, and bounded
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError, UnicodeError) as error:
        line = " ".join(str(error).split())[:200]
        raise _RefusedError(400, "Malformed body", f"not multipart/form-data: {line}", reason="kind") from None
    pictures: list[bytes] = []
    for name, value in form.multi_items():
        if name != "pictures" or not isinstance(value, UploadFile):
            raise _RefusedError(
                422, "Unknown field", "each part must be a file, under the name `pictures`", reason="kind"
            )
        pictures.append(await value.read())
    if not pictures:
        raise _RefusedError(422, "No picture", "send at least one file, under the name `pictures`", reason="kind")
    return pictures


def _problem(status: int, title: str, detail: str, headers: dict[str, str] | None = None) -> Response:
    content = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return JSONResponse(content, status, headers, media_type="application/problem+json")


class _Observed:
    """The outermost layer: an id, a log line and counters for each request; headers for each answer."""

    def __init__(self, application: ASGIApp, metrics: Metrics) -> None:
        self._application = application
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        started = time.perf_counter()
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        headers = [
            (b"x-request-id", request_id.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"cache-control", b"no-store"),
        ]
        status = _CLIENT_CLOSED
        sent = 0
        fault: Exception | None = None

        async def observed_send(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], *headers]}
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
            await send(message)

        self._metrics.began()
        try:
            await self._application(scope, receive, observed_send)
        except Exception as error:  # answered with 500 already; what is left is to tell the log
            fault = error
        finally:
            seconds = time.perf_counter() - started
            method = scope["method"] if scope["method"] in _METHODS else "other"
            route = getattr(scope.get("route"), "path", None) or (path if (path := scope["path"]) in _PAGES else "none")
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
                bytes_sent=sent,
            )
