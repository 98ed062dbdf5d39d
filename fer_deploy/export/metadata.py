"""What a file states about itself, in its ONNX metadata, and what the manifest records about it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

import fer_deploy
from fer_deploy.emotions import EMOTIONS
from fer_deploy.ensemble import Fusion, Weights, calibration_error, reliability
from fer_deploy.export.golden import GOLDEN_TOLERANCES
from fer_deploy.export.parity import Parity
from fer_deploy.export.plan import Plan, data_name


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
    quality: FileQuality | None
    """Of the file itself on the test split; None without data."""
    accuracy_split: str | None
    note: str = ""
    """For int8: how the file was quantised, and its speed compared with fp32."""

    @property
    def accuracy(self) -> float | None:
        """Accuracy of the file itself on the test split, 0 to 1; None without data."""
        return self.quality.accuracy if self.quality else None


@dataclass(frozen=True)
class FileQuality:
    """A file's answers on the test split."""

    accuracy: float
    """0 to 1."""
    recall: tuple[float | None, ...]
    """The share of each label's faces that are classified correctly; None where the split has no face of it."""
    calibration_error: float
    """The expected calibration error, see `ensemble.calibration_error`."""

    @classmethod
    def of(cls, probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> Self:
        """From probabilities (n, classes) and the faces' labels (n,), n at least 1."""
        correct = probabilities.argmax(axis=1) == labels
        classes = (correct[labels == label] for label in range(probabilities.shape[1]))
        recall = tuple(float(some.mean()) if len(some) else None for some in classes)
        return cls(float(correct.mean()), recall, calibration_error(reliability(probabilities, labels)))


def file_metadata(plan: Plan, precision: str) -> dict[str, str]:
    """The file's `metadata_props`, by key. `write` adds the accuracy where it was measured."""
    runs = [member.run for member in plan.members]
    trained_on = dict.fromkeys(
        data_name(run) + (" with FER+ labels" if run.recipe.labels == "ferplus" else "") for run in runs
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
        **({"license": plan.license} if plan.license else {}),
        "ferdeploy_version": fer_deploy.__version__,
        # ONNX's own keys for pictures: https://github.com/onnx/onnx/blob/main/docs/MetadataProps.md
        "Image.BitmapPixelFormat": "Rgb8",
        "Image.ColorSpaceGamma": "SRGB",
        "Image.NominalPixelRange": "NominalRange_0_255",
    }


def quality_entry(quality: FileQuality | None, labels: Sequence[str]) -> dict[str, Any]:
    """What the manifest records of a file's quality besides its accuracy."""
    if quality is None:
        return {}
    recall = dict(zip(labels, quality.recall, strict=True))
    return {"recall": recall, "calibration_error": quality.calibration_error}


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
        **quality_entry(exported.quality, plan.labels),
        "parity": exported.parity.as_dict(),
        "golden": {
            "tolerance": GOLDEN_TOLERANCES[exported.precision],
            "outputs": {
                file: [[float(f"{value:.9g}") for value in row] for row in rows] for file, rows in golden.items()
            },
        },
    }
