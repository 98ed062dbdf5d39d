"""Exports that are interrupted or run at the same time: nothing is half-written, and the next run works.

The normal suite interrupts a whole export once with each signal; FERDEPLOY_KILLS=20 does so 20 times, half of them at a
random moment, the others as soon as it begins to write. Each is a test of its own, and `pytest -s` prints what came of
it. All times follow from one export that nothing disturbed. A kill at each file operation of the last step, which is
over in milliseconds, is always tried.
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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from fer_deploy.export.manifest import read_manifest
from fer_deploy.export.verify import verify_file

KILLS = int(os.environ.get("FERDEPLOY_KILLS", "1"))
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
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


@dataclass
class Undisturbed:
    """An export of B that nothing disturbed.

    Attributes:
        files: its files' contents, by name.
        seconds: how long it took, or the last interrupted one that ended before its signal: machines slow down and
            speed up.
        limit_s: an export that takes longer hangs, also if the machine has more to do by then.
    """

    files: Mapping[str, bytes]
    seconds: float

    @property
    def limit_s(self) -> float:
        return 20 * self.seconds


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


def _finish(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        output, _ = process.communicate()
        assert process.returncode == 0, output


def _entry_of_b(files: Mapping[str, bytes]) -> object:
    return json.loads(files["manifest.json"])["files"]["B.nx48x48.onnx"]


@pytest.fixture(scope="module")
def undisturbed(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(workspace / "training", folder / "training")
    start = time.monotonic()
    _finish(_start(folder, "B"))
    return Undisturbed(_contents(folder), time.monotonic() - start)


@pytest.fixture(scope="module")
def interrupted(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which one export after the other is interrupted."""
    folder = tmp_path_factory.mktemp("interrupted")
    shutil.copytree(workspace / "training", folder / "training")
    return folder


def test_three_exports_at_once_into_one_folder(undisturbed: Undisturbed, workspace: Path, tmp_path: Path) -> None:
    shutil.copytree(workspace / "training", tmp_path / "training")
    _finish(*(_start(tmp_path, name) for name in ("B", "E", "B")))
    files = _contents(tmp_path)
    assert sorted(json.loads(files["manifest.json"])["files"]) == ["B.nx48x48.onnx", "E.nx48x48.onnx"]
    for path in sorted((tmp_path / "exports").glob("*.onnx")):
        assert verify_file(path, workspace=tmp_path).verdict == "proven"
    assert files.keys() == undisturbed.files.keys() | {"E.nx48x48.onnx"}  # and no temporary file
    assert _entry_of_b(files) == _entry_of_b(undisturbed.files)


@pytest.mark.parametrize("repeat", range(KILLS))
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_an_interrupted_export_leaves_nothing_half_written(
    undisturbed: Undisturbed, interrupted: Path, number: signal.Signals, repeat: int
) -> None:
    before = _contents(interrupted)
    while_writing = repeat % 2 == 1
    after_s = 0.0 if while_writing else random.Random(f"{number.name} {repeat}").uniform(0.1, undisturbed.seconds)
    start = time.monotonic()
    process = _start(interrupted, "B")
    time.sleep(after_s)
    while while_writing and process.poll() is None and not _new_partial_files(interrupted, before):
        time.sleep(0.001)
    process.send_signal(number)
    after_s = time.monotonic() - start
    output, _ = process.communicate(timeout=undisturbed.limit_s)
    left = _contents(interrupted)
    partial = _new_partial_files(interrupted, before)
    moment = "while writing" if while_writing else "at a random moment"
    took = undisturbed.seconds
    if process.returncode == 0:
        undisturbed.seconds = after_s
    print(
        f"{number.name} after {after_s:.1f} of {took:.1f} s, {moment}: exit code {process.returncode}, "
        f"{len(left)} files, {len(partial)} temporary"
    )

    assert process.returncode in (0, 130, -number), output
    if process.returncode == 130:
        assert "No half-written file is left" in output
    if number != signal.SIGKILL:
        assert not partial
    for name, content in left.items():
        if name == "manifest.json":
            manifest = read_manifest(interrupted / "exports")
            assert manifest is not None
            assert manifest.files.keys() == {"B.nx48x48.onnx"}
        elif not name.endswith(".partial"):
            assert content == undisturbed.files[name], name


def _new_partial_files(workspace: Path, before: Mapping[str, bytes]) -> list[Path]:
    folder = workspace / "exports"
    return [path for path in folder.rglob(".*.partial") if str(path.relative_to(folder)) not in before]


def test_an_export_after_interrupted_ones_gives_the_same_bytes(undisturbed: Undisturbed, interrupted: Path) -> None:
    _finish(_start(interrupted, "B"))
    files = _contents(interrupted)
    assert files.keys() == undisturbed.files.keys()  # and no temporary file
    assert files["B.nx48x48.onnx"] == undisturbed.files["B.nx48x48.onnx"]
    assert _entry_of_b(files) == _entry_of_b(undisturbed.files)
