"""Exported files: what they say of themselves, what the manifest keeps, what happens when one can't be written."""

from __future__ import annotations

import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from trained_runs import train_network, write_run

import fer_deploy
from fer_deploy.bench.engines.pytorch import build_classifier
from fer_deploy.bench.subjects import find_subjects
from fer_deploy.emotions import EMOTIONS
from fer_deploy.ensemble import STUDY_SOURCE, weighted_average
from fer_deploy.errors import ExportError, ParityError, RunError
from fer_deploy.export.card import write_card
from fer_deploy.export.export import (
    ExportedFile,
    Plan,
    export_plan,
    plan_ensemble,
    plan_run,
)
from fer_deploy.export.golden import GOLDEN_TOLERANCES, draw_golden_inputs
from fer_deploy.export.manifest import record_file
from fer_deploy.export.parity import PARITY_CASES, Reference, pictures_of
from fer_deploy.export.reproduce import parity_of_file, plan_of_file
from fer_deploy.faces import Dataset
from fer_deploy.model.contract import check_model_file
from fer_deploy.recognizer import Recognizer


def test_the_file_says_all_about_itself(exports: dict[str, ExportedFile], workspace: Path, plan: Plan) -> None:
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
    assert metadata["license"] == "Apache-2.0"
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


def test_golden_inputs_have_grey_and_colour_ones() -> None:
    inputs = {golden.file: golden.pictures for golden in draw_golden_inputs()}
    for file, pictures in inputs.items():
        grey = bool((pictures == pictures[..., :1]).all())
        assert grey == ("grey" in file)
    assert sum(pictures.nbytes for pictures in inputs.values()) < 500_000  # they are committed


def test_a_file_that_fails_its_gate_leaves_the_old_one(
    plan: Plan, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: object
) -> None:
    monkeypatch.setattr("fer_deploy.export.export.build_model", lambda *_, **__: model)  # saves the time to export
    monkeypatch.setattr("fer_deploy.export.parity.TOLERANCES", {"fp32": 1e-12})
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
    monkeypatch.setattr("fer_deploy.export.export.build_model", lambda *_, **__: model)
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


def test_other_files_keep_their_entries_until_golden_inputs_change(
    exports: dict[str, ExportedFile], tmp_path: Path
) -> None:
    record_file(tmp_path, "B.onnx", {"name": "B"})
    record_file(tmp_path, "E.onnx", {"name": "E"})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["files"] == {"B.onnx": {"name": "B"}, "E.onnx": {"name": "E"}}
    manifest["golden"][0]["sha256"] = "0" * 64
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    record_file(tmp_path, "E.onnx", {"name": "E"})
    assert list(json.loads((tmp_path / "manifest.json").read_text())["files"]) == ["E.onnx"]


def test_who_exports_into_one_folder_at_a_time_loses_no_entry(tmp_path: Path) -> None:
    names = [f"{number}.onnx" for number in range(40)]
    with ThreadPoolExecutor(8) as workers:
        list(workers.map(lambda name: record_file(tmp_path, name, {"name": name}), names))
    assert sorted(json.loads((tmp_path / "manifest.json").read_text())["files"]) == sorted(names)


class TestPlans:
    def test_the_studys_weights_are_used_and_flagged(self, workspace: Path) -> None:
        plan = plan_ensemble(["B", "E"], workspace=workspace)
        assert (plan.name, plan.weights.values, plan.weights.source) == ("B+E", (0.45, 0.55), STUDY_SOURCE)
        assert plan_ensemble(["B", "E"], workspace=workspace, fusion="rrf").name == "B+E.rrf"
        assert plan_ensemble(["B", "B~mirror"], workspace=workspace).weights.source == "equal"

    def test_weights_are_searched_on_validation_rows_alone(self, workspace: Path, dataset: Dataset) -> None:
        blind = Dataset(  # test rows that would poison any search that looked at them
            dataset.name, False, dataset.sha256, dataset.training, dataset.validation, dataset.test.take(np.arange(1))
        )
        plan = plan_ensemble(["B", "E"], workspace=workspace, data=blind, search=True)
        assert plan.weights.source == "searched on validation"
        alone = plan_ensemble(["B", "E"], workspace=workspace)
        members = Reference(alone.classifier(), dataset.validation).members(PARITY_CASES[0])
        labels = dataset.validation.labels

        def accuracy(weights: object) -> float:
            return float((weighted_average(members, weights).argmax(axis=1) == labels).mean())

        assert plan.weights.accuracy == pytest.approx(max(accuracy([i, 20 - i]) for i in range(21)))
        assert accuracy(plan.weights.values) == pytest.approx(plan.weights.accuracy)

    @pytest.mark.parametrize("names", [["B"], ["B", "E"]])
    def test_a_file_is_as_sure_as_it_is_right_on_validation_rows(
        self, names: list[str], workspace: Path, dataset: Dataset, tmp_path: Path
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
        assert told[0] == "what PyTorch says of the faces"

        def gap(path: Path) -> float:
            probabilities = np.concatenate(
                [Recognizer(path).probabilities(pictures) for pictures in pictures_of(faces, PARITY_CASES[0], batch=64)]
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

    def test_ranks_are_not_calibrated(self, workspace: Path, dataset: Dataset, tmp_path: Path) -> None:
        plan = plan_ensemble(["B", "E"], workspace=workspace, fusion="rrf")
        (file,) = export_plan(plan, folder=tmp_path, data=replace(dataset, official=True))
        assert check_model_file(file.path).calibration is None

    def test_a_file_with_other_temperatures_than_its_runs_is_held_against_them(
        self, workspace: Path, tmp_path: Path
    ) -> None:
        """As files were that had a temperature of their own in place of the adaptive one."""
        plan = plan_ensemble(["B", "E"], workspace=workspace)
        plan = replace(plan, members=tuple(replace(member, fitted=0.9) for member in plan.members))
        (file,) = export_plan(plan, folder=tmp_path)
        contract = check_model_file(file.path)
        assert contract.temperatures == (0.9, 0.9)
        parity_of_file(file.path.read_bytes(), contract, workspace=workspace)  # or ParityError
        (subject,) = find_subjects([str(file.path)], workspace=workspace)
        assert [member.temperature for member in build_classifier(subject).members] == [0.9, 0.9]

    def test_a_member_of_no_weight_is_named(self, workspace: Path, tmp_path: Path) -> None:
        said: list[str] = []
        (file,) = export_plan(
            plan_ensemble(["B", "E"], workspace=workspace, weights=[1.0, 0.0]), folder=tmp_path, warn=said.append
        )
        assert [line for line in said if "weight 0" in line] == [
            "B+E: E has weight 0, so it costs time and changes nothing: export without it"
        ]
        assert file.path.exists()

    def test_a_mirrored_member_shares_the_runs_weights(self, workspace: Path) -> None:
        first, second = plan_ensemble(["B", "B~mirror"], workspace=workspace).classifier().members
        assert first.network is second.network
        assert (first.mirrored, second.mirrored) == (False, True)

    @pytest.mark.parametrize(
        ("names", "options", "error", "message"),
        [
            (["B"], {}, ExportError, "two members or more"),
            (["B", "B"], {}, ExportError, "each member once"),
            (["B", "E"], {"weights": [1.0]}, ExportError, "as many weights"),
            (["B", "E"], {"weights": [0.0, 0.0]}, ExportError, "not all zero"),
            (["B", "nobody"], {}, RunError, "no run here"),
            (["B", "../B"], {}, RunError, "not the name of a run"),
            (["B", ""], {}, RunError, "not the name of a run"),
        ],
    )
    def test_wrong_ensembles_are_named(
        self, workspace: Path, names: list[str], options: dict[str, object], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            plan_ensemble(names, workspace=workspace, **options)  # type: ignore[arg-type]

    def test_an_unfinished_run_is_not_exported(self, dataset: Dataset, tmp_path: Path) -> None:
        run = write_run(tmp_path, "B", train_network(dataset, seed=0, epochs=0))
        record = json.loads((run.folder / "run.json").read_text()) | {"status": "training"}
        (run.folder / "run.json").write_text(json.dumps(record))
        with pytest.raises(RunError, match="has not finished"):
            plan_run("B", workspace=tmp_path)


class TestCard:
    def test_the_upload_folder_is_whole_and_the_card_is_read_by_the_hub(
        self, exports: dict[str, ExportedFile], tmp_path: Path
    ) -> None:
        hub = pytest.importorskip("huggingface_hub")
        folder = tmp_path / "exports"
        shutil.copytree(exports["B.onnx"].path.parent, folder)
        target = write_card("B", folder=folder)
        assert target == folder / "hub" / "B"
        names = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
        assert {"README.md", "manifest.json", "B.onnx", "B.fp16.onnx"} <= names
        assert not any("E" in name.removesuffix("README.md") for name in names)
        card = hub.ModelCard.load(target / "README.md")
        assert card.data.license == "apache-2.0"
        assert card.data.library_name == "onnx"
        values = {result.metric_name: result.metric_value for result in card.data.eval_results}
        assert values["accuracy (fp32)"] == pytest.approx(exports["B.onnx"].accuracy, abs=1e-4)
        assert all(result.dataset_type == "other" for result in card.data.eval_results)  # drawn faces are not FER2013
        for heading in ("Use", "Evaluation", "Training data", "Intended use and limits", "Licence"):
            assert f"\n## {heading}\n" in card.text
        assert "B.onnx" in card.text.split("```python\n")[1]  # and not a file of fixed size, where there is one
        (target / "B.int8.onnx").write_bytes(b"of an earlier upload")
        assert write_card("B", folder=folder) == target
        assert not (target / "B.int8.onnx").exists()
        assert {path.name for path in (target / "golden").iterdir()} == {
            Path(golden.file).name for golden in draw_golden_inputs()
        }

    def test_the_cards_code_runs(self, exports: dict[str, ExportedFile], tmp_path: Path) -> None:
        pytest.importorskip("huggingface_hub")
        from PIL import Image

        folder = tmp_path / "exports"
        shutil.copytree(exports["B.onnx"].path.parent, folder)
        target = write_card("B", folder=folder)
        code = (target / "README.md").read_text().split("```python\n")[1].split("```")[0]
        picture = draw_golden_inputs()[1].pictures[0]
        Image.fromarray(picture).save(tmp_path / "face.png")
        code = code.replace("face.jpg", str(tmp_path / "face.png")).replace('"B.onnx"', f"{str(target / 'B.onnx')!r}")
        printed: list[np.ndarray] = []
        exec(code, {"print": printed.append})
        manifest = json.loads((target / "manifest.json").read_text())
        recorded = manifest["files"]["B.onnx"]["golden"]["outputs"]["golden/colour-48x48.bin"][0]
        np.testing.assert_allclose(printed[0], recorded, atol=1e-6)

    def test_the_studys_weights_come_with_a_warning(self, exports: dict[str, ExportedFile], tmp_path: Path) -> None:
        pytest.importorskip("huggingface_hub")
        folder = tmp_path / "exports"
        shutil.copytree(exports["B.onnx"].path.parent, folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"]["B+B~mirror+E.rrf.onnx"]["weights_source"] = STUDY_SOURCE
        (folder / "manifest.json").write_text(json.dumps(manifest))
        text = (write_card("B+B~mirror+E.rrf", folder=folder) / "README.md").read_text()
        assert "that figure is optimistic" in text
        assert "reciprocal rank fusion" in text

    def test_a_model_that_was_not_exported_has_no_card(self, tmp_path: Path) -> None:
        pytest.importorskip("huggingface_hub")
        with pytest.raises(ExportError, match="no file of B"):
            write_card("B", folder=tmp_path)
