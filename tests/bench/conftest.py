"""Workspaces to measure: one of tiny files, one with a run and the file made of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_files import make_trained_workspace, tiny_model

from fer_deploy.emotions import EMOTIONS


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace with two files: `one`, which records its accuracy and cost, and `two`."""
    exports = tmp_path / "exports"
    exports.mkdir()
    recorded = {"accuracy": "0.61", "accuracy_split": "PrivateTest", "gflops": "0.0232"}
    (exports / "one.onnx").write_bytes(tiny_model(seed=1, name="one", **recorded))
    (exports / "two.onnx").write_bytes(tiny_model(seed=2, name="two"))
    return tmp_path


@pytest.fixture(scope="session")
def trained_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a run `small` of random weights and the ONNX file that is made of it: torch and file agree."""
    return make_trained_workspace(tmp_path_factory.mktemp("trained"), EMOTIONS)
