"""ONNX Runtime's own tools on exported files, with the options that docs/onnx.md names."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from fer_deploy.export.golden import draw_golden_inputs
from fer_deploy.export.metadata import ExportedFile

DOCS = Path(__file__).parents[2] / "docs" / "onnx.md"


def test_the_quantisation_preparation_of_the_docs_runs(exports: dict[str, ExportedFile], tmp_path: Path) -> None:
    """Its symbolic shape inference fails on a graph with free axes, so the docs leave it out."""
    (command,) = re.findall(r"`python -m (onnxruntime\.quantization\.preprocess .*)`", DOCS.read_text(encoding="utf-8"))
    source, target = exports["B.onnx"].path, tmp_path / "prepared.onnx"
    arguments = command.replace("exports/B.onnx", str(source)).replace("prepared.onnx", str(target)).split()
    done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    faces = {"faces": draw_golden_inputs()[3].pictures}
    answers = [
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, faces)[0]
        for path in (source, target)
    ]
    np.testing.assert_allclose(*answers, atol=1e-6)


def test_dynamic_quantisation_of_the_prepared_file_runs(exports: dict[str, ExportedFile], tmp_path: Path) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    target = tmp_path / "dynamic.onnx"
    quantization.quantize_dynamic(exports["B.onnx"].path, target, op_types_to_quantize=["MatMul", "Gemm"])
    session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
    answers = session.run(None, {"faces": draw_golden_inputs()[3].pictures})[0]
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-3)
