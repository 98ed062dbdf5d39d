"""What a file states about itself, in its ONNX metadata, and what the manifest records about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fer_deploy
from fer_deploy.emotions import EMOTIONS
from fer_deploy.ensemble import Fusion, Weights
from fer_deploy.export.golden import GOLDEN_TOLERANCES
from fer_deploy.export.parity import Parity
from fer_deploy.export.plan import Plan
from fer_deploy.training.run import Run

LICENSE = "Apache-2.0"
"""The licence of code and weights. The training data has terms of its own."""


@dataclass(frozen=True, eq=False)
class ExportedFile:
    """A file that was written, and the figures recorded about it."""

    path: Path
    name: str
    precision: str
    sha256: str
    bytes: int
    nodes: int
    members: tuple[str, ...]
    weights: Weights
    fusion: Fusion
    gflops: float
    parity: Parity
    accuracy: float | None
    """Accuracy of the file itself on the test split, 0 to 1; None without data."""
    accuracy_split: str | None
    note: str = ""
    """For int8: how the file was quantised, and its speed compared with fp32."""


def file_metadata(plan: Plan, precision: str) -> dict[str, str]:
    """The file's `metadata_props`, by key. `write` adds the accuracy where it was measured."""
    runs = [member.run for member in plan.members]
    trained_on = dict.fromkeys(
        _data_name(run) + (" with FER+ labels" if run.recipe.labels == "ferplus" else "") for run in runs
    )
    return {
        "labels": json.dumps(list(plan.labels), ensure_ascii=False),
        "name": plan.name,
        "members": json.dumps([member.name for member in plan.members]),
        "weights": json.dumps(list(plan.weights.values)),
        "weights_source": plan.weights.source,
        "fusion": plan.fusion,
        "temperatures": json.dumps([member.temperature for member in plan.members]),
        **({"adaptive_temperature": json.dumps([how.base, how.slope])} if (how := plan.calibration) else {}),
        "precision": precision,
        "gflops": f"{plan.gflops:.6f}",
        "trained_on": ", ".join(trained_on),
        "weights_sha256": json.dumps([run.weights_sha256 for run in runs]),
        "license": LICENSE,
        "ferdeploy_version": fer_deploy.__version__,
        # ONNX's own keys for pictures: https://github.com/onnx/onnx/blob/main/docs/MetadataProps.md
        "Image.BitmapPixelFormat": "Rgb8",
        "Image.ColorSpaceGamma": "SRGB",
        "Image.NominalPixelRange": "NominalRange_0_255",
    }


def _data_name(run: Run) -> str:
    data = run.record.get("data")
    return str(data.get("name", "unknown")) if isinstance(data, dict) else "unknown"


def manifest_entry(exported: ExportedFile, plan: Plan, golden: Mapping[str, NDArray[np.float32]]) -> dict[str, Any]:
    """The file's entry in the manifest; `golden` holds its probabilities for each golden input, by file name."""
    return {
        "name": exported.name,
        **({} if plan.labels == EMOTIONS else {"labels": list(plan.labels)}),  # the manifest's own are the seven
        "precision": exported.precision,
        "sha256": exported.sha256,
        "bytes": exported.bytes,
        "nodes": exported.nodes,
        "members": list(exported.members),
        "weights": list(exported.weights.values),
        "weights_source": exported.weights.source,
        "fusion": exported.fusion,
        "gflops": round(exported.gflops, 6),
        "weights_sha256": [member.run.weights_sha256 for member in plan.members],
        "accuracy": exported.accuracy,
        "accuracy_split": exported.accuracy_split,
        "parity": exported.parity.as_dict(),
        "golden": {
            "tolerance": GOLDEN_TOLERANCES[exported.precision],
            "outputs": {
                file: [[float(f"{value:.9g}") for value in row] for row in rows] for file, rows in golden.items()
            },
        },
    }
