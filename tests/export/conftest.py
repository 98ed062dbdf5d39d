"""One workspace with two trained runs, and their files, for all tests of exports: exporting takes seconds."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from trained_runs import train_network, write_run

from fer_deploy.export.build import build_model
from fer_deploy.export.graph import FaceClassifier
from fer_deploy.export.metadata import ExportedFile
from fer_deploy.export.plan import Plan, plan_ensemble, plan_run
from fer_deploy.export.write import export_plan
from fer_deploy.faces import Dataset
from fer_deploy.faces.synthetic import synthetic_dataset


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    return synthetic_dataset(1050)


@pytest.fixture(scope="session")
def workspace(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the complete runs B and E; nobody changes them."""
    folder = tmp_path_factory.mktemp("workspace")
    write_run(folder, "B", train_network(dataset, seed=0, epochs=6))
    write_run(folder, "E", train_network(dataset, seed=1, epochs=6), temperature=1.5)
    return folder


@pytest.fixture(scope="session")
def plan(workspace: Path) -> Plan:
    return plan_run("B", workspace=workspace)


@pytest.fixture(scope="session")
def ensemble(workspace: Path) -> Plan:
    """Ranks fused over two runs and the mirrored view of one: everything that a graph can have."""
    return plan_ensemble(["B", "B~mirror", "E"], workspace=workspace, weights=[0.2, 0.3, 0.5], fusion="rrf")


@pytest.fixture(scope="session")
def classifier(plan: Plan) -> FaceClassifier:
    return plan.classifier()


@pytest.fixture(scope="session")
def model(classifier: FaceClassifier) -> onnx.ModelProto:
    """Of B alone, without metadata; copy it to change it."""
    return build_model(classifier)


@pytest.fixture(scope="session")
def exports(
    plan: Plan, ensemble: Plan, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, ExportedFile]:
    """B in fp32 and fp16, and the ensemble in fp32, in one folder, by file name."""
    folder = tmp_path_factory.mktemp("exports")
    files = export_plan(plan, folder=folder, precisions=("fp32", "fp16"), data=dataset)
    files += export_plan(ensemble, folder=folder, data=dataset)
    return {file.path.name: file for file in files}
