"""The routes of the service: two that read faces, and four about the service itself."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from fer_deploy.errors import DataError
from fer_deploy.serve.bodies import FIELD, FORM_DEFAULT, FORM_HINT, check_picture_type, media_type
from fer_deploy.serve.metrics import CONTENT_TYPE
from fer_deploy.serve.problems import RequestRefusedError
from fer_deploy.serve.schemas import ManyAnswer, ModelAnswer, OneAnswer, StatusAnswer, problem_responses

if TYPE_CHECKING:
    from fer_deploy.serve.application import Service

router = APIRouter()

_PICTURE = {"type": "string", "format": "binary"}
_PICTURE_TYPES = ("image/jpeg", "image/png", "image/webp", "image/gif")
_PROBLEMS = problem_responses(400, 408, 413, 415, 422, 500, 503)

_ONE_PICTURE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The encoded picture. Other formats are read too: the content decides, not the declared type.",
        "content": {kind: {"schema": _PICTURE} for kind in _PICTURE_TYPES},
    }
}
_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "additionalProperties": False,
                    "properties": {FIELD: {"type": "array", "minItems": 1, "items": _PICTURE}},
                },
                "encoding": {FIELD: {"contentType": ", ".join(_PICTURE_TYPES)}},
            }
        },
    }
}


def service_of(request: Request) -> Service:
    """The service that a request was sent to."""
    return cast("Service", request.app.state.service)


@router.post(
    "/v1/face",
    summary="Read one picture that is a face.",
    response_model=OneAnswer,
    responses=_PROBLEMS,
    openapi_extra=_ONE_PICTURE,
    tags=["read"],
)
async def read_face(request: Request) -> Response:
    """Answer with the label and the probabilities of the face in the body."""
    service = service_of(request)
    deadline = time.monotonic() + service.settings.maximum_seconds
    check_picture_type(request)
    service.check_queue()
    with service.bodies.reserve(request) as share:
        content = await service.bodies.read(request, share, deadline=deadline)
        (result,) = await service.read_pictures(request, [content], deadline=deadline)
    if isinstance(result, DataError):
        hint = FORM_HINT if media_type(request) == FORM_DEFAULT else ""
        raise RequestRefusedError(422, "Unreadable picture", f"{result}{hint}", reason="picture")
    return JSONResponse({"model": service.recognizer.contract.name, **service.face_answer(result)})


@router.post(
    "/v1/faces",
    summary="Read several pictures, each a face.",
    response_model=ManyAnswer,
    responses=_PROBLEMS,
    openapi_extra=_FORM,
    tags=["read"],
)
async def read_faces(request: Request) -> Response:
    """Answer with one result per file of the form, in order; an unreadable picture does not affect the others."""
    service = service_of(request)
    deadline = time.monotonic() + service.settings.maximum_seconds
    service.check_queue()
    with service.bodies.reserve(request) as share:
        contents, names = await service.bodies.read_form(request, share, deadline=deadline)
        results = await service.read_pictures(request, contents, deadline=deadline, names=names)
    listed = [
        {"face": None, "error": str(result)}
        if isinstance(result, DataError)
        else {"face": service.face_answer(result), "error": None}
        for result in results
    ]
    return JSONResponse({"model": service.recognizer.contract.name, "results": listed})


@router.get("/v1/model", summary="The model in use.", response_model=ModelAnswer, tags=["about"])
async def describe_model(request: Request) -> Response:
    """Answer with what the model file states about itself."""
    contract = service_of(request).recognizer.contract
    return JSONResponse(
        {
            "name": contract.name,
            "labels": list(contract.labels),
            "precision": contract.precision,
            "sha256": contract.sha256,
            "metadata": dict(contract.metadata),
        }
    )


@router.get("/health", summary="Whether the process is alive.", response_model=StatusAnswer, tags=["about"])
async def health() -> Response:
    """Answer `ok`."""
    return JSONResponse({"status": "ok"})


@router.get(
    "/ready",
    summary="Whether to send requests here.",
    response_model=StatusAnswer,
    responses={503: {"description": "The service is stopping.", "model": StatusAnswer}},
    tags=["about"],
)
async def ready(request: Request) -> Response:
    """Answer `ok`, or 503 while the service stops."""
    if service_of(request).draining:
        return JSONResponse({"status": "stopping"}, status_code=503)
    return JSONResponse({"status": "ok"})


@router.get(
    "/metrics",
    summary="Counters for Prometheus.",
    response_class=Response,
    responses={200: {"content": {CONTENT_TYPE.partition(";")[0]: {"schema": {"type": "string"}}}}},
    tags=["about"],
)
async def prometheus(request: Request) -> Response:
    """Answer with all counters in Prometheus's text format."""
    return Response(service_of(request).metrics.text(), media_type=CONTENT_TYPE)


# Monitors probe with HEAD. The schema leaves it out: each operation would be listed twice.
for _route in list(router.routes):
    if isinstance(_route, APIRoute) and _route.methods and "GET" in _route.methods:
        router.add_api_route(_route.path, _route.endpoint, methods=["HEAD"], include_in_schema=False)
