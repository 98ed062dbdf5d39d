"""`ferdeploy score` as people call it: messages, exit codes, and what is refused before Ray starts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tiny_model import grey_face, write_tiny_model

pytest.importorskip("ray", reason="Ray is absent: pip install 'fer-deploy[score]'")


def score(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fer_deploy", "score", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "tiny.onnx")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number, label in enumerate(("happy", "sad", "happy", "fear")):
        Image.fromarray(grey_face(label)).save(folder / f"{number}.png")
    return folder


def test_a_bad_picture_makes_the_exit_code_1(pictures: Path, model: Path, tmp_path: Path) -> None:
    (pictures / "text.jpg").write_text("no picture")
    (pictures / "IMG_1.HEIC").write_bytes(b"")
    (pictures / "_MG_1.png").write_bytes((pictures / "0.png").read_bytes())
    (pictures / "@eaDir").mkdir()
    (pictures / "_SUCCESS").touch()
    done = score(pictures, tmp_path / "out", "--model", model, "--workers", 1)
    assert done.returncode == 1
    assert done.stderr.startswith("error: 1 of 6 rows have no result: their column `error` gives the reason")
    assert done.stderr.count("\n") == 1
    assert "images: 1 part, 6 rows" in done.stdout
    assert "left out: 1 *.heic (save as JPEG), 1 @eaDir, 1 _SUCCESS\n" in done.stdout
    assert "happy 60.0%, sad 20.0%, fear 20.0%" in done.stdout
    summary = json.loads((tmp_path / "out" / "_summary.json").read_text())
    assert (summary["rows"], summary["bad_rows"], summary["whole"]) == (6, 1, True)
    again = score(pictures, tmp_path / "out", "--model", model)
    assert again.returncode == 1, "the bad row is still bad"
    assert "finished already: 1 part\n" in again.stdout


def test_refusals_are_one_line(pictures: Path, model: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_text("no model")
    for words, message in (
        ((tmp_path / "absent", tmp_path / "out", "--model", model), "absent: no such file or folder"),
        ((pictures, tmp_path / "out", "--model", tmp_path / "absent.onnx"), "absent.onnx: no such file"),
        ((pictures, tmp_path / "out", "--model", damaged), "damaged.onnx is not an ONNX file"),
        ((pictures, pictures / "out", "--model", model), "is inside the input: choose a folder beside it"),
        ((pictures, tmp_path / "out", "--model", model, "--provider", "qnn"), "here has no qnn"),
    ):
        done = score(*words)
        assert done.returncode == 1, words
        assert message in done.stderr
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1


def test_wrong_usage_exits_with_2(pictures: Path, tmp_path: Path) -> None:
    assert score(pictures).returncode == 2
    assert score(pictures, tmp_path / "out", "--kind", "zip").returncode == 2
    assert score(pictures, tmp_path / "out", "--workers", 0).returncode == 2
