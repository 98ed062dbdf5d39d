"""The released files: each one that this repository holds is exported again from its run, to the same bytes.

Nothing that goes into a file (graph, names, metadata) may change unnoticed. Three files stand for their kinds in the
normal suite; FERDEPLOY_ALL_RELEASED=1 takes them all (20 s of one core).
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import onnx
import pytest

from fer_deploy.ensemble import member_runs
from fer_deploy.export.build import build_model
from fer_deploy.export.metadata import file_metadata
from fer_deploy.export.plan import plan_of_file
from fer_deploy.model.contract import check_model_file

ROOT = Path(__file__).parents[2]
CHOSEN = ("plain-small-distilled.onnx", "lite-mini-taught.onnx", "lite-five-taught+lite-five-taught~mirror.onnx")
"""A plain network, a thinned one of timm's, and a fusion of two views."""
ALL = bool(os.environ.get("FERDEPLOY_ALL_RELEASED"))


def released(precision: str) -> list[str]:
    """The released files of a precision whose runs have their weights here."""
    manifest = ROOT / "exports" / "manifest.json"
    files: dict[str, Any] = json.loads(manifest.read_text())["files"] if manifest.is_file() else {}
    return [
        name
        for name, entry in files.items()
        if entry["precision"] == precision
        and (ROOT / "exports" / name).is_file()
        and all((ROOT / "training" / run / "weights.safetensors").is_file() for run in member_runs(entry["members"]))
    ]


@pytest.mark.parametrize("name", [name for name in released("fp32") if ALL or name in CHOSEN])
def test_a_released_file_is_exported_again_byte_for_byte(name: str) -> None:
    path = ROOT / "exports" / name
    contract = check_model_file(path)
    plan = plan_of_file(contract, workspace=ROOT)
    model = build_model(plan.classifier(), shape=contract.shape)
    measured = {key: contract.metadata[key] for key in ("accuracy", "accuracy_split")}  # takes the test split
    onnx.helper.set_model_props(model, file_metadata(plan, "fp32") | measured)
    content = model.SerializeToString(deterministic=True)
    assert hashlib.sha256(content).hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_chosen_released_files_are_present() -> None:
    if not (ROOT / "exports" / "manifest.json").is_file():
        pytest.skip("this checkout has no exports")
    assert set(CHOSEN) <= set(released("fp32"))
