"""Networks of timm in files: parity with PyTorch at several sizes and batches, and the whole way for one of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from fer_deploy.export.build import build_model
from fer_deploy.export.graph import FaceClassifier, Member
from fer_deploy.export.plan import plan_run
from fer_deploy.export.verify import verify_file
from fer_deploy.export.write import export_plan
from fer_deploy.faces.dataset import Dataset, Faces
from fer_deploy.faces.synthetic import synthetic_faces
from fer_deploy.models import build_network
from fer_deploy.recipes import parse_recipe
from fer_deploy.training.fit import Settings, train

RECIPE = """
name = "tiny"
title = "a network of timm"
network = { name = "timm/test_efficientnet", input_size = 64, options = { drop_rate = 0.1 } }
[[stage]]
epochs = 1
batch_size = 14
"""


@pytest.mark.parametrize(
    ("name", "size"),
    [("timm/test_vit", 32), ("timm/test_byobnet", 48), ("timm/lcnet_035", 40), ("timm/repghostnet_050", 32)],
)
def test_a_file_agrees_with_torch_at_any_size_and_batch(name: str, size: int) -> None:
    torch.manual_seed(0)
    network = build_network(name, classes=5, input_size=size)
    with torch.no_grad():
        network(torch.randn(16, 1, size, size))  # statistics of its own
    classifier = FaceClassifier([Member("it", network.eval(), input_size=size)])
    model = build_model(classifier)
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    generator = np.random.default_rng(0)
    for shape in ((1, 48, 48), (3, size, size), (5, 37, 90), (2, 1, 1)):
        faces = generator.integers(0, 256, (*shape, 3), np.uint8)
        with torch.no_grad():
            expected = classifier(torch.from_numpy(faces)).numpy()
        (probabilities,) = session.run(None, {"faces": faces})
        assert probabilities.shape == (shape[0], 5)
        np.testing.assert_allclose(probabilities, expected, atol=1e-5)


def _three_classes() -> Dataset:
    def split(count: int, seed: int) -> Faces:
        faces = synthetic_faces(count, seed=seed)
        faces = faces.take(faces.labels < 3)
        return Faces(faces.images, faces.labels, faces.rows, classes=3)

    return Dataset.of(
        "three", split(98, 1), validation=split(28, 2), test=split(28, 3), official=False, labels=("a", "b", "c")
    )


def test_a_network_of_timm_goes_from_recipe_to_a_proven_file(tmp_path: Path) -> None:
    dataset = _three_classes()
    recipe = parse_recipe(RECIPE, source="test")
    run = train(recipe, dataset, workspace=tmp_path, settings=Settings(device="cpu")).run()
    network = run.network()
    assert isinstance(network.classifier, nn.Linear)
    assert network.classifier.out_features == 3
    (file,) = export_plan(plan_run("tiny", workspace=tmp_path), folder=tmp_path / "exports", data=dataset)
    verification = verify_file(file.path, workspace=tmp_path, data=dataset)
    assert verification.verdict == "proven", verification.failed
    assert file.gflops == pytest.approx(float(run.record["gflops"]))
