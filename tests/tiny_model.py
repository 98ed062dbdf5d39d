"""A real, tiny ONNX file that keeps the contract, built by hand: tests of the runtime then need no torch.

Its answer can be told by looking: with m the mean grey level (0 to 1) of the picture's upper half, the label of n is
number round((n - 1) m). Of the seven, a black face is angry, a white one neutral, and a picture upside down reads
differently.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fer_deploy.emotions import EMOTIONS

SHARPNESS = 400.0


def level_of(label: str, labels: Sequence[str] = EMOTIONS) -> int:
    """The grey level, 0 to 255, that the tiny model of these labels reads as `label`."""
    return round(255 * labels.index(label) / (len(labels) - 1))


def expected_probabilities(faces: np.ndarray) -> np.ndarray:
    """The tiny model in numpy, for faces of 48x48: uint8 (n, 48, 48, 3) -> float64 (n, 7)."""
    mean = faces[:, :24].astype(np.float64).mean(axis=(1, 2, 3)) / 255
    centres = np.arange(7) / 6
    logits = SHARPNESS * (mean[:, None] * centres - centres**2 / 2)
    values = np.exp(logits - logits.max(axis=1, keepdims=True))
    return values / values.sum(axis=1, keepdims=True)


def tiny_model(
    *,
    shape: Sequence[int | str] = ("batch", "height", "width", 3),
    labels: Sequence[object] = EMOTIONS,
    input_name: str = "faces",
    input_type: int = TensorProto.UINT8,
    metadata: dict[str, str] | None = None,
) -> bytes:
    """The file's bytes."""
    classes = len(labels)
    centres = np.arange(classes, dtype=np.float32) / (classes - 1)
    weights = np.zeros((48, 48, classes), np.float32)
    weights[:24] = SHARPNESS * centres / (24 * 48 * 255)
    constants = {
        "colour": np.array([3], np.int64),
        "sizes": np.array([48, 48], np.int64),
        "flat": np.array([0, -1], np.int64),
        "weights": weights.reshape(-1, classes),
        "bias": (-SHARPNESS * centres**2 / 2).astype(np.float32),
        "none": np.zeros(0, np.float32),
        "first": np.array([0], np.int64),
        "two": np.array([2], np.int64),
    }
    nodes = [
        helper.make_node("Cast", [input_name], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "colour"], ["grey"], keepdims=1),
        helper.make_node("Transpose", ["grey"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Shape", ["planes"], ["shape"]),
        helper.make_node("Slice", ["shape", "first", "two"], ["head"]),
        helper.make_node("Concat", ["head", "sizes"], ["target"], axis=0),
        helper.make_node("Resize", ["planes", "none", "none", "target"], ["small"], mode="linear", antialias=1),
        helper.make_node("Reshape", ["small", "flat"], ["row"]),
        helper.make_node("MatMul", ["row", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(input_name, input_type, list(shape))],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [shape[0], classes])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    entries = {"name": "tiny", "members": '["tiny"]', "weights": "[1.0]", "precision": "fp32"} | (metadata or {})
    helper.set_model_props(model, {"labels": json.dumps(list(labels))} | entries)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def write_tiny_model(path: Path, **options: object) -> Path:
    """Write the file to `path`, and give the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tiny_model(**options))  # type: ignore[arg-type]
    return path


def grey_face(label: str, *, height: int = 48, width: int = 48, labels: Sequence[str] = EMOTIONS) -> np.ndarray:
    """A picture that the tiny model of these labels reads as `label`: uint8 (height, width, 3)."""
    return np.full((height, width, 3), level_of(label, labels), np.uint8)
