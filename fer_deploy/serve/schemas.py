"""What the service answers, as OpenAPI tells it. The answers themselves are built as plain dictionaries."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from fer_deploy.emotions import EMOTIONS

_LABEL: dict[str, Any] = {"enum": list(EMOTIONS)}


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Probabilities(_Answer):
    """How sure the model is of each label; together 1, but for rounding to six digits."""

    angry: float = Field(ge=0, le=1)
    disgust: float = Field(ge=0, le=1)
    fear: float = Field(ge=0, le=1)
    happy: float = Field(ge=0, le=1)
    sad: float = Field(ge=0, le=1)
    surprise: float = Field(ge=0, le=1)
    neutral: float = Field(ge=0, le=1)


class FaceAnswer(_Answer):
    """What the model says of one face."""

    label: str = Field(json_schema_extra=_LABEL, description="The most probable label.")
    probability: float = Field(ge=0, le=1, description="The label's own.")
    probabilities: Probabilities


class OneAnswer(FaceAnswer):
    """One face, and the model that read it."""

    model: str = Field(description="The model's name.")


class ListedFace(_Answer):
    """A picture of several: `face` where it could be read, else `error`, one line saying why not."""

    face: FaceAnswer | None
    error: str | None


class ManyAnswer(_Answer):
    """Several pictures, in the order in which they were sent."""

    model: str = Field(description="The model's name.")
    results: list[ListedFace]


class ModelAnswer(_Answer):
    """The model that is served."""

    name: str
    labels: list[str]
    precision: str
    sha256: str
    metadata: dict[str, str] = Field(description="Everything that the file says of itself.")


class StatusAnswer(_Answer):
    """`ok`, or why not."""

    status: str


class Problem(_Answer):
    """An error, as RFC 9457 has it."""

    type: str = Field(default="about:blank")
    title: str
    status: int
    detail: str = Field(description="One line: what is wrong, and what to do.")


_PROBLEMS: dict[int, str] = {
    400: "The request is malformed.",
    408: "The body did not arrive within the time limit.",
    413: "The body is larger than the limit.",
    415: "The body is of a kind that this route does not take.",
    422: "The picture is damaged, has too many pixels, or is not a picture.",
    500: "A fault of the service.",
    503: "The service is full, or too slow just now: try again after `Retry-After` seconds.",
}


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may answer with these errors."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {
            "description": _PROBLEMS[status],
            "content": {"application/problem+json": {"schema": schema}},
            **({"headers": {"Retry-After": {"schema": {"type": "integer"}}}} if status == 503 else {}),
        }
        for status in statuses
    }
