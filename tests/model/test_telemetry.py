"""ONNX Runtime from 1.29 on stores a device id in HOME and starts a thread that reports events, unless it is stopped.

Both are looked for after real work, in a process whose HOME is an empty folder. A name can be looked up, or a report be
sent, only by that thread.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_model import write_tiny_model

ROOT = Path(__file__).parents[2]

LIBRARY = """
from fer_deploy import Recognizer
import numpy as np
recognizer = Recognizer(sys.argv[1], threads=1)
threads = set(os.listdir("/proc/self/task")) - before
recognizer.predict(np.zeros((48, 48), np.uint8))
"""
EXAMPLE = """
import runpy
sys.argv = ["emotions.py", sys.argv[1], sys.argv[2], "1", "48", "48"]
runpy.run_path("examples/python/emotions.py")
threads = set()  # its session uses all cores
"""
PROLOGUE = "import os, sys\nimport numpy\nbefore = set(os.listdir('/proc/self/task'))\n"
EPILOGUE = "\nassert not threads, threads\n"


@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    (tmp_path / "home").mkdir()
    return kept | {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}


@pytest.mark.skipif(sys.platform != "linux", reason="threads are listed in /proc")
@pytest.mark.parametrize("program", [LIBRARY, EXAMPLE], ids=["library", "example"])
def test_no_device_id_is_stored_and_no_thread_reports(
    program: str, surroundings: dict[str, str], tmp_path: Path
) -> None:
    model = write_tiny_model(tmp_path / "a.onnx")
    (tmp_path / "faces.bin").write_bytes(bytes(48 * 48 * 3))
    subprocess.run(
        [sys.executable, "-c", PROLOGUE + program + EPILOGUE, str(model), str(tmp_path / "faces.bin")],
        env=surroundings, cwd=ROOT, check=True, timeout=60,
    )  # fmt: skip
    assert list((tmp_path / "home").rglob("*")) == []


def test_the_command_stores_nothing(surroundings: dict[str, str], tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "a.onnx")
    photo = Path(__file__).parents[1] / "pictures" / "astronaut.jpg"
    subprocess.run(
        [sys.executable, "-m", "fer_deploy", "predict", photo, "--crops", "--model", model],
        env=surroundings, cwd=tmp_path, check=True, timeout=60, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    assert [path for path in (tmp_path / "home").rglob("*") if path.is_file()] == []


@pytest.mark.skipif(shutil.which("node") is None, reason="no node")
def test_the_example_for_node_stores_nothing(surroundings: dict[str, str], tmp_path: Path) -> None:
    folder = ROOT / "examples" / "node"
    if not (folder / "node_modules").is_dir():
        pytest.skip("examples/node has no node_modules")
    model = write_tiny_model(tmp_path / "a.onnx")
    (tmp_path / "faces.bin").write_bytes(bytes(48 * 48 * 3))
    subprocess.run(
        ["node", folder / "emotions.mjs", model, tmp_path / "faces.bin", "1", "48", "48"],
        env=surroundings, check=True, timeout=60, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    assert list((tmp_path / "home").rglob("*")) == []


def test_a_users_own_setting_is_kept(surroundings: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import fer_deploy, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"],
        env=surroundings | {"ORT_DISABLE_TELEMETRY": "0"}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == "0"
