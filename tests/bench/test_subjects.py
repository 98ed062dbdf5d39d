"""Finding models by name: exports in every precision, runs, files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench_files import tiny_model

from fer_deploy.bench.subjects import Subject, failure_text, find_subjects
from fer_deploy.errors import MeasurementError, UnavailableError


def test_no_name_takes_all_exports_single_models_first(workspace: Path) -> None:
    (workspace / "exports" / "a+b.onnx").write_bytes(tiny_model(name="a+b"))
    (workspace / "exports" / "one.int8.onnx").write_bytes(tiny_model(name="one", precision="int8"))
    subjects = find_subjects([], workspace=workspace)
    assert [subject.key for subject in subjects] == ["one", "one.int8", "two", "a+b"]


def test_a_name_takes_every_precision_and_a_path_one(workspace: Path) -> None:
    path = workspace / "exports" / "one.fp16.onnx"
    path.write_bytes(tiny_model(name="one", precision="fp16"))
    assert [subject.key for subject in find_subjects(["one"], workspace=workspace)] == ["one", "one.fp16"]
    assert [subject.key for subject in find_subjects([str(path)], workspace=workspace)] == ["one.fp16"]
    assert len(find_subjects(["one", str(path)], workspace=workspace)) == 2


def test_files_of_one_name_are_distinguished_by_their_folders(workspace: Path) -> None:
    for folder, name in (("old", "m"), ("new", "m"), ("new/deep", "m"), ("old", "m.int8"), ("old", "alone")):
        path = workspace / folder / f"{name}.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tiny_model(name="m", precision="int8" if name.endswith("int8") else "fp32"))

    def keys(*names: str) -> list[str]:
        return [subject.key for subject in find_subjects([str(workspace / name) for name in names])]

    both = ["old/m.onnx", "new/m.onnx"]
    assert keys(*both, "old/m.int8.onnx", "old/alone.onnx") == ["old/m", "new/m", "old/m.int8", "alone"]
    assert keys(*both, "new/deep/m.onnx", "new/../old/m.onnx") == ["old/m", "new/m", "deep/m"]
    (workspace / "old" / "m.onnx").write_bytes(tiny_model(name="m", precision="int8"))
    with pytest.raises(MeasurementError, match=r"m\.onnx and .*m\.int8\.onnx would both be called .*: rename one"):
        keys("old/m.onnx", "old/m.int8.onnx")


def test_two_files_of_one_adapter_are_distinguished(workspace: Path) -> None:
    for name in ("emotion-ferplus-7", "emotion-ferplus-8"):
        (workspace / f"{name}.onnx").write_bytes(b"")
    paths = [str(path) for path in sorted(workspace.glob("*.onnx"))]
    assert [subject.key for subject in find_subjects(paths)] == ["emotion-ferplus-7", "emotion-ferplus-8"]
    assert [subject.key for subject in find_subjects(paths[:1])] == ["emotion-ferplus"]


def test_a_run_without_a_file_is_found(workspace: Path) -> None:
    run = workspace / "training" / "bare"
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    (subject,) = find_subjects(["bare"], workspace=workspace)
    assert (subject.kind, subject.runs) == ("run", (run,))


def test_members_are_found_in_training(workspace: Path) -> None:
    for name in ("B", "E"):
        (workspace / "training" / name).mkdir(parents=True)
        (workspace / "training" / name / "run.json").write_text("{}")
    members = json.dumps(["B", "B~mirror", "E"])
    model = tiny_model(name="B+E", members=members, weights="[0.25, 0.25, 0.5]")
    (workspace / "exports" / "B+E.onnx").write_bytes(model)
    (subject,) = find_subjects(["B+E"], workspace=workspace)
    assert [folder.name for folder in subject.runs] == ["B", "B", "E"]


def test_a_file_that_breaks_the_contract_is_a_subject_with_a_refusal(workspace: Path) -> None:
    (workspace / "exports" / "bad.onnx").write_bytes(b"no model")
    subjects = {subject.key: subject for subject in find_subjects([], workspace=workspace)}
    assert "bad.onnx" in (subjects["bad"].refusal or "")
    assert subjects["one"].refusal is None


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["three"], "no export and no run named 'three'.*one, two"),
        (["gone.onnx"], "gone.onnx: no such file"),
    ],
)
def test_unknown_names_list_the_known_ones(workspace: Path, names: list[str], message: str) -> None:
    with pytest.raises(MeasurementError, match=message):
        find_subjects(names, workspace=workspace)


def test_an_empty_workspace_names_the_next_command(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="ferdeploy train"):
        find_subjects([], workspace=tmp_path)


def test_reasons_are_one_line() -> None:
    assert failure_text(UnavailableError("absent:\n  no CUDA")) == "absent: no CUDA"
    assert failure_text(KeyError("x")) == "KeyError: 'x'"


@pytest.mark.parametrize(
    ("record", "learned"),
    [
        ('{"format": 1, "status": "complete", "recipe": {"labels": "ferplus"}}', True),
        ('{"format": 1, "status": "complete"}', False),
        ('{"format": 1, "status": "complete", "recipe": ["labels"]}', False),
        ("{", False),
    ],
)
def test_an_unreadable_record_is_not_a_ferplus_run(tmp_path: Path, record: str, learned: bool) -> None:
    (tmp_path / "run.json").write_text(record)
    assert Subject(name="x", kind="run", precision="fp32", runs=(tmp_path,)).learned_ferplus == learned
