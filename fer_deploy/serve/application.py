"""A model behind HTTP: the ASGI application, with the queue and the threads that read the faces."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from numpy.typing import NDArray
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from fer_deploy import __version__
from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import DataError
from fer_deploy.recognizer import Recognition, Recognizer
from fer_deploy.serve.batching import Batcher, OverloadedError, TooLateError
from fer_deploy.serve.bodies import FIELD, BodyReader
from fer_deploy.serve.checks import Checked
from fer_deploy.serve.connections import Connections
from fer_deploy.serve.metrics import Metrics
from fer_deploy.serve.observing import Observed
from fer_deploy.serve.problems import add_problem_handlers
from fer_deploy.serve.routes import router
from fer_deploy.serve.schemas import Problem, name_labels
from fer_deploy.serve.settings import ServiceSettings

_DESCRIPTION = """Reads facial expressions with one ONNX file.

{labels}
The European Union forbids emotion recognition at work and in schools, except for medical and safety reasons
(Regulation 2024/1689, article 5).

No picture is kept, and neither pictures nor results are logged."""

_SEVEN = """The labels are what crowd workers saw in pictures of faces, not what a person feels.
Fear and disgust have the lowest accuracy."""
_OTHER_LABELS = "The labels describe what a picture shows, not what a person feels."


class Service:
    """A model behind HTTP: an ASGI application, with a queue and threads that `close` ends.

    Args:
        recognizer: the model; give it `threads=1`, because the service starts its own threads.
        settings: the limits.
    """

    def __init__(self, recognizer: Recognizer, settings: ServiceSettings) -> None:
        self.settings = settings
        self.recognizer = recognizer
        self.draining = False
        self.bodies = BodyReader(settings)
        self.connections = Connections(settings)
        contract = recognizer.contract
        self.metrics = Metrics(
            {"name": contract.name, "sha256": contract.sha256, "precision": contract.precision},
            waiting=lambda: self.batcher.waiting,
            held_bytes=lambda: self.bodies.held_bytes,
        )
        self.batcher = Batcher(
            recognizer,
            threads=settings.thread_count,
            maximum_queue=settings.maximum_queue,
            maximum_batch=settings.maximum_batch,
            maximum_pixels=settings.maximum_pixels,
            maximum_large_pixels=settings.large_pixels_limit,
            observer=self.metrics,
        )
        app = _allow_origins(_build_app(self), settings.allowed_origins)
        self._application = Observed(Checked(app, settings, self.metrics), self.metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        with self.connections.request_under_way(scope, receive) as noticing_receive:
            await self._application(scope, noticing_receive, send)

    def warm_up(self) -> None:
        """Read two pictures, so that the first request does not wait for imports and first allocations."""
        from PIL import Image

        _batch, height, width = self.recognizer.contract.shape
        for kind in ("PNG", "JPEG"):
            picture = BytesIO()
            Image.new("RGB", (width or 48, height or 48)).save(picture, kind)
            self.recognizer.predict(picture.getvalue())

    def close(self) -> None:
        """Let the queue empty, and end the threads."""
        self.batcher.close()

    def check_queue(self) -> None:
        """Raise OverloadedError where the queue is full: a request is then refused before its body is read."""
        if not self.batcher.has_room():
            raise OverloadedError("the queue is full: try later")

    async def read_pictures(
        self, request: Request, contents: Sequence[bytes], *, deadline: float, names: Sequence[str] | None = None
    ) -> list[NDArray[np.float32] | DataError]:
        """Queue encoded faces and wait for their results, but not longer than the client waits.

        Args:
            request: the request that they came with.
            contents: encoded pictures, each a face.
            deadline: on the clock of `time.monotonic`.
            names: what errors call each picture; None calls each "the picture".

        Returns:
            One result per picture, in order: float32 (classes,), or the error of a picture that cannot be read.

        Raises:
            OverloadedError: the queue has no room for them.
            TooLateError: the deadline passed.
            ClientDisconnect: the client is gone; its faces are removed from the queue.
        """
        futures = self.batcher.submit(contents, deadline=deadline, names=names)
        results = asyncio.gather(*futures, return_exceptions=True)
        gone = asyncio.ensure_future(_disconnected(request))
        either: set[asyncio.Future[Any]] = {results, gone}
        try:
            seconds_left = max(0.0, deadline - time.monotonic())
            await asyncio.wait(either, timeout=seconds_left, return_when=asyncio.FIRST_COMPLETED)
            if not results.done():
                if gone.done():
                    raise ClientDisconnect
                raise TooLateError("the time limit passed before the result was ready: try later")
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

    def face_answer(self, row: NDArray[np.float32]) -> dict[str, Any]:
        """A row of probabilities as the answers show it, rounded to six digits."""
        recognition = Recognition.from_row(row, self.recognizer.labels)
        rounded = {label: round(value, 6) for label, value in recognition.probabilities.items()}
        return {"label": recognition.label, "probability": rounded[recognition.label], "probabilities": rounded}

    def _count(self, result: NDArray[np.float32] | DataError) -> None:
        if isinstance(result, DataError):
            self.metrics.bad_picture()
        else:
            self.metrics.read(self.recognizer.labels[int(result.argmax())])


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _build_app(service: Service) -> FastAPI:
    labels = service.recognizer.labels
    app = FastAPI(
        title="ferdeploy",
        version=__version__,
        summary="Facial expressions from pictures of faces.",
        description=_DESCRIPTION.format(labels=_SEVEN if labels == EMOTIONS else _OTHER_LABELS),
        docs_url=None,  # FastAPI's pages load their scripts from another host
        redoc_url=None,
        separate_input_output_schemas=False,
    )
    app.state.service = service
    app.include_router(router)
    add_problem_handlers(app, service.metrics)
    # FastAPI adds its own 422 only to routes with parameters, and ours have none. No route returns `Problem` as a
    # model, so its schema is added here.
    schema = app.openapi()
    schema["components"]["schemas"]["Problem"] = Problem.model_json_schema()
    name_labels(schema["components"]["schemas"], labels)
    form = schema["paths"]["/v1/faces"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    form["properties"][FIELD]["maxItems"] = service.settings.pictures_per_form
    return app


def _allow_origins(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Let pages of other origins call the application, and read its errors too (CORS)."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=[_as_browsers_send(origin) for origin in origins],
        allow_methods=["GET", "HEAD", "POST"],
        allow_headers=["*"],
        expose_headers=["X-Request-ID", "Retry-After"],
    )


def _as_browsers_send(origin: str) -> str:
    """An origin in lower case and without its scheme's own port."""
    scheme, separator, address = origin.lower().partition("://")
    return scheme + separator + address.removesuffix({"http": ":80", "https": ":443"}.get(scheme, ":"))
