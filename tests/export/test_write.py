"""Exported files: their metadata, their manifest entry, and what happens when one fails its checks."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import fer_deploy
from fer_deploy.bench.engines.pytorch import build_classifier
from fer_deploy.bench.subjects import find_subjects
from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import ExportError, ParityError
from fer_deploy.export import parity, write
from fer_deploy.export.golden import GOLDEN_TOLERANCES
from fer_deploy.export.metadata import ExportedFile
from fer_deploy.export.parity import PARITY_CASES, pictures_of
from fer_deploy.export.plan import Plan, plan_ensemble, plan_of_file, plan_run
from fer_deploy.export.verify import parity_of_file
from fer_deploy.export.write import export_plan
from fer_deploy.faces import Dataset
from fer_deploy.model.contract import check_model_file
from fer_deploy.recognizer import Recognizer


def test_the_file_describes_itself(exports: dict[str, ExportedFile], workspace: Path, plan: Plan) -> None:
    file = exports["B.onnx"]
    contract = check_model_file(file.path)
    metadata = dict(contract.metadata)
    assert json.loads(metadata["labels"]) == list(EMOTIONS)
    assert metadata["name"] == "B"
    assert (json.loads(metadata["members"]), json.loads(metadata["weights"])) == (["B"], [1.0])
    assert (metadata["fusion"], metadata["precision"]) == ("wap", "fp32")
    assert float(metadata["gflops"]) == pytest.approx(plan.members[0].run.record["gflops"], abs=1e-6)
    assert float(metadata["accuracy"]) == pytest.approx(file.accuracy, abs=1e-6)
    assert metadata["accuracy_split"] == "test split of synthetic"  # never FER2013's names for other data
    assert metadata["trained_on"] == "synthetic"
    weights = hashlib.sha256((workspace / "training/B/weights.safetensors").read_bytes()).hexdigest()
    assert json.loads(metadata["weights_sha256"]) == [weights]
    assert "license" not in metadata  # the data is not FER2013: nothing is claimed
    assert metadata["ferdeploy_version"] == fer_deploy.__version__
    assert {key for key in metadata if key.startswith("Image.")} == {
        "Image.BitmapPixelFormat",
        "Image.ColorSpaceGamma",
        "Image.NominalPixelRange",
    }


def test_an_ensemble_names_its_members_and_where_their_weights_come_from(exports: dict[str, ExportedFile]) -> None:
    contract = check_model_file(exports["B+B~mirror+E.rrf.onnx"].path)
    assert contract.members == ("B", "B~mirror", "E")
    assert contract.weights == (0.2, 0.3, 0.5)
    assert contract.metadata["weights_source"] == "given"
    assert json.loads(contract.metadata["temperatures"]) == [1.0, 1.0, 1.5]
    single = check_model_file(exports["B.onnx"].path)
    assert float(contract.metadata["gflops"]) == pytest.approx(3 * float(single.metadata["gflops"]), abs=2e-6)


def test_half_precision_is_half_the_bytes_and_the_same_answers(exports: dict[str, ExportedFile]) -> None:
    fp32, fp16 = exports["B.onnx"], exports["B.fp16.onnx"]
    assert fp16.bytes < 0.65 * fp32.bytes  # the graph itself, which stays as it is, is a third of so small a file
    assert fp16.parity.agreement >= 0.99
    assert fp16.accuracy == pytest.approx(fp32.accuracy, abs=0.01)


def test_manifest_holds_bytes_hashes_parity_and_golden_vectors(exports: dict[str, ExportedFile]) -> None:
    folder = exports["B.onnx"].path.parent
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["labels"] == list(EMOTIONS)
    assert sorted(manifest["files"]) == sorted(exports)
    shapes = {tuple(entry["shape"]) for entry in manifest["golden"]}
    assert len({shape[1:] for shape in shapes}) >= 5
    for entry in manifest["golden"]:
        content = (folder / entry["file"]).read_bytes()
        assert len(content) == np.prod(entry["shape"])
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]
    for name, entry in manifest["files"].items():
        content = (folder / name).read_bytes()
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert entry["bytes"] == len(content)
        assert len(entry["parity"]["cases"]) == len(PARITY_CASES)
        assert entry["golden"]["tolerance"] == GOLDEN_TOLERANCES[entry["precision"]]
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        for golden in manifest["golden"]:
            pictures = np.fromfile(folder / golden["file"], np.uint8).reshape(golden["shape"])
            recorded = np.array(entry["golden"]["outputs"][golden["file"]])
            assert np.abs(session.run(None, {"faces": pictures})[0] - recorded).max() <= 1e-6


def test_a_file_that_fails_its_checks_leaves_the_old_one(
    plan: Plan, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: object
) -> None:
    monkeypatch.setattr(write, "build_model", lambda *_, **__: model)  # saves the time to export
    monkeypatch.setattr(parity, "TOLERANCES", {"fp32": 1e-12})
    (tmp_path / "B.onnx").write_bytes(b"the old one")
    with pytest.raises(ParityError, match=r"^B\.onnx is not written: batch 256 at 48x48"):
        export_plan(plan, folder=tmp_path, data=dataset)
    assert (tmp_path / "B.onnx").read_bytes() == b"the old one"
    assert [path.name for path in tmp_path.iterdir()] == ["B.onnx"]
    refused: list[ParityError] = []
    assert export_plan(plan, folder=tmp_path, data=dataset, on_refusal=refused.append) == []
    assert len(refused) == 1


def test_without_data_parity_is_on_drawn_faces_and_nothing_is_scored(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: object
) -> None:
    monkeypatch.setattr(write, "build_model", lambda *_, **__: model)
    said: list[str] = []
    (file,) = export_plan(plan, folder=tmp_path, warn=said.append)
    assert "drawn faces" in said[0]
    assert file.parity.faces_from == "drawn faces"
    assert file.accuracy is None
    assert "accuracy" not in check_model_file(file.path).metadata
    with pytest.raises(ExportError, match="int8 is calibrated on faces"):
        export_plan(plan, folder=tmp_path, precisions=("int8",))
    with pytest.raises(ExportError, match="no precision 'fp8'"):
        export_plan(plan, folder=tmp_path, precisions=("fp8",))


@pytest.mark.parametrize("names", [["B"], ["B", "E"]])
def test_mean_confidence_equals_accuracy_on_validation_rows(
    names: list[str], workspace: Path, dataset: Dataset, tmp_path: Path
) -> None:
    plan = plan_run("B", workspace=workspace) if names == ["B"] else plan_ensemble(names, workspace=workspace)
    faces = dataset.validation
    (drawn,) = export_plan(plan, folder=tmp_path / "drawn", data=dataset)
    assert check_model_file(drawn.path).calibration is None
    told: list[str] = []
    (file,) = export_plan(
        plan,
        folder=tmp_path,
        data=replace(dataset, official=True),
        progress=lambda what, done, total: told.append(what),
    )
    assert told[0] == "computing PyTorch's answers"

    def gap(path: Path) -> float:
        probabilities = np.concatenate(
            [
                Recognizer(path).probabilities(pictures)
                for pictures in pictures_of(faces.images, PARITY_CASES[0], batch=64)
            ]
        )
        return abs(float(probabilities.max(axis=1).mean() - (probabilities.argmax(axis=1) == faces.labels).mean()))

    assert gap(file.path) < 2e-3 < gap(drawn.path)
    # the file says how, and is held against the same again
    contract = check_model_file(file.path)
    assert contract.calibration is not None
    assert contract.temperatures == tuple(member.temperature for member in plan.members)
    assert plan_of_file(contract, workspace=workspace).calibration == contract.calibration
    parity_of_file(file.path.read_bytes(), contract, workspace=workspace, data=dataset)  # or ParityError
    (subject,) = find_subjects([str(file.path)], workspace=workspace)
    assert build_classifier(subject).calibration == contract.calibration


def test_ranks_are_not_calibrated(workspace: Path, dataset: Dataset, tmp_path: Path) -> None:
    plan = plan_ensemble(["B", "E"], workspace=workspace, fusion="rrf")
    (file,) = export_plan(plan, folder=tmp_path, data=replace(dataset, official=True))
    assert check_model_file(file.path).calibration is None


def test_a_file_with_its_own_temperatures_is_verified_with_them(workspace: Path, tmp_path: Path) -> None:
    """As files were that had a temperature of their own in place of the adaptive one."""
    plan = plan_ensemble(["B", "E"], workspace=workspace)
    plan = replace(plan, members=tuple(replace(member, fitted=0.9) for member in plan.members))
    (file,) = export_plan(plan, folder=tmp_path)
    contract = check_model_file(file.path)
    assert contract.temperatures == (0.9, 0.9)
    parity_of_file(file.path.read_bytes(), contract, workspace=workspace)  # or ParityError
    (subject,) = find_subjects([str(file.path)], workspace=workspace)
    assert [member.temperature for member in build_classifier(subject).members] == [0.9, 0.9]


def test_a_member_with_weight_0_is_reported(workspace: Path, tmp_path: Path) -> None:
    said: list[str] = []
    (file,) = export_plan(
        plan_ensemble(["B", "E"], workspace=workspace, weights=[1.0, 0.0]), folder=tmp_path, warn=said.append
    )
    assert [line for line in said if "weight 0" in line] == [
        "B+E: E has weight 0, so it costs time and changes nothing: export without it"
    ]
    assert file.path.exists()
