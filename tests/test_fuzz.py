"""`make fuzz` finds planted faults within a second, and its checks can run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

PLANTED = """
from harness import changed_bytes, changed_json, refuses_cleanly, search
from fer_deploy.errors import DataError

def test_bytes():
    def check(content):
        def read():
            if b"\\xff" in content[4:]:
                raise {error}
            raise DataError("refused")
        refuses_cleanly(read)
    search(check, content=changed_bytes([b"a valid file"]))

def test_json():
    def check(document):
        if not isinstance(document, dict) or not isinstance(document.get("a"), list):
            raise {error}
    search(check, document=changed_json([{{"a": [1, {{"b": 2}}]}}]))
"""


def run_pytest(
    *words: str, seconds: float, folder: Path, first: Path = ROOT / "fuzz"
) -> subprocess.CompletedProcess[str]:
    paths = ":".join(map(str, (first, ROOT / "fuzz", ROOT, ROOT / "tests")))
    environment = {**os.environ, "FUZZ_SECONDS": str(seconds), "PYTHONPATH": paths, "FUZZ_KEPT": str(folder / "kept")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=folder)


def test_planted_faults_are_found(tmp_path: Path) -> None:
    (tmp_path / "test_planted.py").write_text(PLANTED.format(error="RecursionError"))
    done = run_pytest("--rootdir", str(tmp_path), "test_planted.py", seconds=2, folder=tmp_path)
    assert done.returncode == 1, done.stdout
    assert "2 failed" in done.stdout
    assert {path.name for path in (tmp_path / "kept").iterdir()} >= {"test_bytes", "test_json"}
    again = run_pytest("--rootdir", str(tmp_path), "test_planted.py", seconds=0.01, folder=tmp_path)
    assert "2 failed" in again.stdout, "kept inputs are tried first"


def test_a_check_can_run(tmp_path: Path) -> None:
    done = run_pytest(str(ROOT / "fuzz" / "test_models.py"), "-k", "names", seconds=0.5, folder=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_a_crash_of_the_runtime_is_counted_and_its_file_kept(tmp_path: Path) -> None:
    fake = tmp_path / "first" / "onnxruntime" / "__init__.py"
    fake.parent.mkdir(parents=True)
    fake.write_text("import os\nos.abort()\n")
    check = str(ROOT / "fuzz" / "test_runtime.py")
    done = run_pytest(check, "-s", seconds=0.01, folder=tmp_path, first=tmp_path / "first")
    assert done.returncode == 0, done.stdout
    assert "crashed or hung the runtime, kept" in done.stdout
    assert list((tmp_path / "kept" / "runtime").glob("*.onnx"))
