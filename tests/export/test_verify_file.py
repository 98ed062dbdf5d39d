"""Verifying a file: what passes, every kind of damage that fails, and what is reported as not checked."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from trained_runs import train_network, write_run

from fer_deploy.export.metadata import ExportedFile
from fer_deploy.export.plan import Plan
from fer_deploy.export.verify import verify_file
from fer_deploy.export.write import export_plan
from fer_deploy.faces import Dataset


@pytest.fixture
def folder(exports: dict[str, ExportedFile], tmp_path: Path) -> Path:
    """A copy of the exports, alone in a workspace without runs."""
    target = tmp_path / "exports"
    shutil.copytree(exports["B.onnx"].path.parent, target)
    return target


def _statuses(path: Path, **options: object) -> dict[str, str]:
    return {check.name: check.status for check in verify_file(path, **options).checks}  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["B.onnx", "B.fp16.onnx", "B+B~mirror+E.rrf.onnx"])
def test_a_file_and_its_runs_agree(folder: Path, workspace: Path, dataset: Dataset, name: str) -> None:
    found = verify_file(folder / name, workspace=workspace, data=dataset)
    assert [(check.name, check.status) for check in found.checks] == [
        ("contract", "ok"),
        ("answers", "ok"),
        ("sha256", "ok"),
        ("golden vectors", "ok"),
        ("parity with the runs", "ok"),
    ]
    assert found.contract is not None
    assert found.verdict == "proven"
    assert f"{len(dataset.validation):,} faces (validation)" in found.checks[4].detail


def test_missing_runs_are_reported_as_skipped(folder: Path) -> None:
    found = verify_file(folder / "B.onnx")
    assert [check.status for check in found.checks] == ["ok", "ok", "ok", "ok", "skipped"]
    assert "has no run B" in found.skipped[0].detail
    assert found.verdict == "sound but unproven"


def test_the_runs_are_looked_for_above_the_file(folder: Path, workspace: Path) -> None:
    shutil.copytree(workspace / "training", folder.parent / "training")
    assert _statuses(folder / "B.onnx")["parity with the runs"] == "ok"


def test_a_file_changed_by_one_weight_fails_every_check_that_can_see_it(folder: Path, workspace: Path) -> None:
    path = folder / "B.onnx"
    model = onnx.load(path)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "conv_1.weight")
    values = numpy_helper.to_array(tensor).copy()
    values.flat[np.abs(values).argmax()] *= 1.5
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    path.write_bytes(model.SerializeToString())
    assert _statuses(path, workspace=workspace) == {
        "contract": "ok",
        "answers": "ok",
        "sha256": "failed",
        "golden vectors": "failed",
        "parity with the runs": "failed",
    }


def test_one_bit_of_metadata_is_seen(folder: Path) -> None:
    path = folder / "B.onnx"
    path.write_bytes(path.read_bytes().replace(b"trained_on", b"trained_oo"))
    assert _statuses(path)["sha256"] == "failed"


def test_a_file_that_breaks_the_contract_is_not_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "B.onnx"
    model = onnx.load(path)
    model.graph.node[0].domain = "com.example"
    path.write_bytes(model.SerializeToString())
    monkeypatch.setattr("fer_deploy.model.session.start_session", lambda *_: pytest.fail("it was given to the engine"))
    found = verify_file(path)
    assert [check.status for check in found.checks] == ["failed"]
    assert "custom operator 'com.example" in found.failed[0].detail


def test_retrained_weights_are_distinguished_from_a_wrong_file(folder: Path, dataset: Dataset, tmp_path: Path) -> None:
    write_run(tmp_path, "B", train_network(dataset, seed=7, epochs=0))
    found = verify_file(folder / "B.onnx", workspace=tmp_path)
    assert [check.detail for check in found.failed] == [
        f"{tmp_path / 'training' / 'B'} has other weights now than when the file was exported: export it again"
    ]


def test_without_a_manifest_the_rest_is_still_checked(folder: Path, workspace: Path) -> None:
    (folder / "manifest.json").unlink()
    assert _statuses(folder / "B.onnx", workspace=workspace) == {
        "contract": "ok",
        "answers": "ok",
        "sha256": "skipped",
        "golden vectors": "skipped",
        "parity with the runs": "ok",
    }


def test_golden_inputs_are_checked_too(folder: Path) -> None:
    path = folder / "golden" / "colour-48x48.bin"
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    found = verify_file(folder / "B.onnx")
    assert "is not the one that the manifest records" in found.failed[0].detail
    path.unlink()
    assert "no such file" in verify_file(folder / "B.onnx").failed[0].detail


def test_a_manifest_cannot_lead_out_of_its_folder(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["golden"][0]["file"] = "../../etc/passwd"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "outside its own folder" in verify_file(folder / "B.onnx").failed[0].detail


def test_golden_vectors_of_other_shapes_are_skipped(plan: Plan, workspace: Path, tmp_path: Path) -> None:
    (file,) = export_plan(plan, folder=tmp_path, shape=(2, 50, 40))
    found = verify_file(file.path, workspace=workspace)
    assert [check.name for check in found.skipped] == ["golden vectors"]
    assert found.skipped[0].detail == "none has the file's fixed shape"
    assert found.verdict == "sound but unproven"


def test_all_but_parity_needs_no_torch(folder: Path, workspace: Path) -> None:
    program = f"""
import sys
for name in ("torch", "onnx", "timm", "safetensors"):
    sys.modules[name] = None
from pathlib import Path
from fer_deploy.export.verify import verify_file
found = verify_file(Path({str(folder / "B.onnx")!r}), workspace=Path({str(workspace)!r}))
print([check.status for check in found.checks], found.skipped[0].detail)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.startswith("['ok', 'ok', 'ok', 'ok', 'skipped'] torch is not installed")
