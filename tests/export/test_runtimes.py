"""The files in the oldest ONNX Runtime that can be installed here, as well as in the newest: the same answers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from fer_deploy.export.golden import GOLDEN_TOLERANCES, draw_golden_inputs
from fer_deploy.export.int8.quantise import to_int8
from fer_deploy.export.int8.ranges import Int8Settings
from fer_deploy.export.metadata import ExportedFile
from fer_deploy.faces import Dataset

ROOT = Path(__file__).parents[2]
OLDEST = ROOT / "build" / "onnxruntime-oldest"
"""Where tests/get_apps.sh puts it, with the NumPy that it was built for."""

REPLAY = """
import json, sys
import numpy, onnxruntime
folder, manifest = sys.argv[1], json.load(open(sys.argv[1] + "/manifest.json"))
found = {}
for name, entry in manifest["files"].items():
    session = onnxruntime.InferenceSession(f"{folder}/{name}", providers=["CPUExecutionProvider"])
    worst = 0.0
    for golden in manifest["golden"]:
        pictures = numpy.fromfile(f"{folder}/{golden['file']}", numpy.uint8).reshape(golden["shape"])
        (answer,) = session.run(["probabilities"], {"faces": pictures})
        worst = max(worst, float(numpy.abs(answer - numpy.array(entry["golden"]["outputs"][golden["file"]])).max()))
    found[name] = worst
print(json.dumps([onnxruntime.__version__, found]))
"""


def _replayed(folder: Path, packages: Path | None) -> tuple[str, dict[str, float]]:
    """The runtime's version, and each file's largest difference from its golden outputs."""
    environment = os.environ | ({"PYTHONPATH": str(packages)} if packages else {})
    command = [sys.executable, "-c", REPLAY, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    version, found = json.loads(done.stdout)
    return version, found


@pytest.fixture(scope="module")
def folder(
    exports: dict[str, ExportedFile], model: onnx.ModelProto, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The exports of the tests, and an int8 file beside them."""
    target = tmp_path_factory.mktemp("runtimes")
    shutil.copytree(exports["B.onnx"].path.parent, target, dirs_exist_ok=True)
    quantised = to_int8(model, dataset.training.take(np.arange(64)), settings=Int8Settings())
    content = quantised.SerializeToString(deterministic=True)
    (target / "B.int8.onnx").write_bytes(content)
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    manifest = json.loads((target / "manifest.json").read_text())
    manifest["files"]["B.int8.onnx"] = {
        "precision": "int8",
        "golden": {
            "outputs": {
                golden.file: session.run(None, {"faces": golden.pictures})[0].tolist()
                for golden in draw_golden_inputs()
            }
        },
    }
    (target / "manifest.json").write_text(json.dumps(manifest))
    return target


@pytest.mark.parametrize("packages", [OLDEST, None], ids=["oldest", "installed"])
def test_every_precision_agrees(folder: Path, packages: Path | None) -> None:
    if packages and not (packages / "onnxruntime").is_dir():
        pytest.skip("the oldest ONNX Runtime is absent: run tests/get_apps.sh")
    version, found = _replayed(folder, packages)
    if packages:
        wanted = {(3, 11): "1.16.", (3, 12): "1.17.", (3, 13): "1.20."}[sys.version_info[:2]]
        assert version.startswith(wanted)
    assert sorted(found) == ["B+B~mirror+E.rrf.onnx", "B.fp16.onnx", "B.int8.onnx", "B.onnx"]
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, difference in found.items():
        assert difference <= GOLDEN_TOLERANCES[manifest["files"][name]["precision"]], name
