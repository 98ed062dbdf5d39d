"""An exported file with its golden vectors: the released ones where they are, else one made on the spot."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Exported:
    """One file of an exports folder, with its entry in the manifest."""

    folder: Path
    name: str
    manifest: dict[str, Any]

    @property
    def path(self) -> Path:
        return self.folder / self.name

    @property
    def tolerance(self) -> float:
        return float(self.manifest["files"][self.name]["golden"]["tolerance"])

    def golden(self) -> list[tuple[Path, tuple[int, int, int], np.ndarray]]:
        """Each golden input that this file takes: its raw bytes, faces x height x width, and the recorded answer."""
        outputs = self.manifest["files"][self.name]["golden"]["outputs"]
        return [
            (self.folder / entry["file"], tuple(entry["shape"][:3]), np.array(outputs[entry["file"]]))
            for entry in self.manifest["golden"]
            if entry["file"] in outputs
        ]


def exports_folder(make: Callable[[], Path]) -> Path:
    """The repository's exports, or what `make` gives with the file of a small network of random weights in it."""
    released = ROOT / "exports"
    if (released / "manifest.json").is_file() and _present_fp32(released):
        return released
    return _export_small_network(make())


def best_exported(folder: Path) -> Exported:
    """The file of a folder that an app would take: fp32, the fused one where there is one."""
    names = _present_fp32(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    return Exported(folder, max(names, key=lambda name: (name == "B+E.onnx", "+" in name, name)), manifest)


def _present_fp32(folder: Path) -> list[str]:
    """The fp32 files of a manifest that are there: a clone has the released ones alone."""
    files = json.loads((folder / "manifest.json").read_text())["files"]
    return [name for name, entry in files.items() if entry["precision"] == "fp32" and (folder / name).is_file()]


def _export_small_network(folder: Path) -> Path:
    """Torch's exporter and our passes on a small network, its last layer steep enough for answers that differ."""
    pytest.importorskip("torch", reason="no released exports, and no torch to make one: pip install fer-deploy[train]")
    import onnx
    import torch

    from fer_deploy import EMOTIONS, Recognizer
    from fer_deploy.ensemble import Weights
    from fer_deploy.export.build import build_model
    from fer_deploy.export.golden import GOLDEN_TOLERANCES, draw_golden_inputs
    from fer_deploy.export.graph import FaceClassifier, Member
    from fer_deploy.export.manifest import publish
    from fer_deploy.models.registry import build_network

    torch.manual_seed(0)
    networks = [build_network("plain", widths=(8, 16), depths=(1, 1)).eval() for _ in range(2)]
    with torch.no_grad():
        for network in networks:
            last = [layer for layer in network.modules() if isinstance(layer, torch.nn.Linear)][-1]
            last.weight.mul_(12)
    members = [Member("one", networks[0]), Member("two", networks[1], mirrored=True)]
    model = build_model(FaceClassifier(members, weights=Weights.of([0.45, 0.55], source="given"), fusion="wap"))
    properties = {"labels": json.dumps(EMOTIONS), "name": "one+two", "precision": "fp32"}
    onnx.helper.set_model_props(model, properties | {"members": '["one", "two"]', "weights": "[0.45, 0.55]"})
    path = folder / "one+two.onnx"
    content = model.SerializeToString(deterministic=True)
    path.write_bytes(content)
    recognizer = Recognizer(path, threads=1)
    outputs = {golden.file: recognizer.probabilities(golden.pictures).tolist() for golden in draw_golden_inputs()}
    golden = {"tolerance": GOLDEN_TOLERANCES["fp32"], "outputs": outputs}
    digest = hashlib.sha256(content).hexdigest()
    entry = {"name": "one+two", "precision": "fp32", "sha256": digest, "golden": golden}
    publish(folder, path.name, content, entry)
    return folder
