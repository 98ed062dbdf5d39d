"""The released files: each one that this repository holds is exported again from its run, to the same bytes.

Nothing that goes into a file (graph, names, metadata) may change unnoticed. Three files stand for their kinds in the
normal suite; FERDEPLOY_ALL_RELEASED=1 takes them all, and, where the real faces are there, the int8 files too (3 min of
one core).
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from fer_deploy.ensemble import member_runs
from fer_deploy.export.build import build_model
from fer_deploy.export.int8.quantise import to_int8
from fer_deploy.export.int8.ranges import Int8Settings, activation_ranges
from fer_deploy.export.int8.search import CALIBRATION_FACES
from fer_deploy.export.metadata import file_metadata
from fer_deploy.export.plan import FER2013_LICENSE, Plan, plan_of_file
from fer_deploy.faces import Dataset
from fer_deploy.model.contract import ModelContract, check_model_file

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
    assert _digest(_finished(model, plan, contract)) == _digest(path.read_bytes())


@pytest.mark.skipif(not ALL, reason="takes minutes: set FERDEPLOY_ALL_RELEASED=1")
@pytest.mark.parametrize("name", released("int8"))
def test_a_released_int8_file_is_quantised_again_byte_for_byte(name: str, fer2013: Dataset) -> None:
    """With the settings that its search chose. Processors may differ in the last bit of an activation's scale."""
    path = ROOT / "exports" / name
    contract = check_model_file(path)
    record = json.loads((ROOT / "exports" / "manifest.json").read_text())["files"][name]["int8"]
    plan = plan_of_file(contract, workspace=ROOT)
    model = build_model(plan.classifier(), shape=contract.shape)
    faces = fer2013.clean_training
    few = faces.take(np.unique(np.linspace(0, len(faces) - 1, CALIBRATION_FACES).astype(np.int64)))
    settings = Int8Settings(per_channel=record["per_channel"], float_layers=tuple(record["float_layers"]))
    ranges = activation_ranges(model, few, settings=Int8Settings())
    quantised = to_int8(model, few, settings=settings, ranges=ranges)
    recorded = {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}
    for tensor in quantised.graph.initializer:
        if tensor.name.endswith("_scale"):
            scales = [onnx.numpy_helper.to_array(one) for one in (tensor, recorded[tensor.name])]
            np.testing.assert_allclose(*scales, rtol=1e-6)
            tensor.CopyFrom(recorded[tensor.name])
    assert _digest(_finished(quantised, plan, contract)) == _digest(path.read_bytes())


def _finished(model: onnx.ModelProto, plan: Plan, contract: ModelContract) -> bytes:
    """The file's bytes, with the accuracy that it was released with: measuring it takes the test split."""
    measured = {key: contract.metadata[key] for key in ("accuracy", "accuracy_split")}
    onnx.helper.set_model_props(model, file_metadata(plan, contract.precision) | measured)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("name", [*released("fp32"), *released("int8")])
def test_a_released_file_says_that_its_weights_are_for_research(name: str) -> None:
    assert check_model_file(ROOT / "exports" / name).metadata["license"] == FER2013_LICENSE


def test_the_chosen_released_files_are_present() -> None:
    if not (ROOT / "exports" / "manifest.json").is_file():
        pytest.skip("this checkout has no exports")
    assert set(CHOSEN) <= set(released("fp32"))
