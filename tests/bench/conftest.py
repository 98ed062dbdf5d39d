"""Workspaces to measure: one of tiny files, one with a run and the file made of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench_files import tiny_model

from fer_deploy.emotions import EMOTIONS


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace with two files: `one`, which records its accuracy and cost, and `two`."""
    exports = tmp_path / "exports"
    exports.mkdir()
    recorded = {"accuracy": "0.61", "accuracy_split": "PrivateTest", "gflops": "0.0232"}
    (exports / "one.onnx").write_bytes(tiny_model(seed=1, name="one", **recorded))
    (exports / "two.onnx").write_bytes(tiny_model(seed=2, name="two"))
    return tmp_path


@pytest.fixture(scope="session")
def trained_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a run `small` of random weights and the ONNX file that is made of it: torch and file agree."""
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
    folder = tmp_path_factory.mktemp("trained")
    options = {"widths": (4, 8), "depths": (1, 1), "stem_stride": 2}
    recipe = Recipe(
        name="small", title="tiny", network=Network(name="plain", options=options), stages=(Stage(epochs=1),)
    )
    network = build_network("plain", **options)
    with torch.no_grad():
        for values in network.parameters():
            values.mul_(3)  # so that answers are decided
    run = folder / "training" / "small"
    sha256 = save_weights(run, network.state_dict())
    record = {
        "format": RUN_FORMAT, "name": "small", "status": "complete", "recipe": recipe_to_dict(recipe),
        "weights_sha256": sha256, "best": {"validation_accuracy": 0.2}, "temperature": 1.5, "gflops": 0.0004,
    }  # fmt: skip
    (run / "run.json").write_text(json.dumps(record))
    loaded = Run.open(run)
    model = build_model(FaceClassifier([Member("small", loaded.network(), temperature=1.5)]))
    properties = {
        "labels": list(EMOTIONS), "name": "small", "members": ["small"], "weights": [1.0], "weights_sha256": [sha256],
    }  # fmt: skip
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in properties.items()}
    onnx.helper.set_model_props(model, {**texts, "fusion": "wap", "precision": "fp32", "gflops": "0.0004"})
    (folder / "exports").mkdir()
    (folder / "exports" / "small.onnx").write_bytes(model.SerializeToString())
    return folder
