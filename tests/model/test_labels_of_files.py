"""A file's own labels: from its metadata to the contract, the session and the recognizer's results."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest
from label_sets import LABEL_SETS
from tiny_model import grey_face, tiny_model, write_tiny_model

from fer_deploy import Recognizer
from fer_deploy.errors import ModelFileError
from fer_deploy.model.contract import check_model_bytes
from fer_deploy.model.session import check_probabilities, open_model


@pytest.mark.parametrize("labels", LABEL_SETS.values(), ids=LABEL_SETS)
def test_a_recognizer_answers_in_the_labels_of_its_file(labels: tuple[str, ...], tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "own.onnx", labels=labels)
    recognizer = Recognizer(path, threads=1)
    assert recognizer.labels == recognizer.contract.labels == labels
    results = recognizer.predict([grey_face(label, labels=labels) for label in labels])
    assert [result.label for result in results] == list(labels)
    assert all(tuple(result.probabilities) == labels for result in results)
    assert tuple(json.loads(json.dumps(results[0].as_dict()))["probabilities"]) == labels
    assert recognizer.probabilities(np.zeros((0, 48, 48, 3), np.uint8)).shape == (0, len(labels))
    assert recognizer.probabilities_of([np.zeros((9, 7, 3), np.uint8)]).shape == (1, len(labels))
    assert pickle.loads(pickle.dumps(recognizer)).labels == labels


@pytest.mark.parametrize("count", [2, 1000])
def test_a_file_has_2_to_1000_labels(count: int) -> None:
    labels = tuple(f"label {number}" for number in range(count))
    model = open_model(tiny_model(labels=labels), threads=1)
    assert model.contract.labels == labels
    assert model(np.full((2, 48, 48, 3), 255, np.uint8)).shape == (2, count)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "JSON list of texts"),
        ("angry", "JSON list of texts"),
        ('{"0": "angry"}', "JSON list of texts"),
        ("[]", "JSON list of texts"),
        ("null", "JSON list of texts"),
        ('["angry", "disgust", "fear", "happy", "sad", "surprise", 6]', "JSON list of texts"),
        ('["angry", "disgust", "fear", "happy", "sad", "surprise", null]', "JSON list of texts"),
        ('["angry", "disgust", "fear", "happy", "sad", "surprise"]', "7 columns, and its metadata has 6 labels"),
        (
            '["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral", "x"]',
            "7 columns, and its metadata has 8",
        ),
        ('["angry", "disgust", "fear", "happy", "sad", "surprise", "angry"]', "its `labels`: "),
        ('["angry", "disgust", "fear", "happy", "sad", "surprise", "Angry"]', "its `labels`: "),
        ('["angry", "disgust", "fear", "happy", "sad", "surprise", ""]', "its `labels`: "),
        ('["angry", "disgust", "fear", "happy", "sad", "surprise", "   "]', "its `labels`: "),
        ('["angry", "disgust", "fear", "happy", "sad", "surprise", "a\\u001b[2Jb"]', "its `labels`: "),
        ('["angry", "disgust", "fear", "happy", "sad", "surprise", "a\\u202eb"]', "its `labels`: "),
        ('["angry", "disgust", "fear", "happy", "sad", "surprise", "a\\ud800b"]', "its `labels`: "),
        (json.dumps(["angry", "disgust", "fear", "happy", "sad", "surprise", "x" * 101]), "its `labels`: "),
        (json.dumps(["one"]), "its `labels`: "),
        (json.dumps([f"label {number}" for number in range(1001)]), "its `labels`: "),
    ],
)
def test_damaged_labels_are_refused_in_one_printable_line(text: str, message: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        check_model_bytes(tiny_model(metadata={"labels": text}), source="their.onnx")
    assert str(caught.value).startswith("their.onnx is refused: ")
    assert message in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("columns", [1, 0])
def test_an_output_of_under_two_columns_is_refused(columns: int) -> None:
    model = onnx.load_from_string(tiny_model())
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = columns
    with pytest.raises(ModelFileError, match="is refused"):
        check_model_bytes(model.SerializeToString())


def test_an_engine_must_compute_a_column_for_each_label() -> None:
    rows = np.full((2, 8), 1 / 8, np.float32)
    assert check_probabilities(rows, faces=2, classes=8, source="a") is rows
    with pytest.raises(ModelFileError, match=r"shape \[2, 8\] instead of \[2, 3\]"):
        check_probabilities(rows, faces=2, classes=3, source="a")
