"""Workspaces to measure: one of tiny files, one with a run and the file made of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
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
    from fer_deploy.training.run import RUN_FORMAT, Run, save_weights

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


PACK = Path(__file__).resolve().parents[2].parent / "shared" / "fer2013"


@pytest.fixture(scope="session")
def fer2013():
    """The real FER2013 with its votes, from its packed sheets; skips where they are not there."""
    if not (PACK / "rows.csv").is_file():
        pytest.skip(f"no FER2013 at {PACK}")
    from PIL import Image

    from fer_deploy.faces.dataset import Dataset, Faces

    lines = [line.split(",") for line in (PACK / "rows.csv").read_text("utf-8").splitlines()]
    columns = {name: index for index, name in enumerate(lines[0])}
    votes_from = columns["neutral"]
    splits = {}
    for name, usage in (("training", "Training"), ("validation", "PublicTest"), ("test", "PrivateTest")):
        rows = [(number, line) for number, line in enumerate(lines[1:]) if line[columns["usage"]] == usage]
        sheet = np.asarray(Image.open(PACK / f"{usage}.png"))
        tiles = sheet.reshape(sheet.shape[0] // 48, 48, -1, 48).transpose(0, 2, 1, 3).reshape(-1, 48, 48)
        splits[name] = Faces(
            np.ascontiguousarray(tiles[: len(rows)]),
            np.array([int(line[columns["emotion"]]) for _, line in rows], np.int64),
            np.array([number for number, _ in rows], np.int64),
            np.array([[int(value) for value in line[votes_from : votes_from + 10]] for _, line in rows], np.uint8),
        )
    return Dataset.of(
        "FER2013", splits["training"], validation=splits["validation"], test=splits["test"], official=True
    )
