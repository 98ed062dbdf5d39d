"""Tiny ONNX files that keep the contract, made without torch in milliseconds."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from fer_deploy.emotions import EMOTIONS


def tiny_model(
    *,
    seed: int = 0,
    name: str = "tiny",
    batch: int | None = None,
    labels: Sequence[str] = EMOTIONS,
    **metadata: str,
) -> bytes:
    """An ONNX file of the contract: mean colour, one linear layer, softmax. Its answers differ from face to face.

    The weights of a label follow from the seed and from the label's place in alphabetical order.
    """
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(seed)
    weights = (random.normal(size=(3, len(labels))) * 0.1).astype(np.float32)
    if labels != EMOTIONS:
        weights = weights[:, [sorted(labels).index(label) for label in labels]]
    bias = (-128 * weights.sum(axis=0)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["faces"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["values", "axes"], ["mean"], keepdims=0),
        helper.make_node("Gemm", ["mean", "weights", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    initialisers = [
        numpy_helper.from_array(np.array([1, 2], dtype=np.int64), "axes"),
        numpy_helper.from_array(weights, "weights"),
        numpy_helper.from_array(bias, "bias"),
    ]
    first = batch or "batch"
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("faces", TensorProto.UINT8, [first, "height", "width", 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [first, len(labels)])],
        initialisers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, {"labels": json.dumps(labels), "name": name, "precision": "fp32", **metadata})
    return model.SerializeToString()
