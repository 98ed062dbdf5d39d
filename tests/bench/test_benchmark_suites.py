"""The pytest-benchmark suites run, and their saved runs are compared as ratios."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def compare_runs():
    spec = importlib.util.spec_from_file_location("compare_runs", ROOT / "benchmarks" / "compare_runs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def save(folder: Path, number: int, medians: dict[str, float]) -> None:
    folder.mkdir(exist_ok=True)
    entries = [{"fullname": name, "stats": {"median": median}} for name, median in medians.items()]
    (folder / f"{number:04d}_unversioned.json").write_text(json.dumps({"benchmarks": entries}))


@pytest.mark.parametrize(("fail_above", "code"), [("1.25", 1), ("3", 0)])
def test_ratios_of_the_last_two_runs(tmp_path: Path, capsys, fail_above: str, code: int) -> None:
    save(tmp_path / "Linux", 2, {"a": 9.0})  # an older run does not count
    save(tmp_path / "Linux", 9, {"a": 0.001, "b": 0.002, "gone": 1.0})
    save(tmp_path / "Linux", 10, {"a": 0.002, "b": 0.002, "new": 1.0})
    assert compare_runs().main(["--folder", str(tmp_path), "--fail-above", fail_above]) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "0010_unversioned.json over 0009_unversioned.json"
    assert [line.split()[0] for line in lines[1:-1]] == ["2.00", "1.00"]
    assert "of 2 are" in lines[-1]


def test_one_run_is_nothing_to_compare(tmp_path: Path, capsys) -> None:
    save(tmp_path / "Linux", 1, {"a": 1.0})
    assert compare_runs().main(["--folder", str(tmp_path)]) == 0
    assert "nothing to compare" in capsys.readouterr().out


def test_the_suites_run_on_a_workspace(workspace: Path, tmp_path: Path) -> None:
    """Each released file is measured, and percentiles are in the result."""
    result = tmp_path / "result.json"
    # pytest-benchmark measures nothing where pytest-xdist's variables say that tests run side by side.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", str(ROOT / "benchmarks"), "-q", "-p", "no:cacheprovider",
         "-k", "(test_file and one) or (test_load and two)", f"--benchmark-json={result}",
         "--benchmark-max-time=0.01", "--benchmark-min-rounds=3"],
        env={**environment, "FERDEPLOY_WORKSPACE": str(workspace), "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    entries = {entry["name"]: entry["extra_info"] for entry in json.loads(result.read_text())["benchmarks"]}
    assert {"test_file[one-1]", "test_file[one-32]", "test_load[two]"} <= set(entries)
    for extra in entries.values():
        assert 0 < extra["p50_ms"] <= extra["p90_ms"]
        assert ("p99_ms" in extra) == (extra["samples"] >= 1000)
