"""Every example, run from the command line on the golden vectors' raw bytes and on picture files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from chromium import launch, serve_folder
from golden_exports import ROOT, Exported
from PIL import Image

from fer_deploy import EMOTIONS, Recognizer
from fer_deploy.faces.synthetic import colour_faces

EXAMPLES = ROOT / "examples"
Command = Callable[[], list[str]]
"""Returns the command line of an example without its arguments; skips the test where its tools are absent."""


def python_command() -> list[str]:
    return [sys.executable, "-W", "error", str(EXAMPLES / "python" / "emotions.py")]


def node_command() -> list[str]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is absent")
    if not (EXAMPLES / "node" / "node_modules" / "onnxruntime-node").is_dir():
        pytest.skip("onnxruntime-node is absent: npm install --prefix examples/node --ignore-scripts")
    return [node, str(EXAMPLES / "node" / "emotions.mjs")]


@cache
def compiled(folder: Path) -> Path:
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("a C++ compiler is absent: apt-get install g++")
    headers = EXAMPLES / "cpp" / "onnxruntime" / "include"
    if not (headers / "onnxruntime_cxx_api.h").is_file():
        pytest.skip("ONNX Runtime's headers are absent: run examples/cpp/get_headers.sh")
    libraries = sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    if not libraries:
        pytest.skip("this build of the Python package onnxruntime has no libonnxruntime.so to link with")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):  # as ONNX Runtime's releases for C and C++ name it
        (folder / name).symlink_to(libraries[-1])
    program = folder / "emotions"
    warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-isystem", str(headers)]
    source = str(EXAMPLES / "cpp" / "emotions.cpp")
    link = ["-L", str(folder), "-lonnxruntime", f"-Wl,-rpath,{folder}"]
    subprocess.run([compiler, "-std=c++17", "-O1", *warnings, source, *link, "-o", str(program)], check=True)
    return program


@pytest.fixture(params=["python", "node", "cpp"])
def command(request: pytest.FixtureRequest, cpp_folder: Path) -> list[str]:
    """The example's command line up to its arguments."""
    if request.param == "cpp":
        return [str(compiled(cpp_folder))]
    return {"python": python_command, "node": node_command}[request.param]()


def run(command: list[str], *arguments: object) -> list[dict[str, float]]:
    """The output of an example: one object per line, label to probability."""
    done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_same(answers: list[dict[str, float]], expected: np.ndarray, tolerance: float, what: object) -> None:
    assert [tuple(answer) for answer in answers] == [EMOTIONS] * len(expected), what
    np.testing.assert_allclose(
        [list(answer.values()) for answer in answers], expected, atol=tolerance, err_msg=str(what)
    )


def test_golden_answers_differ_enough_to_tell_a_wrong_example(exported: Exported) -> None:
    answers = np.concatenate([answer for _, _, answer in exported.golden()])
    assert len(answers) > 7
    distances = np.abs(answers[:, None] - answers[None]).max(axis=2)[~np.eye(len(answers), dtype=bool)]
    assert distances.min() > 10 * exported.tolerance


def test_golden_vectors(command: list[str], exported: Exported) -> None:
    for path, shape, expected in exported.golden():
        assert_same(run(command, exported.path, path, *shape), expected, 1e-4, path.name)


def test_other_precisions(command: list[str], exported: Exported) -> None:
    others = [name for name, entry in exported.manifest["files"].items() if entry["precision"] != "fp32"]
    if not others:
        pytest.skip("no fp16 or int8 file among the exports")
    for name in others:
        other = Exported(exported.folder, name, exported.manifest)
        path, shape, expected = other.golden()[0]
        assert_same(run(command, other.path, path, *shape), expected, other.tolerance, name)


@dataclass(frozen=True)
class Picture:
    path: Path
    floored: np.ndarray | None = None
    """The picture blended with white, uint8 (height, width, 3), rounded down to a grey level, not to the nearest."""

    def expected(self, exported: Exported, *, floored: bool = False) -> np.ndarray:
        """One row of probabilities from our runtime; with `floored`, for the picture as sharp blends it."""
        face = self.floored if floored and self.floored is not None else self.path
        return np.array([list(Recognizer(exported.path, threads=1).predict(face).probabilities.values())])


@pytest.fixture
def pictures(tmp_path: Path) -> list[Picture]:
    """A face as PNG: upright, turned with an EXIF orientation, and fading to transparent."""
    (face,) = colour_faces([3], height=90, width=70)
    image = Image.fromarray(face)
    image.save(tmp_path / "plain.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    opacity = Image.linear_gradient("L").resize(image.size)
    image.putalpha(opacity)
    image.save(tmp_path / "transparent.png")
    alpha = np.asarray(opacity, np.uint32)[:, :, np.newaxis]
    floored = ((face * alpha + 255 * (255 - alpha)) // 255).astype(np.uint8)
    return [
        Picture(tmp_path / "plain.png"),
        Picture(tmp_path / "turned.png"),
        Picture(tmp_path / "transparent.png", floored),
    ]


@pytest.mark.parametrize(
    ("example", "floored"), [(python_command, False), (node_command, True)], ids=["python", "node"]
)
def test_picture_files(example: Command, floored: bool, exported: Exported, pictures: list[Picture]) -> None:
    for picture in pictures:
        expected = picture.expected(exported, floored=floored)
        assert_same(run(example(), exported.path, picture.path), expected, 1e-4, picture.path.name)


def test_bad_arguments_fail(command: list[str], exported: Exported) -> None:
    path, (count, height, width), _ = exported.golden()[0]
    for arguments in (["absent.onnx", path, count, height, width], [exported.path, path, count + 1, height, width]):
        done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode != 0
        assert done.stderr


@pytest.mark.parametrize("name", ["python/emotions.py", "node/emotions.mjs", "cpp/emotions.cpp", "browser/index.html"])
def test_examples_are_short(name: str) -> None:
    lines = (EXAMPLES / name).read_text().splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 130


def test_browser_page(exported: Exported, tmp_path: Path, pictures: list[Picture]) -> None:
    runtime = EXAMPLES / "browser" / "node_modules" / "onnxruntime-web"
    if not runtime.is_dir():
        pytest.skip("onnxruntime-web is absent: npm install --prefix examples/browser --ignore-scripts")
    site = tmp_path / "site"
    (site / "node_modules").mkdir(parents=True)
    (site / "node_modules" / "onnxruntime-web").symlink_to(runtime)
    (site / "golden").symlink_to(exported.folder / "golden")
    shutil.copy(EXAMPLES / "browser" / "index.html", site)
    shutil.copy(exported.path, site / "model.onnx")
    read_file = """async ([file, ...shape]) =>
        readEmotions(new Uint8Array(await (await fetch(file)).arrayBuffer()), ...shape)"""
    with launch() as browser, serve_folder(site) as address:
        page = browser.new_page()
        requested, troubles = [], []
        page.on("request", lambda request: requested.append(request.url))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
        page.goto(address)
        page.get_by_text("ready").wait_for()
        for path, shape, expected in exported.golden():
            answers = page.evaluate(read_file, [f"golden/{path.name}", *shape])
            assert_same(answers, expected, 1e-4, path.name)
        for picture in pictures:
            page.reload()
            page.get_by_text("ready").wait_for()
            page.get_by_label("picture").set_input_files(picture.path)
            page.get_by_text("angry").wait_for()
            answer = json.loads(page.locator("#answer").inner_text())
            assert_same([answer], picture.expected(exported), 1e-4, picture.path.name)
        assert not troubles
        assert all(url.startswith((address, "data:")) for url in requested)
        assert any(url.endswith(".wasm") for url in requested)
