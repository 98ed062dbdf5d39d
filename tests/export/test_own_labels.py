"""Runs with labels of their own: from the run to files in every form, the manifest, and what verify checks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from label_sets import LABEL_SETS
from own_faces import own_dataset
from trained_runs import train_network, write_run

from fer_deploy import Recognizer
from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import ExportError, RunError
from fer_deploy.export.manifest import read_manifest
from fer_deploy.export.parity import PARITY_CASES
from fer_deploy.export.plan import plan_ensemble, plan_of_file, plan_run
from fer_deploy.export.verify import verify_file
from fer_deploy.export.write import export_plan
from fer_deploy.faces import Dataset
from fer_deploy.model.contract import check_model_file
from fer_deploy.training.run import Run

VALENCE = LABEL_SETS["three of valence"]


@pytest.fixture(autouse=True)
def _few_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves the time of the large pictures, which other tests of exports take."""
    monkeypatch.setattr("fer_deploy.export.parity.PARITY_CASES", (*PARITY_CASES[:3], PARITY_CASES[6]))


@pytest.fixture(scope="module")
def own() -> Dataset:
    """Three labels, pictures of two sizes that are not the network's."""
    return own_dataset(VALENCE, training=300, sizes=(64, 56))


@pytest.fixture(scope="module")
def own_workspace(own: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the runs A and B with the same labels, and C with the same in another order; nobody changes them."""
    folder = tmp_path_factory.mktemp("own")
    network = train_network(own, seed=0, epochs=6)
    write_run(folder, "A", network, data="own", labels=own.labels)
    write_run(folder, "B", train_network(own, seed=1, epochs=6), data="own", labels=own.labels)
    write_run(folder, "C", network, data="own", labels=own.labels[::-1])
    write_run(folder, "seven", train_network(own_dataset(EMOTIONS, training=7), seed=0, epochs=1))
    return folder


@pytest.mark.parametrize("kind", ["eight with contempt", "the seven in another order", "Arabic", "two", "thirty"])
def test_labels_travel_from_the_run_to_the_file(kind: str, tmp_path: Path) -> None:
    labels = LABEL_SETS[kind]
    dataset = own_dataset(labels, training=4 * len(labels))
    write_run(tmp_path, "A", train_network(dataset, seed=0, epochs=2), labels=labels)
    assert Run.open(tmp_path / "training" / "A").labels == labels
    (file,) = export_plan(plan_run("A", workspace=tmp_path), folder=tmp_path / "exports")
    contract = check_model_file(file.path)
    assert contract.labels == labels
    model = onnx.load(file.path)
    assert [axis.dim_value for axis in model.graph.output[0].type.tensor_type.shape.dim][1] == len(labels)
    manifest = json.loads((tmp_path / "exports" / "manifest.json").read_text())
    assert manifest["labels"] == list(EMOTIONS)  # the default of all files
    assert manifest["files"]["A.onnx"].get("labels", list(EMOTIONS)) == list(labels)
    assert verify_file(file.path).verdict == "proven"
    result = Recognizer(file.path, threads=1).predict(dataset.test.images[0])
    assert tuple(result.probabilities) == labels


def test_every_form_of_a_file_has_the_labels_and_is_proven(own: Dataset, own_workspace: Path, tmp_path: Path) -> None:
    ensemble = ["A", "A~mirror", "B"]
    single = plan_run("A", workspace=own_workspace)
    ranks = plan_ensemble(ensemble, workspace=own_workspace, fusion="rrf")
    assert plan_ensemble(ensemble, workspace=own_workspace, data=own, search=True).labels == VALENCE
    files = export_plan(single, folder=tmp_path, precisions=("fp32", "fp16"), data=own)
    files += export_plan(single, folder=tmp_path, data=own, shape=(1, 48, 48))
    files += export_plan(ranks, folder=tmp_path, data=own)
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    for file in files:
        assert check_model_file(file.path).labels == VALENCE
        assert file.accuracy is not None
        assert file.accuracy > 0.4  # a third by chance
        record = manifest.entry(file.path.name)
        assert record is not None
        assert record.labels == VALENCE
        assert {rows.shape[1] for rows in record.outputs.values()} == {3}
        assert verify_file(file.path, workspace=own_workspace, data=own).verdict == "proven"


def test_a_file_is_scored_on_the_unchanged_pictures(own: Dataset, own_workspace: Path, tmp_path: Path) -> None:
    (file,) = export_plan(plan_run("A", workspace=own_workspace), folder=tmp_path, data=own)
    faces = own.test
    answers = Recognizer(file.path, threads=1).predict([faces.pictures[place] for place in range(len(faces))])
    correct = [VALENCE.index(answer.label) == label for answer, label in zip(answers, faces.labels, strict=True)]
    assert file.accuracy == pytest.approx(np.mean(correct))


@pytest.mark.parametrize("others", ["C", "seven"])
def test_runs_with_other_labels_or_another_order_are_not_fused(others: str, own_workspace: Path) -> None:
    with pytest.raises(ExportError) as caught:
        plan_ensemble(["A", others], workspace=own_workspace)
    message = str(caught.value)
    assert message.startswith(f"A and {others} have different labels, so they can't be fused: negative, neutral, ")
    assert message.endswith("; positive, neutral, negative" if others == "C" else f"; {', '.join(EMOTIONS)}")


def test_data_with_other_labels_is_refused(own: Dataset, own_workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"^seven has the labels angry, .*, and own negative, neutral, positive: give"
    ):
        export_plan(plan_run("seven", workspace=own_workspace), folder=tmp_path, data=own)
    assert not list(tmp_path.iterdir())


def test_a_run_whose_labels_changed_after_the_export_fails(own_workspace: Path, tmp_path: Path) -> None:
    write_run(tmp_path, "A", Run.open(own_workspace / "training" / "A").network(), labels=VALENCE)
    (file,) = export_plan(plan_run("A", workspace=tmp_path), folder=tmp_path / "exports")
    record = tmp_path / "training" / "A" / "run.json"
    changed = json.loads(record.read_text())
    changed["data"]["labels"] = ["good", "bad", "neither"]
    record.write_text(json.dumps(changed))
    with pytest.raises(ExportError, match="labels are negative, neutral, positive, and those of its runs good, bad"):
        plan_of_file(check_model_file(file.path), workspace=tmp_path)
    (failed,) = verify_file(file.path).failed
    assert failed.name == "parity with the runs"


@pytest.mark.parametrize("labels", [[], ["one"], ["a", "a"], ["a", "A"], ["a", "b\x1b"], ["a", 3], "ab", {"a": 1}])
def test_damaged_labels_of_a_run_are_refused(labels: object, tmp_path: Path) -> None:
    folder = write_run(tmp_path, "A", train_network(own_dataset(("a", "b"), training=6), seed=0, epochs=1)).folder
    record = json.loads((folder / "run.json").read_text())
    record["data"]["labels"] = labels
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match=r"damaged run record: data\.labels must be a list of 2 to 1,000 different"):
        Run.open(folder)


def test_damaged_labels_of_a_manifest_are_a_failure(own_workspace: Path, tmp_path: Path) -> None:
    (file,) = export_plan(plan_run("A", workspace=own_workspace), folder=tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    entry = manifest["files"]["A.onnx"]
    for labels, name, message in (
        (["one"], "manifest", "labels: "),
        ([1, 2, 3], "manifest", "labels must be a list of texts"),
        (["a", "b"], "manifest", "must be rows of 2 probabilities"),
        (["a", "b", "c"], "sha256", "other labels than the file's"),
        (None, "manifest", "must be rows of 7 probabilities"),
    ):
        entry["labels"] = labels
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        failed = verify_file(file.path, workspace=own_workspace).failed
        assert failed[0].name == name
        assert message in failed[0].detail
