"""A service whose model has other labels: its answers, its schema and its counters name them."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from PIL import Image
from tiny_model import grey_face, tiny_model

from fer_deploy import Recognizer
from fer_deploy.emotions import EMOTIONS
from serve.conftest import running

WORDS = ("سعيد", "label", 'a "b" \\c', "$ref", "x")


def picture(label: str, labels: tuple[str, ...]) -> bytes:
    """A PNG that the tiny model of these labels reads as `label`."""
    buffer = io.BytesIO()
    Image.fromarray(grey_face(label, labels=labels)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("labels", [WORDS, ("no", "yes"), EMOTIONS, tuple(f"c{i}" for i in range(120))])
def test_answers_fit_the_schema_of_the_models_labels(labels: tuple[str, ...]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    recognizer = Recognizer(tiny_model(labels=labels), threads=1)
    with running(recognizer) as service:
        schema = json.loads(service.ask("GET", "/openapi.json")[1])
        kind = {"Content-Type": "image/png"}
        answer = json.loads(service.ask("POST", "/v1/face", picture(labels[1], labels), kind)[1])
        model = json.loads(service.ask("GET", "/v1/model")[1])
        metrics = service.ask("GET", "/metrics")[1].decode()
    parts = schema["components"]["schemas"]
    assert list(parts["Probabilities"]["properties"]) == list(labels) == parts["Probabilities"]["required"]
    assert answer["label"] == labels[1]
    assert list(answer["probabilities"]) == list(labels) == model["labels"]

    def check(value: Any) -> None:
        jsonschema.validate(value, {"$ref": "#/components/schemas/OneAnswer", "components": schema["components"]})

    check(answer)
    with pytest.raises(jsonschema.ValidationError):
        check({**answer, "label": "another"})
    with pytest.raises(jsonschema.ValidationError):
        check({**answer, "probabilities": {**answer["probabilities"], "another": 0.0}})
    assert 'ferdeploy_faces_total{label="' in metrics
    assert ("Fear and disgust" in schema["info"]["description"]) == (labels == EMOTIONS)
