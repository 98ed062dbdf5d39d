"""The answers of the service, for OpenAPI. The routes build them as plain dictionaries.

The labels differ from model to model: `name_labels` writes those of the model in use into the schema.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Probabilities(_Answer):
    """One probability per label. They sum to 1, except for rounding to six digits."""


class FaceAnswer(_Answer):
    """The expression of one face."""

    label: str = Field(description="The most probable label.")
    probability: float = Field(ge=0, le=1, description="The probability of the label.")
    probabilities: Probabilities


class OneAnswer(FaceAnswer):
    """One face, and the model that read it."""

    model: str = Field(description="The model's name.")


class ListedFace(_Answer):
    """One picture of a form: either `face`, or `error`, one line that names the file and the reason."""

    face: FaceAnswer | None
    error: str | None


class ManyAnswer(_Answer):
    """One result per picture, in the order of the form."""

    model: str = Field(description="The model's name.")
    results: list[ListedFace]


class ModelAnswer(_Answer):
    """The model in use."""

    name: str
    labels: list[str]
    precision: str
    sha256: str
    metadata: dict[str, str] = Field(description="All metadata of the model file.")


class StatusAnswer(_Answer):
    """`ok`, or what the service is doing instead."""

    status: str


class Problem(_Answer):
    """An error (RFC 9457)."""

    type: str = Field(default="about:blank")
    title: str
    status: int
    detail: str = Field(description="One line: what is wrong, and what to do.")


def name_labels(schemas: dict[str, Any], labels: Sequence[str]) -> None:
    """Write a model's labels into the schemas of the answers, by name, that FastAPI made."""
    share = {"type": "number", "minimum": 0, "maximum": 1}
    schemas["Probabilities"] |= {"properties": {label: dict(share) for label in labels}, "required": list(labels)}
    for answer in ("FaceAnswer", "OneAnswer"):
        schemas[answer]["properties"]["label"]["enum"] = list(labels)


_PROBLEMS: dict[int, str] = {
    400: "The request is malformed.",
    408: "The body did not arrive within the time limit.",
    413: "The body is larger than the limit.",
    415: "The route does not accept this kind of body.",
    422: "The picture is damaged, has too many pixels, or is not a picture.",
    500: "The service failed.",
    503: "The service is overloaded: try again after `Retry-After` seconds.",
}


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may answer with these statuses."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {
            "description": _PROBLEMS[status],
            "content": {"application/problem+json": {"schema": schema}},
            **({"headers": {"Retry-After": {"schema": {"type": "integer"}}}} if status == 503 else {}),
        }
        for status in statuses
    }
