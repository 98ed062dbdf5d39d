"""Exports that are interrupted or run at the same time: nothing is half-written, and the next run works.

FERDEPLOY_KILLS=20 interrupts a whole export so many times with each signal, at random moments; the normal suite does so
once. A kill at each single file operation of the last step, which is over in milliseconds, is always tried.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from fer_deploy.export.manifest import read_manifest
from fer_deploy.export.verify import verify_file

KILLS = int(os.environ.get("FERDEPLOY_KILLS", "1"))
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and fork are POSIX's")

KILL_AT_EACH_STEP = """
import json, os, signal, sys
from pathlib import Path
from fer_deploy.export.manifest import publish, read_manifest

folder = Path(sys.argv[1])
OLD, NEW = b"old" * 100_000, b"new" * 100_000
publish(folder, "B.onnx", OLD, {"sha256": "old"})
before = (folder / "manifest.json").read_bytes()

def publish_until(step):
    count = 0
    def hook(event, arguments):
        nonlocal count
        if event in ("open", "os.rename", "os.remove", "os.chmod", "os.mkdir") and str(folder) in str(arguments[0]):
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    publish(folder, "B.onnx", NEW, {"sha256": "new"})
    os._exit(0)

states = []
for step in range(1, 200):
    child = os.fork()
    if child == 0:
        publish_until(step)
    status = os.waitpid(child, 0)[1]
    content = (folder / "B.onnx").read_bytes()
    assert content in (OLD, NEW)
    states.append(["new" if content == NEW else "old", read_manifest(folder).files["B.onnx"]["sha256"]])
    if status == 0:
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
    (folder / "B.onnx").write_bytes(OLD)
    (folder / "manifest.json").write_bytes(before)
    (folder / "golden" / "colour-1x1.bin").unlink(missing_ok=True)  # so that it is written again
print(json.dumps(states))
"""


def test_a_kill_at_any_file_operation_leaves_whole_files(tmp_path: Path) -> None:
    """One process is killed at its first operation in the folder, the next at its second, until one finishes."""
    done = subprocess.run(
        [sys.executable, "-c", KILL_AT_EACH_STEP, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    states = json.loads(done.stdout)
    assert len(states) > 8
    assert ["old", "old"] in states  # killed before the file was moved
    assert ["new", "old"] in states  # between file and manifest
    assert states[-1] == ["new", "new"]
    assert not list(tmp_path.rglob("*.partial"))


@dataclass(frozen=True)
class Finished:
    """A workspace whose exports ran undisturbed."""

    workspace: Path
    seconds: float

    @property
    def files(self) -> dict[str, bytes]:
        return _contents(self.workspace)


def _contents(workspace: Path) -> dict[str, bytes]:
    folder = workspace / "exports"
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".manifest.lock"
    }


def _start(workspace: Path, *names: str) -> subprocess.Popen[str]:
    # Of one picture size, parity is checked in two cases instead of eleven.
    options = ("--static", "nx48x48", "--data", "synthetic:70", "--workspace", str(workspace))
    return subprocess.Popen(
        [sys.executable, "-m", "fer_deploy", "export", *names, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def finished(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """B, E and B again, exported at the same time into one folder, undisturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(workspace / "training", folder / "training")
    start = time.monotonic()
    processes = [_start(folder, name) for name in ("B", "E", "B")]
    for process in processes:
        output, _ = process.communicate()
        assert process.returncode == 0, output
    return Finished(folder, time.monotonic() - start)


def test_three_exports_at_once_into_one_folder(finished: Finished) -> None:
    assert sorted(json.loads(finished.files["manifest.json"])["files"]) == ["B.nx48x48.onnx", "E.nx48x48.onnx"]
    for path in sorted((finished.workspace / "exports").glob("*.onnx")):
        assert verify_file(path, workspace=finished.workspace).verdict == "proven"
    assert not [name for name in finished.files if name.endswith(".partial")]


def test_an_interrupted_export_leaves_nothing_half_written(finished: Finished, tmp_path: Path) -> None:
    shutil.copytree(finished.workspace / "training", tmp_path / "training")
    generator = random.Random(0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL) * KILLS:
        process = _start(tmp_path, "B")
        time.sleep(generator.uniform(0.1, finished.seconds))
        process.send_signal(number)
        output, _ = process.communicate(timeout=300)
        if process.returncode == 130:
            assert "No half-written file is left" in output
        left = {name: content for name, content in _contents(tmp_path).items() if not name.endswith(".partial")}
        for name, content in left.items():
            if name == "manifest.json":
                assert read_manifest(tmp_path / "exports") is not None
            else:
                assert content == finished.files[name], name
    process = _start(tmp_path, "B")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    # the same export twice, byte for byte, and no temporary file
    assert _contents(tmp_path).keys() == finished.files.keys() - {"E.nx48x48.onnx"}
    assert _contents(tmp_path)["B.nx48x48.onnx"] == finished.files["B.nx48x48.onnx"]
    entries = [json.loads(files["manifest.json"])["files"] for files in (_contents(tmp_path), finished.files)]
    assert entries[0]["B.nx48x48.onnx"] == entries[1]["B.nx48x48.onnx"]
