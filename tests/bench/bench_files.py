"""Tiny ONNX files that keep the contract, made without torch in milliseconds, and a workspace with a real run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fer_deploy.emotions import EMOTIONS


def tiny_model(
    *,
    seed: int = 0,
    name: str = "tiny",
    batch: int | None = None,
    size: tuple[int, int] | None = None,
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
        [helper.make_tensor_value_info("faces", TensorProto.UINT8, [first, *(size or ("height", "width")), 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [first, len(labels)])],
        initialisers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, {"labels": json.dumps(labels), "name": name, "precision": "fp32", **metadata})
    return model.SerializeToString()


def make_trained_workspace(folder: Path, labels: tuple[str, ...]) -> Path:
    """A workspace with a run `small` of random weights, and the ONNX file that is made of it: torch and file agree."""
    torch = pytest.importorskip("torch")
    onnx = pytest.importorskip("onnx")
    from fer_deploy.export.build import build_model
    from fer_deploy.export.graph import FaceClassifier, Member
    from fer_deploy.models import build_network
    from fer_deploy.recipes.load import recipe_to_dict
    from fer_deploy.recipes.schema import Network, Recipe, Stage
    from fer_deploy.training.record import RUN_FORMAT
    from fer_deploy.training.run import Run, save_weights

    torch.set_num_threads(1)
    torch.manual_seed(0)
    options = {"widths": (4, 8), "depths": (1, 1), "stem_stride": 2}
    recipe = Recipe(
        name="small", title="tiny", network=Network(name="plain", options=options), stages=(Stage(epochs=1),)
    )
    network = build_network("plain", classes=len(labels), **options)
    with torch.no_grad():
        for values in network.parameters():
            values.mul_(3)  # so that answers are decided
    run = folder / "training" / "small"
    sha256 = save_weights(run, network.state_dict())
    record = {
        "format": RUN_FORMAT, "name": "small", "status": "complete", "recipe": recipe_to_dict(recipe),
        "weights_sha256": sha256, "best": {"validation_accuracy": 0.2}, "temperature": 1.5, "gflops": 0.0004,
        **({} if labels == EMOTIONS else {"data": {"labels": list(labels)}}),
    }  # fmt: skip
    (run / "run.json").write_text(json.dumps(record))
    loaded = Run.open(run)
    model = build_model(FaceClassifier([Member("small", loaded.network(), temperature=1.5)]))
    properties = {
        "labels": list(labels), "name": "small", "members": ["small"], "weights": [1.0], "weights_sha256": [sha256],
    }  # fmt: skip
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in properties.items()}
    onnx.helper.set_model_props(model, {**texts, "fusion": "wap", "precision": "fp32", "gflops": "0.0004"})
    (folder / "exports").mkdir()
    (folder / "exports" / "small.onnx").write_bytes(model.SerializeToString())
    return folder
