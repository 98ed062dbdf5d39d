"""A run that learned FER+ votes is scored on FER+ labels, says so, and never carries an accuracy on FER2013's."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from trained_runs import train_network, write_run

from fer_deploy import Recognizer
from fer_deploy.export.plan import plan_ensemble, plan_run
from fer_deploy.export.write import export_plan
from fer_deploy.faces import Dataset, Faces
from fer_deploy.faces.synthetic import synthetic_dataset
from fer_deploy.model.contract import check_model_file
from fer_deploy.training.run import Run
from fer_deploy.training.targets import with_ferplus_labels

PLACES = [4, 5, 6, 1, 3, 2, 0]  # where anger, disgust, fear, happiness, sadness, surprise, neutral stand in FER+


def voted(faces: Faces) -> Faces:
    """Votes that call each face by the next class but one, and three faces that have none of the seven."""
    votes = np.zeros((len(faces), 10), np.uint8)
    votes[np.arange(len(faces)), [PLACES[(label + 2) % 7] for label in faces.labels]] = 8
    votes[0], votes[1, 8], votes[2, 7] = 0, 9, 9
    return dataclasses.replace(faces, votes=votes)


@pytest.fixture(scope="module")
def drawn() -> Dataset:
    return synthetic_dataset(420)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, drawn: Dataset) -> Path:
    folder = tmp_path_factory.mktemp("ferplus")
    network = train_network(drawn, seed=0)
    for name in ("plain", "plus"):
        run = write_run(folder, name, network)
        if name == "plus":
            path = run.folder / "run.json"
            record = json.loads(path.read_text())
            record["recipe"]["labels"] = "ferplus"
            path.write_text(json.dumps(record))
    return folder


def properties(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def test_labels_are_the_plurality_of_the_seven(drawn: Dataset) -> None:
    faces = voted(drawn.test)
    labelled = with_ferplus_labels(faces)
    assert labelled is not None
    assert len(labelled) == len(faces) - 3
    assert np.array_equal(labelled.labels, (faces.labels[3:] + 2) % 7)
    assert with_ferplus_labels(drawn.test) is None


@pytest.mark.parametrize("fused", [False, True])
def test_the_file_is_scored_on_ferplus_labels(fused: bool, workspace: Path, drawn: Dataset, tmp_path: Path) -> None:
    data = dataclasses.replace(drawn, test=voted(drawn.test))
    plan = plan_ensemble(["plain", "plus"], workspace=workspace) if fused else plan_run("plus", workspace=workspace)
    (file,) = export_plan(plan, folder=tmp_path, data=data)
    found = properties(file.path)
    assert file.accuracy_split == found["accuracy_split"] == f"test split of {drawn.name}, FER+ labels"
    assert found["trained_on"].endswith("synthetic with FER+ labels")
    (other,) = export_plan(plan_run("plain", workspace=workspace), folder=tmp_path / "plain", data=data)
    assert other.accuracy_split == f"test split of {drawn.name}"
    network = Run.open(workspace / "training/plain").network()  # that of all members: one answer, two questions
    with torch.no_grad():
        answers = network(torch.from_numpy(data.test.images).float()[:, None] / 127.5 - 1).argmax(1).numpy()
    assert other.accuracy == pytest.approx(np.mean(answers == data.test.labels))
    assert file.accuracy == pytest.approx(np.mean(answers[3:] == (data.test.labels[3:] + 2) % 7))
    assert file.accuracy != other.accuracy
    assert properties(other.path)["trained_on"] == "synthetic"


def test_without_votes_there_is_no_accuracy(workspace: Path, drawn: Dataset, tmp_path: Path) -> None:
    (file,) = export_plan(plan_run("plus", workspace=workspace), folder=tmp_path, data=drawn)
    assert file.accuracy is None
    assert "accuracy" not in properties(file.path)


def test_mean_confidence_equals_accuracy_on_ferplus_labels(workspace: Path, drawn: Dataset, tmp_path: Path) -> None:
    plan = plan_run("plus", workspace=workspace)
    data = dataclasses.replace(drawn, official=True, validation=voted(drawn.validation))
    (file,) = export_plan(plan, folder=tmp_path, data=data)
    faces = np.repeat(data.validation.images[3:, :, :, None], 3, axis=3)  # three have none of the seven
    answers = Recognizer(file.path).probabilities(faces)
    right = answers.argmax(axis=1) == (data.validation.labels[3:] + 2) % 7
    assert abs(float(answers.max(axis=1).mean() - right.mean())) < 2e-3
    (without,) = export_plan(plan, folder=tmp_path / "without", data=dataclasses.replace(drawn, official=True))
    assert check_model_file(without.path).calibration is None
