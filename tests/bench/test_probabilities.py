"""Stored probabilities of networks without stored weights: the study's table agrees with them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fer_deploy.faces import load_dataset
from fer_deploy.recognizer import Recognizer

ROOT = Path(__file__).resolve().parents[2]
KEPT = sorted((ROOT / "training").glob("*/probabilities.safetensors"))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.parent.name)
def test_the_studys_table_agrees_with_the_stored_probabilities(path: Path) -> None:
    report = json.loads((ROOT / "benchmarks" / "study" / "report.json").read_text(encoding="utf-8"))
    (row,) = (row for row in report["rows"] if row["name"] == path.parent.name)
    labels = np.array([int(digit) for digit in report["data"]["labels"]])
    stored = load_file(path)["PrivateTest"]
    assert stored.dtype == np.float16
    np.testing.assert_allclose(stored.sum(1, dtype=np.float64), 1, atol=2e-3)
    correct = int((stored.argmax(1) == labels).sum())
    assert abs(correct - round(row["accuracy"] * len(labels))) <= 2  # float16 may round two probabilities to a tie


def test_both_splits_are_stored_in_their_order(tmp_path: Path) -> None:
    model = ROOT / "exports" / "lite-mini-taught.int8.onnx"
    command = [
        sys.executable,
        "benchmarks/probabilities.py",
        str(model),
        "--data",
        "synthetic",
        "--output",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kept, dataset = load_file(tmp_path / "probabilities.safetensors"), load_dataset("synthetic")
    recognizer = Recognizer(model)
    for name, faces in (("PublicTest", dataset.validation), ("PrivateTest", dataset.test)):
        few = np.repeat(faces.images[:9, ..., np.newaxis], 3, 3)
        assert kept[name].shape == (len(faces), 7)
        np.testing.assert_allclose(kept[name][:9], recognizer.probabilities(few), atol=1e-3)
        assert f"{name}: {(kept[name].argmax(1) == faces.labels).mean():.2%} of {len(faces):,} faces" in done.stdout
